"""What every prompting route does: time a few single queries, and ask all items once a draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from tunesmith.core.records import Example
from tunesmith.recipes._ladder.climb import Climbed, Workshop

if TYPE_CHECKING:
    from tunesmith.data.task import Task

Templates = Literal["first", "all"]
Demonstrations = Sequence[Sequence[Example]]


def ask_draws(
    shop: Workshop,
    title: str,
    draws: Sequence[Demonstrations | None],
    seconds: float = 0.0,
    templates: Templates = "first",
    drop_shots: bool = True,
) -> Climbed:
    """Ask all items once for each draw of demonstrations, by the task's template or by each of them.

    Args:
        draws: per draw, per item, the demonstrations; None = none.
        seconds: what choosing the demonstrations took.
        templates: "all" makes every draw once a template, template by template.
        drop_shots: leave out the first demonstrations of prompts that would not fit the model.
    """
    asks = [(name, task, draw) for name, task in forms(shop.task, templates).items() for draw in draws]
    shown = [fitting(shop, task, draw, drop_shots) for _, task, draw in asks]
    # Single queries come first: they also make whatever is made on first use, which is no part of the batched time.
    latency = shop.with_task(asks[0][1]).asker().latencies(shop.items, shown[0])
    asked = []
    for number, ((_, task, _), demonstrations) in enumerate(zip(asks, shown, strict=True)):
        name = f"{title} ({number + 1} of {len(asks)})" if len(asks) > 1 else title
        asked.append(shop.with_task(task).asker().ask(shop.items, demonstrations, number, title=name))
    return Climbed(
        draws=[a.predictions for a in asked],
        evaluation_seconds=sum(a.seconds for a in asked),
        prompt_tokens=sum(a.prompt_tokens for a in asked) / len(asked),
        latency_ms=latency,
        seconds=seconds,
        notes=[*shop.prompts.remarks(), *_dropped(shop, [draw for _, _, draw in asks], shown)],
        templates=[name for name, _, _ in asks] if templates == "all" else [],
    )


def forms(task: Task, templates: Templates) -> dict[str, Task]:
    """Return the task by the name of the template it is asked with: only its first, or each."""
    names = list(task.templates) if templates == "all" else []
    return {name: task.with_template(name) for name in names} or {next(iter(task.templates), ""): task}


def fitting(shop: Workshop, task: Task, demonstrations: Demonstrations | None, drop_shots: bool) -> Demonstrations | None:
    """Return per item the demonstrations that fit the model, the last ones; all of them where none may be dropped."""
    return shop.with_task(task).asker().fitted(shop.items, demonstrations) if demonstrations and drop_shots else demonstrations


def _dropped(shop: Workshop, wanted: Sequence[Demonstrations | None], shown: Sequence[Demonstrations | None]) -> list[str]:
    pairs = [(len(w), len(s)) for ws, ss in zip(wanted, shown, strict=True) if ws and ss for w, s in zip(ws, ss, strict=True)]
    fewer = [before - after for before, after in pairs if after < before]
    if not fewer:
        return []
    return [
        f"{len(fewer):,} of {len(pairs):,} prompts would not have fitted the {shop.lm.context_length:,} tokens that "
        f"{shop.lm.name} reads, so {sum(fewer):,} of their demonstrations were left out, the first ones first"
    ]


def in_blocks(demonstrations: Sequence[Example], label_of: Callable[[Example], str]) -> list[Example]:
    """Return demonstrations label by label, in the order in which the labels first come up."""
    labels = list(dict.fromkeys(map(label_of, demonstrations)))
    return sorted(demonstrations, key=lambda example: labels.index(label_of(example)))
