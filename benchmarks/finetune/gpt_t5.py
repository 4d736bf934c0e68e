"""Learning curves: GPT-1's auxiliary loss on and off, and T5's multi-task training under three rules of mixing.

Usage: python benchmarks/finetune/gpt_t5.py gpt|t5 [--threads 1] [--seeds 0,1] [--runs FOLDER]

Each run is one `tunesmith tune` as a user would start it. Results go to `gpt.json` or `t5.json` beside this file, with a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
COLOURS = ("#0b6e99", "#b3541e", "#4a7c2c", "#7a4a9e", "#555555")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 680, 400, 60, 40, 230, 50
CHAT = """name: movies
data: {source: hutto_movies}
template: "Is this film review negative or positive? Answer with one word.\\n\\n{text}\\n{answer}"
choices: {negative: [negative], positive: [positive]}
chat: true
metrics: [accuracy]
"""
GPT = {
    "lambda = 0.5": ["movies", "--objective", "gpt-classification"],
    "lambda = 0": ["movies", "--objective", "gpt-classification", "--objective.lm_weight", "0"],
    "next word": ["movies", "--objective", "causal-lm"],
    "instruction": ["chat.yaml", "--objective", "causal-lm"],
}
GPT_SHARED = [
    *("--model", "smollm2", "--peft", "lora", "--train_rows", "400", "--validation_rows", "100", "--test_rows", "200"),
    *("--epochs", "1", "--batch_size", "8", "--warmup", "0.1", "--evaluations", "5", "--patience", "5"),
]
# A toy reads bytes and has learned nothing before, so its tasks are easy.
T5 = {
    "proportional": ["--objective.mixing", "proportional"],
    "temperature 2": ["--objective.mixing", "proportional", "--objective.temperature", "2"],
    "equal": ["--objective.mixing", "equal"],
}
T5_SHARED = [
    *("--objective", "text-to-text", "--model", "toy-t5", "--peft", "full", "--learning_rate", "3e-3", "--warmup", "0.05"),
    *("--validation_rows", "24", "--test_rows", "100", "--evaluations", "8", "--patience", "8", "--max_steps", "240"),
]


def main() -> None:
    """Run every setting with every seed, keep what was measured, and draw it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=("gpt", "t5"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "gpt_t5")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if given.part == "gpt":
        (given.runs / "chat.yaml").write_text(CHAT, encoding="utf-8")
        settings, shared = GPT, GPT_SHARED
    else:
        data = ",".join(write_tasks(given.runs))
        settings, shared = {name: [data, *words] for name, words in T5.items()}, T5_SHARED
    result: dict[str, Any] = {"hardware": {"cores": os.cpu_count(), "machine": platform.machine()}, "settings": {}}
    for name, words in settings.items():
        for seed in seeds:
            run = tune(given, [*words, *shared, "--seed", str(seed)], f"{given.part}-{name.replace(' ', '')}-{seed}")
            result["settings"].setdefault(name, []).append(run)
            (HERE / f"{given.part}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    curves = {name: averaged([run["curve"] for run in runs]) for name, runs in result["settings"].items()}
    title = "movies, smollm2 + LoRA, 400 rows" if given.part == "gpt" else "three tasks of unequal size, toy-t5"
    (HERE / f"{given.part}.svg").write_text(draw(curves, title), encoding="utf-8")


def tune(given: argparse.Namespace, words: list[str], name: str) -> dict[str, Any]:
    """Train once and return what came out: the curve on validation rows and the values on test rows."""
    threads = ["--threads", str(given.threads)] if given.threads else []
    command = [sys.executable, "-m", "tunesmith", "tune", *words, *threads, "--run_dir", name, "--json"]
    done = subprocess.run(command, cwd=given.runs, check=True, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout.splitlines()[-1])
    rows = [json.loads(line) for line in (given.runs / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [(row["step"], row["eval_accuracy"]) for row in rows if "eval_accuracy" in row]
    kept = ("test", "seconds", "steps", "tokens", "trained_parameters", "final_loss", "tokens_per_second", "peak_memory_gb")
    return {"curve": curve, **{key: report[key] for key in kept}}


def write_tasks(folder: Path) -> list[str]:
    """Write three tasks of 1,600, 320 and 64 rows: the same texts, and another word for each letter in each task."""
    words = ("ant", "bee", "cat", "dog")
    made = {"large": (1600, 0), "middle": (320, 1), "small": (64, 2)}
    for name, (count, turned) in made.items():
        rows = [{"text": f"{'abcd'[i % 4] * 3} {i}", "label": words[(i + turned) % 4]} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = f"name: {name}\ndata: {{train: {name}.jsonl}}\ntemplate: '{{text}} {{answer}}'\nchoices: labels\n"
        (folder / f"{name}.yaml").write_text(task, encoding="utf-8")
    return [f"{name}.yaml" for name in made]


def averaged(curves: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Return the mean of curves that were measured at the same steps."""
    return [(steps[0][0], mean(value for _, value in steps)) for steps in zip(*curves, strict=False)]


def draw(curves: dict[str, list[tuple[int, float]]], title: str) -> str:
    """Return an SVG of validation accuracy against steps."""
    most = max(step for curve in curves.values() for step, _ in curve)
    low = min(value for curve in curves.values() for _, value in curve)
    low = int(low * 10) / 10

    def at(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / most
        return f"{x:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (1 - low)):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/><text x="{LEFT}" y="22" font-size="15">{title}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 12}">steps; accuracy on validation rows, mean over seeds</text>',
    ]
    for tick in range(int(low * 10), 11):
        x, y = at(0, tick / 10).split(",")
        parts.append(
            f'<path d="M{x} {y}H{WIDTH - RIGHT}" stroke="#ddd"/><text x="{LEFT - 34}" y="{float(y) + 4}">{tick / 10}</text>'
        )
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number]
        corners = " ".join(at(*point) for point in curve)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 20 * number + 12}" fill="{colour}">{name} ({curve[-1][1]:.2f})</text>'
        )
        parts.append(f'<text x="{at(most, 0).split(",")[0]}" y="{HEIGHT - 30}">{most}</text>' if not number else "")
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
