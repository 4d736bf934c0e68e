"""Measure PET with 10, 100 and 1,000 labels against plain fine-tuning of the same encoder; draw the learning curve.

Usage: python benchmarks/prompting/pet_curve.py ENCODER [RUN_DIR] [--task movies] [--threads 1] [--sizes 10,100] [--quick]

ENCODER is a directory with a masked-language-model head, for instance of

    tunesmith pretrain tweets,products,editorials --model minilm --learn answers

It runs one ladder, so every rung answers the same items and finished rungs are not climbed again, and writes
`pet_curve.json` and `pet_curve.svg` beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Draws of labelled rows (few rows differ much from draw to draw, a thousand hardly), and what each route is told.
FULL = {
    "repeats": {10: 3, 100: 3, 1000: 1},
    "classifier": {},
    "pet": {"patterns": 3, "unlabelled": 1000, "texts": 1, "least_steps": 30, "epochs": 2},
}
QUICK = {
    "repeats": {10: 3},
    "classifier": {"epochs": 2, "least_steps": 40},
    "pet": {"patterns": 2, "unlabelled": 300, "texts": 0, "least_steps": 20, "epochs": 1, "distillation_epochs": 2},
}
TEST_ROWS = 500
KEPT = (
    *("route", "parameters", "value", "low", "high", "n", "draws", "metrics", "trained_parameters", "seconds"),
    *("evaluation_seconds", "peak_memory_gb", "ms_per_query", "notes"),
)
COLOURS = {"PET": "#0b6e99", "fine-tuning": "#b3541e"}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 400, 60, 46, 24, 52


def main() -> None:
    """Run the ladder as a user would, keep what it measured, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("encoder")
    parser.add_argument("run_dir", nargs="?")
    parser.add_argument("--task", default="movies")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--sizes", default="10,100,1000")
    parser.add_argument("--quick", action="store_true", help="few unlabelled rows and short trainings, for a first look")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    run_dir = Path(given.run_dir or Path(tempfile.mkdtemp()) / "pet")
    report = climb(given, sizes, run_dir)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    result = {
        "commit": commit, "hardware": {"cores": os.cpu_count(), "machine": platform.machine()},
        "task": given.task, "versions": {k: v for k, v in report["provenance"].items() if k != "settings"},
        "routes": [{k: route[k] for k in KEPT} for route in report["routes"]], "differences": report["differences"],
    }  # fmt: skip
    for route in result["routes"]:
        route["parameters"]["encoder"] = Path(route["parameters"]["encoder"]).name
    (HERE / "pet_curve.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (HERE / "pet_curve.svg").write_text(draw(result["routes"], given.task), encoding="utf-8")


def climb(given: argparse.Namespace, sizes: Sequence[int], run_dir: Path) -> dict[str, Any]:
    """Climb PET and plain fine-tuning with every number of labels; returns the ladder's report."""
    told: dict[str, Any] = QUICK if given.quick else FULL
    routes: list[dict[str, Any]] = []
    for size in sizes:
        shared = {"encoder": given.encoder, "labelled": size, "repeats": told["repeats"].get(size, 1)}
        routes += [{"name": name, **shared, **told[name]} for name in ("classifier", "pet")]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    config = run_dir.with_name(f"{run_dir.name}.yaml")
    settings: dict[str, Any] = {"routes": routes, "baselines": [], "test_rows": TEST_ROWS, "threads": given.threads}
    # JSON is YAML.
    config.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}), encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "ladder", given.task, "--config", str(config), "--run_dir", str(run_dir)]
    subprocess.run(command, check=True)
    return json.loads((run_dir / "report.json").read_text(encoding="utf-8"))


def draw(routes: Sequence[dict[str, Any]], task: str) -> str:
    """Return the learning curve as SVG: accuracy with its 95 % interval against the number of labels, on a logarithmic axis."""
    series: dict[str, list[dict[str, Any]]] = {"PET": [], "fine-tuning": []}
    for route in routes:
        series["PET" if "temperature" in route["parameters"] else "fine-tuning"].append(route)
    bounds = [v for r in routes for v in (r["low"], r["high"], *r["draws"])]
    low, high = math.floor(10 * min(bounds)) / 10, min(math.ceil(10 * max(bounds)) / 10, 1.0)
    sizes = sorted({r["parameters"]["labelled"] for r in routes})
    first, last = math.log10(sizes[0]) - 0.15, math.log10(sizes[-1]) + 0.15

    def at(size: float, value: float) -> tuple[float, float]:
        x = LEFT + (math.log10(size) - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return round(x, 1), round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"',
        'font-family="sans-serif" font-size="13">',
        f"<title>{task}: accuracy of PET and of plain fine-tuning against the number of labels</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-weight="bold">{task}: accuracy on {routes[0]["n"]} test items, 95 % interval</text>',
    ]
    for step in range(round(10 * low), round(10 * high) + 1):
        y = at(sizes[0], step / 10)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{step / 10:.1f}</text>')
    for size in sizes:
        parts.append(f'<text x="{at(size, low)[0]}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{size:,}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">labelled rows</text>')
    for number, (name, found) in enumerate(series.items()):
        parts += _line(name, sorted(found, key=lambda r: r["parameters"]["labelled"]), at, 7 * number - 3.5)
        parts.append(f'<circle cx="{LEFT + 8 + 110 * number}" cy="34" r="5" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{LEFT + 18 + 110 * number}" y="38">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(name: str, routes: Sequence[dict[str, Any]], at: Any, shift: float) -> list[str]:
    """One series: a line, bars for the intervals, a dot for each value and a ring for each single draw."""
    colour, places = COLOURS[name], []
    parts = []
    for route in routes:
        size = route["parameters"]["labelled"]
        (x, y), top, bottom = at(size, route["value"]), at(size, route["high"])[1], at(size, route["low"])[1]
        x += shift
        places.append(f"{x},{y}")
        parts.append(f'<line x1="{x}" x2="{x}" y1="{top}" y2="{bottom}" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"><title>{name}, {size}: {route["value"]:.3f}</title></circle>'
        )
        if len(route["draws"]) > 1:
            dots = [f'<circle cx="{x}" cy="{at(size, v)[1]}" r="3" fill="white" stroke="{colour}"/>' for v in route["draws"]]
            parts += dots
    return [f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-dasharray="4 3"/>', *parts]


if __name__ == "__main__":
    main()
