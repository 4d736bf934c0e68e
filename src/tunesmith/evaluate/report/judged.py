"""What held-out judgements say of an alignment that learned from judgements: in words, and before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict(outcome: Mapping[str, Any]) -> str:
    """Say in words what held-out judgements say of what was learned."""
    after = outcome["after"]
    if not after:
        return "Nothing was held out, so nothing says whether it learned anything."
    found = (
        f"it moved the right way in {after['accuracy']:.1%} of {_several(after['n'], 'judgement')} "
        f"(95 % interval {after['low']:.1%} to {after['high']:.1%}; 50 % is chance)"
    )
    asked = _several(after["prompts"], "held-out prompt")
    if after["low"] > 0.5:
        return f"It learned what was asked for: on {asked} {found}."
    if after["high"] < 0.5:
        return f"It learned the opposite of what was asked for: on {asked} {found}."
    cannot = "cannot" if after["prompts"] != 1 else "alone cannot"
    return f"{asked} {cannot} tell whether it learned anything: {found}."


def compared(outcome: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (measure, before, after) of held-out judgements; [] where there are none."""
    before, after = outcome.get("before"), outcome.get("after")
    if not before or not after:
        return []
    rows = [
        ("moved the right way", "accuracy", "{:.1%}"), ("preferred one is the likelier", "likelier", "{:.1%}"),
        ("margin, nats", "margin", "{:.2f}"), ("log p of preferred, nats", "chosen_logprob", "{:.1f}"),
        ("log p of others, nats", "rejected_logprob", "{:.1f}"),
    ]  # fmt: skip
    found = [(name, form.format(before[key]), form.format(after[key])) for name, key, form in rows if after[key] is not None]
    if outcome["kl"] is not None:
        found.append(("nats an answer from the reference", "0.00", f"{outcome['kl']:.2f}"))
    return found


def _several(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
