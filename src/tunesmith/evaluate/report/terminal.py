"""The ladder as plain text: a table for the terminal, a line for each finished route, and Markdown."""

from __future__ import annotations

import textwrap

from tunesmith.evaluate.report import numbers
from tunesmith.evaluate.report.record import LadderReport
from tunesmith.evaluate.results import RouteResult
from tunesmith.evaluate.verdict import CLEAR, is_reference

_LONGEST_ROUTE = 32


def table(report: LadderReport, width: int = 80) -> str:
    """Return the routes as an aligned table and the verdict below it; no line is longer than `width` (at least 76).

    ">" marks the route to ship; "siblings" is the mean change of accuracy on sibling tasks.
    """
    metric = report.metric.replace("_", " ")
    header = ("route", f"{metric} [{numbers.percent(report.comparison.level)}]", "train", "ms/query", "memory", "siblings")
    rows = [_cells(r) for r in report.results]
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    widths[0] = max(8, min(widths[0], width - 2 - sum(widths[1:]) - 2 * (len(header) - 1)))
    lines = [_line("  ", header, widths), "  " + "-" * (sum(widths) + 2 * (len(header) - 1))]
    for result, cells in zip(report.results, rows, strict=True):
        lines.append(_line("> " if result.route == report.verdict.recommended else "  ", cells, widths))
    meaning = "the route to ship" if report.verdict.evidence == CLEAR else "the cheapest for now"
    lines.append(f"  > = {meaning}; siblings = mean change of accuracy on sibling tasks")
    lines += [f"  {numbers.clean(route)}: not climbed, {numbers.clean(reason)}" for route, reason in report.skipped.items()]
    lines = [piece for line in lines for piece in _fold(line, width, "    ")]
    lines += ["", *_fold(numbers.clean(report.verdict.sentence), width, "")]
    for text in [*report.verdict.details, *(f"Warning: {w}" for w in report.warnings)]:
        lines += _fold(f"- {numbers.clean(text)}", width, "  ")
    if report.tradeoff:
        lines += ["", *_fold(numbers.clean(report.tradeoff.sentence), width, "")]
    return "\n".join(lines) + "\n"


def row(result: RouteResult) -> str:
    """Return one line for a route as it finishes, without a line break; what it costs a query stands in the table."""
    route, value, train, ms, _, change = _cells(result)
    parts = [f"{numbers.shorten(route, _LONGEST_ROUTE):<20} {value:<20}"]
    if result.kind == "tuned":
        parts.append(f"trained {train}")
    elif not is_reference(result):
        parts.append(f"{ms} ms/query")
    if result.forgetting is not None:
        parts.append(f"sibling tasks {change}")
    return "  ".join(parts).rstrip()


def write_markdown(report: LadderReport) -> str:
    """Return the verdict and a compact table in GitHub's Markdown; text from data cannot add markup or columns."""
    metric = report.metric.replace("_", " ")
    lines = [
        f"**{_escape(report.verdict.sentence)}**",
        "",
        f"| route | {_escape(metric)} | trained parameters | train | ms/query | memory | sibling tasks |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for result in report.results:
        route, value, train, ms, memory, change = (_escape(cell) for cell in _cells(result))
        if result.route == report.verdict.recommended:
            route = f"**{route}**"
        lines.append(f"| {route} | {value} | {numbers.count(result.trained_parameters)} | {train} | {ms} | {memory} | {change} |")
    lines += ["", *(f"- {_escape(text)}" for text in report.verdict.details)]
    if report.tradeoff:
        lines += ["", _escape(report.tradeoff.sentence)]
    n = max((r.n for r in report.results), default=0)
    where = f"{_escape(report.model)} on {_escape(report.task)}"
    lines += ["", f"{where}, {n:,} test items, {numbers.percent(report.comparison.level)} intervals."]
    return "\n".join(lines) + "\n"


def _cells(result: RouteResult) -> tuple[str, str, str, str, str, str]:
    """Route, metric with interval, training time, ms per query, memory, change on sibling tasks."""
    value = f"{numbers.fixed(result.value)} [{numbers.fixed(result.low)}, {numbers.fixed(result.high)}]"
    name = numbers.clean(result.route).replace("\n", " ").replace("\t", " ")
    if is_reference(result):
        return name, value, "-", "-", "-", "-"
    change = "-"
    if result.forgetting is not None and result.forgetting.tasks:
        change = numbers.signed(result.forgetting.accuracy_change, 3)
    memory = f"{numbers.fixed(result.peak_memory_gb, 1)} GB"
    return name, value, _train(result.seconds), numbers.milliseconds(result.ms_per_query), memory, change


def _train(seconds: float) -> str:
    return numbers.duration(seconds).replace(" min ", "m ").replace(" h ", "h ").replace(" min", "m").replace(" s", "s")


def _line(mark: str, cells: tuple[str, ...], widths: list[int]) -> str:
    left = numbers.shorten(cells[0], widths[0]).ljust(widths[0])
    value = cells[1].ljust(widths[1])
    rest = [cell.rjust(w) for cell, w in zip(cells[2:], widths[2:], strict=True)]
    return (mark + "  ".join([left, value, *rest])).rstrip()


def _fold(text: str, width: int, indent: str) -> list[str]:
    return [text] if len(text) <= width else textwrap.wrap(text, width, subsequent_indent=indent)


def _escape(text: str) -> str:
    text = numbers.clean(text).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_|[]":
        text = text.replace(character, "\\" + character)
    return text
