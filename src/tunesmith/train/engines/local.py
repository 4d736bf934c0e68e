"""One process that does everything: what `fit` asks an engine, answered for a worker that is alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from tunesmith.core.records import Encoded
from tunesmith.data.collate import Batch, micro_batches

Trained = Mapping[str, torch.nn.Parameter]
LossOf = Callable[[Batch], tuple[torch.Tensor, dict[str, float]]]


class Engine:
    """A worker that is alone. Where several train together (`engines/_group.py`), all of them call the same methods in step.

    Attributes:
        rank: this worker's number, from 0; the first one writes. workers: how many there are.
    """

    rank, workers = 0, 1

    def divide(self, model: torch.nn.Module, trained: Trained, loss_of: LossOf) -> tuple[Trained, LossOf]:
        """Divide a model's weights among the workers; returns this worker's trained parameters and its loss."""
        return trained, loss_of

    def passes(self, examples: Sequence[Encoded], token_budget: int) -> list[list[Batch | None]]:
        """Cut a step's rows into forward passes: in each, one batch for every worker (None: it has nothing left to do)."""
        return [[batch] for batch in micro_batches(examples, token_budget)]

    def gather(self, value: float) -> list[float]:
        """Return every worker's value, by rank."""
        return [value]

    def asked_to_stop(self, signal: int) -> int:
        """Return the signal that any worker has caught, 0 without one."""
        return signal

    def measure(self, evaluate: Callable[[], float]) -> float:
        """Evaluate the model; all workers get the same value."""
        return evaluate()

    def number(self, tensor: torch.Tensor) -> float:
        """Read a scalar that was computed from divided tensors."""
        return float(tensor)

    def mine(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part of a divided tensor that is here; it may be empty."""
        return tensor

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Divide a tensor as `like` is divided."""
        return whole

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Put divided tensors together, on the first worker; the others get nothing."""
        return tensors

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first worker run a with-block to its end before the others enter it."""
        yield


_ALONE = Engine()
_current: ContextVar[Engine] = ContextVar("engine", default=_ALONE)


def current() -> Engine:
    """Return the engine that this process trains with."""
    return _current.get()


@contextmanager
def use(engine: Engine) -> Iterator[None]:
    """Train with an engine inside a with-block."""
    token = _current.set(engine)
    try:
        yield
    finally:
        _current.reset(token)


def launch(work: Callable[[dict[str, Any]], dict[str, float]], settings: dict[str, Any]) -> list[dict[str, float]]:
    """Start nothing: whoever asks trains in this process."""
    return []
