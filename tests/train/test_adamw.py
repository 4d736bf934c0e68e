"""The update against torch's own AdamW and hand-derived numbers."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.train.update import Updater, schedule_factor


def _one(weight_decay: float, value: torch.Tensor) -> tuple[Updater, torch.nn.Parameter]:
    parameter = torch.nn.Parameter(value)
    return Updater({"w": parameter}, weight_decay, clip_norm=0.0), parameter


def test_two_steps_from_one() -> None:
    """AdamW, p = 1, g = 0.1, rate 1e-3, decay 1e-2: 0.9989900, then 0.9979800 (decay 1e-5, then a step of 1e-3 each)."""
    updater, p = _one(1e-2, torch.ones(1, 1))
    for expected in (0.99899, 0.99798):
        p.grad = torch.full((1, 1), 0.1)
        updater.step(1e-3)
        assert p.item() == pytest.approx(expected, abs=2e-7)
    plain, q = _one(0.0, torch.ones(1, 1))
    q.grad = torch.full((1, 1), 0.1)
    plain.step(1e-3)
    assert abs(q.item() - 0.99899) > 5e-6, "without decay the number must be another"


def test_vectors_do_not_decay() -> None:
    updater, p = _one(0.5, torch.ones(3))
    p.grad = torch.zeros(3)
    updater.step(0.1)
    assert torch.equal(p.detach(), torch.ones(3))


def test_masters_keep_what_bf16_would_lose() -> None:
    """A hundred updates of 1e-4 move 1.0 to 0.99; rounded to bf16 each time, none of them would be seen."""
    updater, p = _one(0.0, torch.ones(2, 2, dtype=torch.bfloat16))
    rounded = torch.ones(2, 2, dtype=torch.bfloat16)
    for _ in range(100):
        p.grad = torch.ones(2, 2, dtype=torch.bfloat16)
        updater.gather()
        updater.step(1e-4)
        rounded -= 1e-4
    assert torch.equal(rounded, torch.ones(2, 2, dtype=torch.bfloat16))
    assert p[0, 0].item() == pytest.approx(0.99, abs=0.004)


def test_gradient_that_is_not_finite_changes_nothing() -> None:
    updater, p = _one(0.0, torch.ones(2, 2))
    p.grad = torch.tensor([[1.0, math.nan], [0.0, 0.0]])
    assert not math.isfinite(updater.step(0.1))
    assert torch.equal(p.detach(), torch.ones(2, 2))


def test_schedule() -> None:
    """Half of the warm-up gives half the rate; from its peak a line falls to zero."""
    assert schedule_factor("linear", 49, 1000, 100) == pytest.approx(0.5)
    assert schedule_factor("linear", 100, 1000, 100) == pytest.approx(1.0)
    assert schedule_factor("linear", 550, 1000, 100) == pytest.approx(0.5)
    assert schedule_factor("cosine", 550, 1000, 100) == pytest.approx(0.5)
    assert schedule_factor("constant", 900, 1000, 100) == 1.0
