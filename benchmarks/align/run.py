"""Ours and TRL's RLOOTrainer by turns on the same prompts; medians of pairwise ratios go to results.json.

Usage: python benchmarks/align/run.py --peer PYTHON [--methods ppo,rloo,grpo] [--pairs 3] [--steps 4]

--peer names the Python of an environment with TRL (see peer_rloo.py). Rounds of 32 answers of 32 tokens to openings of film
reviews, learned from once, on two threads. TRL 1.16 has no PPO, so ours, with its value head, stands against its RLOO.
"""

from __future__ import annotations

import argparse
import json
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

PEER = {"ppo": "rloo", "rloo": "rloo", "grpo": "grpo"}
SCORER = 'def score(prompts, answers):\n    return [float(text.count("e")) for text in answers]\n'


def write_prompts(folder: Path) -> None:
    """Write 64 openings of reviews, and a scorer that counts a letter."""
    rows = load_task("movies").splits.train[:64]
    openings = [" ".join(str(row.fields["text"]).split()[:6]) for row in rows]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in openings))
    (folder / "scorer.py").write_text(SCORER)


def ours(folder: Path, method: str, steps: int) -> dict[str, Any]:
    """Align as a user would; where the time of a round goes is in metrics.jsonl."""
    run = folder / "run"
    words = [sys.executable, "-m", "tunesmith", "align", str(folder / "prompts.jsonl"), "--method", method, "--overwrite"]
    words += ["--scorer", f"{folder / 'scorer.py'}:score", "--run_dir", str(run), "--steps", str(steps), "--rollouts", "32"]
    words += ["--max_new_tokens", "32", "--threads", "2", "--optimisation_epochs", "1", "--batch_size", "32", "--samples", "4"]
    words += ["--allow_attackable", "true", "--json"]
    report = run_json(words)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    split = {key: sum(row.get(key, 0.0) for row in rows) / steps for key in rows[0] if key.startswith("seconds_")}
    split["seconds_update"] = sum(row["step_time"] for row in rows) / steps
    return {**{key: report[key] for key in ("rollouts_per_second", "peak_memory_gb")}, **split}


def trl(options: argparse.Namespace, folder: Path, method: str) -> dict[str, Any]:
    """Let the peer do the same."""
    words = [options.peer, str(HERE / "peer_rloo.py"), str(folder_of("smollm2")), str(folder / "prompts.jsonl")]
    return run_json([*words, "--method", PEER[method], "--steps", str(options.steps)])


def against_peer(options: argparse.Namespace, folder: Path, method: str) -> dict[str, Any]:
    """Alternate the peer and ours; ratios are made within each round."""
    rounds = []
    for number in range(options.pairs):
        calls = [("trl", lambda: trl(options, folder, method)), ("ours", lambda: ours(folder, method, options.steps))]
        rounds.append({name: call() for name, call in (calls if number % 2 == 0 else calls[::-1])})
        print(method, json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    middle = statistics.median
    ratio = lambda key: middle([one["ours"][key] / one["trl"][key] for one in rounds])  # noqa: E731
    return {
        "times_trl": ratio("rollouts_per_second"),
        "memory_of_trl": ratio("peak_memory_gb"),
        **{key: middle([one["ours"][key] for one in rounds]) for key in rounds[0]["ours"]},
        "rounds": rounds,
    }


def main() -> None:
    """Measure and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--methods", default="ppo,rloo,grpo")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    path = HERE / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_prompts(folder)
        for method in options.methods.split(","):
            results[method] = {"steps": options.steps, **against_peer(options, folder, method)}
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    path.write_text(json.dumps({**results, "machine": machine()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
