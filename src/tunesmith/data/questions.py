"""Questions with every answer that counts as right; a question that nobody can answer has none.

From `bigbench:TASK` (a target, or the best choice, "Unknown" being no answer), or from a user's file with a column for the
question and one for its answers: a text, a list of texts (aliases), or nothing where there is no answer. A row whose column
`false_premise` is true asks about something that is not so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import text_hash
from tunesmith.core.records import BadRow, Example
from tunesmith.data import formats
from tunesmith.data.sources import _bigbench

_QUESTION = ("question", "input", "query", "prompt", "text")
_ANSWERS = ("answers", "answer", "aliases", "target", "gold", "label")
_NO_ANSWER = {"unknown", "unanswerable"}
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        answers: every answer that is right, the best first; empty = nobody can know, or the question assumes what is not so.
        false_premise: whether it does. where: "file:line", for messages to people.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    where: str
    false_premise: bool = False


@dataclass(frozen=True)
class Questions:
    """Questions to learn from and to be measured on, in an order that is as good as random; none is in both."""

    train: list[Question]
    test: list[Question]
    warnings: list[str]


def read_questions(name: str, seed: int = 0, *, skip_bad_rows: bool = False) -> Questions:
    """Read `bigbench:TASK` or a file; which side a question is on follows from its text alone.

    Raises:
        UserError: no such file or task, no column of questions or answers, a bad row, or no question with an answer.
    """
    warnings: list[str] = []
    found = _of_bigbench(name, warnings) if name.startswith(_bigbench.PREFIX) else _of_file(Path(name), skip_bad_rows, warnings)
    different: dict[str, Question] = {}
    for question in found:
        different.setdefault(" ".join(question.text.split()).casefold(), question)
    if len(different) < len(found):
        warnings.append(f"{len(found) - len(different):,} questions of {name} that stand twice count once")
    ordered = sorted(different.values(), key=lambda q: text_hash("order", str(seed), q.id))
    held_out = {q.id for q in ordered if int(text_hash("split", q.text.casefold()), 16) / 16**16 < _TEST_SHARE}
    return Questions([q for q in ordered if q.id not in held_out], [q for q in ordered if q.id in held_out], warnings)


def _of_bigbench(name: str, warnings: list[str]) -> list[Question]:
    parts = _bigbench.splits(name, warnings)
    return [_question(e, "input", "answers" if "answers" in e.fields else "label") for rows in parts.values() for e in rows]


def _of_file(path: Path, skip_bad_rows: bool, warnings: list[str]) -> list[Question]:
    if not path.is_file():
        raise UserError(f"there is no file of questions '{path}'", "Give a file, or bigbench:TASK.")
    sniffed = formats.sniff(path, convention="columns")
    bad = list[BadRow]()
    rows = list(formats.good_rows(sniffed, bad, skip_bad_rows=skip_bad_rows))
    columns = {key.strip().lower(): key for e in rows for key in e.fields}
    asked, said = (next((columns[c] for c in names if c in columns), None) for names in (_QUESTION, _ANSWERS))
    shown = f"its columns are {', '.join(columns.values())}"
    if asked is None:
        raise UserError(f"{path} has no column of questions: {shown}", "Call it question.")
    if said is None:
        raise UserError(f"{path} has no column of right answers: {shown}", "Call it answers: a text, or a list of texts.")
    found = []
    for example in rows:
        try:
            found.append(_question(example, asked, said))
        except UserError as error:
            if not skip_bad_rows:
                raise
            bad.append(BadRow(example.where, error.message, str(dict(example.fields))[:120]))
    if bad:
        warnings.append(f"{len(bad):,} unusable rows were left out; the first: {bad[0].where}: {bad[0].reason}")
    if not any(q.answers for q in found):
        raise UserError(f"no row of {path} has a right answer in '{said}'", "Without any, nothing can be known or unknown.")
    return found


def _question(example: Example, asked: str, said: str) -> Question:
    text = example.fields.get(asked)
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{example.where}: '{asked}' must be the text of a question, and is {text!r:.60}")
    false_premise = example.fields.get("false_premise") in (True, "true", "True", "1", 1)
    answers = _texts(example.fields.get(said), f"{example.where}: '{said}'")
    if false_premise and answers:
        raise UserError(f"{example.where}: the row has an answer and a false premise", "Leave one of them out.")
    return Question(text_hash("question", text), text.strip(), answers, example.where, false_premise)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    """Return the answers that a cell holds: nothing, a text, a number, a list, SQuAD's {"text": [...]}, or JSON of these."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return _texts(json.loads(value), where)
        except (ValueError, RecursionError):
            pass
    if value is None:
        return ()
    listed: Sequence[Any] = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in listed):
        raise UserError(f"{where} must be a text or a list of texts, and is {value!r:.60}")
    texts = [str(one).strip() for one in listed]
    return tuple(dict.fromkeys(text for text in texts if text and text.casefold() not in _NO_ANSWER))
