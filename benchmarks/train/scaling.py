"""How cost grows: seconds for 1k, 10k, 100k equal rows, memory while 1 GB streams in, and what a step costs beside the model.

Usage: python benchmarks/train/scaling.py [--full]     (--full: 100k rows and 1 GB instead of 20k rows and 100 MB)
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from commands import run_json  # noqa: E402

WORDS = "the quick brown fox jumps over the lazy dog while it rains in the hills "


def write(path: Path, rows: int, characters: int) -> int:
    """Write prompt/completion rows of equal length; returns bytes."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            text = (WORDS * (characters // len(WORDS) + 1))[: characters - 9]
            file.write(json.dumps({"prompt": f"{i:08d} {text}", "completion": "a reply"}) + "\n")
    return path.stat().st_size


def tune(rows: Path, folder: Path, *more: str) -> tuple[dict[str, Any], float]:
    """Train the toy model for one epoch; the report and the seconds of the whole command."""
    words = [
        sys.executable,
        "-m",
        "tunesmith",
        "tune",
        str(rows),
        "--model",
        "toy-llama",
        "--run_dir",
        str(folder),
        "--overwrite",
    ]
    words += ["--validation_rows", "0", "--threads", "1", "--save_steps", "1000000", "--json", *more]
    start = time.perf_counter()
    return run_json(words), time.perf_counter() - start


def growth(counts: list[int], folder: Path) -> list[dict[str, float]]:
    """Seconds per thousand rows, start-up of the process apart."""
    points = []
    for count in counts:
        rows = folder / "rows.jsonl"
        write(rows, count, 60)
        report, wall = tune(rows, folder / "run", "--batch_size", "32")
        points.append({"rows": count, "training_seconds": report["seconds"], "wall_seconds": wall})
        print(points[-1], file=sys.stderr, flush=True)
    return points


def streaming(size: int, folder: Path) -> dict[str, float]:
    """Peak memory of training two steps on a large file, against the same on a small one."""
    peaks = {}
    for name, target in (("small", 1_000_000), ("large", size)):
        rows = folder / "rows.jsonl"
        written = write(rows, target // 1040, 1000)
        report, wall = tune(rows, folder / "run", "--batch_size", "2", "--max_steps", "2")
        peaks[name] = {"bytes": written, "peak_memory_gb": report["peak_memory_gb"], "wall_seconds": wall}
        print(name, peaks[name], file=sys.stderr, flush=True)
        rows.unlink()
    return {**peaks, "added_gb": peaks["large"]["peak_memory_gb"] - peaks["small"]["peak_memory_gb"]}


OVERHEAD = """
import json, sys, time, torch
from pathlib import Path
from tunesmith.recipes import tune
from tunesmith.train import update
spent = 0.0
def timed(function):
    def call(*a, **k):
        global spent
        start = time.perf_counter()
        result = function(*a, **k)
        spent += time.perf_counter() - start
        return result
    return call
import tunesmith.recipes._adapt as adapt
adapt.summed_loss = timed(adapt.summed_loss)
torch.Tensor.backward = timed(torch.Tensor.backward)
update.Updater.step, update.Updater.gather = timed(update.Updater.step), timed(update.Updater.gather)
fit = adapt.fit
def from_here(*a, **k):  # steps of a rehearsal before do not count
    global spent
    spent = 0.0
    return fit(*a, **k)
adapt.fit = from_here
config = tune.Config(data=sys.argv[1], run_dir=sys.argv[2], overwrite=True, validation_rows=0, batch_size=8, max_steps=3)
report = tune.run(config)
print(json.dumps({"overhead_share": 1 - spent / report["seconds"], "seconds": report["seconds"]}))
"""


def picture(points: list[dict[str, float]]) -> str:
    """Draw seconds against rows, both logarithmic, beside the line that is proportional to the first point (SVG)."""

    def place(rows: float, seconds: float) -> tuple[float, float]:
        return 60 + 120 * (math.log10(rows) - 3), 210 - 70 * math.log10(seconds)

    first = points[0]
    per_row = first["training_seconds"] / first["rows"]
    line = " ".join("{:.1f},{:.1f}".format(*place(r, per_row * r)) for r in (first["rows"], points[-1]["rows"]))
    marks = []
    for point in points:
        x, y = place(point["rows"], point["training_seconds"])
        label = f"{point['rows']:,} rows: {point['training_seconds']:,.1f} s"
        marks.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#0b62a4"/>')
        marks.append(f'<text x="{x + 8:.1f}" y="{y + 14:.1f}">{label}</text>')
    return "\n".join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 440 240" font-family="sans-serif" font-size="11" role="img"',
        ' aria-label="Training seconds against rows">', '<rect width="440" height="240" fill="#fff"/>',
        f'<polyline points="{line}" stroke="#999" stroke-dasharray="4 3" fill="none"/>', *marks,
        '<text x="60" y="232">rows (logarithmic); dashed: proportional to the first point</text>', "</svg>", "",
    ])  # fmt: skip


def main() -> None:
    """Measure and write scaling.json and its picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    full = parser.parse_args().full
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary:
        folder = Path(temporary)
        result: dict[str, Any] = {"growth": growth([1000, 10_000, 100_000 if full else 20_000], folder)}
        result["streaming"] = streaming(1_000_000_000 if full else 100_000_000, folder)
        rows = folder / "rows.jsonl"
        write(rows, 64, 1000)
        words = [sys.executable, "-c", OVERHEAD, str(rows), str(folder / "run")]
        result["step"] = run_json(words)
    (HERE / "scaling.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE / "scaling.svg").write_text(picture(result["growth"]), encoding="utf-8")
    print(json.dumps(result["step"]), file=sys.stderr)


if __name__ == "__main__":
    main()
