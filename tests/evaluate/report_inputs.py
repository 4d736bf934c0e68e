"""Realistic synthetic ladders: correlated answers to the same items, tested in pairs, with everything a report shows."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import replace
from statistics import NormalDist

from tunesmith.evaluate.report.record import LadderReport
from tunesmith.evaluate.results import Forgetting, Prediction, RouteResult
from tunesmith.evaluate.verdict import judge
from tunesmith.metrics import accuracy
from tunesmith.stats.compare import Comparison, Difference, compare

# route, entry name, kind, accuracy (or one per draw), trained parameters, seconds, ms per query, tokens per query, GB
MOVIES = (
    ("majority", "majority", "baseline", (0.50,), 0, 0.0, 0.0, 0, 0.3),
    ("VADER lexicon", "vader", "baseline", (0.66,), 0, 0.0, 0.11, 0, 0.3),
    ("TF-IDF + logistic regression", "tfidf", "baseline", (0.75,), 14_208, 0.9, 0.03, 0, 0.4),
    ("MiniLM + logistic regression", "minilm", "baseline", (0.79,), 385, 21.0, 6.2, 0, 0.7),
    ("one human", "human", "baseline", (0.96,), 0, 0.0, 0.0, 0, 0.0),
    ("zero-shot", "zero-shot", "prompt", (0.77,), 0, 0.0, 31.0, 41, 0.9),
    ("few-shot k=6", "few-shot", "prompt", (0.60, 0.65, 0.70), 0, 0.1, 44.0, 236, 1.1),
    ("few-shot-nearest k=6", "few-shot-nearest", "prompt", (0.72,), 0, 9.4, 171.0, 241, 1.4),
    ("calibrated", "calibrated", "prompt", (0.78,), 0, 0.3, 31.5, 41, 0.9),
    ("lora r=16", "lora", "tuned", (0.885,), 4_884_480, 214.0, 33.0, 41, 2.2),
    ("full", "full", "tuned", (0.88,), 134_515_008, 402.0, 31.0, 41, 3.6),
)
_OPENINGS = (
    "The plot",
    "Every performance",
    "The second half",
    "Its humour",
    "The score",
    "This sequel",
    "The dialogue",
    "A patient viewer",
)
_VERBS = ("never loses", "quietly earns", "wastes", "recovers", "cannot find", "keeps", "squanders", "trades away")
_ENDS = (
    "its warmth.",
    "the goodwill of its opening.",
    "a single honest moment.",
    "what made the book worth reading.",
    "any reason to exist.",
)
LABELS = ("negative", "positive")


def movies(n: int = 1000, rows: tuple = MOVIES, seed: int = 7, **changes: object) -> LadderReport:
    """Build a report over `n` items; `rows` as in `MOVIES`, `changes` replace fields of the report."""
    items = _items(n, seed)
    results, predictions = [], {}
    for row in rows:
        answers = [p for draw, share in enumerate(row[3]) for p in _answers(row, share, draw, items)]
        predictions[row[0]] = answers
        results.append(_result(row, answers, n))
    comparison = compare_rows(results, predictions)
    report = LadderReport(
        task="movies",
        description="Is a movie snippet positive or negative?",
        model="smollm2",
        metric="accuracy",
        results=results,
        predictions=predictions,
        comparison=comparison,
        verdict=judge(results, comparison),
        skipped={"soft-prompt": "the budget of 10 minutes was spent"},
        warnings=["3 of 10,605 rows could not be read and were left out (train.jsonl:17, 212, 4096)."],
        command="tunesmith ladder movies --routes zero-shot,few-shot,few-shot-nearest,calibrated,lora,full --seed 0",
        provenance={"tunesmith": "0.1.0", "torch": "2.13.0", "test items sha256": "9f2c" * 16, "seed": "0", "date": "2026-11-21"},
        price_note="Prices: one machine-hour at 0.40.",
        run_seconds=893.2,
    )
    return replace(report, **changes)


def swapped(report: LadderReport, a: str, b: str) -> LadderReport:
    """Exchange what two routes answered (and so their values), leaving what they cost; judged anew."""
    predictions = {**report.predictions, a: report.predictions[b], b: report.predictions[a]}
    by_route = {r.route: r for r in report.results}
    measured = {
        name: {f: getattr(by_route[other], f) for f in ("value", "low", "high", "draws")} for name, other in ((a, b), (b, a))
    }
    results = [replace(r, **measured.get(r.route, {})) for r in report.results]
    comparison = compare_rows(results, predictions)
    return replace(report, results=results, predictions=predictions, comparison=comparison, verdict=judge(results, comparison))


def compare_rows(results: list[RouteResult], predictions: dict[str, list[Prediction]]) -> Comparison:
    """Test every pair of candidates as the ladder does."""
    candidates = [r for r in results if r.name != "human"]
    if not candidates:
        return Comparison({}, (), 0.95, 1000)
    gold = [p.gold for p in predictions[candidates[0].route] if p.draw == 0]
    drawn = {
        r.route: [[p.predicted for p in predictions[r.route] if p.draw == d] for d in range(len(r.draws))] for r in candidates
    }
    return compare(accuracy.evaluate, gold, drawn, seed=0, resamples=1000)


def difference(
    a: str, b: str, value: float, half: float, n: int = 1000, verdict: str = "", rows: int | None = None
) -> Difference:
    """Write a tested difference by hand; the verdict follows from the interval unless given."""
    low, high = value - half, value + half
    verdict = verdict or ("better" if low > 0 else "worse" if high < 0 else "insufficient evidence")
    p = 0.2 if verdict.startswith("insufficient") else 0.0001
    return Difference(a, b, value, low, high, p, p, "McNemar", n, 0, 0, half * 1.4, rows, verdict)


def _items(n: int, seed: int) -> list[tuple[str, str, str, float, int]]:
    chance = random.Random(seed)
    found = []
    for i in range(n):
        text = f"{chance.choice(_OPENINGS)} {chance.choice(_VERBS)} {chance.choice(_ENDS)} ({i})"
        found.append((hashlib.sha256(text.encode()).hexdigest()[:16], text, LABELS[i % 2], chance.gauss(0, 1), i))
    return found


def _answers(row: tuple, share: float, draw: int, items: list) -> list[Prediction]:
    route, kind = row[0], row[2]
    chance = random.Random(f"{route if route != 'full' else 'lora r=16'}/{draw}")
    extra = random.Random(f"own/{route}/{draw}")
    skill = NormalDist().inv_cdf(share) * math.sqrt(2)
    found = []
    for id, text, gold, hardness, i in items:
        noise = 0.93 * chance.gauss(0, 1) + 0.37 * extra.gauss(0, 1)
        right = i % 2 == 1 if row[1] == "majority" else skill + noise > hardness
        said = gold if right else LABELS[1 - LABELS.index(gold)]
        other = LABELS[1 - LABELS.index(said)]
        scores = {said: -abs(noise) / 4 - 0.05, other: -abs(noise) * 2 - 0.4} if kind != "baseline" else {}
        shots = "Review: a small wonder\nSentiment: positive\n\n" * (6 if "few" in route else 0)
        prompt = "" if kind == "baseline" else f"{shots}Review: {text}\nSentiment:"
        digest = hashlib.sha256(prompt.encode()).hexdigest() if prompt else ""
        found.append(Prediction(id, f"movies:{i + 1}", text, prompt, digest, scores, said, gold, True, draw))
    return found


def _shares(answers: list[Prediction]) -> list[float]:
    by_item: dict[str, list[bool]] = {}
    for p in answers:
        by_item.setdefault(p.id, []).append(p.correct)
    return [sum(v) / len(v) for v in by_item.values()]


def _result(row: tuple, answers: list[Prediction], n: int) -> RouteResult:
    route, name, kind, shares, trained, seconds, ms, tokens, memory = row
    right = _shares(answers)
    value = math.fsum(right) / n
    half = 1.959964 * math.sqrt(math.fsum((r - value) ** 2 for r in right) / (n - 1) / n)
    draws = [sum(p.correct for p in answers if p.draw == d) / n for d in range(len(shares))]
    return RouteResult(
        route=route,
        name=name,
        kind=kind,
        parameters={},
        metric="accuracy",
        value=value,
        low=value - half,
        high=value + half,
        n=n,
        draws=draws,
        metrics={"accuracy": value},
        valid=0.83 if name == "zero-shot" else 1.0,
        trained_parameters=trained,
        seconds=seconds,
        evaluation_seconds=ms * n * len(shares) / 1000,
        peak_memory_gb=memory,
        tokens_per_query=tokens,
        ms_per_query=ms,
        p50_ms=ms * 1.8,
        p95_ms=ms * 2.6,
        price_per_1000=None if kind == "baseline" else ms * 0.4 / 3600,
        forgetting=_forgetting(name) if kind == "tuned" else None,
        items_hash="items",
        template_hash="template",
        scorer="sum of log-probabilities",
        notes=["stopped early at epoch 2 of 3"] if name == "lora" else [],
    )


def _forgetting(name: str) -> Forgetting:
    lost = 0.03 if name == "lora" else 0.07
    tasks = {
        "tweets": {"before": 0.71, "after": 0.71 - lost + 0.01, "n": 200.0},
        "products": {"before": 0.74, "after": 0.74 - lost, "n": 200.0},
        "editorials": {"before": 0.62, "after": 0.62 - lost - 0.01, "n": 200.0},
    }
    return Forgetting("general text", 18.42, 18.42 + 20 * lost, tasks)
