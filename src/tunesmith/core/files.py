"""Files that are either the old ones or the new ones and never something between, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.core.errors import WorkFailed

_BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, reading a megabyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def text_hash(*texts: str) -> str:
    """Return a short (16 hexadecimal digits) hash of texts, each kept apart from its neighbours."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, no spaces, plain Unicode."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)


def sync_directory(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: beside it, flushed, then renamed over it.

    Raises:
        WorkFailed: the disk is full, or the place cannot be written; the old file is as it was.
    """
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_out(beside, [data], os.O_TRUNC)
        os.replace(beside, path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise WorkFailed(f"cannot write {path}: {error.strerror}", "Free some space or choose another --run_dir.") from error


def write_checked(path: Path, pieces: Sequence[memoryview | bytes]) -> dict[str, Any]:
    """Write bytes to a new file, flush them to the disk, and read them back.

    Returns:
        The file's entry for a manifest: its size and the SHA-256 of what was read back, which is what was given.

    Raises:
        OSError: the file exists, could not be written, or does not read back as written.
    """
    # Hashed while the disk writes: what is read back is compared with what was given, so its hash is the same.
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(_digest, pieces)
        _write_out(path, pieces, os.O_EXCL)
        _compare(path, pieces)
        return {"bytes": sum(map(len, pieces)), "sha256": digest.result()}


def _digest(pieces: Sequence[memoryview | bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _compare(path: Path, pieces: Sequence[memoryview | bytes]) -> None:
    buffer = bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        for piece in pieces:
            for start in range(0, len(piece), _BLOCK):
                block = piece[start : start + _BLOCK]
                window = buffer if len(block) == _BLOCK else bytearray(len(block))
                # A bytearray compares with any buffer in one memcmp; a memoryview would go byte by byte.
                if file.readinto(window) != len(block) or window != block:
                    raise OSError(errno.EIO, "it does not read back as written", str(path))


def _write_out(path: Path, pieces: Sequence[memoryview | bytes], flag: int) -> None:
    """Write and flush; the system may take less than it is given, and then is given the rest."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o666)
    try:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(descriptor, view[: 1 << 24]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented and with a final newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))


def write_manifest(
    folder: Path, extra: Mapping[str, Any] | None = None, known: Mapping[str, dict[str, Any]] | None = None
) -> None:
    """Write `MANIFEST.json`: the size and SHA-256 of every file below `folder`, plus what `extra` adds.

    Args:
        known: entries of all files, as `write_checked` returned them; None = read and hash the files.
    """
    files = dict(known or {})
    for path in sorted(folder.rglob("*")) if known is None else ():
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if path.is_file() and path.name != "MANIFEST.json" and not hidden:
            files[relative.as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / "MANIFEST.json", {"format": 1, **(extra or {}), "files": files})


def verify_manifest(folder: Path) -> str:
    """Compare a folder with its manifest; return "" when every file is as written, else the first difference."""
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["format"] != 1:
            return f"its manifest has format {manifest['format']}, and this version reads 1"
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"] or sha256(path) != expected["sha256"]:
                return f"{name} has changed since it was written"
    except FileNotFoundError:
        return "it has no MANIFEST.json"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"its manifest cannot be read ({error})"
    return ""
