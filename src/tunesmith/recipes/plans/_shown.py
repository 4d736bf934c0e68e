"""A plan of a training, as a terminal shows it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from tunesmith.core.progress import duration

_BARS = 10
_WIDTH = 40


def histogram(lengths: Sequence[int], bars: int = _BARS) -> list[dict[str, int]]:
    """Count rows by their length in tokens: at most `bars` classes of equal, round width, from `low` to `high` inclusive."""
    longest = max(lengths)
    power = 10 ** max(len(str(max(longest // bars, 1))) - 1, 0)
    width = next(m * power for m in (1, 2, 5, 10, 20) if m * power * bars > longest)
    classes = range(longest // width + 1)
    return [
        {"low": c * width, "high": (c + 1) * width - 1, "rows": sum(c * width <= n < (c + 1) * width for n in lengths)}
        for c in classes
    ]


def render(report: dict[str, Any]) -> str:
    """Return the plan for a terminal of 80 columns."""
    most = max(b["rows"] for b in report["histogram"])
    bars = [
        f"  {b['low']:>6,} - {b['high']:<6,} {'█' * _bar(b['rows'], most):<{_WIDTH}} {b['rows']:,}" for b in report["histogram"]
    ]
    time_line = "unknown, since it does not fit"
    if report["seconds"] is not None:
        time_line = (
            f"about {duration(report['seconds'])} at {report['tokens_per_second']:,.0f} tokens/s; "
            f"evaluating {duration(report['evaluation_seconds'])}"
        )
    room = f"of {report['available_gb']:.2f} GB" + ("" if report["fits"] else ": IT DOES NOT FIT")
    facts = [
        ("rows", f"{report['rows']:,}, {report['tokens']:,} tokens, {_share(report):.0%} of them supervised"),
        ("over-long", f"{report['over_long']:,} rows longer than max_length = {report['max_length']:,}; nothing is ever cut"),
        ("steps", f"{report['steps']:,}"),
        ("trained", f"{report['trained_parameters']:,} parameters ({report['peft']})"),
        ("memory", f"about {report['peak_memory_gb']:.2f} GB at the highest, {room}"),
        ("time", time_line),
        ("disk", f"{report['disk_gb']:.2f} GB (checkpoints {report['checkpoint_gb']:.2f}, artefact {report['artefact_gb']:.2f})"),
    ]
    notes = [*(f"would fit: {s}" for s in report["settings_that_fit"]), *(f"note: {w}" for w in report["warnings"])]
    lines = ["Rows by their length in tokens", *bars, *(f"  {name:<10} {text}" for name, text in facts)]
    return "\n".join([*lines, *(piece for note in notes for piece in textwrap.wrap(note, 80, subsequent_indent="  "))])


def _share(report: dict[str, Any]) -> float:
    return report["supervised_tokens"] / report["tokens"]


def _bar(rows: int, most: int) -> int:
    # A class with a few rows still shows.
    return max(round(_WIDTH * rows / most), 1) if rows else 0
