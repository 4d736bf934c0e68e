"""Gain here against forgetting there: what each trained route keeps of full fine-tuning's gain, and of its forgetting.

Gain is the task's metric beyond that of the zero-shot prompt, forgetting the nats per token of general text that were lost.
Both shares come with intervals: gains are resampled over test items and losses over passages, the same ones for all routes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tunesmith.core.seeds import derive
from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.results import Forgetting, Prediction, RouteResult
from tunesmith.stats.bootstrap import interval, resample_counts

WANTED_GAIN, ALLOWED_FORGETTING = 0.9, 0.25
_RESAMPLES = 5_000


@dataclass(frozen=True)
class Share:
    """A number with its 95 % interval; low and high are those of the resampled numbers."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Trade:
    """What a route brought and cost.

    Attributes:
        gain: of the task's metric. rise: nats per token of general text that were lost.
        kept: share of the reference's gain; forgot: share of its rise. None where the reference's own may be 0.
        choices: change of accuracy on the choice benchmark, None where it was not asked.
    """

    route: str
    gain: Share
    rise: Share
    kept: Share | None
    forgot: Share | None
    choices: float | None

    @property
    def meets(self) -> bool:
        """Whether it keeps 90 % of the gain with at most 25 % of the forgetting."""
        return bool(self.kept and self.forgot and self.kept.value >= WANTED_GAIN and self.forgot.value <= ALLOWED_FORGETTING)

    @property
    def short_by(self) -> float:
        """How far it is from that, in shares added up."""
        if not self.kept or not self.forgot:
            return float("inf")
        return max(WANTED_GAIN - self.kept.value, 0) + max(self.forgot.value - ALLOWED_FORGETTING, 0)


@dataclass(frozen=True)
class Tradeoff:
    """All routes that were trained and measured on the guard set, and one sentence about them.

    Attributes:
        before: route that gains are measured from. reference: route whose gain and forgetting are 100 %.
    """

    before: str
    reference: str
    trades: list[Trade]
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "trades": [{**asdict(t), "meets": t.meets} for t in self.trades]}


def weigh(
    results: Sequence[RouteResult], predictions: Mapping[str, Sequence[Prediction]], evaluate: Callable[..., Any], seed: int
) -> Tradeoff | None:
    """Weigh trained routes against full fine-tuning.

    Args:
        predictions: by route label, all draws. evaluate: the task's first metric.

    Returns:
        None without a zero-shot route, full fine-tuning, and something to compare it with.
    """
    guarded = [(r, r.forgetting) for r in results if r.forgetting and r.forgetting.passages]
    before = next((r for r in results if r.name == "zero-shot"), None)
    reference = next((r for r, _ in guarded if r.name == "full"), None)
    if before is None or reference is None or len(guarded) < 2:
        return None
    start = _values(predictions[before.route], evaluate, seed)
    gains = {r.route: _values(predictions[r.route], evaluate, seed) - start for r, _ in guarded}
    rises = {r.route: _rises(change, seed) for r, change in guarded}
    trades = [
        Trade(
            r.route, _share(gains[r.route]), _share(rises[r.route]), _of(gains[r.route], gains[reference.route]),
            _of(rises[r.route], rises[reference.route]), _choices(change),
        )
        for r, change in guarded
    ]  # fmt: skip
    return Tradeoff(before.route, reference.route, trades, _sentence(trades, reference.route))


def _values(predictions: Sequence[Prediction], evaluate: Callable[..., Any], seed: int) -> np.ndarray:
    """The metric, mean over draws: first on all items, then on each resample of them. [1 + R]"""
    draws: dict[int, list[Prediction]] = {}
    for prediction in predictions:
        draws.setdefault(prediction.draw, []).append(prediction)
    values = []
    for draw in draws.values():
        gold, predicted = [p.gold for p in draw], [p.predicted for p in draw]
        weights = resample_counts(len(draw), _RESAMPLES, derive(seed, "items"))
        values.append(np.concatenate([[float(evaluate(gold, predicted))], evaluate(gold, predicted, weights)]))
    return np.mean(values, axis=0)


def _rises(change: Forgetting, seed: int) -> np.ndarray:
    """Nats lost per token: first on all passages, then on each resample of them. [1 + R]"""
    tokens, before, after = (np.array(change.passages[key]) for key in ("tokens", "before", "after"))
    drawn = resample_counts(len(tokens), _RESAMPLES, derive(seed, "passages")).astype(float)
    weights = np.concatenate([np.ones((1, len(tokens))), drawn])
    return (weights @ (after - before)) / (weights @ tokens)


def _share(values: np.ndarray) -> Share:
    return Share(float(values[0]), *interval(values[1:]))


def _of(values: np.ndarray, whole: np.ndarray) -> Share | None:
    """Shares of a whole; None where the whole may well be nothing, of which no share means anything."""
    if whole[0] <= 0 or interval(whole[1:])[0] <= 0:
        return None
    # The few resamples where it is not positive count as the smallest positive one.
    return _share(values / np.maximum(whole, whole[whole > 0].min()))


def _choices(change: Forgetting) -> float | None:
    accuracies = change.choice_accuracies
    return accuracies[1] - accuracies[0] if accuracies else None


def _sentence(trades: Sequence[Trade], reference: str) -> str:
    full = next(t for t in trades if t.route == reference)
    others = [t for t in trades if t.route != reference]
    gained = f"{reference} gains {_signed(full.gain)} and loses {_signed(full.rise)} nats per token of general text"
    if full.kept is None:
        return f"{gained}: a gain that may be none, so there is nothing to keep."
    if full.forgot is None:
        return f"{gained}: a loss that may be none, so there is nothing to cure."
    good = sorted((t for t in others if t.meets), key=lambda t: -t.gain.value)
    if good:
        also = ", ".join(t.route for t in good[1:])
        return f"{gained}; {_kept(good[0])}" + (f"; {also} {'do' if len(good) > 2 else 'does'} as much." if also else ".")
    nearest = min(others, key=lambda t: t.short_by)
    wanted = f"{WANTED_GAIN:.0%} of the gain with at most {ALLOWED_FORGETTING:.0%} of the forgetting"
    return f"{gained}; nothing keeps {wanted}, and the nearest is this: {_kept(nearest)}."


def _kept(trade: Trade) -> str:
    assert trade.kept
    assert trade.forgot
    return f"{trade.route} keeps {_percent(trade.kept)} of the gain with {_percent(trade.forgot)} of the forgetting"


def _signed(share: Share) -> str:
    return f"{numbers.signed(share.value, 3)} [{numbers.signed(share.low, 3)}, {numbers.signed(share.high, 3)}]"


def _percent(share: Share) -> str:
    return f"{100 * share.value:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"
