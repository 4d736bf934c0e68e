"""Rooms of entries: one file, one entry, its name the file's stem.

A registry is asked only where a string from a configuration or a command line meets code; code that knows what it
wants imports it. Listing a room reads file names and never imports an entry, so `tunesmith --help` stays light.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, unknown

_ROOT = Path(__file__).parent.parent


class Registry:
    """The entries of one room.

    Args:
        room: folder below `tunesmith`, for example "metrics" or "recipes/routes".
        kind: what an entry is called in messages, for example "metric".
        of: a room whose entries are entries here too, unless a file here has their name. `made(entry)` in the helper
            that is called like that room ("_peft.py") says what they are here.
    """

    def __init__(self, room: str, kind: str, of: Registry | None = None) -> None:
        self.room, self.kind, self.of = room, kind, of
        self.folder = _ROOT / room

    def names(self) -> list[str]:
        """Return the entry names, sorted, without importing any. Helpers start with `_` and are not entries."""
        return sorted({*self._own(), *(self.of.names() if self.of else ())})

    def _own(self) -> set[str]:
        return {f.stem.replace("_", "-") for f in self.folder.glob("*.py") if not f.stem.startswith("_")}

    def get(self, name: str) -> Any:
        """Import one entry, a module or what `made` gives. Hyphen and underscore are the same.

        Raises:
            UserError: there is no such entry; the message has a near miss.
        """
        canonical = name.replace("_", "-")
        if canonical not in self.names():
            raise unknown(self.kind, name, self.names())
        package = f"tunesmith.{self.room.replace('/', '.')}"
        if self.of and canonical not in self._own():
            return importlib.import_module(f"{package}._{self.of.room}").made(self.of.get(canonical))
        return importlib.import_module(f"{package}.{canonical.replace('-', '_')}")

    def summary(self, name: str) -> str:
        """Return the first line of an entry's docstring, read from the file and not by importing it."""
        if self.of and name not in self._own():
            return self.of.summary(name)
        source = (self.folder / f"{name.replace('-', '_')}.py").read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(source)) or ""
        return docstring.split("\n", 1)[0]

    def parameters(self, spec: str | Mapping[str, Any]) -> tuple[Any, Any]:
        """Resolve "lora", "lora:rank=8,alpha=16" or {"name": "lora", "rank": 8} to an entry and its parameters.

        Returns:
            The entry and an instance of its `Parameters`.

        Raises:
            UserError: unknown entry, unknown parameter or a value of the wrong type.
        """
        from tunesmith.core.config import parse_value, validate

        given = {"name": spec} if isinstance(spec, str) else dict(spec)
        named = given.pop("name", "")
        # Parameters may stand in the name and beside it: --peft lora:alpha=16 --peft.rank 8.
        name, _, rest = (named if isinstance(named, str) else "").partition(":")
        if not name:
            raise UserError(f"a {self.kind} needs a name", f"Known: {', '.join(self.names())}.")
        inner: dict[str, Any] = {}
        for pair in filter(None, rest.split(",")):
            key, equals, value = pair.partition("=")
            if not equals:
                raise UserError(f"cannot read '{pair}' in {self.kind} '{named}'", "Write it as name:key=value,key=value.")
            inner[key.strip()] = parse_value(value)
        entry = self.get(name)
        return entry, validate(entry.Parameters, {**inner, **given}, f"{self.kind} '{name}'")


METRICS = Registry("metrics", "metric")
SOURCES = Registry("data/sources", "data source")
DEMONSTRATIONS = Registry("data/demonstrations", "demonstration choice")
RETRIEVERS = Registry("retrieval/retrievers", "retriever")
PEFT = Registry("peft", "peft method")
OBJECTIVES = Registry("objectives", "objective")
ADVANTAGES = Registry("rl/advantages", "advantage estimator")
CALIBRATORS = Registry("evaluate/calibrators", "calibrator")
ENGINES = Registry("train/engines", "engine")
TRACKERS = Registry("train/trackers", "tracker")
ROUTES = Registry("recipes/routes", "route", of=PEFT)
BASELINES = Registry("recipes/baselines", "baseline")
ALIGNERS = Registry("recipes/aligners", "alignment method")
SCORERS = Registry("recipes/scorers", "scorer")
TUNINGS = Registry("recipes/tunings", "objective")
PLANS = Registry("recipes/plans", "plan")
RECIPES = Registry("recipes", "command")
ROOMS = (
    METRICS, SOURCES, DEMONSTRATIONS, RETRIEVERS, PEFT, OBJECTIVES, ADVANTAGES, CALIBRATORS, ENGINES, TRACKERS, ROUTES,
    BASELINES, TUNINGS, ALIGNERS, SCORERS, PLANS, RECIPES,
)  # fmt: skip
