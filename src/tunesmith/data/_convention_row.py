"""One row of a file, seen through the columns of a convention: its texts and turns, opened and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data._readers import RowProblem

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
IN_WORDS = {
    "turns": "a list of turns",
    "list": "a list",
    "object": "an object",
    "answers": "answers",
    "truth": "true or false",
    "number": "a number",
    "judged": "a list of judged texts",
    "named ranks": "a list of ranks",
    "rated turns": "a list of turns",
}


# What a completion that is an object calls its text, its place (the least is best) and its score (the most is best).
SAID = ("text", "content", "response", "completion", "answer", "output")
PLACED = ("rank",)
SCORED = ("fine-grained_score", "overall_score", "score", "rating", "reward")


def kind_of(value: Any) -> str:
    """Return what kind of value this is, in one word that conventions ask for."""
    value = opened(value)
    if isinstance(value, list):
        return _kind_of_list(value)
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        return "answers"
    for types, kind in ((str, "text"), (bool, "truth"), ((int, float), "number"), (dict, "object")):
        if isinstance(value, types):
            return kind
    return "other"


def _kind_of_list(value: list[Any]) -> str:
    if not value or not all(isinstance(one, dict) for one in value):
        return "list"
    if all("text" in one and "answer_start" in one for one in value):
        return "answers"
    if all(_is_turn(one) for one in value):
        return "rated turns" if any(rating_in(one) is not None for one in value) else "turns"
    if all("rank" in one and "value" in one for one in value):
        return "named ranks"
    if all({*SAID} & one.keys() and {*PLACED, *SCORED} & one.keys() for one in value):
        return "judged"
    return "list"


def rating_in(turn: Mapping[str, Any]) -> Any:
    """Return the thumb that somebody gave a turn, as Open WebUI and its like keep it; None where nobody did."""
    note = turn.get("annotation")
    return note.get("rating") if isinstance(note, dict) else turn.get("rating")


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or ("from" in value and "value" in value))


def opened(value: Any) -> Any:
    """Return the turns that a CSV cell (or a doubly encoded JSON field) holds as text; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        inner = json.loads(value)
    except (ValueError, RecursionError):
        return value
    turns = inner.get("messages") if isinstance(inner, dict) else inner
    return inner if isinstance(turns, list) and turns and all(_is_turn(turn) for turn in turns) else value


@dataclass(frozen=True, slots=True)
class Row:
    """A row's fields, and the column of each part of its convention."""

    fields: Mapping[str, Any]
    columns: Mapping[str, str]

    def get(self, part: str) -> Any:
        """Return a part's value, opened; None where it is not filled."""
        column = self.columns.get(part)
        return opened(self.fields.get(column)) if column is not None else None

    def need(self, part: str) -> Any:
        """Return a part's value, opened.

        Raises:
            RowProblem: the row does not have it.
        """
        value = self.get(part)
        column = self.columns[part]
        if column not in self.fields:
            raise RowProblem(f"no '{column}' (this row has: {', '.join(list(self.fields)[:8]) or 'nothing'})")
        if value is None:
            raise RowProblem(f"'{column}' is null")
        return value

    def text(self, part: str) -> str:
        """Return a part that must be a text with something in it."""
        return text_in(self.need(part), self.columns[part])

    def optional_text(self, part: str) -> str:
        """Return a part that may be missing, "" then."""
        value = self.get(part)
        return "" if value is None or value == "" else text_in(value, self.columns[part], blank_is_fine=True)

    def rest(self) -> dict[str, Any]:
        """Return every column under its own name, or the one the mapping gives it."""
        canonical = {column: name for name, column in self.columns.items()}
        kept = {column: value for column, value in self.fields.items() if column not in canonical and column not in self.columns}
        return kept | {canonical[column]: value for column, value in self.fields.items() if column in canonical}


def text_in(value: Any, what: str, blank_is_fine: bool = False) -> str:
    """Return a value that must be text.

    Raises:
        RowProblem: it is none, or is blank; says what it is.
    """
    if not isinstance(value, str):
        kind = "null" if value is None else IN_WORDS.get(kind_of(value), "something else")
        raise RowProblem(f"'{what}' must be text, and is {kind}")
    if not value.strip() and not blank_is_fine:
        raise RowProblem(f"'{what}' is empty")
    return value


def turns_in(value: Any, what: str) -> list[dict[str, Any]]:
    """Return turns as {"role", "content"} with roles as everybody writes them.

    Raises:
        RowProblem: they are no turns, or one of them is not as it should be.
    """
    if not isinstance(value, list) or not value:
        raise RowProblem(f"'{what}' must be a list of turns, each with a role and a content")
    return [_turn(turn, f"turn {number} of '{what}'") for number, turn in enumerate(value, 1)]


def _turn(turn: Any, what: str) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise RowProblem(f"{what} must be an object with a role and a content")
    named, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    role = _ROLES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        raise RowProblem(f"{what} has the role {str(named)[:40]!r}; expected system, user, assistant or tool")
    if isinstance(content, list) and content and all(isinstance(c, dict) and isinstance(c.get("text"), str) for c in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        calls = " (tool calls cannot be learned from yet)" if turn.get("tool_calls") else ""
        raise RowProblem(f"{what} ({role}) must have text as its content{calls}")
    if role in ("user", "assistant") and not content.strip():
        raise RowProblem(f"{what} ({role}) is empty")
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise RowProblem(f"{what} has the weight {str(weight)[:20]}; expected 0 or 1")
    return {"role": role, "content": content} | ({"weight": 0} if weight is not None and weight == 0 else {})


def alike(row: Row, parts: Mapping[str, Any]) -> list[Any]:
    """Return all parts as texts, or all as turns where one of them is."""
    as_turns = any(isinstance(value, list) for value in parts.values())
    values: list[Any] = []
    for part, value in parts.items():
        if as_turns and isinstance(value, list):
            values.append(turns_in(value, row.columns[part]))
        else:
            text = text_in(value, row.columns[part])
            values.append([{"role": "user" if part == "prompt" else "assistant", "content": text}] if as_turns else text)
    return values
