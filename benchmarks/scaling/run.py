"""Tokens per second of `tune` with one worker and with two, one thread each, alternating; medians.

python benchmarks/scaling/run.py [MODEL] [ROUNDS] [STEPS]
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RAY = ["--engine", "ray", "--workers", "2"]
WAYS = {"1 worker": [], "2 workers, all": RAY, "2 workers, trained": [*RAY, "--shard", "trained"]}
WORDS = ["time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state"]


def rows(path: Path) -> None:
    """Write 80 conversations of random words, 60 asked and 180 answered."""
    chance = random.Random(0)
    said = [[" ".join(chance.choices(WORDS, k=count)) for count in (60, 180)] for _ in range(80)]
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in said]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def main(model: str = "toy-llama", rounds: str = "3", steps: str = "8") -> None:
    """Measure and print."""
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        rows(Path(folder) / "rows.jsonl")
        for _ in range(int(rounds)):
            for way, words in WAYS.items():
                command = [sys.executable, "-m", "tunesmith", "tune", "rows.jsonl", "--model", model, "--max_steps", steps]
                command += ["--threads", "1", "--batch_size", "8", "--max_length", "2048", "--validation_rows", "0"]
                command += ["--overwrite", "--json", "--save_steps", "1000", *words]
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
                speeds[way].append(json.loads(done.stdout.splitlines()[-1])["tokens_per_second"])
    one = statistics.median(speeds["1 worker"])
    for way, found in speeds.items():
        middle = statistics.median(found)
        print(f"{way:20} {middle:8,.0f} tokens/s  {middle / one:5.2f} x  ({', '.join(f'{v:,.0f}' for v in found)})")


if __name__ == "__main__":
    main(*sys.argv[1:])
