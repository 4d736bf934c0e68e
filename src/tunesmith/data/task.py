"""A task: rows + template + choices + metrics, written by a user as one YAML file beside the data.

The same object gives training rows, evaluation items, the few-shot pool and (later) an RL reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from tunesmith.core.config import Config, read_yaml, validate
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import BadRow, Example
from tunesmith.core.registry import METRICS, SOURCES
from tunesmith.data import formats
from tunesmith.data.template import Template
from tunesmith.data.verbalizer import Aggregate, Normalise, Verbalizer

_TASKS = Path(__file__).parent / "tasks"
_TEST_SHARE = 0.2
_VALIDATION_SHARE = 0.1
_LARGEST_VALIDATION = 500
_MOST_LABELS = 200


class DataSection(Config):
    """Where the rows are: files beside the YAML file, or an embedded source."""

    source: str | None = None
    """name of an embedded source, for example hutto_movies"""
    train: str | None = None
    """training rows; JSONL (also .gz), JSON, CSV, TSV or Parquet"""
    validation: str | None = None
    """rows for early stopping; absent = a tenth of train, at most 500"""
    test: str | None = None
    """rows to measure on; absent = a fifth of train"""
    map: dict[str, str] = {}
    """canonical name -> column, for example {text: question}"""


class TaskFile(Config):
    """The keys of a task's YAML file."""

    name: str
    description: str = ""
    data: DataSection
    template: str
    """text with {field} slots and {answer} at its end"""
    choices: dict[str, list[str]] | list[str] | Literal["labels"] | None = None
    """label -> words that stand for it; a list = labels that are their own word; "labels" = those found in train;
    absent = the answer is free text (generation)"""
    answer: str | None = None
    """field with the gold answer; absent = label (choices) or the first of answer, completion, output, target"""
    instruction: str = ""
    """said once, before demonstrations and item"""
    separator: str = "\n\n"
    """between demonstrations"""
    chat: bool = False
    """put prompt and answer into the model's chat template"""
    metrics: list[str] = []
    """first = the one routes are judged by; absent = accuracy and macro_f1, or exact_match for generation"""
    aggregate: Aggregate = "max"
    normalise: Normalise = "none"

    @field_validator("choices", mode="before")
    @classmethod
    def _words_as_lists(cls, value: object) -> object:
        # YAML reads yes/no/1 as other types, and people write one word without brackets.
        if isinstance(value, dict):
            return {_word(k): [_word(w) for w in (v if isinstance(v, list) else [v])] for k, v in value.items()}
        return [_word(v) for v in value] if isinstance(value, list) else value


def _word(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Splits:
    """A task's rows, ready to use, and what was left out on the way."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    bad: list[BadRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """A task whose template, verbalizer and metrics have been checked.

    Attributes:
        verbalizer: None for a generation task. folder: what relative data paths start from.
    """

    file: TaskFile
    template: Template
    verbalizer: Verbalizer | None
    metrics: tuple[str, ...]
    splits: Splits

    @property
    def name(self) -> str:
        """The task's name."""
        return self.file.name

    def gold(self, example: Example) -> str:
        """Return the gold label, or the gold text of a generation task."""
        return str(example.fields[_answer_field(self.file, example)])

    def answer(self, example: Example) -> str:
        """Return the words to say for the gold answer: the label's first word, or the gold text."""
        gold = self.gold(example)
        return self.verbalizer.words[gold][0] if self.verbalizer else gold

    @property
    def template_hash(self) -> str:
        """Hash of everything that shapes a prompt and how answers become labels."""
        keys = ("template", "instruction", "separator", "chat", "aggregate", "normalise")
        return text_hash(canonical([self.file.model_dump(include=set(keys)), self.verbalizer and self.verbalizer.words]))


def load_task(name: str, *, skip_bad_rows: bool = False) -> Task:
    """Load an embedded task by name, a user's by its YAML file, or a plain file of text and label columns.

    Raises:
        UserError: no such task or file, an unknown key, a template that does not fit the rows, or bad rows
            (unless `skip_bad_rows`).
    """
    embedded = {f.stem: f for f in _TASKS.glob("*.yaml")}
    path = embedded.get(name, Path(name))
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"there is no task file '{name}'", "Check the path.")
        file = validate(TaskFile, read_yaml(path), f"task {path.name}")
    elif path.is_file():
        file = _task_of_rows(path)
    else:
        raise unknown("task", name, embedded) if "/" not in name and "." not in name else UserError(f"there is no file '{name}'")
    splits = _splits(file, path.parent, skip_bad_rows)
    return _build(file, splits)


def embedded_tasks() -> list[str]:
    """Return the names of the embedded tasks."""
    return sorted(f.stem for f in _TASKS.glob("*.yaml"))


def _task_of_rows(path: Path) -> TaskFile:
    sniffed = formats.sniff(path)
    if sniffed.convention != "text_label":
        raise UserError(
            f"{path.name} holds {sniffed.convention.replace('_', ' ')} rows, not text and label",
            "Write a task YAML that names its template and answer field; see docs/tasks.md.",
        )
    return TaskFile(
        name=path.name.split(".")[0], data=DataSection(train=path.name), template="{text}\nLabel: {answer}", choices="labels"
    )


def _build(file: TaskFile, splits: Splits) -> Task:
    template = Template(file.template)
    verbalizer = _verbalizer(file, splits)
    metrics = tuple(file.metrics or (["accuracy", "macro_f1"] if verbalizer else ["exact_match"]))
    for metric in metrics:
        METRICS.get(metric)
    task = Task(file, template, verbalizer, metrics, splits)
    for example in [*splits.train, *splits.validation, *splits.test]:
        try:
            template.prompt(example.fields)
            gold = task.gold(example)
        except UserError as error:
            raise UserError(f"{example.where}: {error.message}", error.fix) from None
        if verbalizer and gold not in verbalizer.words:
            raise UserError(
                f"{example.where}: label '{gold}' is not one of the task's choices", f"Choices: {', '.join(verbalizer.labels)}."
            )
    return task


def _verbalizer(file: TaskFile, splits: Splits) -> Verbalizer | None:
    choices = file.choices
    if choices is None:
        return None
    if choices == "labels":
        choices = sorted({str(e.fields[_answer_field(file, e)]) for e in splits.train})
        if len(choices) > _MOST_LABELS:
            raise UserError(
                f"the train rows have {len(choices)} different labels", "Leave out 'choices' if the answer is free text."
            )
    words = {c: [c] for c in choices} if isinstance(choices, list) else choices
    words = {label: tuple(w.strip() for w in ws) for label, ws in words.items()}
    if len(words) < 2:
        raise UserError(
            f"a task needs at least two choices, and this one has {len(words)}", "Check the labels of the train rows."
        )
    if any(not w for ws in words.values() for w in ws) or not all(words.values()):
        raise UserError("every choice needs at least one word that is not empty")
    said = [w for ws in words.values() for w in ws]
    if len(set(said)) < len(said):
        raise UserError("the same word stands for two labels", "Give each label words of its own.")
    return Verbalizer(words, file.aggregate, file.normalise)


def _answer_field(file: TaskFile, example: Example) -> str:
    if file.answer:
        known: Sequence[str] = (file.answer,)
    else:
        known = ("label",) if file.choices is not None else ("answer", "completion", "output", "target", "label")
    for name in known:
        if name in example.fields:
            return name
    raise UserError(
        f"{example.where}: the row has no field '{known[0]}' with the answer",
        f"Set 'answer:' to one of {', '.join(example.fields)}.",
    )


def _splits(file: TaskFile, folder: Path, skip_bad_rows: bool) -> Splits:
    data = file.data
    if data.source:
        parts = SOURCES.get(data.source).splits()
        return Splits(parts["train"], parts["validation"], parts["test"])
    if not data.train:
        raise UserError(f"task '{file.name}' has no data", "Give data: {train: FILE, test: FILE} or data: {source: NAME}.")
    bad: list[BadRow] = []

    def read(name: str) -> list[Example]:
        examples, broken, _ = formats.read(folder / name, skip_bad_rows=skip_bad_rows, mapping=data.map or None)
        bad.extend(broken)
        return examples

    warnings: list[str] = []
    train, test = read(data.train), read(data.test) if data.test else None
    if test is None:
        train, test = _carve(train, _TEST_SHARE, "test")
        warnings.append(f"no test file: {len(test)} rows of {data.train} were set aside for testing")
    train, dropped = _without(train, test)
    if dropped:
        warnings.append(f"{dropped} training rows also stand in the test and were left out of training")
    if data.validation:
        validation, _ = _without(read(data.validation), test)
    else:
        train, validation = _carve(train, min(_VALIDATION_SHARE, _LARGEST_VALIDATION / max(len(train), 1)), "validation")
    if bad:
        warnings.append(f"{len(bad)} unusable rows were left out; the first: {bad[0].where}: {bad[0].reason}")
    for name, part in (("train", train), ("test", test)):
        if not part:
            raise UserError(f"task '{file.name}' has no {name} rows")
    return Splits(_shuffled(train), _shuffled(validation), _shuffled(test), bad, warnings)


def _shuffled(examples: list[Example]) -> list[Example]:
    # Files are often sorted by label; an order by hash is as good as random and the same everywhere.
    return sorted(examples, key=lambda e: text_hash("order", e.id))


def _carve(examples: list[Example], share: float, name: str) -> tuple[list[Example], list[Example]]:
    """Take a share of distinct rows away; equal rows stay on one side because the side follows from the content."""
    taken = [int(text_hash(name, _content(e)), 16) / 16**16 < share for e in examples]
    return [e for e, t in zip(examples, taken, strict=True) if not t], [e for e, t in zip(examples, taken, strict=True) if t]


def _without(examples: list[Example], others: list[Example]) -> tuple[list[Example], int]:
    known = {_content(e) for e in others}
    kept = [e for e in examples if _content(e) not in known]
    return kept, len(examples) - len(kept)


def _content(example: Example) -> str:
    ignored = {"label", "answer", "completion", "output", "target"}
    return canonical({k: " ".join(str(v).split()).casefold() for k, v in example.fields.items() if k not in ignored})
