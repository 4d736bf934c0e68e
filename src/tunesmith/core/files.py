"""Files that are either the old ones or the new ones and never something between, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith.core.errors import WorkFailed


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, reading a megabyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
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
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if path.parent.is_dir():
            beside.unlink(missing_ok=True)
        raise WorkFailed(f"cannot write {path}: {error.strerror}", "Free some space or choose another --run_dir.") from error
    sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented and with a final newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))


def write_manifest(folder: Path, extra: dict[str, Any] | None = None) -> None:
    """Write `MANIFEST.json`: the size and SHA-256 of every file below `folder`, plus what `extra` adds."""
    files = {}
    for path in sorted(folder.rglob("*")):
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
