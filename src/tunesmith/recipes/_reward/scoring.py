"""Opening whoever judges answers, by what a configuration calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.core.registry import SCORERS
from tunesmith.recipes._reward.files import Trunk
from tunesmith.train.rollouts import Scorer


def open_scorer(spec: str | Mapping[str, Any], trunk: Trunk | None = None) -> Scorer:
    """Open who judges: "FILE.py:FUNCTION", a scorer's name, or its name with parameters.

    Args:
        trunk: a policy's bare model, which a reward model may share.

    Raises:
        UserError: there is no such scorer.
    """
    entry, parameters = _named(spec)
    opened: Scorer = entry.open(parameters, trunk) if vars(entry).get("SHARES_TRUNK") else entry.open(parameters)
    return opened


def identity_of(spec: str | Mapping[str, Any]) -> Any:
    """Return what tells a scorer from another one of the same name: a hash of its weights; None where it has none.

    Raises:
        UserError: there is no such scorer.
    """
    entry, parameters = _named(spec)
    return entry.identity(parameters) if hasattr(entry, "identity") else None


def _named(spec: str | Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the entry of a scorer and its parameters."""
    if isinstance(spec, str) and ".py:" in spec and not spec.startswith("function:"):
        spec = {"name": "function", "path": spec}
    return SCORERS.parameters(spec)
