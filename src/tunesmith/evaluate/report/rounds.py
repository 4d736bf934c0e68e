"""The accuracy matrix of sequential rounds: report.html, a table for the terminal, and what follows in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.template import render


def write_rounds_html(content: Mapping[str, Any], command: str, provenance: Mapping[str, str]) -> str:
    """Return the whole page. Every text that came from data or a user is escaped.

    Args:
        content: of report.json (see `recipes.rounds`).
    """
    lines = in_words(content)
    guarded = any(row["perplexity"] is not None for row in content["matrix"])
    context = {"report": content, "sentence": lines[0], "lines": lines[1:], "guarded": guarded}
    return render("rounds", {**context, "command": command, "provenance": dict(provenance)})


def in_words(content: Mapping[str, Any]) -> list[str]:
    """Say what the matrix shows, a sentence each."""
    averages, tasks = content["averages"], content["tasks"]
    earlier = tasks[0] if len(tasks) == 2 else f"the {len(tasks) - 1} earlier tasks"
    change = averages["backward"]
    verb = "changed" if change["low"] <= 0 <= change["high"] else "gave" if change["value"] > 0 else "cost"
    amount = change if verb != "cost" else {"value": -change["value"], "low": -change["high"], "high": -change["low"]}
    by = f"{earlier} by {_signed(amount)}, which may be nothing" if verb == "changed" else f"{earlier} {_plain(amount)}"
    later = "the last round" if len(tasks) == 2 else "later rounds"
    return [
        f"After {len(tasks)} rounds the mean over tasks is {_plain(averages['final'])}; {later} {verb} {by}.",
        f"Backward transfer {_signed(averages['backward'])}, forgetting {_signed(averages['forgetting'])}, "
        f"forward transfer {_signed(averages['forward'])}.",
    ]


def table(content: Mapping[str, Any]) -> str:
    """Return the matrix as an aligned table: a row for each round, a column for each task; "*" marks what it trained."""
    guarded = any(row["perplexity"] is not None for row in content["matrix"])
    header = ["after round", *content["tasks"], *(["perplexity"] if guarded else [])]
    lines = [header]
    for row in content["matrix"]:
        cells = [
            f"{numbers.interval(c['value'], c['low'], c['high'], 3)}{'*' if c['task'] == row['trained'] else ' '}"
            for c in row["cells"]
        ]
        name = f"{row['round']} {row['trained']}" if row["round"] else "0 (before)"
        perplexity = "-" if row["perplexity"] is None else f"{row['perplexity']:.2f}"
        lines.append([name, *cells, *([perplexity] if guarded else [])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _plain(average: Mapping[str, float]) -> str:
    return numbers.interval(average["value"], average["low"], average["high"], 3)


def _signed(average: Mapping[str, float]) -> str:
    value, low, high = (numbers.signed(average[key], 3) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
