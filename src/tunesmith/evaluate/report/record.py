"""Everything a finished ladder knows, and the schema of `report.json`.

    status          "done"
    task, description, model, metric, command, price_note
    routes          one object per row, as climbed: route, name, kind ("baseline", "prompt", "tuned"), parameters,
                    metric, value, low, high (95 % interval over items), n, draws, metrics, valid (share of valid answers),
                    trained_parameters, seconds (adapting), evaluation_seconds, peak_memory_gb, tokens_per_query,
                    ms_per_query (batched), p50_ms, p95_ms (one query at a time), price_per_1000 (or null),
                    forgetting (or null): {text, perplexity_before, perplexity_after, accuracy_change, rise (nats per
                    token), tasks, passages, choices},
                    reference (true for a line such as one human, which is no candidate),
                    items_hash, template_hash, scorer, notes, templates (of each draw; [] = the task's)
    best            route with the highest metric (references left out), or null
    verdict         {sentence, recommended (or null), evidence ("clear", "insufficient evidence"), details,
                    rows_to_settle (or null)}
    differences     one object per pair: a, b, value (a - b), low, high, p, p_holm, test, n, only_a, only_b (items that only
                    that one got right), detectable (smallest difference this comparison could have seen), rows_to_settle, verdict
    tradeoff        null, or {sentence, before, reference, trades}; a trade has route, gain, rise (nats per token of general
                    text), kept and forgot (shares of the reference's, null where that may be 0), each {value, low, high},
                    and choices, meets
    level           confidence level of all intervals; resamples: bootstrap resamples behind them
    skipped         route -> why it was not climbed;  warnings: list of sentences;  provenance: name -> value
    seconds         work behind all rows, also of earlier runs that were resumed; wall_seconds: this run alone
    peak_memory_gb  highest of all routes

The caller adds `run_dir`. Numbers that are not finite are null, so the file is strict JSON.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.evaluate.results import Prediction, RouteResult
from tunesmith.evaluate.tradeoff import Tradeoff
from tunesmith.evaluate.verdict import Verdict, is_reference
from tunesmith.stats.compare import Comparison


@dataclass(frozen=True)
class LadderReport:
    """A finished ladder.

    Attributes:
        task, description, model, metric: what was measured, on what, with what.
        results: one per route and baseline, in the order climbed. predictions: by route label, all draws.
        comparison: every pair of routes, tested. verdict: what follows.
        skipped: route -> reason it was not climbed. warnings: plain sentences.
        command: the exact command. provenance: name -> value (versions, hashes, seeds, machine).
        price_note: how prices came about, "" without a price. run_seconds: wall time of this run.
        tradeoff: gain against forgetting, None where that was not measured.
    """

    task: str
    description: str
    model: str
    metric: str
    results: list[RouteResult]
    predictions: dict[str, list[Prediction]]
    comparison: Comparison
    verdict: Verdict
    skipped: dict[str, str]
    warnings: list[str]
    command: str
    provenance: dict[str, str]
    price_note: str
    run_seconds: float
    tradeoff: Tradeoff | None = None

    @property
    def seconds(self) -> float:
        """Seconds of work behind all rows, adapting and answering, also from earlier runs that were resumed."""
        return math.fsum(r.seconds + r.evaluation_seconds for r in self.results)


def to_json(report: LadderReport) -> dict[str, Any]:
    """Return the content of `report.json` (schema at the top of this file) without `run_dir`."""
    verdict = asdict(report.verdict)
    best = verdict.pop("best")
    content = {
        "status": "done",
        "task": report.task,
        "description": report.description,
        "model": report.model,
        "metric": report.metric,
        "routes": [_route(r) for r in report.results],
        "best": best,
        "verdict": verdict,
        "differences": [asdict(d) for d in report.comparison.differences],
        "tradeoff": report.tradeoff.as_dict() if report.tradeoff else None,
        "level": report.comparison.level,
        "resamples": report.comparison.resamples,
        "skipped": dict(report.skipped),
        "warnings": list(report.warnings),
        "seconds": report.seconds,
        "wall_seconds": report.run_seconds,
        "peak_memory_gb": max((r.peak_memory_gb for r in report.results), default=0.0),
        "command": report.command,
        "price_note": report.price_note,
        "provenance": dict(report.provenance),
    }
    return _finite(content)


def _route(result: RouteResult) -> dict[str, Any]:
    row = asdict(result)
    row["reference"] = is_reference(result)
    if result.forgetting is not None:
        row["forgetting"] = result.forgetting.as_record()
    return row


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
