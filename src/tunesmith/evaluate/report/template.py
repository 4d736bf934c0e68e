"""Pages from templates: escaped throughout, with one style, the same bytes for the same input."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tunesmith.evaluate.report import numbers


def _minus(text: str) -> str:
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text)


def _prose(text: str) -> str:
    """A sentence of ours: real minus signs, and no line break inside "p < 0.001"."""
    return re.sub(r" ([<=]) (?=\d)", "\u00a0\\1\u00a0", _minus(numbers.clean(text)))


_FILTERS: dict[str, Callable[..., str]] = {
    "clean": numbers.clean,
    "prose": _prose,
    "count": numbers.count,
    "duration": numbers.duration,
    "fixed": lambda value, places=3: _minus(numbers.fixed(value, places)),
    "milliseconds": numbers.milliseconds,
    "p_value": numbers.p_value,
    "parameters": numbers.parameters,
    "percent": numbers.percent,
    "price": numbers.price,
    "rows": numbers.rows,
    "signed": lambda value, places=2: _minus(numbers.signed(value, places)),
}


def render(name: str, context: Mapping[str, Any]) -> str:
    """Return the page that template `name` makes of a context. Every text that is not marked as HTML is escaped."""
    environment = Environment(
        loader=FunctionLoader(lambda stem: _file(f"{stem}.html.j2")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals["interval"] = lambda value, low, high: _minus(numbers.interval(value, low, high, 3))
    html = environment.get_template(name).render(style=Markup(_file("style.css")), **context)
    return numbers.clean(html)


def _file(name: str) -> str:
    return (resources.files("tunesmith.evaluate.report") / name).read_text(encoding="utf-8")
