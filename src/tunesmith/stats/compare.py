"""Compare routes on the same items: an interval for each, a corrected test for each pair, and an honest verdict.

**Interval of a route.** The mean of the metric over its draws, resampled over items. All routes see the same resamples, and
a route's interval does not depend on which other routes are compared.

**Difference of two routes.** The same resamples, paired. Where a route has several draws (few-shot with other
demonstrations), the claim "a is better than b" is about the next draw too, so draws are resampled as well as items:

    value_r = mean_d m_d(items_r) + sqrt(D / (D - 1)) * sum_d (k_rd - 1) / D * m_d,     k_r ~ Multinomial(D; 1/D, ...)

for resample r and D draws with values m_d (on all items); the root undoes the bootstrap's underestimate for small D. Routes
with equally many draws share k, that is, draw d of one is paired with draw d of the other. This is a little too cautious
where draws differ only by chance per item, and still too bold with 2 or 3 draws that differ widely: between equal routes
whose draws scatter by .05 (300 items), 3 draws give about 10 % false alarms and 5 draws 5 %, where items alone give 35 %.
One draw shows nothing of what another seed would have done: such a verdict is about the routes as run.

**p.** McNemar's exact test where both routes have one draw and the metric is a share of right items (accuracy, exact
match). Else twice the smaller share of resampled differences at or beyond 0 (+1 in numerator and denominator), and never
below 2^(1-k) where only k items were answered differently: no test that swaps answers could go lower. Then Holm's
correction over all pairs compared. A verdict other than "insufficient evidence" needs p_holm < 1 - level and an interval
without 0.

Sources: Efron & Tibshirani 1993; Owen 2007, The Pigeonhole Bootstrap (resampling two crossed factors); Dror et al. 2018,
The Hitchhiker's Guide to Testing Statistical Significance in NLP; the modules beside this one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tunesmith.core.errors import UserError, unknown
from tunesmith.core.seeds import derive
from tunesmith.stats.bootstrap import interval, resample_blocks, resample_counts
from tunesmith.stats.holm import holm
from tunesmith.stats.mcnemar import mcnemar
from tunesmith.stats.power import detectable_difference, rows_to_settle

Metric = Callable[..., Any]
INSUFFICIENT = "insufficient evidence"


@dataclass(frozen=True)
class Interval:
    """A route's metric.

    Attributes:
        value: mean over draws; low, high: percentile interval over items; draws: the metric of each draw.
    """

    value: float
    low: float
    high: float
    draws: tuple[float, ...]


@dataclass(frozen=True)
class Difference:
    """Route a minus route b.

    Attributes:
        value, low, high: in units of the metric, with its paired interval.
        p, p_holm: two-sided, alone and corrected for all pairs. test: "McNemar exact" or "paired bootstrap".
        n: items. only_a, only_b: items that a (b) alone got right, in the representative draw of each; for a metric with
            shades between right and wrong, items where a (b) scores higher.
        detectable: smallest difference this comparison could have seen with 80 % power, corrected for all pairs; above the
            metric's range where so few items could have shown none.
        rows_to_settle: items at which a true difference of this size would be found with 80 % power; None where the
            evidence suffices, and where more rows alone would not help (no difference, or one that drowns in the draws).
        verdict: "better" or "worse" (a against b), or "insufficient evidence".
    """

    a: str
    b: str
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    test: str
    n: int
    only_a: int
    only_b: int
    detectable: float
    rows_to_settle: int | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All routes and pairs.

    Attributes:
        intervals: by route, in the order given. differences: one per pair, in the order of the pairs.
        level: of all intervals and tests. resamples: how many there were in the end.
    """

    intervals: dict[str, Interval]
    differences: tuple[Difference, ...]
    level: float
    resamples: int


@dataclass(frozen=True)
class _Route:
    draws: np.ndarray  # [D] metric of each draw
    answers: np.ndarray  # [D, n] texts
    items: np.ndarray  # [D, n] metric of each item alone
    counted: bool  # one draw of a metric that is the share of right items
    by_items: np.ndarray  # [R] mean over draws on resampled items
    by_draws: np.ndarray  # [R] what resampling the draws adds


def compare(
    evaluate: Metric,
    gold: Sequence[str],
    predictions: Mapping[str, Sequence[Sequence[str]]],
    seed: int,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Comparison:
    """Compare routes that answered the same items (method and sources at the top of this file).

    Args:
        evaluate: a metric where higher is better: evaluate(gold, predicted, weights) as in the metrics room.
        gold: n answers.
        predictions: route -> draws -> n answers, for the same items in the same order.
        seed: same seed, same result.
        pairs: (a, b) to test; None for every pair. Fewer pairs leave more power to each.
        resamples: at least this many; more where Holm's correction over many pairs needs a finer p.
        level: of the intervals; 1 - level is the chance of any false alarm among the pairs.

    Raises:
        UserError: no items, a route without draws or with another number of answers, a pair that cannot be compared, or a
            level outside 0..1.
    """
    chosen = _pairs(predictions, pairs)
    _check(gold, predictions, level)
    # The least bootstrap p is 2 / (R + 1); Holm multiplies it by the number of pairs.
    resamples = max(resamples, math.ceil(4 * len(chosen) / (1 - level)))
    sampled = _resampled(evaluate, gold, predictions, resamples, seed)
    routes = {name: _route(evaluate, gold, draws, sampled[name], seed) for name, draws in predictions.items()}
    intervals = {
        name: Interval(float(route.draws.mean()), *interval(route.by_items, level), tuple(route.draws.tolist()))
        for name, route in routes.items()
    }
    alpha = (1 - level) / max(1, len(chosen))
    tested = [_difference(routes, pair, level, alpha) for pair in chosen]
    corrected = holm([d.p for d in tested])
    differences = tuple(_judged(d, p, level) for d, p in zip(tested, corrected, strict=True))
    return Comparison(intervals, differences, level, resamples)


def representative(values: Sequence[float] | np.ndarray) -> int:
    """Return the index of the median draw: the lower middle one of an even number, the first of equals.

    Raises:
        UserError: there are no values.
    """
    if len(values) == 0:
        raise UserError("there are no draws to choose from", "Give at least one.")
    return int(np.argsort(values, kind="stable")[(len(values) - 1) // 2])


def _pairs(predictions: Mapping[str, object], pairs: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    if pairs is None:
        return list(itertools.combinations(predictions, 2))
    for a, b in pairs:
        for name in (a, b):
            if name not in predictions:
                raise unknown("route", name, predictions)
        if a == b:
            raise UserError(f"'{a}' cannot be compared with itself", "Name two routes.")
    return list(pairs)


def _check(gold: Sequence[str], predictions: Mapping[str, Sequence[Sequence[str]]], level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"level {level:g} must lie between 0 and 1", "Usual is 0.95.")
    if len(gold) == 0:
        raise UserError("there are no items to compare on", "Give at least one.")
    for name, draws in predictions.items():
        if len(draws) == 0:
            raise UserError(f"route '{name}' has no draw", "Leave the route out, or run it.")
        for d, answers in enumerate(draws):
            if len(answers) != len(gold):
                raise UserError(
                    f"draw {d} of route '{name}' answers {len(answers):,} items, and there are {len(gold):,}",
                    "Compare routes on the same items only.",
                )


def _resampled(
    evaluate: Metric, gold: Sequence[str], predictions: Mapping[str, Sequence[Sequence[str]]], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Return each route's mean over draws on every resample: route -> [R]."""
    means = {name: np.zeros(resamples) for name in predictions}
    start = 0
    for counts in resample_blocks(len(gold), resamples, derive(seed, "items")):
        weights = counts.astype(np.float32)
        for name, draws in predictions.items():
            values = [evaluate(gold, answers, weights) for answers in draws]
            means[name][start : start + len(counts)] = np.mean(values, axis=0)
        start += len(counts)
    return means


def _route(evaluate: Metric, gold: Sequence[str], predicted: Sequence[Sequence[str]], by_items: np.ndarray, seed: int) -> _Route:
    draws = np.array([evaluate(gold, answers) for answers in predicted], dtype=np.float64)
    items = np.array([_items(evaluate, gold, answers) for answers in predicted])
    counted = len(draws) == 1 and _is_share(evaluate, gold, predicted[0], items[0])
    answers = np.array([list(draw) for draw in predicted], dtype=object)
    return _Route(draws, answers, items, counted, by_items, _draw_noise(draws, len(by_items), seed))


def _items(evaluate: Metric, gold: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    # Every item by itself, but equal pairs of answers only once: [n].
    score = {pair: evaluate([pair[0]], [pair[1]]) for pair in set(zip(gold, answers, strict=True))}
    return np.array([score[pair] for pair in zip(gold, answers, strict=True)], dtype=np.float64)


def _is_share(evaluate: Metric, gold: Sequence[str], answers: Sequence[str], items: np.ndarray) -> bool:
    # Asked of the metric itself, on resamples: accuracy is the mean of its items, macro F1 is not.
    if not np.isin(items, (0.0, 1.0)).all():
        return False
    counts = resample_counts(len(items), 64, 0)
    return bool(np.allclose(evaluate(gold, answers, counts), counts @ items / len(items), atol=1e-6))


def _draw_noise(draws: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    number = len(draws)
    if number == 1:
        return np.zeros(resamples)
    generator = np.random.default_rng(derive(seed, "draws", number))
    counts = generator.multinomial(number, np.full(number, 1 / number), size=resamples)
    return math.sqrt(number / (number - 1)) * ((counts - 1) @ draws) / number


def _difference(routes: Mapping[str, _Route], pair: tuple[str, str], level: float, alpha: float) -> Difference:
    a, b = (routes[name] for name in pair)
    n = a.items.shape[1]
    value = float(a.draws.mean() - b.draws.mean())
    by_items, by_draws = a.by_items - b.by_items, a.by_draws - b.by_draws
    total = by_items + by_draws
    shown_a, shown_b = a.items[representative(a.draws)], b.items[representative(b.draws)]
    if a.counted and b.counted:
        _, _, p = mcnemar(shown_a == 1, shown_b == 1)
        test = "McNemar exact"
    else:
        differing = int((np.vstack([a.answers, b.answers]) != a.answers[0]).any(axis=0).sum())
        p = max(_bootstrap_p(total), 2.0 ** (1 - max(1, differing)))
        test = "paired bootstrap"
    sd, draw_se = float(by_items.std()) * math.sqrt(n), float(by_draws.std())
    # k items that all favour one route are the fewest whose exact p, 2 / 2^k, can be below alpha.
    fewest = math.floor(math.log2(2 / alpha)) + 1
    detectable = max(detectable_difference(sd, n, alpha, other_se=draw_se), fewest / n)
    rows = rows_to_settle(value, sd, alpha, other_se=draw_se)
    only_a, only_b = int((shown_a > shown_b).sum()), int((shown_b > shown_a).sum())
    low, high = interval(total, level)
    return Difference(*pair, value, low, high, p, p, test, n, only_a, only_b, detectable, rows, INSUFFICIENT)


def _bootstrap_p(differences: np.ndarray) -> float:
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * (float(tail) + 1) / (len(differences) + 1))


def _judged(difference: Difference, p_holm: float, level: float) -> Difference:
    if p_holm < 1 - level and not difference.low <= 0 <= difference.high:
        verdict = "better" if difference.value > 0 else "worse"
        return replace(difference, p_holm=p_holm, rows_to_settle=None, verdict=verdict)
    # The approximation may say that fewer rows would do, but these many have just been seen not to.
    rows = difference.rows_to_settle and max(difference.rows_to_settle, difference.n + 1)
    return replace(difference, p_holm=p_holm, rows_to_settle=rows, verdict=INSUFFICIENT)
