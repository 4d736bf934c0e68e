"""Remedies against forgetting on real data: full fine-tuning of smollm2 on `movies`, and what each remedy keeps.

    python benchmarks/finetune/remedies.py            # about 12 minutes on two quiet cores

Runs `tunesmith ladder movies --remedies` and writes remedies.json and remedies.svg beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tunesmith.recipes import ladder

HERE = Path(__file__).parent


def main() -> None:
    """Climb the remedies and keep the table and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--train_rows", type=int, default=400)
    parser.add_argument("--test_rows", type=int, default=1900)
    parser.add_argument("--validation_rows", type=int, default=200)
    parser.add_argument("--guard_rows", type=int, default=50)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--run_dir", default="runs/bench-remedies")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    settings = {key: value for key, value in vars(given).items() if key not in ("out",) and value is not None}
    # The last weights are kept whatever validation says: what is compared is remedies, not early stopping.
    config = ladder.Config.model_validate({"task": "movies", "remedies": True, "train": {"evaluations": 1}, **settings})
    report = ladder.run(config)
    kept = ("command", "metric", "model", "routes", "tradeoff", "provenance", "seconds", "wall_seconds", "peak_memory_gb")
    (given.out / "remedies.json").write_text(json.dumps({key: report[key] for key in kept}, indent=1) + "\n", encoding="utf-8")
    picture(report, given.out / "remedies.svg")
    print((Path(report["run_dir"]) / "report.txt").read_text(encoding="utf-8"))


def picture(report: dict, path: Path) -> None:
    """Draw accuracy (up) against nats per token of general text lost (right), with intervals both ways."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "tunesmith"
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    routes = {r["route"]: r for r in report["routes"]}
    for name, rise in [("zero-shot", None), *((t["route"], t["rise"]) for t in (report["tradeoff"] or {"trades": []})["trades"])]:
        r, x = routes[name], rise or {"value": 0.0, "low": 0.0, "high": 0.0}
        across = [[x["value"] - x["low"]], [x["high"] - x["value"]]]
        up = [[r["value"] - r["low"]], [r["high"] - r["value"]]]
        axes.errorbar(x["value"], r["value"], xerr=across, yerr=up, fmt="o", capsize=3)
        axes.annotate(name, (x["value"], r["value"]), xytext=(6, 6), textcoords="offset points")
    axes.set_xlabel("forgetting: nats per token of general text that were lost")
    axes.set_ylabel(report["metric"].replace("_", " "))
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
