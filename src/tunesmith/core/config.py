"""Configuration: frozen pydantic models, YAML files, `a.b=c` overrides, and errors that name the near miss."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tunesmith.core.errors import UserError, near_miss


class Config(BaseModel):
    """Base of every configuration and every entry's `Parameters`: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML with what people mean: yes, no, 12:30, 007 and 2024-01-31 are text, 1e-4 is a number, a key stands once."""

    # Version 1.1 of YAML, which the library reads, guesses more than anyone expects of a file with labels in it.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a key that stands twice is an error, for one of its values would be lost."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key '{key.value}' stands twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_WHOLE = r"(?:0|[1-9][0-9]*)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", rf"[-+]?{_WHOLE}", "-+0123456789"),
    ("float", rf"[-+]?(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def parse_value(text: str) -> Any:
    """Read one value from a command line as YAML would: 8 -> int, 1e-4 -> float, true -> bool, a,b stays a string."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text


def set_key(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries in place; a plain string on the way becomes {"name": string}.

    Raises:
        UserError: something on the way is a list or a number, which has no keys.
    """
    *path, last = dotted.split(".")
    for key in path:
        inner = values.get(key)
        if isinstance(inner, str):
            inner = {"name": inner}
        if not isinstance(inner, Mapping | None):
            raise UserError(f"cannot set '{dotted}': '{key}' is {inner!r:.60}, which has no keys")
        values[key] = inner = dict(inner or {})
        values = inner
    existing = values.get(last)
    if isinstance(existing, Mapping) and "name" in existing and isinstance(value, str):
        value = {**existing, "name": value}
    values[last] = value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, is not YAML or does not hold a mapping; names the line.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(f"there is no file '{path}'", "Check the path.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start})", "Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line} is not valid YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values", "For example 'model: smollm2'.")
    return content


def validate(model: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build a configuration, turning pydantic's report into one readable line per mistake.

    Args:
        where: what is being configured, for messages ("tune", "task mine.yaml", "route 'lora'").

    Raises:
        UserError: an unknown key (with its near miss), a missing key or a value that does not fit.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors()]
        raise UserError(
            f"{where}: {lines[0][0]}", " ".join(filter(None, [lines[0][1], *(f"Also: {m}. {f}".strip() for m, f in lines[1:])]))
        ) from None


def _explain(model: type[Config], problem: Mapping[str, Any]) -> tuple[str, str]:
    path = [str(p) for p in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return f"unknown key '{key}'", near_miss(path[-1], known)
    if problem["type"] == "missing":
        return f"'{key}' is missing", ""
    message = problem["msg"].removeprefix("Value error, ")
    return (f"{key}: {message} (got {problem['input']!r:.80})" if key else message), ""


def _fields_at(model: type[Config], path: list[str]) -> list[str]:
    for key in path:
        annotation = model.model_fields[key].annotation if key in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, Config)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)
