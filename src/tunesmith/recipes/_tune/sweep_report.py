"""From the finished runs of a sweep to its table, picture and recommendation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.registry import METRICS
from tunesmith.core.runs import versions
from tunesmith.core.seeds import derive
from tunesmith.evaluate.report.sweep import SweepReport, table, write_sweep_html
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.ready import filled_in
from tunesmith.stats.compare import Comparison, Difference, compare


@dataclass(frozen=True)
class Combination:
    """A combination whose runs are all finished.

    Attributes:
        metric, value, low, high: mean over seeds, with its interval over items. seeds: the value of each seed.
        predicted: per seed the answers to all items. gold: the right ones. ids: which items.
        artefacts: what each run saved.
    """

    name: str
    sets: dict[str, Any]
    metric: str
    value: float
    low: float
    high: float
    seeds: list[float]
    trained_parameters: int
    seconds: float
    peak_memory_gb: float
    artefacts: list[str]
    predicted: list[list[Any]]
    gold: list[Any]
    ids: list[str]

    @classmethod
    def of(cls, name: str, sets: dict[str, Any], folders: Sequence[Path]) -> Self:
        """Read the runs of a combination.

        Raises:
            UserError: a run without test rows, or one whose files are damaged.
        """
        try:
            reports = [json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in folders]
            rows = [_rows(folder) for folder in folders if (folder / "predictions.jsonl").is_file()]
            if len(rows) < len(folders) or not all(report["test"] for report in reports):
                raise UserError(
                    "a sweep judges by test rows, and these runs have none", "Give a task with test rows; see docs/tasks.md."
                )
            tests = [report["test"][0] for report in reports]
            values = [float(test["value"]) for test in tests]
            return cls(
                name, sets, tests[0]["metric"], sum(values) / len(values), tests[0]["low"], tests[0]["high"], values,
                reports[0]["trained_parameters"], sum(r["seconds"] for r in reports), max(r["peak_memory_gb"] for r in reports),
                [report["artefact"] for report in reports], [[row["predicted"] for row in run] for run in rows],
                [row["gold"] for row in rows[0]], [row["id"] for row in rows[0]],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"a finished run of '{name}' below {folders[0].parent} cannot be read ({error})",
                "Delete that folder to train it again.",
            ) from None

    def as_json(self, difference: Difference | None) -> dict[str, Any]:
        """Return its part of `report.json`.

        Args:
            difference: from the best; None = it is the best.
        """
        gap = {key: getattr(difference, key) for key in ("value", "low", "high", "p_holm")} if difference else None
        return {
            "name": self.name, "settings": self.sets, "value": self.value, "low": self.low, "high": self.high,
            "n": len(self.gold), "seeds": self.seeds, "trained_parameters": self.trained_parameters, "seconds": self.seconds,
            "peak_memory_gb": self.peak_memory_gb, "difference": gap, "artefacts": self.artefacts,
        }  # fmt: skip

    def line(self) -> str:
        """What is said when it is finished."""
        spread = f"; seeds {', '.join(f'{v:.3f}' for v in self.seeds)}" if len(self.seeds) > 1 else ""
        return f"{self.name}: {self.metric.replace('_', ' ')} {self.value:.3f}, {self.trained_parameters:,} parameters{spread}"


def _rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def choose(found: Sequence[Combination], comparison: Comparison, best: str) -> str:
    """Return the combination with the fewest trained parameters whose interval reaches the best.

    That interval is of its difference from the best on the same items, draws of seeds included; it reaches the best where
    its upper end is not below 0.
    """
    reaching = {best, *(d.a for d in comparison.differences if d.high >= 0)}
    return min((c for c in found if c.name in reaching), key=lambda c: (c.trained_parameters, -c.value)).name


def write_sweep(
    folder: Path, config: Config, found: Sequence[Combination], failed: Mapping[str, str], command: str, seconds: float
) -> dict[str, Any]:
    """Compare finished combinations and write `report.html`, `.txt`, `.json` and the manifest; returns the report.

    Raises:
        UserError: the combinations answered different items.
    """
    first = found[0]
    if other := next((c for c in found if c.ids != first.ids or c.metric != first.metric), None):
        raise UserError(
            f"'{first.name}' and '{other.name}' answered different test rows", "Sweep over settings that leave the rows alone."
        )
    best = max(found, key=lambda c: (c.value, -c.trained_parameters)).name
    pairs = [(c.name, best) for c in found if c.name != best]
    evaluate = METRICS.get(first.metric).evaluate
    comparison = compare(
        evaluate, first.gold, {c.name: c.predicted for c in found}, derive(config.seed, "bootstrap"), pairs=pairs
    )
    found = [replace(c, low=comparison.intervals[c.name].low, high=comparison.intervals[c.name].high) for c in found]
    differences = {d.a: d for d in comparison.differences}
    report = {
        "status": "done", "run_dir": str(folder), "seconds": sum(c.seconds for c in found), "wall_seconds": seconds,
        "peak_memory_gb": max(c.peak_memory_gb for c in found), "warnings": _warnings(config, failed), "data": config.data,
        "model": filled_in(config).model, "metric": first.metric, "n": len(first.gold), "seeds": config.seeds,
        "combinations": [c.as_json(differences.get(c.name)) for c in found], "failed": dict(failed), "best": best,
        "recommended": choose(found, comparison, best),
    }  # fmt: skip
    report["verdict"] = _verdict(report)
    settings = config.model_dump(exclude={"data", "run_dir", "overwrite", "resume"}, exclude_defaults=True)
    page = SweepReport(report, command, {**versions(), "settings": json.dumps(settings, ensure_ascii=False, default=str)})
    write_text(folder / "report.html", write_sweep_html(page))
    write_text(folder / "report.txt", table(report))
    write_json(folder / "report.json", report)
    write_manifest(folder)
    return report


def _warnings(config: Config, failed: Mapping[str, str]) -> list[str]:
    said = [f"{name} was left out: {why}" for name, why in failed.items()]
    if config.seeds == 1:
        said.append("one seed shows nothing of what another would have done; --seeds 3 does")
    return said


def _verdict(report: Mapping[str, Any]) -> str:
    by_name = {c["name"]: c for c in report["combinations"]}
    best, chosen = by_name[report["best"]], by_name[report["recommended"]]
    metric = report["metric"].replace("_", " ")
    of_best = f"{metric} {best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}]"
    if best is chosen:
        return (
            f"Take {best['name']}: it is the best ({of_best}), and nothing smaller reaches it."
            if len(by_name) > 1
            else f"{best['name']}: {of_best}."
        )
    share = chosen["trained_parameters"] / best["trained_parameters"]
    gap = chosen["difference"]
    return (
        f"Take {chosen['name']}: it is the smallest whose interval reaches the best. It trains {chosen['trained_parameters']:,} "
        f"parameters, {share:.1%} of those of {best['name']} ({of_best}), and differs from it by {gap['value']:+.3f} "
        f"[{gap['low']:+.3f}, {gap['high']:+.3f}] on the same {report['n']:,} items."
    )
