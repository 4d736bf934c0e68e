"""Conventions: which columns of a file play which part, and one row's way into its canonical fields."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from tunesmith.core.errors import UserError, near_miss, unknown
from tunesmith.data._annotations import checked_answers, checked_labels, checked_tags
from tunesmith.data._convention_parts import ABOUT, CONVENTIONS, EVIDENCE, Part
from tunesmith.data._convention_row import IN_WORDS, Row, alike, kind_of, turns_in
from tunesmith.data._judgements import BUILDERS as JUDGED
from tunesmith.data._readers import RowProblem


def kinds_of(sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the most common kind of value of each column: text, number, truth, turns, answers, list, ...

    A column that fewer than half of the rows fill is marked "sparse kind": it may fill an optional part only.
    """
    seen: dict[str, Counter[str]] = {}
    for fields in sample:
        for column, value in fields.items():
            kinds = seen.setdefault(column, Counter())
            if value is not None:
                kinds[kind_of(value)] += 1
    return {
        column: ("" if 2 * kinds.total() >= len(sample) else "sparse ") + (kinds.most_common(1)[0][0] if kinds else "null")
        for column, kinds in seen.items()
    }


def detect(
    kinds: Mapping[str, str], mapping: Mapping[str, str], convention: str | None, first: Collection[str] = ()
) -> tuple[str, dict[str, str]]:
    """Choose a convention and the column of each of its parts.

    Args:
        kinds: what `kinds_of` found.
        mapping: canonical name -> column, by the user's word.
        convention: a convention by the user's word, else None.
        first: conventions that are wanted, tried before the others.

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
    for name in (*first, *(other for other in CONVENTIONS if other not in first)):
        parts = CONVENTIONS[name]
        found, missing = _match(name, kinds, mapping)
        fits = name in ("text_label", "token_tags", "span_answers", "text_labels", "columns") or set(mapping) <= {
            part.name for part in parts
        }
        if fits and not missing and ((name in first and name in JUDGED) or not _loses(name, found, kinds, mapping)):
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
    if convention == "unpaired" and not mapping:  # a label of a question and its answer may be anything
        named = found["completion"] == "completion" and kinds[found["label"]] == "truth"
        return not named and found["label"] != "kto_tag"
    if convention not in JUDGED and others.get("kto_tag") == "truth" and not mapping:
        return True
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
    return _BUILDERS[convention](Row(fields, columns))


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
        raise RowProblem(f"the label must be one word or number, and is {IN_WORDS.get(kind_of(value), 'something else')}")
    text = str(value).strip()
    whole = text.removesuffix(".0")
    if whole != text and whole.lstrip("-").isdigit():
        return whole
    return text.lower() if text in ("True", "False") else text


def _messages(row: Row) -> dict[str, Any]:
    turns = turns_in(row.need("messages"), row.columns["messages"])
    system = row.optional_text("system")
    if system.strip() and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    answers = [turn for turn in turns if turn["role"] == "assistant"]
    if not answers:
        raise RowProblem("no turn is the assistant's, so there is nothing to learn")
    if all("weight" in turn for turn in answers):
        raise RowProblem("every assistant turn has weight 0, so there is nothing to learn")
    return {"messages": turns}


def _alpaca(row: Row) -> dict[str, Any]:
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


def _prompt_completion(row: Row) -> dict[str, Any]:
    prompt, completion = alike(row, {"prompt": row.need("prompt"), "completion": row.need("completion")})
    if isinstance(completion, list) and not any(turn["role"] == "assistant" for turn in completion):
        raise RowProblem(f"no turn of '{row.columns['completion']}' is the assistant's, so there is nothing to learn")
    return {"prompt": prompt, "completion": completion}


def _text_label(row: Row) -> dict[str, Any]:
    text = row.text("text")
    if row.columns["label"] not in row.fields:
        row.need("label")
    return row.rest() | {"text": text, "label": label_text(row.fields[row.columns["label"]])}


def _token_tags(row: Row) -> dict[str, Any]:
    return row.rest() | checked_tags(_listed(row, "tokens"), [label_text(tag) for tag in _listed(row, "tags")])


def _text_labels(row: Row) -> dict[str, Any]:
    return row.rest() | {"text": row.text("text"), "labels": checked_labels([label_text(one) for one in _listed(row, "labels")])}


def _span_answers(row: Row) -> dict[str, Any]:
    context = row.text("context")
    answers = checked_answers(context, row.need("answers"))
    return row.rest() | {"context": context, "question": row.text("question"), "answers": answers}


def _listed(row: Row, part: str) -> list[Any]:
    value = row.need(part)
    if not isinstance(value, list):
        raise RowProblem(f"'{row.columns[part]}' must be a list, and is {IN_WORDS.get(kind_of(value), 'text')}")
    return value


def _columns(row: Row) -> dict[str, Any]:
    if not row.fields:
        raise RowProblem("the row has no columns")
    return row.rest()


_BUILDERS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "messages": _messages,
    "sharegpt": _messages,
    **JUDGED,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "token_tags": _token_tags,
    "span_answers": _span_answers,
    "text_labels": _text_labels,
    "text_label": _text_label,
    "text": lambda row: {"text": row.text("text")},
    "columns": _columns,
}
