"""Rows with tags, several labels or spans: how files of them are read, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data import formats
from tunesmith.data.task import load_task

TAGGED = {"tokens": ["Ana", "sees", "Rome"], "tags": ["B-PER", "O", "B-LOC"]}
ASKED = {"context": "Ana is in Rome", "question": "where?", "answers": {"text": ["Rome"], "answer_start": [10]}}
LABELLED = {"text": "a cup final", "labels": ["sport", "news"]}


def written(folder: Path, *rows: dict[str, Any], copies: int = 1) -> Path:
    """Write rows, each as often as asked for, with another number at the end of its texts."""
    path = folder / "rows.jsonl"
    lines = [json.dumps(numbered(row, n)) for n in range(copies) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Make a row another one."""
    if "tokens" in row:
        return {"tokens": [*row["tokens"], str(number)], "tags": [*row["tags"], "O"]}
    return {**row, **{name: f"{row[name]} {number}" for name in ("context", "text") if name in row}}


@pytest.mark.parametrize(
    ("row", "convention"), [(TAGGED, "token_tags"), (ASKED, "span_answers"), (LABELLED, "text_labels")]
)  # fmt: skip
def test_the_convention_is_told(tmp_path: Path, row: dict[str, Any], convention: str) -> None:
    assert formats.sniff(written(tmp_path, row)).convention == convention


def test_a_text_with_a_label_and_a_list_beside_it_is_what_it_was(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": "a", "label": "x", "tags": ["one", "two"]})
    assert formats.sniff(path).convention == "text_label"


def test_answers_in_other_words_are_left_as_columns(tmp_path: Path) -> None:
    path = written(tmp_path, {"context": "a b", "question": "c?", "answers": ["a", "b"]})
    assert formats.sniff(path).convention == "columns"


def test_original_squad_answers_are_read_alike(tmp_path: Path) -> None:
    row = {**ASKED, "answers": [{"text": "Rome", "answer_start": 10}]}
    assert next(iter(formats.rows(written(tmp_path, row)))).fields["answers"] == ASKED["answers"]  # type: ignore[union-attr]


def test_answers_of_several_parts_have_a_text(tmp_path: Path) -> None:
    other = {**ASKED, "context": "Bob is in Oslo", "answers": {"text": ["Oslo", "in Oslo"], "answer_start": [10, 7]}}
    task = load_task(str(written(tmp_path, ASKED, other, copies=20)))
    assert {task.golds(e) for e in task.splits.train} == {("Rome",), ("Oslo", "in Oslo")}
    assert {task.gold(e) for e in task.splits.train} == {"Rome", "Oslo"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**TAGGED, "tags": ["O"]}, "rows.jsonl:1: there are 4 tokens and 2 tags; every token needs one tag"),
        ({**TAGGED, "tokens": ["Ana", "sees it", "Rome"]}, "the token 'sees it' is not one word"),
        (
            {**ASKED, "answers": {"text": ["Oslo"], "answer_start": [10]}},
            "not at character 10 of the context; it is nowhere",
        ),
        ({**ASKED, "answers": {"text": ["Rome"], "answer_start": [9]}}, "not at character 9 of the context; it stands at 10"),
        ({**ASKED, "answers": {"text": ["n"], "answer_start": []}}, "stands in the context 2 times; give answer_start"),
        ({**LABELLED, "labels": ["a,b"]}, "the label 'a,b' holds a comma"),
        ({**LABELLED, "labels": ["a", "a"]}, "the label 'a' stands twice"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    good = next(g for g in (TAGGED, ASKED, LABELLED) if g.keys() == row.keys())
    path = written(tmp_path, row, good, copies=20)
    with pytest.raises(UserError) as error:
        load_task(str(path))
    assert said in error.value.message
    task = load_task(str(path), skip_bad_rows=True)
    assert len(task.splits.bad) == 20
