"""Fine-tuning an encoder, ours and transformers' Trainer by turns; medians of pairwise ratios go to results.json.

Usage: python benchmarks/encoder/run.py [--peer PYTHON] [--pairs 3] [--rows 1600] [--dtype bf16] [--levers]

--peer names the Python of an environment with datasets and accelerate (see peer_trainer.py); without it, only ours is
measured. Round i has seed i on both sides. --levers measures ours with each lever left out, by turns with all of them on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tunesmith.data.task import load_task
from tunesmith.models.embedded import folder_of

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from commands import machine, run_json  # noqa: E402

LEVERS = ("encoder", "vocabulary", "pages", "all")


def ours(options: argparse.Namespace, seed: int, folder: Path, left_out: str = "") -> dict[str, Any]:
    """Train as a user would, with the peer's batch size, learning rate and number of epochs."""
    words = [sys.executable, "-m", "tunesmith", "tune", "movies", "--model", "minilm", "--objective", "classification"]
    words += ["--train_rows", str(options.rows), "--validation_rows", "0", "--epochs", "1", "--batch_size", "32"]
    words += ["--learning_rate", "1e-4", "--dtype", options.dtype, "--seed", str(seed), "--test_rows", str(options.test_rows)]
    words += ["--save_steps", "1000", "--threads", str(options.threads), "--run_dir", str(folder), "--overwrite", "--json"]
    report = run_json(words, TUNESMITH_WITHOUT=left_out)
    accuracy = next((score["value"] for score in report["test"] if score["metric"] == "accuracy"), None)
    return {**{key: report[key] for key in ("tokens", "tokens_per_second", "peak_memory_gb")}, "accuracy": accuracy}


def write_rows(folder: Path, options: argparse.Namespace) -> list[str]:
    """Write the same rows for the peer; returns its two files."""
    task = load_task("movies")
    assert task.verbalizer is not None
    files = {"train": task.splits.train[: options.rows], "test": task.splits.test[: options.test_rows]}
    for name, examples in files.items():
        rows = [{"text": str(e.fields["text"]), "label": task.verbalizer.labels.index(task.gold(e))} for e in examples]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [str(folder / f"{name}.jsonl") for name in files]


def against_peer(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Alternate peer and ours; ratios are made within each round."""
    files, rounds = write_rows(folder, options), []
    for seed in range(options.first, options.first + options.pairs):
        peer = [options.peer, str(HERE / "peer_trainer.py"), str(folder_of("minilm")), *files, str(options.threads), str(seed)]
        entry = {"trainer": run_json(peer)} if options.peer else {}
        entry |= {"seed": seed, "ours": ours(options, seed, folder / "run")}
        rounds.append(entry)
        print(json.dumps(entry), file=sys.stderr, flush=True)
    return {"rows": options.rows, "threads": options.threads, "rounds": rounds}


def summary(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the rounds."""
    both = [r for r in rounds if "trainer" in r]
    found = {"tokens_per_second": statistics.median(r["ours"]["tokens_per_second"] for r in rounds)}
    if both:
        ratios = [r["ours"]["tokens_per_second"] / r["trainer"]["tokens_per_second"] for r in both]
        better = [r["ours"]["accuracy"] - r["trainer"]["accuracy"] for r in both]
        found |= {"times_trainer": statistics.median(ratios), "accuracy_more_than_trainer": statistics.median(better)}
    return found


def without_levers(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Return how many times longer training takes with each lever left out."""
    found = {}
    for lever in LEVERS:
        ratios = []
        for seed in range(options.pairs):
            both = [ours(options, seed, folder / "run", left_out)["tokens_per_second"] for left_out in ("", lever)]
            ratios.append(both[0] / both[1])
        found[lever] = statistics.median(ratios)
        print(lever, ratios, file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure and write results.json; rounds are added to those of an earlier call with --add."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--test_rows", type=int, default=1961)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--levers", action="store_true", help="measure levers, not the peer")
    parser.add_argument("--add", action="store_true")
    options = parser.parse_args()
    path = HERE / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.levers:
            results["times_longer_without"] = {"rows": options.rows, **without_levers(options, folder)}
        else:
            measured = against_peer(options, folder)
            earlier = results.get(options.dtype, {}).get("rounds", []) if options.add else []
            measured["rounds"] = [*earlier, *measured["rounds"]]
            results[options.dtype] = {**summary(measured["rounds"]), **measured}
    results["machine"] = machine()
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
