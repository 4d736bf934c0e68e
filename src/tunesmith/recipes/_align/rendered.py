"""What a person wants to know after an alignment that is not by rounds of rollouts."""

from __future__ import annotations

from typing import Any


def learned(report: dict[str, Any]) -> str:
    """Return it of one that learned from judgements."""
    speed = f"{report['tokens_per_second']:,.0f} tokens/s, peak {report['peak_memory_gb']:.1f} GB"
    lines = [f"{report['judgements']:,} judgements of {report['prompts']:,} prompts, {report['steps']:,} steps; {speed}"]
    if after := report["after"]:
        before = report["before"]
        lines.append(
            f"held out, {after['n']:,} judgements of {after['prompts']:,} prompts: agreement {after['accuracy']:.1%} "
            f"({after['low']:.1%} to {after['high']:.1%}), margin {after['margin']:.2f} nats, "
            f"log p of preferred {before['chosen_logprob']:.1f} -> {after['chosen_logprob']:.1f}, "
            f"of others {before['rejected_logprob']:.1f} -> {after['rejected_logprob']:.1f}"
        )
    if report["kl"] is not None:
        lines.append(f"{report['kl']:.2f} nats an answer from the reference")
    return "\n".join([*lines, *(f"note: {warning}" for warning in report["warnings"]), f"saved to {report['artefact']}"])


def best(report: dict[str, Any]) -> str:
    """Return it of best-of-n."""
    lines = [
        f"best of {p['n']:>3}: score {p['score']:.3f} ({p['low']:.3f} to {p['high']:.3f}), at most {p['kl']:.2f} nats away"
        for p in report["curve"]
    ]
    files = f"the best answers are in {report['predictions']}, all of them in {report['rankings']}"
    return "\n".join([*lines, *(f"note: {warning}" for warning in report["warnings"]), files])
