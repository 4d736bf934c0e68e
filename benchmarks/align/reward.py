"""Reward models on real human judgements: `movies` ratings (Ziegler et al. 2019) and BIG-bench HHH, beside one human.

Usage: python benchmarks/align/reward.py [--only minilm] [--seeds 0,1] [--runs FOLDER] [--threads 2]
Writes reward.json and reward.svg beside this file; what was measured before and is not asked for again stays in them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_DRAWN: dict[str, Any] = {"data": "movies", "batch_size": 8, "validation_rows": 200, "max_new_tokens": 24, "normalise": "samples"}
RUNS: dict[str, dict[str, Any]] = {
    "minilm": {**_DRAWN, "model": "minilm", "policy": "smollm2", "completions": 4, "comparisons": 3800},
    "minilm, pairs": {**_DRAWN, "model": "minilm", "policy": "smollm2", "completions": 2, "comparisons": 7600, "batch_size": 16},
    "smollm2 LoRA": {**_DRAWN, "completions": 4, "comparisons": 3800, "learning_rate": 3e-4},
    "HHH, minilm": {
        "data": "bigbench:hhh_alignment", "model": "minilm", "allow_canary": True, "test_share": 0.5, "validation_rows": 0,
        "epochs": 4, "batch_size": 8, "max_length": 512, "over_long": "drop",
    },
    "HHH, smollm2 LoRA": {
        "data": "bigbench:hhh_alignment", "allow_canary": True, "test_share": 0.5, "validation_rows": 0, "epochs": 2,
        "batch_size": 8, "learning_rate": 2e-4, "max_length": 512, "over_long": "drop",
    },
}  # fmt: skip
KEPT = ("accuracy", "ties", "by_difficulty", "calibration", "length", "people", "normalised", "judgements", "steps", "tokens",
        "seconds", "peak_memory_gb", "trained_parameters", "warnings")  # fmt: skip


def one(name: str, seed: int, runs: Path, threads: int | None) -> dict[str, Any]:
    """Train and measure one reward model through the verb."""
    from tunesmith.recipes import reward

    folder = runs / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    done = folder / "report.json"  # written last
    if done.is_file():
        report = json.loads(done.read_text(encoding="utf-8"))
    else:
        report = reward.run(reward.Config(**RUNS[name], seed=seed, run_dir=str(folder), threads=threads))
    return {"seed": seed, **{key: report[key] for key in KEPT}}


def picture(found: dict[str, list[dict[str, Any]]]) -> str:
    """Draw agreement with the order of mean ratings by how far these are apart, one line a model, one human's as a line (SVG)."""
    x = lambda gap: 60 + 85 * gap  # noqa: E731
    y = lambda share: 250 - 440 * (share - 0.5)  # noqa: E731
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 290" font-family="sans-serif" font-size="11" role="img"',
        ' aria-label="Agreement with drawn judgements by the gap of mean ratings">',
        '<rect width="560" height="290" fill="#fff"/>',
    ]
    for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(f'<line x1="60" x2="520" y1="{y(share)}" y2="{y(share)}" stroke="#ddd"/>')
        parts.append(f'<text x="52" y="{y(share) + 4}" text-anchor="end">{share:.1f}</text>')
    parts += [f'<text x="{x(gap)}" y="266" text-anchor="middle">{gap}</text>' for gap in range(6)]
    colours = ("#1f5fa8", "#b4541a", "#2f7d4f", "#7a3f98")
    drawn = [(name, runs) for name, runs in found.items() if runs[0]["people"]]
    for number, (name, runs) in enumerate(drawn):
        colour = colours[number % len(colours)]
        points = [((d["from"] + d["to"]) / 2, d["value"], d["low"], d["high"]) for d in runs[0]["by_difficulty"]]
        corners = " ".join(f"{x(gap):.1f},{y(value):.1f}" for gap, value, _, _ in points)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for gap, value, low, high in points:
            parts.append(f'<line x1="{x(gap):.1f}" x2="{x(gap):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x(gap):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>')
        value = runs[0]["people"]["agreement"]["value"]
        words = f"{name}: {value:.3f} of all pairs as the means have them"
        parts.append(f'<text x="250" y="{y(0.66) + 16 * number:.1f}" fill="{colour}">{words}</text>')
    parts += [
        '<text x="290" y="284" text-anchor="middle">how far their mean ratings are apart (of -4 to 4)</text>',
        '<text x="60" y="14">agreement with one rating drawn for each of two texts, 95 % intervals</text>', "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def main() -> None:
    """Run what was asked for and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", choices=list(RUNS), help="one of the runs; may be given several times")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--runs", help="keep run directories here, and go on with what is there")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    target = HERE / "reward.json"
    found = json.loads(target.read_text(encoding="utf-8"))["runs"] if target.is_file() else {}
    runs = Path(options.runs or tempfile.mkdtemp())
    for name in options.only or RUNS:
        found[name] = [one(name, int(seed), runs, options.threads) for seed in options.seeds.split(",")]
        settings = {key: RUNS[key] for key in found}
        target.write_text(json.dumps({"settings": settings, "runs": found}, indent=1) + "\n", encoding="utf-8")
        (HERE / "reward.svg").write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
