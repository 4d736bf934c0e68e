"""Say what a ladder would cost in time and memory, or another command (plan tune DATA), without doing it."""

from __future__ import annotations

import textwrap
from typing import Any

from tunesmith.core.progress import duration
from tunesmith.core.registry import PLANS
from tunesmith.recipes import ladder
from tunesmith.recipes._ladder.estimates import plan

POSITIONAL = "task"
# `plan tune ...` speaks of a training, and so on; `plan ladder ...`, or plain `plan ...`, of a ladder.
ABOUT = {"ladder": "tunesmith.recipes.plan", **{name: f"tunesmith.recipes.plans.{name}" for name in PLANS.names()}}
EXAMPLES = ("tunesmith plan movies", "tunesmith plan mine.yaml --routes lora,full --ranks 4,16")


class Config(ladder.Config):
    """Settings of `tunesmith plan`: those of the ladder it is about."""


def run(config: Config) -> dict[str, Any]:
    """Estimate every route of a ladder from sizes and a moment of matrix products on this machine.

    Raises:
        UserError: an unknown route, baseline, model or task, or bad rows.
    """
    chosen = config.quickened() if config.quick else config
    routes, task = ladder.prepare(chosen)
    return {"status": "done", **plan(chosen, task, routes)}


def render(report: dict[str, Any]) -> str:
    """Return the plan as a table for a terminal of 80 columns."""
    title = (
        f"{report['task']}: {report['items']:,} test items, {report['training_rows']:,} training rows; model {report['model']}"
    )
    rows = [(r["route"], r["seconds"], r["memory_gb"]) for r in report["routes"]]
    width = max([8, *(len(name) for name, _, _ in rows)])
    lines = [f"  {name:<{width}}  about {duration(seconds):>12}  {gb:5.1f} GB" for name, seconds, gb in rows]
    lines += [f"  {name:<{width}}  {reason}" for name, reason in report["skipped"].items()]
    lines.append(f"  {'in all':<{width}}  about {duration(report['seconds']):>12}  {report['memory_gb']:5.1f} GB at the highest")
    notes = [piece for note in report["warnings"] for piece in textwrap.wrap(f"note: {note}", 80, subsequent_indent="  ")]
    return "\n".join([*textwrap.wrap(title, 80, subsequent_indent="  "), *lines, *notes])
