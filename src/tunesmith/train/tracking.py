"""The log of a training: `metrics.jsonl` always, and a copy of it in every tracker that was asked for.

A tracker can always be made again from `metrics.jsonl`, and at the start of every process it is. So a resumed run has no
step twice and none missing, whatever was lost when the one before it was killed. Trackers work beside the training, on
a thread of their own; one that fails is said aloud once and then left alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunesmith.core.progress import say
from tunesmith.core.registry import TRACKERS
from tunesmith.core.runs import Run, read_metrics

_NOT_CURVES = ("step", "time")


def named(row: Mapping[str, Any]) -> dict[str, float]:
    """Return a row's values under the names that Hugging Face's trainers give trackers: "train/loss", "eval/accuracy"."""
    return {
        f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}": float(value)
        for key, value in row.items()
        if key not in _NOT_CURVES and isinstance(value, int | float)
    }


class Log:
    """Writes what a training measures. Use as a context manager.

    Args:
        run: whose `metrics.jsonl` is written; None = nothing is, because another worker does it.
        trackers: names from `train/trackers`.
        step: the step the training goes on from; rows of later steps, which an earlier process made, are dropped.
    """

    def __init__(self, run: Run | None, trackers: Sequence[str], step: int) -> None:
        self._run, self._trackers = run, list[_Tracker]()
        if run:
            run.forget_after(step)
            rows = [row for row in read_metrics(run.folder) if "step" in row] if trackers else []
            self._trackers = [_Tracker(name, run.folder, rows) for name in trackers]

    def write(self, values: Mapping[str, Any]) -> None:
        """Write the values of one step; a disk that cannot take them is said aloud, and the training goes on."""
        if self._run is None:
            return
        row = {**values, "time": round(time.time(), 3)}
        try:
            self._run.log(row)
        except OSError as error:
            say(f"WARNING: step {row['step']} could not be written to metrics.jsonl ({error}); training goes on")
        for tracker in self._trackers:
            tracker.write(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for tracker in self._trackers:
            tracker.close()


class _Tracker:
    """One tracker on its own thread, so that neither its time nor its failures are the training's."""

    def __init__(self, name: str, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self.name = name
        self._writer: Any = None
        self._failed = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._worker.submit(self._open, folder, rows).add_done_callback(self._look)

    def write(self, row: Mapping[str, Any]) -> None:
        if not self._failed:
            self._worker.submit(self._write, row).add_done_callback(self._look)

    def close(self) -> None:
        self._worker.submit(self._close).add_done_callback(self._look)
        self._worker.shutdown()

    def _open(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self._writer = TRACKERS.get(self.name).Writer(folder, rows)

    def _write(self, row: Mapping[str, Any]) -> None:
        if not self._failed:
            self._writer.write(row)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _look(self, done: Future[None]) -> None:
        # Whatever a package raises ends up here, where it can be told apart from an error of the training.
        error = done.exception()
        if error is not None and not self._failed:
            self._failed = True
            say(
                f"WARNING: {self.name} failed ({type(error).__name__}: {error}) and gets no more of this run; "
                "training goes on, and metrics.jsonl has every step"
            )
