"""Corpora: a file or folder of texts, or a task's training rows, become documents with an id to cite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data import formats
from tunesmith.data.task import Task, load_task
from tunesmith.retrieval.chunk import Document

_PLAIN = (".md", ".markdown", ".txt")
_ROWS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_LARGEST = 64 << 20


def read_corpus(source: str, *, skip_bad_rows: bool = False) -> list[Document]:
    """Read a corpus.

    Args:
        source: a file of rows (JSONL, JSON, CSV, TSV, Parquet) with a text, and an id and a title where there are such columns;
            a text or Markdown file, which is one document; a folder of such files, searched through; or "task:NAME".

    Raises:
        UserError: there is no such corpus, it is empty, a row has no text, or a file is no text.
    """
    kind, colon, name = source.partition(":")
    if kind == "task" and colon:
        task = load_task(name, skip_bad_rows=skip_bad_rows)
        return rows_as_documents(task, task.splits.train)
    path = Path(source)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if _readable(file, path)]
        if not files:
            raise UserError(f"the corpus is empty: {path} has no file that ends in {', '.join((*_PLAIN, *_ROWS))}")
        return [document for file in files for document in _read(file, file.relative_to(path).as_posix(), skip_bad_rows)]
    if not path.is_file():
        raise UserError(f"there is no corpus '{source}'", "Give a file, a folder, or task:NAME for a task's training rows.")
    return _read(path, path.name, skip_bad_rows)


def rows_as_documents(task: Task, rows: Sequence[Example]) -> list[Document]:
    """Return rows of a task as documents: each its filled template with the gold answer, never cut."""
    lead, prompt = task.template.lead, task.template.prompt
    # Equal rows are one document; there is nothing to tell them apart by.
    unique = {row.id: row for row in rows}
    return [Document(id, "", prompt(row.fields) + lead + task.answer(row), row.where, whole=True) for id, row in unique.items()]


def _readable(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.name.lower().endswith((*_PLAIN, *_ROWS)) and file.is_file()


def _read(path: Path, name: str, skip_bad_rows: bool) -> list[Document]:
    if path.suffix.lower() in _PLAIN:
        return [Document(name, "", _text(path), name)]
    rows, _, _ = formats.read(path, skip_bad_rows=skip_bad_rows, own_names=True)
    for row in rows:
        if not isinstance(row.fields.get("text"), str):
            have = ", ".join(row.fields)
            raise UserError(f"{row.where}: a document needs a text, and this row has {have}", "Name the column with it 'text'.")
    # Where a row stands is what a person can look up; lines are counted in its own file, which may have namesakes.
    places = [f"{name}{row.where.removeprefix(path.name)}" for row in rows]
    return [
        Document(_cell(row, "id") or place, _cell(row, "title"), row.fields["text"], place)
        for row, place in zip(rows, places, strict=True)
    ]


def _cell(row: Example, name: str) -> str:
    value = row.fields.get(name)
    return "" if value is None else str(value).strip()


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise UserError(f"{path} is larger than {_LARGEST >> 20} MB", "Part it into several files.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (at byte {error.start + 1})", "Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
