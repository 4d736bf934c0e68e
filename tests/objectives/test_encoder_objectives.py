"""Classification, distillation and PET's loss against plain numpy, with the mistakes that would be easy to make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tunesmith.objectives import classification, distillation, pet

RNG = np.random.default_rng(3)
LOGITS, TEACHER = RNG.normal(size=(6, 4)) * 2, RNG.normal(size=(6, 4))
TARGETS = np.array([0, 3, 1, 1, 2, 0])


def log_softmax(x: np.ndarray) -> np.ndarray:
    """By the definition."""
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_classification_is_the_summed_cross_entropy() -> None:
    by_hand = -log_softmax(LOGITS)[np.arange(6), TARGETS].sum()
    value, stats = classification.loss(torch.tensor(LOGITS), torch.tensor(TARGETS))
    assert float(value) == pytest.approx(by_hand, abs=1e-9)
    assert stats["correct"] == (LOGITS.argmax(-1) == TARGETS).sum()
    # Two halves make the whole, which a mean over a batch would not.
    halves = sum(
        float(classification.loss(torch.tensor(LOGITS[s]), torch.tensor(TARGETS[s]))[0]) for s in (slice(4), slice(4, 6))
    )
    assert halves == pytest.approx(by_hand, abs=1e-9)
    assert float(value) / 6 != pytest.approx(by_hand, abs=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_the_divergence_times_the_temperature_squared(temperature: float) -> None:
    q, p = log_softmax(TEACHER / temperature), log_softmax(LOGITS / temperature)
    by_hand = temperature**2 * (np.exp(q) * (q - p)).sum()
    other_way = temperature**2 * (np.exp(p) * (p - q)).sum()
    value = float(distillation.loss(torch.tensor(LOGITS), torch.tensor(TEACHER), temperature)[0])
    assert value == pytest.approx(by_hand, abs=1e-9)
    assert value != pytest.approx(other_way, abs=1e-3)
    assert float(distillation.loss(torch.tensor(TEACHER), torch.tensor(TEACHER + 7), temperature)[0]) == pytest.approx(
        0, abs=1e-9
    )


def test_the_gradient_of_distillation_hardly_depends_on_the_temperature() -> None:
    """T^2 is there for that: without it, T = 20 would teach 400 times less than T = 1."""
    norms = []
    for temperature in (5.0, 20.0):
        logits = torch.tensor(LOGITS, requires_grad=True)
        distillation.loss(logits, torch.tensor(TEACHER), temperature)[0].backward()
        assert logits.grad is not None
        norms.append(float(logits.grad.norm()))
    assert norms[1] == pytest.approx(norms[0], rel=0.3)


def test_a_labels_logit_is_the_mean_over_its_words() -> None:
    words = torch.tensor([[3.0, 1.0, 0.5, 1.5, 7.0]])
    assert pet.label_logits(words, [2, 2, 1]).tolist() == [[2.0, 1.0, 7.0]]
    # The sum would give (4, 2, 7), and the largest word (3, 1.5, 7).
    assert pet.label_logits(words, [1, 3, 1]).tolist() == [[3.0, 1.0, 7.0]]


def test_golden_values_of_pet() -> None:
    """Methods, section 4: label logits (2, 1); log(1 + e^-1) = .313262; with a = 1e-4 and L_MLM = 2.5, .313480."""
    logits = pet.label_logits(torch.tensor([[3.0, 1.0, 0.5, 1.5]], dtype=torch.float64), [2, 2])
    mlm = torch.tensor(2.5, dtype=torch.float64)
    assert float(pet.loss(logits, torch.tensor([0]), mlm, 0.0)[0]) == pytest.approx(np.log1p(np.exp(-1)), abs=1e-9)
    assert float(pet.loss(logits, torch.tensor([0]), mlm)[0]) == pytest.approx(0.313480, abs=1e-6)
    # The published command line calls the other weight alpha: 0.9999 would give the language model nearly everything.
    assert float(pet.loss(logits, torch.tensor([0]), mlm, 0.9999)[0]) == pytest.approx(2.499781, abs=1e-6)


def test_pet_is_a_weighted_sum_over_rows() -> None:
    nll = -log_softmax(LOGITS)[np.arange(6), TARGETS].sum()
    value, stats = pet.loss(torch.tensor(LOGITS), torch.tensor(TARGETS), torch.tensor(12.0), 0.25)
    assert float(value) == pytest.approx(0.75 * nll + 0.25 * 12.0, abs=1e-9)
    assert stats["correct"] == (LOGITS.argmax(-1) == TARGETS).sum()
