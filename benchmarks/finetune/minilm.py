"""Quality against trained parameters: `minilm` on `movies`, trained whole, by adapters, or its head alone.

Usage: python benchmarks/finetune/minilm.py [--rows 1600] [--seeds 3] [--epochs 3]
Writes minilm.json and minilm.svg beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Name, the method with its parameters, and a learning rate where the method's own is for decoders.
METHODS: tuple[tuple[str, dict[str, Any], float | None], ...] = (
    ("head only", {"name": "selective", "parts": "head"}, 3e-3),
    ("BitFit", {"name": "bitfit"}, 3e-3),
    ("LoRA r=8", {"name": "lora", "rank": 8}, 2e-3),
    ("Pfeiffer", {"name": "pfeiffer"}, 2e-3),
    ("Houlsby", {"name": "houlsby"}, 2e-3),
    ("full", {"name": "full"}, None),
)


def one(peft: dict[str, Any], rate: float | None, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and answer the test rows through the verb."""
    from tunesmith.recipes import tune

    with tempfile.TemporaryDirectory() as folder:
        report = tune.run(
            tune.Config(
                data="movies",
                objective="classification",
                peft=peft,
                learning_rate=rate,
                seed=seed,
                epochs=options.epochs,
                train_rows=options.rows,
                test_rows=2000,
                run_dir=f"{folder}/run",
                overwrite=True,
            )
        )
    accuracy = next(r for r in report["test"] if r["metric"] == "accuracy")
    kept = {key: report[key] for key in ("trained_parameters", "seconds", "tokens_per_second", "peak_memory_gb")}
    return {**kept, **{key: accuracy[key] for key in ("value", "low", "high", "n")}}


def picture(found: dict[str, list[dict[str, Any]]]) -> str:
    """Draw accuracy against trained parameters, logarithmic, with the 95 % interval over items of the first seed (SVG)."""
    x = lambda n: 50 + 95 * (math.log10(n) - 2.5)  # noqa: E731
    y = lambda a: 250 - 900 * (a - 0.62)  # noqa: E731
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 290" font-family="sans-serif" font-size="11" role="img"',
        ' aria-label="Accuracy against trained parameters">', '<rect width="560" height="290" fill="#fff"/>',
    ]  # fmt: skip
    for accuracy in (0.65, 0.70, 0.75, 0.80, 0.85):
        parts.append(f'<line x1="45" x2="550" y1="{y(accuracy):.0f}" y2="{y(accuracy):.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="8" y="{y(accuracy) + 4:.0f}">{accuracy:.2f}</text>')
    for name, runs in found.items():
        at, mean = x(runs[0]["trained_parameters"]), statistics.fmean(r["value"] for r in runs)
        half = (runs[0]["high"] - runs[0]["low"]) / 2
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(mean - half):.1f}" y2="{y(mean + half):.1f}" stroke="#0b62a4"/>'
            f'<circle cx="{at:.1f}" cy="{y(mean):.1f}" r="4" fill="#0b62a4"/>'
            f'<text x="{at + 7:.1f}" y="{y(mean) - 6:.1f}">{name}</text>'
        )
    parts.append('<text x="180" y="282">trained parameters (logarithmic)</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Train every method with every seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0)
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for name, peft, rate in METHODS:
        found[name] = [one(peft, rate, seed, options) for seed in range(options.seeds)]
        print(name, [round(run["value"], 3) for run in found[name]], found[name][0]["trained_parameters"], flush=True)
    settings = {"rows": options.rows, "epochs": options.epochs, "seeds": options.seeds}
    (HERE / "minilm.json").write_text(json.dumps({**settings, "methods": found}, indent=1) + "\n", encoding="utf-8")
    (HERE / "minilm.svg").write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
