"""Answers that are more than one word: a tag for each token, several labels, places in a passage; in rows and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.data._readers import RowProblem

TAGS, LABELS, ANSWERS = "tags", "labels", "answers"
BETWEEN_LABELS = ", "


def checked_tags(tokens: Sequence[Any], tags: Sequence[str]) -> dict[str, list[str]]:
    """Return the fields of a sentence whose every token has a tag.

    Raises:
        RowProblem: as many tags as tokens are needed, tokens must be text, and neither may hold white space.
    """
    if len(tokens) != len(tags):
        raise RowProblem(f"there are {len(tokens):,} tokens and {len(tags):,} tags; every token needs one tag")
    if not tokens:
        raise RowProblem("there are no tokens")
    for what, words in (("token", tokens), ("tag", tags)):
        if odd := [word for word in words if not isinstance(word, str) or not word or word.split() != [word]]:
            raise RowProblem(f"the {what} {odd[0]!r:.40} is not one word")
    return {"tokens": list(tokens), "tags": list(tags)}


def checked_labels(labels: Sequence[str]) -> list[str]:
    """Return a text's labels, sorted; there may be none.

    Raises:
        RowProblem: a label stands twice, or holds the comma that parts labels.
    """
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise RowProblem(f"the label '{twice[0]}' stands twice")
    if comma := [label for label in labels if "," in label]:
        raise RowProblem(f"the label '{comma[0]}' holds a comma, which parts labels")
    return sorted(labels)


def checked_answers(context: str, answers: Any) -> dict[str, list[Any]]:
    """Return the answers of a question as SQuAD writes them: {"text": texts, "answer_start": first characters}.

    Args:
        answers: {"text": [...], "answer_start": [...]}, or a list of {"text", "answer_start"}. None = the passage has no
            answer. A start may be left out where the text stands in the passage only once.

    Raises:
        RowProblem: not of this form, or an answer does not stand where it should.
    """
    pairs = _pairs(answers)
    starts = []
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip():
            raise RowProblem("an answer is empty; a question without an answer has no answers at all: []")
        if start is None:
            if context.count(text) != 1:
                raise RowProblem(f"the answer {text!r:.60} stands in the context {context.count(text)} times; give answer_start")
            start = context.index(text)
        if not isinstance(start, int) or isinstance(start, bool) or start < 0 or not context.startswith(text, start):
            stands = f"it stands at {context.index(text)}" if text in context else "it is nowhere in it"
            raise RowProblem(f"the answer {text!r:.60} is not at character {start} of the context; {stands}")
        starts.append(start)
    return {"text": [text for text, _ in pairs], "answer_start": starts}


def _pairs(answers: Any) -> list[tuple[Any, Any]]:
    if isinstance(answers, list) and all(isinstance(one, Mapping) and "text" in one for one in answers):
        return [(one["text"], one.get("answer_start")) for one in answers]
    if isinstance(answers, Mapping) and isinstance(texts := answers.get("text"), list):
        starts = answers.get("answer_start") or [None] * len(texts)
        if isinstance(starts, list) and len(starts) == len(texts):
            return list(zip(texts, starts, strict=True))
        raise RowProblem(f"there are {len(texts)} answers, and answer_start does not give a number for each")
    raise RowProblem('answers must be {"text": [...], "answer_start": [...]}, or a list of {"text": ..., "answer_start": ...}')


def said(name: str, value: Any) -> tuple[str, ...] | None:
    """Return an answer of several parts as the texts that all count as right, the first as it is to be said.

    None where a field of this name holds one text or number. Tags stand after each other, labels behind commas; no answer is "".
    """
    if name == ANSWERS and isinstance(value, Mapping) and isinstance(value.get("text"), list):
        return tuple(dict.fromkeys(value["text"])) or ("",)
    if name in (TAGS, LABELS) and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ((BETWEEN_LABELS if name == LABELS else " ").join(value),)
    return None
