"""What kind of file of rows this is, told from its first bytes and its suffix, before anything is read."""

from __future__ import annotations

import difflib
import gzip
import json
import zlib
from pathlib import Path

from tunesmith.core.errors import UserError

_HEAD = 1 << 16
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
}
_REFUSED_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib"} | {
    ".npy",
    ".npz",
    ".safetensors",
    ".xlsx",
    ".xls",
}
_REFUSED_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive, a spreadsheet or model weights",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3": "a SQLite database",
    b"ARROW1": "an Arrow file",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
}
_USE = "Save the rows as .jsonl, .json, .csv, .tsv or .parquet."


def container_of(path: Path) -> str:
    """Tell what a file is from its content and its suffix: jsonl, json, csv, tsv (each also with ".gz") or parquet.

    Raises:
        UserError: the file is missing (with a near miss), empty, a directory, UTF-16, or of a kind that is never opened.
    """
    _check_file(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in _REFUSED_SUFFIXES:
        raise UserError(f"{path} is not a file of rows: {suffix} files are never opened here", _USE)
    head, packed = _head(path)
    if head.startswith(b"PAR1"):
        return "parquet"
    for beginning, what in _REFUSED_BEGINNINGS.items():
        if head.startswith(beginning):
            raise UserError(f"{path} is not a file of rows: it is {what}", _USE)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or head.count(0) * 4 > len(head):
        raise UserError(f"{path} is not UTF-8 text; it looks like UTF-16 or a binary file", "Save it as UTF-8.")
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        raise UserError(f"{path} is empty", "It should hold one row a line.")
    container = _SUFFIXES.get(suffix, "")
    if container == "parquet":
        raise UserError(f"{path} is not a Parquet file, though its name ends in .parquet", "Fetch or write it again.")
    if container not in ("csv", "tsv"):
        container = _json_or_jsonl(head, container)
    if not container:
        raise UserError(f"{path} is of no kind that can be read (its name ends in '{suffix or path.name}')", _USE)
    return container + (".gz" if packed else "")


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = sorted(f.name for f in path.iterdir() if f.suffix in _SUFFIXES)[:3]
        raise UserError(f"{path} is a directory", f"Name a file in it, such as {path / inside[0]}." if inside else "Name a file.")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not an ordinary file", _USE)
    if not path.exists():
        if not path.parent.is_dir():
            raise UserError(f"there is no file '{path}': its folder '{path.parent}' does not exist", "Check the path.")
        siblings = [file.name for file in path.parent.iterdir() if file.is_file()]
        close = difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.5)
        hint = f"Did you mean '{path.with_name(close[0])}'?" if close else "Check the path."
        raise UserError(f"there is no file '{path}'", hint)


def _head(path: Path) -> tuple[bytes, bool]:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if not head.startswith(b"\x1f\x8b"):
            return head, False
        with gzip.open(path) as unpacked:
            return unpacked.read(_HEAD), True
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception, after: str = "") -> UserError:
    """Build the error for a file that the disk or a decoder gave up on; `after` says how far it was read."""
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"{path} cannot be read: {error.strerror}")
    return UserError(f"{path} is damaged{after}: {error}", "Fetch or write it again.")


def _json_or_jsonl(head: bytes, container: str) -> str:
    """Decide by content: one document, or one row a line. `head` begins with neither a byte order mark nor a space."""
    first, _, rest = head.partition(b"\n")
    if container == "jsonl":
        one_list = first.strip() == b"[" or (first.startswith(b"[{") and not rest.strip())
        return "json" if one_list else "jsonl"
    if first.startswith(b"{") and rest.strip():
        try:
            return "jsonl" if isinstance(json.loads(first), dict) else "json"
        except (ValueError, RecursionError):
            return "json"
    return "json" if first.startswith((b"{", b"[")) else container
