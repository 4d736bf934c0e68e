"""What every prompting route does: time a few single queries, and ask all items once a draw."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.records import Example
from tunesmith.recipes._climb import Climbed, Workshop


def ask_draws(
    shop: Workshop,
    title: str,
    draws: Sequence[Sequence[Sequence[Example]] | None],
    priors: Sequence[dict[str, float]] | None = None,
    seconds: float = 0.0,
) -> Climbed:
    """Ask all items once for each draw of demonstrations.

    Args:
        draws: per draw, per item, the demonstrations; None = none.
        priors: per draw, what calibration subtracts.
        seconds: what choosing the demonstrations took.
    """
    asker = shop.asker()
    # Single queries come first: they also make whatever is made on first use, which is no part of the batched time.
    latency = asker.latencies(shop.items, draws[0])
    asked = []
    for number, demonstrations in enumerate(draws):
        name = f"{title} ({number + 1} of {len(draws)})" if len(draws) > 1 else title
        asked.append(asker.ask(shop.items, demonstrations, number, priors[number] if priors else None, name))
    return Climbed(
        draws=[a.predictions for a in asked],
        evaluation_seconds=sum(a.seconds for a in asked),
        prompt_tokens=sum(a.prompt_tokens for a in asked) / len(asked),
        latency_ms=latency,
        seconds=seconds,
    )
