"""From outcomes to the report: scores with paired intervals, refusals, and how well confidence tells right from wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.files import write_json, write_jsonl, write_manifest, write_text
from tunesmith.core.seeds import derive
from tunesmith.evaluate.abstention import area, risk_coverage
from tunesmith.evaluate.honesty import ANSWERED, mean_worth, shares, worth
from tunesmith.evaluate.report.honesty import write_honesty_html
from tunesmith.metrics import auroc
from tunesmith.recipes._honesty.boundary import Probed
from tunesmith.recipes._honesty.routes import Route
from tunesmith.rl.reward_table import RewardTable
from tunesmith.stats.binomial import interval
from tunesmith.stats.compare import Comparison, Interval, compare

_RIGHT = ("correct", "hedged_correct")
# Compared with every other route as the last one is: it needs no reward, and has been hard to beat.
_BESIDE = "gold_threshold"


def measured(table: RewardTable, routes: Sequence[Route], test: Sequence[Probed], seed: int) -> dict[str, Any]:
    """Return routes (one record each) and differences (the last route, and gold_threshold, against every other)."""
    *others, last = [route.name for route in routes]
    pairs = [(last, other) for other in others]
    if _BESIDE in others:
        pairs += [(_BESIDE, other) for other in others if other != _BESIDE]
    outcomes = {route.name: [route.outcomes] for route in routes}
    compared: Comparison = compare(
        mean_worth(table), [p.question.id for p in test], outcomes, derive(seed, "bootstrap"), pairs=pairs
    )
    return {
        "routes": [_route(table, route, test, compared.intervals[route.name]) for route in routes],
        "differences": [asdict(difference) for difference in compared.differences],
    }


def probe_facts(probes: Sequence[Probed]) -> dict[str, int]:
    """Return how many questions there are, and how many of which kind."""
    return {
        "questions": len(probes), "known": sum(p.known for p in probes), "greedy_right": sum(p.right for p in probes),
        "without_answer": sum(not p.question.answers for p in probes),
        "false_premise": sum(p.question.false_premise for p in probes),
    }  # fmt: skip


def _route(table: RewardTable, route: Route, test: Sequence[Probed], score: Interval) -> dict[str, Any]:
    answered = np.array([outcome in ANSWERED for outcome in route.outcomes])
    right = np.array([outcome in _RIGHT for outcome in route.outcomes])
    confidence = np.array([one.confidence for one in route.said])
    known = np.array([p.known for p in test])
    answerable = np.array([bool(p.question.answers) for p in test])
    return {
        "route": route.name, "note": route.note, "score": {"value": score.value, "low": score.low, "high": score.high},
        "outcomes": dict(shares(route.outcomes)), "answered": _share(answered), "right_of_answered": _share(right[answered]),
        "known_answered": _share(answered[known]),
        "answerable": _part(table, route, answerable), "unanswerable": _part(table, route, ~answerable),
        "told": _told(route.told), **_confidence(confidence, right, answered),
    }  # fmt: skip


def _share(flags: np.ndarray) -> dict[str, float | int | None]:
    """Return a share with its exact interval (Clopper-Pearson) and the number it is of; no value of none."""
    n, k = len(flags), int(flags.sum())
    low, high = interval(k, n) if n else (0.0, 1.0)
    return {"value": k / n if n else None, "low": low, "high": high, "n": n}


def _part(table: RewardTable, route: Route, these: np.ndarray) -> dict[str, Any]:
    outcomes = [outcome for outcome, wanted in zip(route.outcomes, these, strict=True) if wanted]
    score = sum(worth(table, outcome) for outcome in outcomes) / len(outcomes) if outcomes else None
    declined = np.array([outcome == "declined" for outcome in outcomes])
    return {"score": score, "outcomes": dict(shares(outcomes)), "declined": _share(declined)}


def _told(told: Sequence[tuple[bool, str]]) -> dict[str, Any]:
    """Return how often errors were admitted, and how often what is right was stood by."""
    return {
        "admitted": _share(np.array([outcome == "correct" for right, outcome in told if not right])),
        "stood_by": _share(np.array([outcome == "correct" for right, outcome in told if right])),
    }


def _confidence(confidence: np.ndarray, right: np.ndarray, answered: np.ndarray) -> Mapping[str, Any]:
    """Return auroc and aurc of what was answered, and the curve of risk over coverage of all questions."""
    if not answered.any():
        return {"auroc": None, "aurc": None, "curve": {"coverage": [], "risk": []}}
    sure, correct = confidence[answered], right[answered]
    coverage, risk = risk_coverage(sure, correct)
    both = 0 < correct.sum() < len(correct)
    return {
        "auroc": float(auroc.evaluate(correct.astype(int).tolist(), sure.tolist())) if both else None,
        "aurc": area(coverage, risk),
        "curve": {"coverage": (coverage * answered.mean()).tolist(), "risk": risk.tolist()},
    }


def write_report(folder: Path, report: Mapping[str, Any], test: Sequence[Probed], routes: Sequence[Route]) -> None:
    """Write predictions.jsonl (what every route said to every test question), report.html, report.json and the manifest."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    rows = [
        {
            "question": p.question.text, "answers": list(p.question.answers), "where": p.question.where, "known": p.known,
            "share_right": p.share,
            "said": {
                r.name: {"text": r.said[i].text, "outcome": r.outcomes[i], "confidence": r.said[i].confidence} for r in routes
            },
        }
        for i, p in enumerate(test)
    ]  # fmt: skip
    write_jsonl(folder / "predictions.jsonl", rows)
    provenance = {**record["versions"], "model": record["inputs"]["model_identity"], "questions": record["inputs"]["questions"]}
    write_text(folder / "report.html", write_honesty_html(report, rows, record["command"], provenance))
    write_json(folder / "report.json", report)
    write_manifest(folder)
