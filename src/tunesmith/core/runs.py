"""Run directories: everything a run was told, did and produced, in one relocatable folder."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from tunesmith import __version__
from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash, write_json, write_text

_LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "pydantic", "scikit-learn", "tokenizers")


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    found = {
        "tunesmith": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Run:
    """A run directory.

    Args:
        folder: where; created if missing.
        inputs: what the run's outcome depends on (configuration, data and model hashes); a folder made from other
            inputs is not continued.
        about: what else `run.json` should hold (command, parent runs).
        overwrite: throw away what an earlier run left in the folder.

    Raises:
        UserError: the folder holds something else, or a run with other inputs; names the keys that differ.
        WorkFailed: the folder cannot be written.
    """

    def __init__(self, folder: Path, inputs: dict[str, Any], about: dict[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        record = folder / "run.json"
        if overwrite and record.is_file():
            _empty(folder, record)
        if record.is_file():
            _check_same(folder, _inputs_of(record), json.loads(canonical(inputs)))
        elif folder.is_dir() and any(not f.name.startswith(".") for f in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no run", "Choose another --run_dir.")
        self._metrics, self._unwritten = folder / "metrics.jsonl", ""
        if not record.is_file():
            write_json(record, {"inputs": inputs, "inputs_hash": text_hash(canonical(inputs)), "versions": versions(), **about})

    def log(self, values: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`.

        Raises:
            OSError: it cannot be written; the file ends in a whole line, and the next call writes this one too.
        """
        self._unwritten += json.dumps(values) + "\n"
        descriptor = os.open(self._metrics, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            end, data = os.fstat(descriptor).st_size, self._unwritten.encode()
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
        self._unwritten = ""

    def forget_after(self, step: int) -> None:
        """Drop logged lines of steps beyond the one a run resumes from, so that curves do not overlap themselves.

        Raises:
            WorkFailed: the file cannot be written; it is as it was.
        """
        if not self._metrics.is_file():
            return
        text = self._metrics.read_text(encoding="utf-8", errors="replace")
        kept = "".join(json.dumps(row) + "\n" for row in read_metrics(self.folder) if row.get("step", 0) <= step)
        if kept != text:
            write_text(self._metrics, kept)


def _empty(folder: Path, record: Path) -> None:
    """Remove a run's files, its record last: killed half-way, the folder still is a run, which can be overwritten.

    The folder stays: it may be a disk of its own.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path == record):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.jsonl`, without lines that were being written when it was killed; [] if none."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _inputs_of(record: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(record.read_text(encoding="utf-8"))["inputs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{record} cannot be read ({error})", "Choose another --run_dir, or --overwrite to start again."
        ) from None


def _check_same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    different = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if different:
        key = different[0]
        change = f"{key} was {before.get(key)!r:.60}, now {now.get(key)!r:.60}"
        raise UserError(
            f"{folder} holds a run with other settings: {', '.join(different)} ({change})",
            "Choose another --run_dir, or --overwrite to start again.",
        )
