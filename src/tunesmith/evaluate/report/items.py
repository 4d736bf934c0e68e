"""The items worth looking at: what one route fixed and broke against another, what all get right, what fools the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.record import LadderReport
from tunesmith.evaluate.results import Prediction, RouteResult
from tunesmith.evaluate.verdict import cost, is_reference
from tunesmith.stats.compare import representative

SHOWN = 10
_TEXT, _ANSWER, _PROMPT = 600, 160, 12_000
Answers = dict[str, Prediction]


@dataclass(frozen=True)
class Item:
    """One item as shown: where it stands, its text, the right answer, and (route, answer, confidence, correct) each."""

    where: str
    text: str
    gold: str
    answers: tuple[tuple[str, str, str, bool], ...]


@dataclass(frozen=True)
class Flips:
    """What `route` gets right that `against` does not (`mended`), and the other way round (`broken`)."""

    route: str
    against: str
    mended: tuple[Item, ...]
    mended_count: int
    broken: tuple[Item, ...]
    broken_count: int
    n: int


@dataclass(frozen=True)
class Extremes:
    """Items every route gets right, and those the named route gets most confidently wrong, with how many there are of each."""

    route: str
    easy: tuple[Item, ...]
    easy_count: int
    wrong: tuple[Item, ...]
    wrong_count: int
    wrong_for_all: int
    n: int


@dataclass(frozen=True)
class Sample:
    """One query as the model saw it; `sources` are the ids of the passages it rests on."""

    route: str
    prompt: str
    item: Item
    scores: tuple[tuple[str, str], ...]
    sources: tuple[str, ...] = ()


def confidence(prediction: Prediction) -> float | None:
    """Return the probability given to the predicted label among all labels, or None for answers without scores.

    Scores that are shares already (non-negative, summing to one) are taken as they are; log-probabilities and
    logits are normalised.
    """
    scores = prediction.scores
    if prediction.predicted not in scores or not all(math.isfinite(s) for s in scores.values()):
        return None
    if min(scores.values()) >= 0 and abs(sum(scores.values()) - 1) < 1e-3:
        return scores[prediction.predicted]
    top = max(scores.values())
    weights = {label: math.exp(s - top) for label, s in scores.items()}
    return weights[prediction.predicted] / sum(weights.values())


def flips(report: LadderReport) -> list[Flips]:
    """Return what the recommended route changed against the strongest cheaper ones, and a costlier one against it."""
    answers = _typical_draws(report)
    ladder = _ladder(report, answers)
    focus = _focus(report, ladder)
    if focus is None:
        return []
    below = [r for r in ladder if cost(r) < cost(focus)]
    above = [r for r in ladder if cost(r) > cost(focus)]
    pairs = [(focus, _strongest([r for r in below if r.kind == kind])) for kind in ("tuned", "prompt", "baseline")]
    pairs = [(a, b) for a, b in pairs if b is not None]
    pairs.sort(key=lambda pair: -pair[1].value)
    if strongest := _strongest(above):
        pairs.append((strongest, focus))
    return [_flip(a.route, b.route, answers) for a, b in pairs]


def extremes(report: LadderReport) -> Extremes | None:
    """Return the easiest items and the recommended (or best) route's most confident mistakes; None without predictions."""
    answers = _typical_draws(report)
    ladder = _ladder(report, answers)
    focus = _focus(report, ladder)
    if focus is None:
        return None
    mine = answers[focus.route]
    shared = [id for id in mine if all(id in answers[r.route] for r in ladder)]
    easy = [id for id in shared if all(answers[r.route][id].correct for r in ladder)]
    hopeless = [id for id in shared if not any(answers[r.route][id].correct for r in ladder)]
    wrong = [id for id, p in mine.items() if not p.correct]
    order = {id: position for position, id in enumerate(mine)}
    easy.sort(key=lambda id: (-_sureness(mine[id]), order[id]))
    wrong.sort(key=lambda id: (-_sureness(mine[id]), order[id]))
    one = {focus.route: mine}
    return Extremes(
        focus.route,
        tuple(_item(id, one) for id in easy[:SHOWN]),
        len(easy),
        tuple(_item(id, one) for id in wrong[:SHOWN]),
        len(wrong),
        len(hopeless),
        len(mine),
    )


def samples(report: LadderReport, each: int = 2) -> list[tuple[str, list[Sample]]]:
    """Return per route with a prompt its first `each` queries, exact to the character."""
    found = []
    for result in report.results:
        predictions = [p for p in report.predictions.get(result.route, []) if p.prompt][:each]
        if predictions:
            found.append((result.route, [_sample(result.route, p) for p in predictions]))
    return found


def _sample(route: str, p: Prediction) -> Sample:
    prompt = p.prompt
    if len(prompt) > _PROMPT:
        half = _PROMPT // 2
        gap = f"\n[… {len(prompt) - _PROMPT:,} characters are left out here; predictions.jsonl has all of them …]\n"
        prompt = prompt[:half] + gap + prompt[-half:]
    ordered = sorted(p.scores.items(), key=lambda pair: (-pair[1], pair[0]))
    scores = tuple((numbers.clean(label), numbers.fixed(score, 3)) for label, score in ordered)
    sources = tuple(_short(source, _ANSWER) for source in p.sources)
    return Sample(route, numbers.clean(prompt), _item(p.id, {route: {p.id: p}}), scores, sources)


def _typical_draws(report: LadderReport) -> dict[str, Answers]:
    """Per route, item id -> its answer in the draw that the pairwise tests also show."""
    found = {}
    for result in report.results:
        predictions = report.predictions.get(result.route, [])
        draws = sorted({p.draw for p in predictions})
        typical = draws[representative(result.draws)] if len(draws) == len(result.draws) > 0 else min(draws, default=0)
        found[result.route] = {p.id: p for p in predictions if p.draw == typical}
    return found


def _ladder(report: LadderReport, answers: dict[str, Answers]) -> list[RouteResult]:
    return sorted((r for r in report.results if not is_reference(r) and answers.get(r.route)), key=cost)


def _focus(report: LadderReport, ladder: Sequence[RouteResult]) -> RouteResult | None:
    named = report.verdict.recommended or report.verdict.best
    return next((r for r in ladder if r.route == named), _strongest(ladder))


def _strongest(ladder: Sequence[RouteResult]) -> RouteResult | None:
    return max(ladder, key=lambda r: r.value, default=None)


def _flip(route: str, against: str, answers: dict[str, Answers]) -> Flips:
    a, b = answers[route], answers[against]
    shared = [id for id in a if id in b]
    order = {id: position for position, id in enumerate(shared)}
    mended = [id for id in shared if a[id].correct and not b[id].correct]
    broken = [id for id in shared if b[id].correct and not a[id].correct]
    mended.sort(key=lambda id: (-_sureness(b[id]), order[id]))
    broken.sort(key=lambda id: (-_sureness(a[id]), order[id]))
    both = {route: a, against: b}
    return Flips(
        route,
        against,
        tuple(_item(id, both) for id in mended[:SHOWN]),
        len(mended),
        tuple(_item(id, both) for id in broken[:SHOWN]),
        len(broken),
        len(shared),
    )


def _sureness(prediction: Prediction) -> float:
    return confidence(prediction) or 0.0


def _item(id: str, answers: dict[str, Answers]) -> Item:
    first = next(iter(answers.values()))[id]
    given = []
    for route, of in answers.items():
        p = of[id]
        sure = confidence(p)
        given.append((route, _short(p.predicted, _ANSWER), "" if sure is None else numbers.percent(sure), p.correct))
    return Item(numbers.clean(first.where), _short(first.text, _TEXT), _short(first.gold, _ANSWER), tuple(given))


def _short(text: str, length: int) -> str:
    return numbers.shorten(numbers.clean(text), length)
