"""The honest headline: which route to ship, how sure that is, and what it costs.

The rule. Candidates are all routes but the reference lines (one human). The *best* has the highest metric. The routes that
are not significantly worse than it, after correction for all comparisons, are *level* with it. The route to ship is the
cheapest level one, in the order of `cost`. Not significantly worse is not the same as equally good, so the verdict is
"insufficient evidence" where a costlier level route might still be better by more than `MARGIN` and knowing it would
change the decision: where nothing could be told apart from the best at all, or where the costlier route is of another
kind (a language model instead of a baseline, training instead of prompting). What a route forgot decides nothing, for its
worth is the reader's to say; the headline states it, and the details name a level route that forgot far less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tunesmith.core.errors import UserError
from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.results import RouteResult
from tunesmith.stats.compare import Comparison, Difference

MARGIN = 0.02
CLEAR, INSUFFICIENT = "clear", "insufficient evidence"
# A route forgot far less than another that lost so many times as many nats a token, and at least so many: a tenth of a percent
# of perplexity is nobody's reason.
_TIMES, _NOTICED = 2.0, 0.01
_KINDS = ("baseline", "prompt", "tuned")
_REFERENCES = ("human", "one-human")
_FLIPPED = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Verdict:
    """What the ladder says.

    Attributes:
        sentence: the headline, with the differences and intervals it rests on.
        recommended: the route to ship; None where the measurements name none.
        evidence: "clear" or "insufficient evidence".
        details: further plain sentences, the most useful first.
        best: the route with the highest metric, whatever it costs; None without routes.
        rows_to_settle: about how many test rows would settle an insufficient verdict; None where it is clear or cannot be said.
    """

    sentence: str
    recommended: str | None
    evidence: str
    details: list[str] = field(default_factory=list)
    best: str | None = None
    rows_to_settle: int | None = None


def cost(result: RouteResult) -> tuple[int, float, float, str]:
    """Return the key that orders routes: baseline < prompt < tuned, then numbers trained, then ms per query, then name."""
    return _KINDS.index(result.kind), result.trained_parameters, result.ms_per_query, result.route


def is_reference(result: RouteResult) -> bool:
    """Whether a row is a line to measure against and nothing that could be shipped: one human."""
    return result.kind == "baseline" and result.name in _REFERENCES


def difference(comparison: Comparison, a: str, b: str) -> Difference:
    """Return the tested difference a - b, turned round where it was stored as b - a.

    Raises:
        UserError: the two routes were never compared.
    """
    for d in comparison.differences:
        if (d.a, d.b) == (a, b):
            return d
        if (d.a, d.b) == (b, a):
            turned = {"value": -d.value, "low": -d.high, "high": -d.low, "only_a": d.only_b, "only_b": d.only_a}
            return replace(d, a=a, b=b, verdict=_FLIPPED.get(d.verdict, d.verdict), **turned)
    raise UserError(f"'{a}' and '{b}' were never compared", "Compare every pair of routes before judging them.")


def judge(
    results: Sequence[RouteResult], comparison: Comparison, cost_of: Callable[[RouteResult], tuple] = cost, margin: float = MARGIN
) -> Verdict:
    """Say which route to ship: the cheapest that is not significantly worse than the best (rule at the top of this file).

    Args:
        results: routes and baselines measured on the same items; the metric is one where higher is better.
        comparison: holds a tested difference for every pair of them, reference lines excepted.
        cost_of: sort key of a route; cheaper first.
        margin: a gain in the metric too small to pay a costlier kind of route for.

    Raises:
        UserError: two routes were never compared.
    """
    ladder = sorted((r for r in results if not is_reference(r)), key=cost_of)
    if len(ladder) < 2:
        return _alone(ladder, results)
    best = max(ladder, key=lambda r: r.value)
    level = [r for r in ladder if r is best or difference(comparison, best.route, r.route).verdict != "better"]
    chosen, nothing_apart = level[0], len(level) == len(ladder)
    # Always giving one answer is no way of doing the task, so whatever might do better counts against it.
    rivals = [r for r in level[1:] if nothing_apart or r.kind != chosen.kind or chosen.name == "majority"]
    leads = [difference(comparison, r.route, chosen.route) for r in rivals]
    open_leads = [d for d in leads if d.high > margin]
    details = _milder(chosen, level) + _details(chosen, ladder, results, comparison)
    if best.value <= 0:
        sentence = f"No route has learned the task: not one answer to {best.n:,} items is right ({_metric(best)} 0)."
        return Verdict(sentence, None, CLEAR, details, best.route)
    if open_leads:
        widest = max(open_leads, key=lambda d: d.value)
        sentence = _undecided(chosen, widest, len(ladder) if nothing_apart else 0)
        named = None if nothing_apart or chosen.name == "majority" else chosen.route
        return Verdict(sentence, named, INSUFFICIENT, details, best.route, widest.rows_to_settle)
    if chosen.name == "majority":
        strongest = max(ladder[1:], key=lambda r: r.value)
        d = difference(comparison, strongest.route, chosen.route)
        reason = "includes 0" if d.low <= 0 <= d.high else f"{numbers.p_value(d.p_holm)} after Holm"
        sentence = (
            f"No route has learned the task: the best of them, {strongest.route}, is not better than always giving the most "
            f"frequent answer: {_shown(d)}, {reason}."
        )
        return Verdict(sentence, None, CLEAR, details, best.route)
    return Verdict(_headline(chosen, ladder, comparison, cost_of), chosen.route, CLEAR, details, best.route)


def _alone(ladder: list[RouteResult], results: Sequence[RouteResult]) -> Verdict:
    if not ladder:
        return Verdict("No route was climbed, so there is nothing to recommend.", None, INSUFFICIENT)
    only = ladder[0]
    value = numbers.interval(only.value, only.low, only.high)
    sentence = (
        f"Only {only.route} was climbed: {_metric(only)} {value} on {only.n:,} items. There is nothing to compare it with yet."
    )
    return Verdict(sentence, None, INSUFFICIENT, _human(only, results) + _forgetting(only), only.route)


def _undecided(chosen: RouteResult, lead: Difference, of: int) -> str:
    if lead.rows_to_settle:
        settle = f"about {numbers.rows(lead.rows_to_settle)} rows would settle it"
    else:
        settle = "the lead is too small for any number of rows to be named that would settle it"
    includes = "which includes 0" if lead.low <= 0 <= lead.high else f"{numbers.p_value(lead.p_holm)} after Holm"
    gap = f"{lead.a} against {lead.b}: {_shown(lead)}, {includes} on {lead.n:,} items; {settle}."
    if chosen.name == "majority":
        return f"Insufficient evidence that any route has learned the task. {gap}"
    if of:
        which = "the two routes apart" if of == 2 else f"any of the {of} routes apart from the best"
        return f"Insufficient evidence to tell {which}. {gap}"
    return (
        f"Insufficient evidence that {lead.a} is worth its cost. {gap} "
        f"Until then {chosen.route} is the cheapest route not shown to be worse."
    )


def _headline(
    chosen: RouteResult, ladder: list[RouteResult], comparison: Comparison, cost_of: Callable[[RouteResult], tuple]
) -> str:
    cheaper = [r for r in ladder if cost_of(r) < cost_of(chosen)]
    costlier = [r for r in ladder if cost_of(r) > cost_of(chosen)]
    parts = []
    if chosen.kind == "baseline":
        start = "No language model is needed" if any(r.kind != "baseline" for r in ladder) else "Among the baselines"
        parts.append(
            f"{start}: {chosen.route} reaches {_metric(chosen)} {numbers.interval(chosen.value, chosen.low, chosen.high)}"
        )
    if cheaper:
        other = max(cheaper, key=lambda r: r.value)
        start = "" if parts else f"Ship {chosen.route}: "
        parts.append(f"{start}it {_against(difference(comparison, chosen.route, other.route), _article(other, len(cheaper)))}")
    elif not parts:
        value = numbers.interval(chosen.value, chosen.low, chosen.high)
        parts.append(f"Ship {chosen.route}: it is the cheapest route and reaches {_metric(chosen)} {value}")
    if costlier:
        other = max(costlier, key=lambda r: r.value)
        parts.append(_not_better(difference(comparison, other.route, chosen.route), other))
    return "; ".join([*parts, *_forgetting(chosen, chosen.route)]) + "."


def _article(other: RouteResult, among: int) -> str:
    return f"{other.route}, the best cheaper route," if among > 1 else other.route


def _against(d: Difference, name: str) -> str:
    tested = f"({d.test}, {numbers.p_value(d.p_holm)} after Holm)"
    if d.verdict == "better":
        return f"beats {name} by {_shown(d)} {tested}"
    return f"leads {name} by {_shown(d)}, which is not significant {tested}"


def _not_better(d: Difference, other: RouteResult) -> str:
    if d.verdict == "worse":
        return f"{other.route} costs more and is worse: {_shown(d)} ({numbers.p_value(d.p_holm)} after Holm)"
    if d.high < 0:
        return f"{other.route} costs more and is not better: {_shown(d)}"
    reason = "includes 0" if d.low <= 0 <= d.high else f"is not significant after Holm ({numbers.p_value(d.p_holm)})"
    return f"{other.route} is not better than {d.b}: {_shown(d)} {reason}"


def _shown(d: Difference) -> str:
    return numbers.interval(d.value, d.low, d.high)


def _metric(result: RouteResult) -> str:
    return result.metric.replace("_", " ")


def _forgetting(chosen: RouteResult, subject: str = "") -> list[str]:
    """Say in one clause what training cost elsewhere; [] for a route that trained no weights of a language model."""
    if chosen.kind != "tuned":
        return []
    if chosen.forgetting is None:
        return [f"what {subject or chosen.route} forgot was not measured"]
    if not chosen.forgetting.tasks:
        before, after = chosen.forgetting.perplexity_before, chosen.forgetting.perplexity_after
        return [f"perplexity on {chosen.forgetting.text} went from {before:.1f} to {after:.1f}"]
    change = chosen.forgetting.accuracy_change
    tasks = "sibling tasks" if len(chosen.forgetting.tasks) > 1 else "the sibling task"
    if abs(change) < 0.005:
        return [f"{subject or chosen.route} kept its accuracy on {tasks}"]
    return [f"{subject or chosen.route} {'lost' if change < 0 else 'gained'} {abs(change):.2f} accuracy on {tasks}"]


def _milder(chosen: RouteResult, level: list[RouteResult]) -> list[str]:
    """Name the level route that forgot least of general text where the chosen one forgot far more; [] without one."""
    measured = [(r.forgetting.rise, r) for r in level if r.forgetting]
    if chosen.forgetting is None or (lost := chosen.forgetting.rise) < _NOTICED:
        return []
    least, other = min(measured, key=lambda pair: pair[0])
    if other is chosen or least * _TIMES > lost:
        return []
    kept = f"it lost {least:.3f} nats a token" if least > 0 else "it lost nothing"
    return [
        f"{other.route} is level with the best too, costs more and forgot less: of {chosen.forgetting.text} {kept}, "
        f"{chosen.route} {lost:.3f}. Where the model must stay able to do other things, ship that."
    ]


def _human(chosen: RouteResult, results: Sequence[RouteResult]) -> list[str]:
    lines = []
    for r in (r for r in results if is_reference(r)):
        gap = chosen.value - r.value
        where = "level with that" if abs(gap) < 0.005 else f"{abs(gap):.2f} {'above' if gap > 0 else 'below'} that"
        lines.append(f"{r.route} reaches {_metric(r)} {r.value:.2f}; {chosen.route} is {where}.")
    return lines


def _details(chosen: RouteResult, ladder: list[RouteResult], results: Sequence[RouteResult], comparison: Comparison) -> list[str]:
    lines = []
    for kind, called in (("baseline", "baseline"), ("prompt", "prompt"), ("tuned", "trained route")):
        others = [r for r in ladder if r.kind == kind and r is not chosen]
        if others:
            d = difference(comparison, chosen.route, max(others, key=lambda r: r.value).route)
            said = {"better": "better than", "worse": "worse than"}.get(d.verdict, "not shown to differ from")
            which = f"the best {'other ' if kind == chosen.kind else ''}{called}, {d.b}"
            lines.append(f"{chosen.route} is {said} {which}: {_shown(d)}, {numbers.p_value(d.p_holm)} after Holm.")
    lines += _human(chosen, results)
    for r in ladder:
        if len(r.draws) > 1 and max(r.draws) - min(r.draws) >= 0.02:
            spread = f"{min(r.draws):.2f} to {max(r.draws):.2f} over {len(r.draws)} draws"
            lines.append(f"{r.route} depends on the prompts it is asked with: {spread}.")
    astray = [f"{numbers.percent(r.valid)} ({r.route})" for r in ladder if r.kind != "baseline" and r.valid < 0.9]
    if astray:
        lines.append(f"Left to itself, the model would begin with an allowed answer for only {', '.join(astray)} of the items.")
    return lines
