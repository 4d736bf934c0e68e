"""Three heads on real rows, each with a baseline: regression (movies), tags (Polish), spans (disfluent questions).

python benchmarks/finetune/heads.py [regression|tokens|spans ...] [--rows N] [--epochs N]
Results are added to results_heads.json beside this file. BIG-bench: `tunesmith fetch bigbench` first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.records import Example
from tunesmith.core.registry import METRICS
from tunesmith.data.task import Task, load_task
from tunesmith.recipes import tune
from tunesmith.stats.bootstrap import interval, resample_counts

RESULTS = Path(__file__).with_name("results_heads.json")


def ridge(task: Task, train: Sequence[Example], items: Sequence[Example]) -> list[str]:
    """Words weighted by TF-IDF, and a ridge regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), Ridge())
    model.fit([e.fields["text"] for e in train], [float(task.gold(e)) for e in train])
    return [str(value) for value in model.predict([e.fields["text"] for e in items])]


def most_frequent_tag(task: Task, train: Sequence[Example], items: Sequence[Example]) -> list[str]:
    """Every word the tag it had most often in training; O for words that were not there."""
    seen: dict[str, Counter[str]] = {}
    for e in train:
        for word, tag in zip(e.fields["tokens"], e.fields["tags"], strict=True):
            seen.setdefault(word.lower(), Counter())[tag] += 1
    best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    return [" ".join(best.get(word.lower(), "O") for word in e.fields["tokens"]) for e in items]


def most_frequent_position(task: Task, train: Sequence[Example], items: Sequence[Example]) -> list[str]:
    """The words at the place, and in the number, that answers had most often in training."""
    places: Counter[tuple[int, int]] = Counter()
    for e in train:
        for text, start in zip(e.fields["answers"]["text"], e.fields["answers"]["answer_start"], strict=True):
            places[len(e.fields["context"][:start].split()), len(text.split())] += 1
    (first, length), _ = places.most_common(1)[0]
    return [" ".join(e.fields["context"].split()[first : first + length]) for e in items]


def no_answer(task: Task, train: Sequence[Example], items: Sequence[Example]) -> list[str]:
    """Say that there is no answer, always."""
    return [""] * len(items)


Baseline = Callable[[Task, Sequence[Example], Sequence[Example]], list[str]]
CASES: dict[str, tuple[str, dict[str, Any], list[Baseline]]] = {
    "regression": ("movies", {"objective": {"name": "regression", "field": "mean"}, "train_rows": 800}, [ridge]),
    "tokens": (
        "bigbench:polish_sequence_labeling",
        {"objective": "token-classification", "train_rows": 1500, "allow_canary": True, "skip_bad_rows": True},
        [most_frequent_tag],
    ),
    "spans": (
        "bigbench:disfl_qa",
        {"objective": "span", "train_rows": 1500, "allow_canary": True},
        [most_frequent_position, no_answer],
    ),
}


def measured(case: str, rows: int | None, epochs: float | None) -> dict[str, Any]:
    """Tune, and let the baselines learn from the same rows and answer the same items."""
    data, settings, baselines = CASES[case]
    settings = {
        **settings,
        "data": data,
        "validation_rows": 100,
        "test_rows": 500 if case == "regression" else 400,
        "threads": 1,
        "evaluations": 1,
    }
    settings |= {key: value for key, value in (("train_rows", rows), ("epochs", epochs)) if value}
    with tempfile.TemporaryDirectory() as folder:
        report = tune.run(tune.Config(**settings, run_dir=folder, overwrite=True))
        lines = Path(folder, "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = {json.loads(line)["id"] for line in lines}
    task = load_task(data, skip_bad_rows=True, answer="mean" if case == "regression" else None)
    train = task.splits.train[: settings["train_rows"]]
    items = [e for e in task.splits.test if e.id in asked]
    found = {key: report[key] for key in ("test", "tokens", "tokens_per_second", "seconds", "steps", "trained_parameters")}
    gold = [task.gold(e) for e in items]
    weights = resample_counts(len(items), 10_000, 0)
    for baseline in baselines:
        said, values = baseline(task, train, items), []
        for row in report["test"]:
            metric = METRICS.get(row["metric"]).evaluate
            low, high = interval(metric(gold, said, weights))
            values.append(
                {"metric": row["metric"], "value": float(metric(gold, said)), "low": low, "high": high, "n": len(items)}
            )
        found[baseline.__name__] = values
    return {"data": data, "train_rows": settings["train_rows"], "epochs": settings.get("epochs", 3.0), **found}


def main() -> None:
    """Run the cases that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--epochs", type=float)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for case in arguments.cases:
        results[case] = measured(case, arguments.rows, arguments.epochs)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
