"""Conventions: which columns of a file play which part, and one row's way into its canonical fields."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.errors import UserError, near_miss, unknown
from tunesmith.data._annotations import checked_answers, checked_labels, checked_tags
from tunesmith.data._convention_parts import ABOUT, CONVENTIONS, EVIDENCE, Part
from tunesmith.data._readers import RowProblem

_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
_IN_WORDS = {
    "turns": "a list of turns",
    "list": "a list",
    "object": "an object",
    "answers": "answers",
    "truth": "true or false",
    "number": "a number",
}


def kinds_of(sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the most common kind of value of each column: text, number, truth, turns, answers, list or object.

    A column that fewer than half of the rows fill is marked "sparse kind": it may fill an optional part only.
    """
    seen: dict[str, Counter[str]] = {}
    for fields in sample:
        for column, value in fields.items():
            kinds = seen.setdefault(column, Counter())
            if value is not None:
                kinds[_kind(value)] += 1
    return {
        column: ("" if 2 * kinds.total() >= len(sample) else "sparse ") + (kinds.most_common(1)[0][0] if kinds else "null")
        for column, kinds in seen.items()
    }


def _kind(value: Any) -> str:
    value = _opened(value)
    if isinstance(value, list):
        if value and all(isinstance(one, dict) and "text" in one and "answer_start" in one for one in value):
            return "answers"
        return "turns" if value and all(_is_turn(turn) for turn in value) else "list"
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        return "answers"
    for types, kind in ((str, "text"), (bool, "truth"), ((int, float), "number"), (dict, "object")):
        if isinstance(value, types):
            return kind
    return "other"


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or ("from" in value and "value" in value))


def _opened(value: Any) -> Any:
    """Return the turns that a CSV cell (or a doubly encoded JSON field) holds as text; any other value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        inner = json.loads(value)
    except (ValueError, RecursionError):
        return value
    turns = inner.get("messages") if isinstance(inner, dict) else inner
    return inner if isinstance(turns, list) and turns and all(_is_turn(turn) for turn in turns) else value


def detect(kinds: Mapping[str, str], mapping: Mapping[str, str], convention: str | None) -> tuple[str, dict[str, str]]:
    """Choose a convention and the column of each of its parts.

    Args:
        kinds: what `kinds_of` found.
        mapping: canonical name -> column, by the user's word.
        convention: a convention by the user's word, else None.

    Raises:
        UserError: a column or a convention does not exist, or the convention's parts are not in the file.
    """
    for name, column in mapping.items():
        if column not in kinds:
            raise UserError(f"there is no column '{column}' to use as '{name}'", near_miss(column, kinds))
    if convention is not None:
        if convention not in CONVENTIONS:
            raise unknown("convention", convention, CONVENTIONS)
        found, missing = _match(convention, kinds, mapping)
        if missing:
            raise UserError(
                f"the convention '{convention}' needs a column for '{missing.name}', and the columns are {', '.join(kinds)}",
                f"Say which column it is in a task YAML: map: {{{missing.name}: COLUMN}}.",
            )
        return convention, found
    for name, parts in CONVENTIONS.items():
        found, missing = _match(name, kinds, mapping)
        fits = name in ("text_label", "token_tags", "span_answers", "text_labels", "columns") or set(mapping) <= {
            part.name for part in parts
        }
        if fits and not missing and not _loses(name, found, kinds, mapping):
            return name, found
    raise AssertionError("the convention 'columns' fits every file")


def _match(convention: str, kinds: Mapping[str, str], mapping: Mapping[str, str]) -> tuple[dict[str, str], Part | None]:
    found, taken = dict(mapping), set(mapping.values())
    for part in CONVENTIONS[convention]:
        if part.name in mapping:
            continue
        allowed = part.kinds if part.required else part.kinds | {f"sparse {kind}" for kind in part.kinds}
        free = [column for column, kind in kinds.items() if column not in taken and kind in allowed]
        columns = {column.strip().lower(): column for column in reversed(free)}
        column = next((columns[alias] for alias in part.columns if alias in columns), None)
        if column is not None:
            found[part.name] = column
            taken.add(column)
        elif part.required:
            return found, part
    return found, None


def _loses(convention: str, found: Mapping[str, str], kinds: Mapping[str, str], mapping: Mapping[str, str]) -> bool:
    """Whether a convention would lose what the rows mean: evidence for an answer, or whether it was a good one."""
    others = {column.strip().lower(): kind for column, kind in kinds.items() if column not in found.values()}
    if convention == "prompt_completion" and not mapping:
        named_so = found["prompt"] == "prompt" and found["completion"] == "completion"
        judged = others.get("label") in ("truth", "number") or "kto_tag" in others
        return judged or (not named_so and bool(EVIDENCE & others.keys()))
    if convention == "text_label" and not mapping:
        return bool({"completion", "kto_tag"} & others.keys())
    return convention == "text" and bool(others.keys() - ABOUT) and "text" not in mapping


def build(convention: str, columns: Mapping[str, str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row's canonical fields.

    Raises:
        RowProblem: a part is missing, empty or of the wrong kind; says what was expected.
    """
    return _BUILDERS[convention](_Row(fields, columns))


@dataclass(frozen=True, slots=True)
class _Row:
    fields: Mapping[str, Any]
    columns: Mapping[str, str]

    def get(self, part: str) -> Any:
        """Return a part's value, opened; None where it is not filled."""
        column = self.columns.get(part)
        return _opened(self.fields.get(column)) if column is not None else None

    def need(self, part: str) -> Any:
        value = self.get(part)
        column = self.columns[part]
        if column not in self.fields:
            raise RowProblem(f"no '{column}' (this row has: {', '.join(list(self.fields)[:8]) or 'nothing'})")
        if value is None:
            raise RowProblem(f"'{column}' is null")
        return value

    def text(self, part: str) -> str:
        return _text(self.need(part), self.columns[part])

    def optional_text(self, part: str) -> str:
        value = self.get(part)
        return "" if value is None or value == "" else _text(value, self.columns[part], blank_is_fine=True)

    def rest(self) -> dict[str, Any]:
        """Return every column under its own name, or the one the mapping gives it."""
        canonical = {column: name for name, column in self.columns.items()}
        kept = {column: value for column, value in self.fields.items() if column not in canonical and column not in self.columns}
        return kept | {canonical[column]: value for column, value in self.fields.items() if column in canonical}


def _text(value: Any, what: str, blank_is_fine: bool = False) -> str:
    if not isinstance(value, str):
        kind = "null" if value is None else _IN_WORDS.get(_kind(value), "something else")
        raise RowProblem(f"'{what}' must be text, and is {kind}")
    if not value.strip() and not blank_is_fine:
        raise RowProblem(f"'{what}' is empty")
    return value


def label_text(value: Any) -> str:
    """Return a label as text, the same from every container: 1, 1.0 and "1.0" -> "1"; true and "True" -> "true"; outer spaces go.

    Raises:
        RowProblem: the value is null, empty, a list or an object.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowProblem("the label is empty")
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)):
        raise RowProblem(f"the label must be one word or number, and is {_IN_WORDS.get(_kind(value), 'something else')}")
    text = str(value).strip()
    whole = text.removesuffix(".0")
    if whole != text and whole.lstrip("-").isdigit():
        return whole
    return text.lower() if text in ("True", "False") else text


def _turns(value: Any, what: str) -> list[dict[str, Any]]:
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


def _messages(row: _Row) -> dict[str, Any]:
    turns = _turns(row.need("messages"), row.columns["messages"])
    system = row.optional_text("system")
    if system.strip() and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if not answers:
        raise RowProblem("no turn is the assistant's, so there is nothing to learn")
    if all("weight" in turn for turn in answers):
        raise RowProblem("every assistant turn has weight 0, so there is nothing to learn")
    return {"messages": turns}


def _alpaca(row: _Row) -> dict[str, Any]:
    system, extra = row.optional_text("system"), row.optional_text("input")
    turns = [{"role": "system", "content": system}] if system.strip() else []
    for question, answer in _history(row.get("history")):
        turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = row.text("instruction") + ("\n" + extra if extra.strip() else "")
    answer = row.text("output")
    return {"messages": [*turns, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _history(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowProblem("'history' must be a list of [question, answer] pairs") from None
    if value is None or value == "" or value == []:
        return []
    pairs = value if isinstance(value, list) else [value]
    if not all(isinstance(p, (list, tuple)) and len(p) == 2 and all(isinstance(t, str) and t.strip() for t in p) for p in pairs):
        raise RowProblem("'history' must be a list of [question, answer] pairs")
    return [(question, answer) for question, answer in pairs]


def _prompt_completion(row: _Row) -> dict[str, Any]:
    prompt, completion = _alike(row, {"prompt": row.need("prompt"), "completion": row.need("completion")})
    if isinstance(completion, list) and not any(turn["role"] == "assistant" for turn in completion):
        raise RowProblem(f"no turn of '{row.columns['completion']}' is the assistant's, so there is nothing to learn")
    return {"prompt": prompt, "completion": completion}


def _alike(row: _Row, parts: Mapping[str, Any]) -> list[Any]:
    """Return all parts as texts, or all as turns where one of them is."""
    as_turns = any(isinstance(value, list) for value in parts.values())
    values: list[Any] = []
    for part, value in parts.items():
        if as_turns and isinstance(value, list):
            values.append(_turns(value, row.columns[part]))
        else:
            text = _text(value, row.columns[part])
            values.append([{"role": "user" if part == "prompt" else "assistant", "content": text}] if as_turns else text)
    return values


def _preference(row: _Row) -> dict[str, Any]:
    chosen, rejected, prompt = row.need("chosen"), row.need("rejected"), row.get("prompt")
    prompt = prompt.get("messages") if isinstance(prompt, dict) else prompt
    if "prompt" in row.columns:
        if prompt is None:
            raise RowProblem(f"'{row.columns['prompt']}' is missing or null")
        prompt, chosen, rejected = _alike(row, {"prompt": prompt, "chosen": chosen, "rejected": rejected})
        if isinstance(prompt, list) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    else:
        chosen, rejected = _alike(row, {"chosen": chosen, "rejected": rejected})
        shared = _shared_beginning(chosen, rejected)
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if chosen == rejected:
        raise RowProblem("chosen and rejected are the same")
    if not prompt:
        raise RowProblem("there is no prompt, and chosen and rejected do not begin alike")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or (isinstance(answer, str) and not answer.strip()):
            raise RowProblem(f"nothing is left of '{name}' after the prompt")
        if isinstance(answer, list) and answer[-1]["role"] != "assistant":
            raise RowProblem(f"the last turn of '{name}' must be the assistant's")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _shared_beginning(chosen: Any, rejected: Any) -> int:
    """Return how many turns or characters are the implicit prompt: the longest common beginning, cut at a word."""
    differ = (at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
    shared = chosen[: next(differ, min(len(chosen), len(rejected)))]
    if isinstance(shared, list):
        return len(shared)
    turn = shared.rfind("\n\nAssistant:")
    if turn >= 0:
        return turn + len("\n\nAssistant:")
    return max((at for at, letter in enumerate(shared) if letter.isspace()), default=0)


def _text_label(row: _Row) -> dict[str, Any]:
    text = row.text("text")
    if row.columns["label"] not in row.fields:
        row.need("label")
    return row.rest() | {"text": text, "label": label_text(row.fields[row.columns["label"]])}


def _token_tags(row: _Row) -> dict[str, Any]:
    return row.rest() | checked_tags(_listed(row, "tokens"), [label_text(tag) for tag in _listed(row, "tags")])


def _text_labels(row: _Row) -> dict[str, Any]:
    return row.rest() | {"text": row.text("text"), "labels": checked_labels([label_text(one) for one in _listed(row, "labels")])}


def _span_answers(row: _Row) -> dict[str, Any]:
    context = row.text("context")
    answers = checked_answers(context, row.need("answers"))
    return row.rest() | {"context": context, "question": row.text("question"), "answers": answers}


def _listed(row: _Row, part: str) -> list[Any]:
    value = row.need(part)
    if not isinstance(value, list):
        raise RowProblem(f"'{row.columns[part]}' must be a list, and is {_IN_WORDS.get(_kind(value), 'text')}")
    return value


def _columns(row: _Row) -> dict[str, Any]:
    if not row.fields:
        raise RowProblem("the row has no columns")
    return row.rest()


_BUILDERS: dict[str, Callable[[_Row], dict[str, Any]]] = {
    "messages": _messages,
    "sharegpt": _messages,
    "preference": _preference,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "token_tags": _token_tags,
    "span_answers": _span_answers,
    "text_labels": _text_labels,
    "text_label": _text_label,
    "text": lambda row: {"text": row.text("text")},
    "columns": _columns,
}
