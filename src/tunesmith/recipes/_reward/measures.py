"""How good a reward model is on judgements it never saw: agreement, difficulty, calibration, length, and one human beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.core.records import Preference
from tunesmith.core.seeds import derive
from tunesmith.metrics import ece, spearman
from tunesmith.recipes._reward.losses import Fitted, tie_probability
from tunesmith.recipes._reward.rated import Rated, one_human
from tunesmith.stats.bootstrap import interval, resample_counts

_RESAMPLES = 2000
_LEVELS = 4
# Beyond so many texts their pairs are too many; a sample of texts is taken.
_MOST_TEXTS = 1500


@dataclass(frozen=True)
class Pairs:
    """The pairs of completions that judgements order, and those they tie.

    Attributes:
        difference: [M] reward of the preferred one less that of the other. group: [M] number of the judgement.
        weight: [M], those of a judgement sum to 1. gap: [M] difference of the ratings, NaN without. shorter: [M], -1 where the
            preferred one is the longer, 1 where it is the shorter, 0 where they are as long.
        tied: differences of rewards of pairs that were called equal.
    """

    difference: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    gap: np.ndarray
    shorter: np.ndarray
    tied: np.ndarray

    @classmethod
    def of(cls, preferences: Sequence[Preference], rewards: Sequence[Sequence[float]], means: dict[str, float]) -> Pairs:
        """Take judgements apart.

        Args:
            means: mean rating of a text, where it is known; it says better than one rating how far apart two texts are.
        """
        found: list[tuple[float, ...]] = []
        tied: list[float] = []
        for number, (preference, given) in enumerate(zip(preferences, rewards, strict=True)):
            ranks, texts = preference.ranks, preference.completions
            ordered = [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]
            far = [means.get(text, np.nan) for text in texts] if means else preference.ratings or [np.nan] * len(texts)
            for i, j in ordered:
                lengths = len(texts[j]) - len(texts[i])
                found.append((given[i] - given[j], number, 1 / len(ordered), abs(far[i] - far[j]), np.sign(lengths)))
            if not preference.only_best:
                tied += [given[i] - given[j] for i in range(len(ranks)) for j in range(i) if ranks[i] == ranks[j]]
        table = np.array(found, dtype=np.float64).reshape(-1, 5)
        return cls(table[:, 0], table[:, 1].astype(int), table[:, 2], table[:, 3], table[:, 4], np.array(tied))

    def right(self) -> np.ndarray:
        """[M], 1 where the preferred completion has the larger reward, a half where they are equal."""
        return (np.sign(self.difference) + 1) / 2

    def accuracy(self, which: np.ndarray, seed: int) -> dict[str, Any]:
        """Return value, low, high and n judgements of a part of the pairs; judgements are resampled, with all their pairs."""
        groups, place = np.unique(self.group[which], return_inverse=True)
        weight = self.weight[which]
        if not len(groups):
            return {"value": None, "low": None, "high": None, "n": 0}
        hits = np.bincount(place, weight * self.right()[which])
        total = np.bincount(place, weight)
        counts = resample_counts(len(groups), _RESAMPLES, derive(seed, "bootstrap")).astype(np.float64)
        low, high = interval(counts @ hits / (counts @ total))
        return {"value": float(hits.sum() / total.sum()), "low": low, "high": high, "n": len(groups)}


def accuracy_of(preferences: Sequence[Preference], rewards: Sequence[Sequence[float]]) -> float:
    """Return the share of ordered pairs in the right order, each judgement counting as one; equal rewards are half right."""
    pairs = Pairs.of(preferences, rewards, {})
    return float((pairs.weight * pairs.right()).sum() / pairs.weight.sum())


def measure(
    preferences: Sequence[Preference], rewards: Sequence[Sequence[float]], scale: float, fitted: Fitted, seed: int,
    rated: tuple[Rated, Sequence[float]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure rewards against what people said.

    Args:
        rewards: of each completion of each judgement. scale: by which differences of rewards are log-odds.
        rated: texts with every rater's score, and their rewards.

    Returns:
        accuracy (of pairs that people ordered), ties, by_difficulty, calibration, length, and people where texts are rated.
    """
    means = dict(zip(rated[0].texts, rated[0].means().tolist(), strict=True)) if rated else {}
    pairs = Pairs.of(preferences, rewards, means)
    every = np.ones(len(pairs.difference), bool)
    found = {
        "accuracy": pairs.accuracy(every, seed), "ties": _ties(pairs, scale, fitted), "by_difficulty": _difficulty(pairs, seed),
        "calibration": _calibration(pairs, scale), "length": _length(pairs, preferences, rewards, seed),
    }  # fmt: skip
    return {**found, "people": _people(*rated, seed) if rated else None}


def _ties(pairs: Pairs, scale: float, fitted: Fitted) -> dict[str, Any]:
    """How many pairs people called equal, and how likely a model of ties says that was."""
    many = len(pairs.difference) + len(pairs.tied)
    found: dict[str, Any] = {"share": len(pairs.tied) / max(many, 1), "pairs": len(pairs.tied), "counted": False}
    if fitted.ties != "drop":
        strength = float(fitted.tie_strength().detach())
        both = scale * np.concatenate([pairs.difference, pairs.tied])
        found["predicted"] = float(np.mean([tie_probability(fitted.ties, strength, d) for d in both]))
    return found


def _difficulty(pairs: Pairs, seed: int) -> list[dict[str, Any]]:
    """Accuracy from the pairs that people found hardest to the easiest, in about equal parts; empty where nothing says that."""
    gap = pairs.gap
    if not len(gap) or np.isnan(gap).any() or len(np.unique(gap)) == 1:
        return []
    cuts = np.unique(np.quantile(gap, np.linspace(0, 1, _LEVELS + 1)))
    level = np.clip(np.searchsorted(cuts, gap, side="right") - 1, 0, len(cuts) - 2)
    return [
        {"from": float(gap[level == one].min()), "to": float(gap[level == one].max()), **pairs.accuracy(level == one, seed)}
        for one in np.unique(level)
    ]


def _calibration(pairs: Pairs, scale: float) -> dict[str, Any]:
    """How far sigma(difference) is from the share of pairs that people order so."""
    confidence = 1 / (1 + np.exp(-np.abs(scale * pairs.difference)))
    correct = (pairs.difference > 0).astype(int)
    bins = []
    member = ece.bin_of(confidence, 10, equal_mass=True)
    for one in np.unique(member):
        here = member == one
        bins.append({"confidence": float(confidence[here].mean()), "accuracy": float(correct[here].mean()), "n": int(here.sum())})
    error = float(ece.evaluate(confidence.tolist(), correct.tolist(), None, 10, equal_mass=True))
    return {"ece": error, "mean_confidence": float(confidence.mean()), "bins": bins}


def _length(pairs: Pairs, preferences: Sequence[Preference], rewards: Sequence[Sequence[float]], seed: int) -> dict[str, Any]:
    """Whether longer completions are scored higher, and how it fares where people preferred the shorter one."""
    texts = [len(text) for preference in preferences for text in preference.completions]
    flat = [reward for row in rewards for reward in row]
    clear = pairs.shorter != 0
    return {
        "correlation": float(spearman.evaluate(texts, flat)),
        "longer_scored_higher": float((pairs.difference * pairs.shorter < 0)[clear].mean()) if clear.any() else None,
        "longer_preferred": float((pairs.shorter < 0)[clear].mean()) if clear.any() else None,
        "accuracy_longer_preferred": pairs.accuracy(pairs.shorter < 0, seed),
        "accuracy_shorter_preferred": pairs.accuracy(pairs.shorter > 0, seed),
    }


def _people(rated: Rated, rewards: Sequence[float], seed: int) -> dict[str, Any]:
    """Agreement with the order of mean ratings over all pairs of texts, resampling texts, and one human's beside it."""
    means, given = rated.means(), np.asarray(rewards, dtype=np.float64)
    if len(means) > _MOST_TEXTS:
        chosen = np.random.default_rng(derive(seed, "texts")).permutation(len(means))[:_MOST_TEXTS]
        means, given = means[chosen], given[chosen]
    wanted = np.sign(means[:, None] - means[None])
    counts = (wanted != 0).astype(np.float64)
    right = counts * (np.sign(given[:, None] - given[None]) * wanted + 1) / 2
    weights = resample_counts(len(means), _RESAMPLES // 2, derive(seed, "bootstrap")).astype(np.float64)
    hits, total = (weights @ right * weights).sum(1), (weights @ counts * weights).sum(1)
    low, high = interval(hits[total > 0] / total[total > 0])  # a resample of a few texts may hold no pair
    agreement = {"value": float(right.sum() / counts.sum()), "low": low, "high": high, "n": len(means)}
    order = float(spearman.evaluate(means.tolist(), given.tolist()))
    return {"agreement": agreement, "spearman": order, "one_human": one_human(rated, seed)}
