"""How good probabilities are on rows they were not fitted on: accuracy, calibration and sharpness, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.evaluate.abstention import area, risk_coverage
from tunesmith.metrics import accuracy, auroc, brier, ece, nll
from tunesmith.stats.bootstrap import interval, resample_counts

_RESAMPLES = 2000
_BINS = 10
_RISK = 0.05


@dataclass(frozen=True)
class Measure:
    """A number and its 95 % bootstrap interval over rows."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bin:
    """Rows of about equal confidence: their mean confidence, the share of them that is right, and how many there are."""

    confidence: float
    accuracy: float
    n: int


def quality(probabilities: np.ndarray, gold: np.ndarray, seed: int) -> dict[str, Measure]:
    """Measure probabilities against what was right.

    Args:
        probabilities: [n, K]. gold: [n] index of the right option. seed: of the resamples.

    Returns:
        accuracy, ece (15 bins of equal width), ece_equal_mass (10 bins of equally many rows), brier and nll, each with its
        interval; without one aurc, coverage_at_95 (largest share of rows, the surest, of which 95 % are right) and, where some
        rows are right and some wrong, auroc (of the confidence, for being right).
    """
    answers = probabilities.argmax(axis=1)
    correct, confidence = answers == gold, probabilities.max(axis=1)
    weights = resample_counts(len(gold), _RESAMPLES, seed)
    measured: dict[str, Callable[[Any], Any]] = {
        "accuracy": lambda w: accuracy.evaluate(list(map(str, gold)), list(map(str, answers)), w),
        "ece": lambda w: ece.evaluate(confidence.tolist(), correct.tolist(), w),
        "ece_equal_mass": lambda w: ece.evaluate(confidence.tolist(), correct.tolist(), w, _BINS, equal_mass=True),
        "brier": lambda w: brier.evaluate(gold.tolist(), probabilities.tolist(), w),
        "nll": lambda w: nll.evaluate(gold.tolist(), probabilities.tolist(), w),
    }
    found = {name: Measure(float(evaluate(None)), *interval(evaluate(weights))) for name, evaluate in measured.items()}
    if 0 < correct.sum() < len(correct):
        # A resample may lack rows of one kind, so this has no interval.
        found["auroc"] = _alone(auroc.evaluate(correct.tolist(), confidence.tolist()))
    coverage, risk = risk_coverage(confidence, correct)
    found["aurc"] = _alone(area(coverage, risk))
    found["coverage_at_95"] = _alone(max(coverage[risk <= _RISK + 1e-9], default=0.0))
    return found


def _alone(value: float | np.ndarray) -> Measure:
    return Measure(float(value), float(value), float(value))


def diagram(probabilities: np.ndarray, gold: np.ndarray) -> list[Bin]:
    """Return the bins of a reliability diagram: ten of equally many rows, from the least to the most sure."""
    correct, confidence = probabilities.argmax(axis=1) == gold, probabilities.max(axis=1)
    member = ece.bin_of(confidence, _BINS, equal_mass=True)
    kept = [member == b for b in range(_BINS) if (member == b).any()]
    return [Bin(float(confidence[m].mean()), float(correct[m].mean()), int(m.sum())) for m in kept]
