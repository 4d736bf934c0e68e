"""Containers: the bytes of a JSONL, JSON, CSV, TSV or Parquet file become raw rows, one at a time; bad lines become `BadRow`s."""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical
from tunesmith.core.records import BadRow
from tunesmith.data._containers import unreadable

MAX_LINE = 16 << 20
MAX_DOCUMENT = 1 << 29
MAX_DEPTH = 64
MAX_RECORD_LINES = 10_000


class RowProblem(ValueError):
    """Why one row cannot be used, in words that follow "file:line: "."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as its file has it: where it stands, its columns, and its text ("" where the container has none)."""

    where: str
    fields: dict[str, Any]
    text: str = ""

    def bad(self, reason: str) -> BadRow:
        """Return the report on this row."""
        return BadRow(self.where, reason, excerpt(self.text or _beginning(self.fields)))


class _Repeated(dict[str, Any]):
    """A JSON object in which a key stood twice; remembers the key."""

    key = ""


def excerpt(text: str) -> str:
    """Return the beginning of a text in at most 120 printable characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:121].strip())
    return shown if len(shown) <= 120 and len(text) <= 121 else shown[:119] + "…"


def raw_rows(path: Path, container: str) -> Iterator[Raw | BadRow]:
    """Read a file row by row; JSONL, CSV, TSV and Parquet in constant memory, a JSON document whole.

    Args:
        container: what `container_of` said.

    Raises:
        UserError: the file as a whole cannot be read (damaged, no header, broken JSON document, pyarrow missing).
    """
    kind = container.removesuffix(".gz")
    if kind == "parquet":
        source = _parquet(path)
    else:
        source = _from_text(path, kind, gzip.open if container.endswith(".gz") else open)
    for row in source:
        problem = "" if isinstance(row, BadRow) else _problem(row.fields)
        yield row.bad(problem) if isinstance(row, Raw) and problem else row


def _from_text(path: Path, kind: str, unpack: Callable[..., Any]) -> Iterator[Raw | BadRow]:
    try:
        with unpack(path, "rb") as file:
            yield from {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _csv}[kind](file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (number from 1, line with its end, whether it is whole); of a line over `MAX_LINE` bytes only the beginning."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        whole = len(line) <= MAX_LINE or line.endswith(b"\n")
        if not whole:
            while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        yield number, line if whole else line[:400], whole


def _text(line: bytes, whole: bool) -> str:
    if not whole:
        raise RowProblem(f"the line is longer than {MAX_LINE >> 20} MB")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowProblem(f"not UTF-8 text (byte 0x{line[error.start]:02x} at position {error.start + 1})") from None


def _jsonl(file: BinaryIO, path: Path) -> Iterator[Raw | BadRow]:
    for number, line, whole in lines(file):
        where = f"{path.name}:{number}"
        try:
            text = _text(line, whole).lstrip("\ufeff").strip()
            if text:
                yield Raw(where, parse_object(text), text)
        except RowProblem as problem:
            yield BadRow(where, str(problem), excerpt(line[:400].decode("utf-8", "backslashreplace")))


def parse_object(text: str) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        RowProblem: it is not JSON, or is JSON of another kind, or is nested beyond all use.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise RowProblem(f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}") from None
    except RecursionError:
        raise RowProblem(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise RowProblem("a number has too many digits") from None
    if not isinstance(value, dict):
        raise RowProblem(_not_an_object(value))
    return value


def _not_an_object(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return f"a row must be an object {{...}}, and this is {kinds.get(type(value), 'a number')}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) == len(pairs):
        return fields
    repeated, seen = _Repeated(fields), set()
    repeated.key = next(key for key, _ in pairs if key in seen or seen.add(key))
    return repeated


def _problem(fields: dict[str, Any]) -> str:
    """Return what makes a row's values unusable whatever its convention, else "". Walks without recursion."""
    waiting: list[tuple[Any, int]] = [(fields, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if not _is_unicode(value):
                return "a text holds half a character (a lone surrogate such as \\ud800)"
        elif isinstance(value, float):
            if not math.isfinite(value):
                return "a number is NaN or infinite"
        elif isinstance(value, (dict, list)):
            if depth >= MAX_DEPTH:
                return f"nested deeper than {MAX_DEPTH} levels"
            if isinstance(value, _Repeated):
                return f"the key {excerpt(value.key)!r} stands twice in one object"
            inner = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            waiting.extend((item, depth + 1) for item in inner)
    return ""


def _is_unicode(text: str) -> bool:
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def _beginning(fields: dict[str, Any]) -> str:
    try:
        return canonical(fields)
    except RecursionError:
        return ", ".join(fields)


def _json(file: BinaryIO, path: Path) -> Iterator[Raw | BadRow]:
    try:
        data = file.read(MAX_DOCUMENT + 1)
        if len(data) > MAX_DOCUMENT:
            raise UserError(f"{path} is one JSON document of over {MAX_DOCUMENT >> 20} MB", "Save it as .jsonl, one row a line.")
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (at byte {error.start + 1})", "Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        hint = "If every line is a row of its own, name the file .jsonl."
        reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise UserError(f"{path}:{error.lineno} is not valid JSON: {reason}", hint) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be a file of rows") from None
    except ValueError:
        raise UserError(f"{path} holds a number with too many digits") from None
    for number, row in enumerate(_row_list(value, path), 1):
        where = f"{path.name}:row {number}"
        yield Raw(where, row) if isinstance(row, dict) else BadRow(where, _not_an_object(row), excerpt(str(row)))


def _row_list(value: Any, path: Path) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if isinstance(value.get("messages", value.get("conversations")), list):
            return [value]
        lists = [key for key, inner in value.items() if isinstance(inner, list)]
        if len(lists) == 1:
            return value[lists[0]]
        found = f"an object with {len(lists)} lists ({', '.join(lists[:5])})" if lists else "an object without a list"
    else:
        found = "neither a list nor an object"
    raise UserError(f"{path} should hold one list of rows, and is {found}", "Save the rows as a list, or one a line as .jsonl.")


def _parquet(path: Path) -> Iterator[Raw | BadRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path} is a Parquet file, and pyarrow is not installed", "pip install 'tunesmith[data]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    number += 1
                    # pandas writes a missing number as NaN.
                    fields = {key: None if isinstance(cell, float) and math.isnan(cell) else cell for key, cell in row.items()}
                    yield Raw(f"{path.name}:row {number}", fields)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise unreadable(path, error, f" after row {number}") from error


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    data: bytes
    whole: bool

    def text(self) -> str:
        return self.data[:400].decode("utf-8", "backslashreplace")

    def cells(self) -> list[str]:
        return self.data.decode("utf-8", "replace").rstrip("\r\n").split("\t")


class _Records:
    """Physical lines for the csv module, with those of the current record in `taken` so that they can be put back."""

    def __init__(self, source: Iterator[tuple[int, bytes, bool]]) -> None:
        self.source, self.waiting, self.taken, self.size = source, deque[_Line](), list[_Line](), 0

    def __iter__(self) -> _Records:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_RECORD_LINES or self.size > MAX_LINE:
            raise StopIteration
        line = self.waiting.popleft() if self.waiting else _Line(*next(self.source))
        self.taken.append(line)
        self.size += len(line.data)
        return _text(line.data, line.whole).lstrip("\ufeff" if line.number == 1 else "")

    def next_record(self, delimiter: str) -> list[str]:
        """Return the cells of the next record; StopIteration at the end of the file."""
        self.taken, self.size = [], 0
        csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_LINE))
        try:
            return next(csv.reader(self, delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise RowProblem("a quotation mark is opened and never closed") from None
            if "expected after" in str(error):
                raise RowProblem("a text begins with a quotation mark that is not closed at its end") from None
            raise RowProblem(f"not valid CSV: {error}") from None

    def keep_first(self) -> None:
        """Give back every line of the current record but the first."""
        self.waiting.extendleft(reversed(self.taken[1:]))
        self.taken = self.taken[:1]


def _csv(file: BinaryIO, path: Path) -> Iterator[Raw | BadRow]:
    records = _Records(lines(file))
    delimiter, header = _header(records, path)
    width = len(header)
    while True:
        problem, cells = "", []
        try:
            cells = records.next_record(delimiter)
        except StopIteration:
            return
        except RowProblem as caught:
            problem = str(caught)
            records.keep_first()
        first = records.taken[0]
        if delimiter == "\t" and _quotes_are_literal(records.taken, width, bool(problem)):
            problem, cells = "", first.cells()
            records.keep_first()
        if not cells and not problem:
            continue
        if not problem and len(cells) != width:
            problem = f"{len(cells)} column{'s'[: len(cells) > 1]}, and the header has {width} ({excerpt(', '.join(header))})"
        where = f"{path.name}:{first.number}"
        if problem:
            yield BadRow(where, problem, excerpt(first.text()))
        else:
            yield Raw(where, dict(zip(header, cells, strict=True)), first.text())


def _quotes_are_literal(taken: list[_Line], width: int, failed: bool) -> bool:
    # Many TSV files never quote: a text may begin with a quotation mark that closes nowhere, or rows later.
    try:
        whole_rows = width > 1 and all(line.whole and len(line.data.decode("utf-8").split("\t")) == width for line in taken)
    except UnicodeDecodeError:
        return False
    return whole_rows and (failed or len(taken) > 1)


def _header(records: _Records, path: Path) -> tuple[str, list[str]]:
    """Return the delimiter and the column names from the first line that is not blank."""
    delimiter = "\t" if Path(path.name.lower().removesuffix(".gz")).suffix in (".tsv", ".tab") else ","
    try:
        while not (cells := records.next_record(delimiter)):
            pass
        counts = {d: records.taken[0].data.count(d.encode()) for d in (",", ";", "\t")}
        if delimiter == "," and (best := max(counts, key=lambda d: counts[d])) != "," and len(cells) == 1:
            delimiter = best
            records.waiting.extendleft(reversed(records.taken))
            cells = records.next_record(delimiter)
    except StopIteration:
        raise UserError(f"{path} is empty", "The first line should hold the column names.") from None
    except RowProblem as problem:
        where = f"{path}:{records.taken[0].number}"
        raise UserError(f"{where} should hold the column names: {problem}", "Save it as UTF-8 CSV.") from None
    names = [cell.strip() or f"column_{number}" for number, cell in enumerate(cells, 1)]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise UserError(f"{path}: two columns are named '{twice}'", "Give every column a name of its own in the first line.")
    return delimiter, names
