"""What a checkpoint costs beside a plain save: alternating in one process, medians of pairwise ratios.

Usage: python benchmarks/reliability/save_cost.py [PAIRS]

The plain side writes the same tensors with `safetensors.torch.save_file`, flushes files and directory, and like ours keeps
two: it removes the oldest. `os.sync` before each leaves nobody the other's work.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from tunesmith.train import checkpoint

# Trained parameters in millions: the default LoRA of smollm2, a larger one, and a quarter and all of its weights.
SIZES = (1.2, 4.9, 34.0, 134.5)
Tensors = dict[str, dict[str, torch.Tensor]]


def tensors(millions: float) -> Tensors:
    """What a training of so many parameters saves: float32 masters and moments, and the best weights in bfloat16."""
    each = max(round(millions * 1e6 / 120), 1)
    optimizer = {f"{k}/{i}": torch.randn(each) for i in range(120) for k in ("weight", "exp_avg", "exp_avg_sq")}
    return {"optimizer": optimizer, "best": {str(i): torch.randn(each).bfloat16() for i in range(120)}}


def plain(folder: Path, step: int, saved: Tensors) -> None:
    """Save as trainers do, but flushed."""
    place = folder / f"step-{step}"
    place.mkdir(parents=True)
    for stem, group in saved.items():
        save_file(group, place / f"{stem}.safetensors")
    for path in (*place.iterdir(), place):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    shutil.rmtree(folder / f"step-{step - 2}", ignore_errors=True)


def ours(folder: Path, step: int, saved: Tensors) -> None:
    """Save as `fit` does."""
    if not checkpoint.save(folder, step, saved, {"step": step}):
        raise SystemExit("the disk is full")


def seconds(work: Callable[[], None]) -> float:
    """Time one save on a quiet disk."""
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pairs(millions: float, count: int) -> Iterator[tuple[float, float]]:
    """Yield (plain, ours) seconds; the first three pairs warm up and are left out."""
    saved, folder = tensors(millions), Path(tempfile.mkdtemp(dir="."))
    try:
        for step in range(count + 3):
            turns = [
                lambda at=step: plain(folder / "plain", at, saved),
                lambda at=step: ours(folder / "ours", at, saved),
            ]
            times = {i: seconds(turns[i]) for i in ((0, 1) if step % 2 else (1, 0))}
            if step >= 3:
                yield times[0], times[1]
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure every size and print one JSON line each."""
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    for millions in SIZES:
        measured = list(pairs(millions, count))
        ratios = sorted(o / p for p, o in measured)
        result = {
            "millions": millions, "MB": round(millions * 14), "pairs": count,
            "plain_s": round(statistics.median(p for p, _ in measured), 4),
            "ours_s": round(statistics.median(o for _, o in measured), 4),
            "ratio": round(statistics.median(ratios), 2),
            "quartiles": [round(ratios[count // 4], 2), round(ratios[-1 - count // 4], 2)],
        }  # fmt: skip
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
