"""Say what a command would do, how long it would take and how much memory it would need, without doing it."""

from __future__ import annotations

from typing import Any

from tunesmith.core.progress import duration
from tunesmith.recipes import ladder

POSITIONAL = "task"
EXAMPLES = ("tunesmith plan movies", "tunesmith plan mine.yaml --routes lora,full --ranks 4,16")


class Config(ladder.Config):
    """Settings of `tunesmith plan`: those of the ladder it is about."""


def run(config: Config) -> dict[str, Any]:
    """Estimate every route of a ladder from sizes and a moment of matrix products on this machine.

    Raises:
        UserError: an unknown route or task.
    """
    return {"status": "done", **ladder.plan(config)}


def render(report: dict[str, Any]) -> str:
    """Return the plan as a table."""
    lines = [
        f"ladder on {report['task']}: {report['items']} items, {report['training_rows']} training rows, model {report['model']}"
    ]
    lines += [f"  {r['route']:<20} about {duration(r['seconds']):>12}  {r['memory_gb']:5.1f} GB" for r in report["routes"]]
    lines.append(f"  {'in all':<20} about {duration(report['seconds']):>12}  {report['memory_gb']:5.1f} GB at the highest")
    return "\n".join(lines)
