"""Documents for `pretrain`: the rows of tasks, the texts of files; some of each source are held out."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.files import text_hash
from tunesmith.core.progress import Progress
from tunesmith.core.records import BadRow, Encoded, Example
from tunesmith.data import formats
from tunesmith.data.cloze import Pattern
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.data.masking import encode_answer, encode_document
from tunesmith.data.task import embedded_tasks, load_task, names_task, require_permission
from tunesmith.recipes._pretrain.config import Config

# A paragraph or a line beyond this many characters becomes several documents, so that memory stays bounded.
_LONGEST_TEXT = 1_000_000
_TEXT_FILES = (".txt", ".text", ".md")
_ANSWERS = " answers"
# What `learn` reads of each source.
_KINDS = {"text": ("",), "answers": (_ANSWERS,), "both": ("", _ANSWERS)}


@dataclass(frozen=True)
class Corpus:
    """Encoded documents.

    Attributes:
        train: rows of all sources. answers: [rows] booleans, True where only a task's answer is learned, and all of it.
        general: [rows] booleans, True for general text that is replayed.
        held_out: source -> rows that are not trained on; those with answers are a source of their own, "NAME answers".
        documents: source -> how many are trained on. outside: sources that are not the domain. fingerprint: hash of all rows.
    """

    train: EncodedRows
    answers: NDArray[np.bool_]
    general: NDArray[np.bool_]
    held_out: dict[str, EncodedRows]
    documents: dict[str, int]
    outside: frozenset[str]
    fingerprint: str
    warnings: list[str]

    @staticmethod
    def has_answers(source: str) -> bool:
        """Whether a source is a task's answers."""
        return source.endswith(_ANSWERS)

    def describe(self) -> str:
        """Say what there is to learn from."""
        return f"{sum(self.documents.values()):,} documents, {len(self.train):,} rows, {int(self.train.lengths.sum()):,} tokens"


@dataclass(frozen=True)
class _Document:
    """A text, or (`example` is given) a row of a task whose answer is hidden in a pattern."""

    where: str
    text: str
    held_out: bool = False
    pattern: Pattern | None = None
    example: Example | None = None


@dataclass
class _Reading:
    """What is noticed while documents stream by."""

    config: Config
    warnings: list[str] = field(default_factory=list)
    empty: int = 0


def read_corpus(config: Config, tokenizer: Any) -> Corpus:
    """Read and encode what `config.data` names, document by document, general text to replay, and what is only measured.

    Raises:
        UserError: no such task or file, a file without texts, or nothing to train on or to hold out.
    """
    reading = _Reading(config)
    own = [f"{name}{what}" for what in _KINDS[config.learn] for name in config.sources]
    names = [*own, *config.replayed, *config.measured]
    sources, held, documents = array("I"), array("B"), dict.fromkeys(names, 0)

    def rows() -> Iterator[Encoded]:
        with Progress("encoding", total=0, unit="documents") as progress:
            for name in [*config.sources, *config.replayed, *config.measured]:
                for document in _documents(name, reading):
                    encoded = _encode(config, tokenizer, document)
                    reading.empty += not encoded
                    source = name + (_ANSWERS if document.pattern else "")
                    documents[source] += bool(encoded) and not document.held_out
                    sources.extend([names.index(source)] * len(encoded))
                    held.extend([document.held_out] * len(encoded))
                    progress.advance(1)
                    yield from encoded

    encoded = EncodedRows(rows())
    source, out = np.frombuffer(sources, np.uint32), np.frombuffer(held, np.uint8).astype(bool)
    held_out = {name: encoded.select(np.flatnonzero(out & (source == i))) for i, name in enumerate(names)}
    for name, rows_of in held_out.items():
        if not len(rows_of) or not (documents[name] or name in config.measured):
            what = "hold out" if not len(rows_of) else "train on"
            raise UserError(f"'{name}' has no text to {what}", "Give it more documents; of ten, one is held out.")
    if reading.empty:
        reading.warnings.append(f"{reading.empty:,} documents without a token were left out")
    trained = source[~out]
    answers = np.array([Corpus.has_answers(name) for name in names])[trained]
    general = np.array([name in config.replayed for name in names])[trained]
    fingerprint = text_hash(encoded.fingerprint(), str(source.tolist()), str(out.tolist()))
    return Corpus(
        encoded.select(np.flatnonzero(~out)), answers, general, held_out, documents, frozenset(names) - frozenset(own),
        fingerprint, reading.warnings,
    )  # fmt: skip


def _encode(config: Config, tokenizer: Any, document: _Document) -> list[Encoded]:
    if document.pattern and document.example:
        return [encode_answer(tokenizer, document.pattern, document.example, document.text, config.max_length)]
    if config.objective == "mlm":
        return encode_document(tokenizer, document.text, document.where, config.max_length)
    ids = token_ids(tokenizer, document.text)
    if config.objective == "span":
        # A place is kept for the token that ends a text; of a single token nothing can be hidden.
        pieces = [ids[start : start + config.max_length - 1] for start in range(0, len(ids), config.max_length - 1)]
        return [Encoded(p, (True,) * len(p), document.where) for p in pieces if len(p) > 1]
    if not ids or tokenizer.eos_token_id is None:
        return []
    ids = (*with_bos(tokenizer, ids), int(tokenizer.eos_token_id))
    # Each row begins with the last token of the one before, so that every token is predicted once.
    step = config.max_length - 1
    pieces = [ids[start : start + config.max_length] for start in range(0, len(ids) - 1, step)]
    name = document.where if len(pieces) == 1 else document.where + " part {}"
    return [Encoded(p, (False, *[True] * (len(p) - 1)), name.format(i)) for i, p in enumerate(pieces, 1)]


def _documents(name: str, reading: _Reading) -> Iterator[_Document]:
    path, learn = Path(name), reading.config.learn
    require_permission(name, reading.config.allow_canary)
    if names_task(name):
        yield from _of_task(name, reading)
    elif not path.is_file():
        raise unknown("task", name, embedded_tasks()) if path.suffix == "" else UserError(f"there is no file '{name}'")
    elif learn != "text":
        raise UserError(f"'{name}' is a file of texts, which has no answers to learn", "Name tasks, or leave --learn at text.")
    else:
        yield from _of_file(path, reading)


def _of_task(name: str, reading: _Reading) -> Iterator[_Document]:
    task = load_task(name, skip_bad_rows=reading.config.skip_bad_rows)
    reading.warnings += task.splits.warnings
    # The test rows are for other questions, and are never learned from.
    parts = [(task.splits.validation[: reading.config.held_out], True)]
    if name not in reading.config.measured:
        parts.append((task.splits.train[: reading.config.train_rows], False))
    rows = [(example, held_out) for examples, held_out in parts for example in examples]
    if "" in _KINDS[reading.config.learn]:
        for example, held_out in rows:
            yield _Document(example.where, "\n".join(str(example.fields[field]) for field in task.template.fields), held_out)
    if _ANSWERS in _KINDS[reading.config.learn]:
        if not task.verbalizer:
            raise UserError(f"the answers of '{name}' are free text, which does not fit into a gap", "Leave --learn at text.")
        for number, (example, held_out) in enumerate(rows):
            pattern = task.patterns[number % len(task.patterns)]
            yield _Document(example.where, task.answer(example), held_out, pattern, example)


def _of_file(path: Path, reading: _Reading) -> Iterator[_Document]:
    """Read a file twice: first to learn which documents to hold out, then for their text. Equal ones stay on one side."""
    config = reading.config
    draws = np.fromiter((int(text_hash("held out", text), 16) for _, text in _texts(path, reading)), np.uint64)
    if not len(draws):
        raise UserError(
            f"{path} holds no text", "It should hold paragraphs with an empty line between them, or rows with a text."
        )
    if str(path) in config.measured:
        yield from (_Document(where, text, held_out=True) for where, text in islice(_texts(path, reading), config.held_out))
        return
    different = np.unique(draws)
    limit = different[min(config.held_out, len(different) // 10) - 1] if len(different) >= 10 else np.uint64(0)
    trained = 0
    reading.warnings = list(dict.fromkeys(reading.warnings))
    for (where, text), draw in zip(_texts(path, reading), draws, strict=True):
        if draw <= limit:
            yield _Document(where, text, held_out=True)
        elif config.train_rows is None or trained < config.train_rows:
            trained += 1
            yield _Document(where, text)
    reading.warnings = list(dict.fromkeys(reading.warnings))


def _texts(path: Path, reading: _Reading) -> Iterator[tuple[str, str]]:
    """Yield where each text stands, and the text."""
    if path.suffix.lower() in _TEXT_FILES:
        yield from _paragraphs(path)
        return
    sniffed, bad = formats.sniff(path), list[BadRow]()
    if sniffed.convention not in ("text", "text_label"):
        raise UserError(
            f"{path.name} holds {sniffed.convention.replace('_', ' ')} rows and not texts",
            "Train on them with tunesmith tune, or give a file with a column 'text'.",
        )
    examples: Iterator[Example] = formats.good_rows(sniffed, bad, skip_bad_rows=reading.config.skip_bad_rows)
    yield from ((example.where, str(example.fields["text"])) for example in examples)
    if bad:
        reading.warnings.append(f"{path}: {len(bad):,} unusable rows were left out; the first: {bad[0].where}: {bad[0].reason}")


def _paragraphs(path: Path) -> Iterator[tuple[str, str]]:
    lines: list[str] = []
    start = characters = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_TEXT), ""), 1):
                if lines and (not line.strip() or characters > _LONGEST_TEXT):
                    yield f"{path.name}:{start}", "".join(lines).strip()
                    lines, characters = [], 0
                if line.strip():
                    start = start if lines else number
                    lines.append(line)
                    characters += len(line)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})", "Save it as UTF-8.") from None
    if lines:
        yield f"{path.name}:{start}", "".join(lines).strip()
