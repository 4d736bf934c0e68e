"""Ours and TRL's RewardTrainer by turns on the same pairs: tokens per second and peak memory, to reward_speed.json.

Usage: python benchmarks/align/reward_speed.py --peer PYTHON [--rounds 2] [--steps 2]

--peer names the Python of an environment with TRL (see peer_reward.py). LoRA rank 16 on smollm2, bf16, two threads, batches of 8
pairs: a real answer of topical_chat and one to another question.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from tunesmith.data.sources import _bigbench
from tunesmith.models.embedded import folder_of

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from commands import machine, run_json  # noqa: E402

_BATCH, _LONGEST = 8, 400


def write_pairs(path: Path, count: int) -> None:
    """Write pairs of an answer and one to another question, all of about the same length."""
    examples = json.loads((_bigbench.folder() / "topical_chat.json").read_text(encoding="utf-8"))["examples"]
    usable = [e for e in examples if _LONGEST // 2 <= len(e["input"]) <= _LONGEST][: count + 1]
    rows = [
        {"prompt": e["input"], "chosen": " " + e["target"], "rejected": " " + other["target"]} for e, other in pairwise(usable)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def ours(folder: Path, steps: int) -> dict[str, Any]:
    """Train as a user would."""
    words = [sys.executable, "-m", "tunesmith", "reward", str(folder / "pairs.jsonl"), "--run_dir", str(folder / "run"), "--json"]
    words += ["--overwrite", "--max_steps", str(steps), "--batch_size", str(_BATCH), "--threads", "2", "--validation_rows", "0"]
    report = run_json([*words, "--test_share", "0.1", "--test_rows", "2", "--normalise", "none"])
    rate = report["tokens"] / report["seconds"]
    return {
        "tokens_per_second": rate,
        "peak_gb": report["peak_memory_gb"],
        "tokens": report["tokens"],
        "seconds": report["seconds"],
    }


def trl(peer: str, folder: Path, steps: int) -> dict[str, Any]:
    """Let the peer do the same."""
    words = [peer, str(HERE / "peer_reward.py"), "--model", str(folder_of("smollm2")), "--rows", str(folder / "pairs.jsonl")]
    return run_json([*words, "--steps", str(steps), "--batch", str(_BATCH)])


def main() -> None:
    """Measure by turns and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    path = HERE / "reward_speed.json"
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pairs(folder / "pairs.jsonl", 4 * _BATCH * options.steps)
        for _ in range(options.rounds):
            calls = {"trl": lambda: trl(options.peer, folder, options.steps), "ours": lambda: ours(folder, options.steps)}
            order = list(calls) if len(rounds) % 2 == 0 else list(calls)[::-1]
            rounds.append({name: calls[name]() for name in order})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
            keys = ("tokens_per_second", "peak_gb")
            speed, memory = (statistics.median(one["ours"][key] / one["trl"][key] for one in rounds) for key in keys)
            found = {"times_trl": speed, "memory_of_trl": memory, "rounds": rounds, "machine": machine()}
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
