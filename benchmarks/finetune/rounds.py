"""Two rounds on real data, products and then movies, without and with replay: the whole accuracy matrix of both.

    python benchmarks/finetune/rounds.py            # about 10 minutes on two quiet cores

Runs `tunesmith rounds products,movies` twice and writes rounds.json and rounds.svg beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tunesmith.recipes import rounds

HERE = Path(__file__).parent


def main() -> None:
    """Run both and keep the matrices and their picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--train_rows", type=int, default=400)
    parser.add_argument("--test_rows", type=int, default=300)
    parser.add_argument("--validation_rows", type=int, default=50)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--replay", type=float, default=0.2)
    parser.add_argument("--run_dir", default="runs/bench-rounds")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    settings = {key: value for key, value in vars(given).items() if key not in ("out", "replay", "run_dir") and value is not None}
    found = {}
    for name, replay in (("without replay", 0.0), (f"replay {given.replay:g}", given.replay)):
        place = f"{given.run_dir}-{'replay' if replay else 'plain'}"
        config = {"data": "products,movies", "replay": replay, "run_dir": place, "evaluations": 1, "guard_rows": 0, **settings}
        found[name] = rounds.run(rounds.Config.model_validate(config))
        print(f"{name}\n{rounds.render(found[name])}\n")
    (given.out / "rounds.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    picture(found, given.out / "rounds.svg")


def picture(found: dict[str, Any], path: Path) -> None:
    """Draw each task's metric after each round, a panel for each way of training."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "tunesmith"
    figure, panels = pyplot.subplots(1, len(found), figsize=(9, 4), sharey=True)
    for axes, (name, report) in zip(panels, found.items(), strict=True):
        for j, task in enumerate(report["tasks"]):
            cells = [row["cells"][j] for row in report["matrix"]]
            values = [c["value"] for c in cells]
            bars = [[c["value"] - c["low"] for c in cells], [c["high"] - c["value"] for c in cells]]
            axes.errorbar(range(len(cells)), values, yerr=bars, marker="o", capsize=3, label=task)
        axes.set_xticks(range(len(report["matrix"])), [row["trained"] or "before" for row in report["matrix"]])
        axes.set_title(name)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy, 95 % intervals")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
