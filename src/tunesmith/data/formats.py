"""Rows of any usual file become `Example`s: container and convention are sniffed, and a bad row is data, not an exception.

Containers: .jsonl, .json (a list, or an object with one list), .csv, .tsv (each also .gz) and .parquet, told by content and
suffix. Conventions and their canonical fields:

    messages, sharegpt, alpaca   {"messages": [{"role", "content"}, ...]}; "weight": 0 is kept on a turn that must not count
    prompt_completion            {"prompt", "completion"}: both texts, or both lists of turns
    preference, ranking, ...     judgements of completions; `data.preferences` reads them
    text_label                   {"text", "label"} and every other column; the label is text (see `label_text`)
    text                         {"text"}
    columns                      every column as it is
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import BadRow, Example, Message
from tunesmith.data._containers import container_of
from tunesmith.data._convention_row import turns_in
from tunesmith.data._conventions import build, detect, kinds_of, label_text
from tunesmith.data._readers import Raw, RowProblem, raw_rows

__all__ = ["Sniffed", "columns", "good_rows", "label_text", "read", "rows", "sniff", "turns"]

_SAMPLE = 200
_SHOWN = 3


@dataclass(frozen=True)
class Sniffed:
    """What a file turned out to be.

    Attributes:
        container: jsonl, json, csv, tsv (each perhaps with ".gz") or parquet.
        convention: one of the conventions in this module's docstring.
        mapping: canonical name -> column it is read from.
        warnings: sentences a person should see once.
    """

    path: Path
    container: str
    convention: str
    mapping: dict[str, str]
    warnings: tuple[str, ...] = ()


def sniff(
    path: Path, mapping: Mapping[str, str] | None = None, convention: str | None = None, first: Collection[str] = ()
) -> Sniffed:
    """Tell a file's container and, from its first 200 good rows, its convention.

    Args:
        mapping: canonical name -> column, for example {"text": "question"}; overrides what would be guessed.
        convention: the convention to use instead of guessing one.
        first: conventions that are wanted, tried before the others: a file of chats may have judgements beside them.

    Raises:
        UserError: the file is missing, is no file of rows, has no good row, or lacks a named column.
    """
    path = Path(path)
    container = container_of(path)
    sample, bad = list[dict[str, Any]](), list[BadRow]()
    for row in raw_rows(path, container):
        if isinstance(row, Raw):
            sample.append(row.fields)
        elif len(bad) < _SHOWN:
            bad.append(row)
        if len(sample) == _SAMPLE:
            break
    if not sample:
        raise UserError(f"{path} holds no row that can be used" + _shown(bad), "" if bad else "It should hold one row a line.")
    kinds = kinds_of(sample)
    name, columns = detect(kinds, mapping or {}, convention, first)
    return Sniffed(path, container, name, columns, tuple(_warnings(name, columns, kinds, container)))


def columns(sniffed: Sniffed) -> list[str]:
    """Return the names of a file's columns, as its first good row has them."""
    first = next(row for row in raw_rows(sniffed.path, sniffed.container) if isinstance(row, Raw))
    return list(first.fields)


def _warnings(convention: str, columns: Mapping[str, str], kinds: Mapping[str, str], container: str) -> Iterator[str]:
    others = [column for column in kinds if column not in columns.values()]
    if convention == "preference" and "prompt" not in columns:
        yield "there is no prompt column: the prompt is what chosen and rejected have in common at their beginning"
    if convention in ("text_label", "columns"):
        for column in (column for column in others if column in columns):
            yield f"the column '{column}' is not used, because '{columns[column]}' is read as '{column}'"
    elif others:
        yield f"columns not used: {', '.join(others[:8])}" + (f" and {len(others) - 8} more" if len(others) > 8 else "")
    for column in others:
        if column in ("messages", "conversations"):
            yield f"the column '{column}' is not a list of turns that each have a role and a content"
    if convention == "columns" and container[:3] in ("csv", "tsv") and any(len(c) > 40 or c.isdigit() for c in kinds):
        yield "the first line is taken as the column names, and does not look like it"


def rows(
    path: Path, sniffed: Sniffed | None = None, mapping: Mapping[str, str] | None = None, *, own_names: bool = False
) -> Iterator[Example | BadRow]:
    """Read a file row by row; JSONL, CSV, TSV and Parquet in constant memory, a JSON document whole. Empty lines are passed over.

    Args:
        sniffed: what `sniff` said of this file, or of another one with the same columns; None sniffs now.
        mapping: for `sniff`, where `sniffed` is None.
        own_names: keep every column under its own name too, beside the canonical ones.

    Yields:
        Example whose `where` is "name:line" (the physical line its row begins on) or, for .json and .parquet, "name:row 17".

    Raises:
        UserError: the file as a whole cannot be read.
    """
    path = Path(path)
    sniffed = sniffed or sniff(path, mapping)
    for row in raw_rows(path, container_of(path)):
        yield _example(row, sniffed, own_names) if isinstance(row, Raw) else row


def _example(row: Raw, sniffed: Sniffed, own_names: bool) -> Example | BadRow:
    try:
        fields = build(sniffed.convention, sniffed.mapping, row.fields)
    except RowProblem as problem:
        return row.bad(str(problem))
    return Example(text_hash(canonical(fields)), {**row.fields, **fields} if own_names else fields, row.where)


def read(
    path: Path, *, skip_bad_rows: bool = False, mapping: Mapping[str, str] | None = None, own_names: bool = False
) -> tuple[list[Example], list[BadRow], Sniffed]:
    """Read a whole file.

    Args:
        skip_bad_rows: go on without the rows that cannot be used.
        mapping: canonical name -> column, by the user's word.
        own_names: keep every column under its own name too, beside the canonical ones.

    Returns:
        The good rows in file order, the bad ones, and what the file turned out to be.

    Raises:
        UserError: a row is bad and `skip_bad_rows` is not set, no row is good, or the file cannot be read.
    """
    sniffed, bad = sniff(Path(path), mapping), list[BadRow]()
    good = list(good_rows(sniffed, bad, skip_bad_rows=skip_bad_rows, own_names=own_names))
    return good, bad, sniffed


def good_rows(sniffed: Sniffed, bad: list[BadRow], *, skip_bad_rows: bool = False, own_names: bool = False) -> Iterator[Example]:
    """Read a file row by row and put the bad rows aside.

    Args:
        bad: where they are put. skip_bad_rows, own_names: as for `read`.

    Raises:
        UserError: at the end of the file: a row was bad and `skip_bad_rows` is not set, or no row was good.
    """
    path, good = sniffed.path, 0
    for row in rows(path, sniffed, own_names=own_names):
        if isinstance(row, Example):
            good += 1
            yield row
        else:
            bad.append(row)
    require_good(sniffed, good, bad, skip_bad_rows=skip_bad_rows)


def require_good(sniffed: Sniffed, good: int, bad: Sequence[BadRow], *, skip_bad_rows: bool) -> None:
    """Refuse a file with no good row, or with bad ones that are not to be passed over.

    Raises:
        UserError: so it is; it names the first three.
    """
    path = sniffed.path
    if not good:
        raise UserError(f"{path} holds no row that can be used as {sniffed.convention}" + _shown(bad), _name_columns(sniffed))
    if bad and not skip_bad_rows:
        total, them = good + len(bad), "it" if len(bad) == 1 else "them"
        raise UserError(
            f"{len(bad):,} of {total:,} rows in {path} cannot be used" + _shown(bad),
            f"Correct {them}, or go on without {them}: --skip_bad_rows.",
        )


def _shown(bad: Sequence[BadRow]) -> str:
    return "".join(f"\n  {row.where}: {row.reason}: {row.excerpt}" for row in bad[:_SHOWN])


def _name_columns(sniffed: Sniffed) -> str:
    parts = ", ".join(f"{name} from '{column}'" for name, column in sniffed.mapping.items())
    return f"It was read with {parts}; a task YAML can name others: map: {{text: COLUMN}}." if parts else ""


def turns(value: Any, where: str) -> tuple[Message, ...]:
    """Return a column's list of turns, with roles as everybody writes them.

    Raises:
        UserError: it is none; names the row.
    """
    try:
        found = turns_in(value, "the conversation")
    except RowProblem as problem:
        raise UserError(f"{where}: {problem}", 'A turn is {"role": "user", "content": "..."}.') from None
    return tuple(Message(turn["role"], turn["content"], turn.get("weight", 1) != 0) for turn in found)
