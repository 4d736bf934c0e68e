"""What a person wants to know after an alignment that is not by rounds of rollouts, in lines of a terminal."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from tunesmith.evaluate.report.judged import compared, verdict

_WIDTH, _NAME, _NUMBER = 80, 36, 10


def learned(report: dict[str, Any]) -> str:
    """Return it of one that learned from judgements: a table, what it says in words, and what to do next."""
    speed = f"{report['tokens_per_second']:,.0f} tokens/s, peak {report['peak_memory_gb']:.1f} GB"
    lines = [f"{_several(report['judgements'], 'judgement')} of {_several(report['prompts'], 'prompt')}, "
             f"{_several(report['steps'], 'step')}; {speed}"]  # fmt: skip
    if table := compared(report):
        after = report["after"]
        title = f"held out: {_several(after['n'], 'judgement')}, {_several(after['prompts'], 'prompt')}"
        rows = [(title, "before", "after"), *((f"  {name}", *values) for name, *values in table)]
        lines += [f"{name:<{_NAME}}{before:>{_NUMBER}}{now:>{_NUMBER}}" for name, before, now in rows]
    lines += [*textwrap.wrap(verdict(report), _WIDTH), *_notes(report)]
    return "\n".join([*lines, *saved(report)])


def best(report: dict[str, Any]) -> str:
    """Return it of best-of-n."""
    lines = [
        f"best of {p['n']:>3}: score {p['score']:.3f} ({p['low']:.3f} to {p['high']:.3f}), at most {p['kl']:.2f} nats away"
        for p in report["curve"]
    ]
    lines += [*_notes(report), f"the best answers are in {report['predictions']}", f"all of them are in {report['rankings']}"]
    return "\n".join([*lines, _page(report), f"learn from them: tunesmith align {report['rankings']} --method dpo"])


def saved(report: dict[str, Any]) -> list[str]:
    """Say where the adapter and the page are, and how to try what was learned."""
    try_it = f"tunesmith generate PROMPT --model {report['model']} --adapter {report['artefact']}"
    return [f"saved to {report['artefact']}", _page(report), f"try it: {try_it}"]


def _page(report: dict[str, Any]) -> str:
    return f"how it went: {Path(report['run_dir']) / 'report.html'}"


def _notes(report: dict[str, Any]) -> list[str]:
    return [line for warning in report["warnings"] for line in textwrap.wrap(f"note: {warning}", _WIDTH)]


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
