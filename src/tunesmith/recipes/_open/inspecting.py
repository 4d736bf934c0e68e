"""What an adapter carries beside its own tensors, for `tunesmith inspect adapter`."""

from __future__ import annotations

from typing import Any

from tunesmith.models.load import LM
from tunesmith.peft._files import heads_in
from tunesmith.peft._heads import modules_named
from tunesmith.recipes._open.tuned import Rewards, Tuned

_UNNAMED = ("text-to-text", "span", "regression")


def lm_of(opened: LM | Tuned | Rewards) -> LM:
    """Return the model itself."""
    return opened if isinstance(opened, LM) else opened.lm


def head_of(opened: LM | Tuned | Rewards, saved: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an adapter is for (an objective of `tune`, or "reward"), the modules that were trained whole with their
    number of parameters, the labels of a classifier and the tasks it knows; None where it goes on with text.

    Args:
        saved: its `adapter_config.json`.
    """
    if isinstance(opened, LM):
        return None
    trained = modules_named(opened.lm.model, heads_in(saved))
    tuned = opened if isinstance(opened, Tuned) else None
    labels = opened.lm.model.config.id2label if tuned and tuned.objective not in _UNNAMED else {}
    return {
        "for": tuned.objective if tuned else "reward", "modules": heads_in(saved), "labels": [*labels.values()],
        "parameters": sum(p.numel() for p in trained.values()), "tasks": [*tuned.tasks] if tuned else [],
    }  # fmt: skip


def head_in_words(head: dict[str, Any] | None) -> list[str]:
    """Return it as a line, or none, for a terminal."""
    if head is None:
        return []
    tasks = f" on {', '.join(head['tasks'])}" if head["tasks"] else ""
    labels = f"; labels {', '.join(head['labels'])}" if head["labels"] else ""
    what = f"{', '.join(head['modules'])}, {head['parameters']:,} parameters" if head["modules"] else "none"
    return [f"  for {head['for']}{tasks}; head: {what}{labels}"]
