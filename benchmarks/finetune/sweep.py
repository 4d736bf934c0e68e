"""Quality against trained parameters of LoRA: the sweep of ranks and targets on `movies`.

    python benchmarks/finetune/sweep.py            # about 50 minutes on one core

Runs `tunesmith tune movies --sweep peft.rank=... peft.targets=...` and writes sweep.json and sweep.svg beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tunesmith.recipes import tune

HERE = Path(__file__).parent
SWEEP = ["peft.rank=1,2,4,8,16,32,64", "peft.targets=attention,all"]


def main() -> None:
    """Sweep, unless it is done, and keep the table, each run's final loss and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run_dir", default="runs/bench-sweep")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    folder = Path(given.run_dir)
    if not (folder / "report.json").is_file():
        tune.run(tune.Config.model_validate({
            "data": "movies", "sweep": SWEEP, "seeds": 2, "train_rows": 200, "validation_rows": 50, "test_rows": 300,
            "threads": given.threads, "run_dir": str(folder),
        }))  # fmt: skip
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for one in report["combinations"]:
        name = "-".join(f"{key.rpartition('.')[2]}-{value}" for key, value in one["settings"].items())
        runs = sorted((folder / "runs" / name).glob("seed-*/report.json"))
        del one["artefacts"]
        one["final_losses"] = [json.loads(path.read_text(encoding="utf-8"))["final_loss"] for path in runs]
    kept = {
        key: report[key] for key in ("model", "data", "metric", "n", "seeds", "best", "recommended", "verdict", "combinations")
    }
    (HERE / "sweep.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    picture(kept, HERE / "sweep.svg")


def picture(report: dict[str, Any], path: Path) -> None:
    """Draw accuracy against parameters, and against the loss at which training ended."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "tunesmith"
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for targets in ("attention", "all"):
        some = [one for one in report["combinations"] if one["settings"]["peft.targets"] == targets]
        values = [one["value"] for one in some]
        bars = [[one["value"] - one["low"] for one in some], [one["high"] - one["value"] for one in some]]
        losses = [sum(one["final_losses"]) / len(one["final_losses"]) for one in some]
        for axes, at in zip(panels, ([one["trained_parameters"] for one in some], losses), strict=True):
            axes.errorbar(at, values, yerr=bars, marker="o", capsize=3, linestyle="", label=f"targets {targets}")
            for one, x in zip(some, at, strict=True):
                axes.annotate(
                    f"r={one['settings']['peft.rank']}", (x, one["value"]), xytext=(4, 4), textcoords="offset points", fontsize=8
                )
    panels[0].set_xlabel("trained parameters")
    panels[1].set_xlabel("loss at the end of training, nats (falls to the right)")
    panels[1].invert_xaxis()
    panels[0].set_ylabel(report["metric"])
    for axes in panels:
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
