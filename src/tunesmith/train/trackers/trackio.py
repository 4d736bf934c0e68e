"""trackio: a run in the local trackio folder; look at it with `trackio show --project tunesmith`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from tunesmith.core.files import text_hash
from tunesmith.train.tracking import named

PROJECT = "tunesmith"
# Between two writes, each of which costs a few milliseconds.
_SECONDS = 0.5


class Writer:
    """Write a run of the project `tunesmith`, named by the last two parts of the run directory's path.

    It goes into trackio's local database (`TRACKIO_DIR`, else its own default). `trackio.init` is not used: it may look
    up who is logged in, send to the Space or server that an environment variable names, and open a dashboard.

    Args:
        folder: the run's directory; the same directory is the same run, which then begins again with `rows`.
        rows: what is in metrics.jsonl already.

    Raises:
        OSError, sqlite3.Error: the database cannot be written.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self._store = import_module("trackio.sqlite_storage").SQLiteStorage
        whole = folder.resolve()
        self._run = {"run": "/".join(whole.parts[-2:]), "run_id": text_hash(str(whole))}
        self._settings = _settings(folder / "run.json")
        self._store.init_db(PROJECT)
        self._store.delete_run(PROJECT, **self._run)
        self._waiting: list[Mapping[str, Any]] = []
        self._written = time.monotonic()
        self._add(rows)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row of metrics.jsonl; rows that follow each other quickly go to the database together."""
        self._waiting.append(row)
        if time.monotonic() - self._written >= _SECONDS:
            self.close()

    def close(self) -> None:
        """Write what is left."""
        rows, self._waiting = self._waiting, []
        self._add(rows)
        self._written = time.monotonic()

    def _add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            times = [datetime.fromtimestamp(row.get("time", 0.0), UTC).isoformat() for row in rows]
            values, steps = [named(row) for row in rows], [row["step"] for row in rows]
            self._store.bulk_log(PROJECT, metrics_list=values, steps=steps, timestamps=times, config=self._settings, **self._run)
            self._settings = None


def _settings(record: Path) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    inputs = json.loads(record.read_text(encoding="utf-8"))["inputs"]
    return {key: value for key, value in inputs.items() if not key.startswith("_")}
