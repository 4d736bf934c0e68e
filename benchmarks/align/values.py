"""PPO's three value functions on the same prompts: what they explain round by round, and what a round costs.

Usage: python benchmarks/align/values.py --reward_model FOLDER [--rounds 20]

FOLDER: a LoRA reward model of smollm2 (reward.py, "smollm2 LoRA"). Prompts, answers and scorer are those of sentiment.py. What is
explained is given twice: of returns, as the run reports it, and of the score itself, 1 - mean (score - value)^2 / var(score)
over tokens, in which an offset counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.train.rollouts import VALUE

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from commands import machine, run_json  # noqa: E402


def measured(words: list[str], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Align as a user would and read the rounds it kept."""
    command = [sys.executable, "-m", "tunesmith", "align", "movies", "--run_dir", str(folder), "--json", *words]
    command += ["--scorer", f"reward-model:path={options.reward_model}", "--allow_attackable", "true", "--beta", "0.1"]
    command += ["--steps", str(options.rounds), "--optimisation_epochs", "1", "--prompt_tokens", "8", "--max_new_tokens", "24"]
    report = run_json([*command, "--threads", "2"])
    rounds = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("rollouts/round-*.json"))]
    found: dict[str, Any] = {"returns": [one["measured"]["explained_variance"] for one in rounds], "scores": []}
    for one in rounds:
        pairs = np.array([(row["score"], place[VALUE]) for row in one["rows"] for place in row["beside"]])
        scores = np.array([row["score"] for row in one["rows"]])
        found["scores"].append(float(1 - ((pairs[:, 0] - pairs[:, 1]) ** 2).mean() / scores.var()))
    seconds = report["seconds"] / len(rounds)
    return {**found, "seconds_a_round": seconds, "peak_memory_gb": report["peak_memory_gb"], "score": report["score"]}


def main() -> None:
    """Measure and write values.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward_model", required=True)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    own = ["--method.value", "separate"]
    ways = {"shared": [], "separate": own, "from the reward model": [*own, "--method.value_from", options.reward_model]}
    results: dict[str, Any] = {"machine": machine(), "rounds": options.rounds}
    with tempfile.TemporaryDirectory() as temporary:
        for number, (way, words) in enumerate(ways.items()):
            results[way] = measured(words, Path(temporary) / str(number), options)
            print(way, json.dumps(results[way]), file=sys.stderr, flush=True)
            (HERE / "values.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
