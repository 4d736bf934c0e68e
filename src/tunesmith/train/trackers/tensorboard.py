"""TensorBoard: an event file in the run's directory; look at it with `tensorboard --logdir RUN_DIR`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tunesmith.train.tracking import named


class Writer:
    """Write `tensorboard/events.out.tfevents.*`.

    A new file begins with all earlier rows and replaces the files of earlier processes. A TensorBoard that is looking
    on is told to forget what it has read, so no step shows twice.

    Args:
        folder: the run's directory.
        rows: what is in metrics.jsonl already.

    Raises:
        OSError: the disk cannot take it.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        # By name, because the package is optional and type checkers cannot see into its generated modules.
        events, self._summary = (import_module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary"))
        self._event = events.Event
        place = folder / "tensorboard"
        place.mkdir(parents=True, exist_ok=True)
        earlier = list(place.glob("events.out.tfevents.*"))
        # The number comes first because TensorBoard reads files in the order of their names.
        path = place / f"events.out.tfevents.{time.time_ns() // 1000}.{os.getpid()}"
        self._file = path.open("wb")
        self._records = import_module("tensorboard.summary.writer.record_writer").RecordWriter(self._file)
        now = time.time()
        self._add(self._event(wall_time=now, file_version="brain.Event:2"))
        start = events.SessionLog(status=events.SessionLog.START)
        self._add(self._event(wall_time=now, step=0, session_log=start))
        for row in rows:
            self._row(row)
        self._records.flush()
        for file in earlier:
            # Emptied and not removed: a TensorBoard that has it open would wait for it and never read the new one.
            if file.stat().st_size:
                os.truncate(file, 0)
            else:
                file.unlink()

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row of metrics.jsonl, through to the file."""
        self._row(row)
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _row(self, row: Mapping[str, Any]) -> None:
        summary = self._summary.Summary
        values = [summary.Value(tag=tag, simple_value=value) for tag, value in named(row).items()]
        self._add(self._event(wall_time=row.get("time", 0.0), step=row["step"], summary=summary(value=values)))

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
