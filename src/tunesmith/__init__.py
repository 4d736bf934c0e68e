"""Tunesmith: take any language model to a task by every route, and prove which route is worth its cost."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "load": "tunesmith.recipes._open.opening",
    "score": "tunesmith.models.score",
    "generate": "tunesmith.models.generate",
    "ladder": "tunesmith.recipes.ladder:run",
    "LadderConfig": "tunesmith.recipes.ladder:Config",
    "prompt": "tunesmith.recipes.prompt:run",
    "PromptConfig": "tunesmith.recipes.prompt:Config",
    "tune": "tunesmith.recipes.tune:run",
    "TuneConfig": "tunesmith.recipes.tune:Config",
}
__all__ = ["LadderConfig", "PromptConfig", "TuneConfig", "__version__", "generate", "ladder", "load", "prompt", "score", "tune"]


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import tunesmith` stays light.
    if name not in _WHERE:
        raise AttributeError(f"module 'tunesmith' has no attribute '{name}'")
    module, _, attribute = _WHERE[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted(__all__)
