"""Steps that leave no trace: real updates of the real parameters, taken back at the end, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from tunesmith.core.records import Encoded
from tunesmith.train.fit import _deterministic, _Plan, _State, _step
from tunesmith.train.parameters import FitParameters
from tunesmith.train.training import Training
from tunesmith.train.update import Updater, restore, weights


class Rehearsal:
    """A training that does not count. As a context manager, it ends with weights and random state as they were.

    The optimizer is its own, so its moments go with it.
    """

    def __init__(self, training: Training) -> None:
        self.training = training
        self.plan = _Rehearsed(training)

    def step(self, learning_rate: float, rows: Sequence[Encoded] | None = None, how: FitParameters | None = None) -> float:
        """Make one step of `fit` and return its loss, nats per counted token.

        Args:
            rows: learn from these instead of those whose turn it is. how: other settings for this step.

        Raises:
            WorkFailed: loss or gradient are not finite.
        """
        self.plan.rate, self.plan.rows, self.plan.how = learning_rate, rows, how or self.training.how
        _step(self.training.loss_of, self._state, self.plan)
        return self._state.position.losses[-1]

    @property
    def seconds(self) -> float:
        """Time of all steps so far."""
        return self._state.position.seconds

    @property
    def tokens(self) -> int:
        """Real tokens of all steps so far."""
        return self._state.position.tokens

    def __enter__(self) -> Self:
        self._kept = weights(self.training.parameters)
        self._random = torch.get_rng_state()
        self._state = _State(Updater.of(self.training), Path())
        self._settings = _deterministic()
        self._settings.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._settings.__exit__(None, None, None)
        self._state.updater.clear()
        del self._state
        restore(self.training.parameters, self._kept)
        torch.set_rng_state(self._random)


class _Rehearsed(_Plan):
    """A plan of which every step can be something else."""

    rate = 0.0
    rows: Sequence[Encoded] | None = None

    @property
    def tokens(self) -> float:
        """Real tokens of all steps."""
        return sum(self._lengths) * self.total / self._per_epoch

    def examples(self, step: int) -> list[Encoded]:
        return super().examples(step) if self.rows is None else list(self.rows)

    def learning_rate(self, step: int) -> float:
        return self.rate
