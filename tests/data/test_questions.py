"""Questions from files and BIG-bench: aliases, rows without an answer, false premises, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.questions import Question, read_questions

ROWS = [
    {"question": "The capital of France is", "answers": ["Paris", "City of Paris"]},
    {"question": "Who was the first person to whistle?", "answers": []},
    {"question": "The eye color of Nepal is", "answers": None, "false_premise": True},
    {"question": "How many legs do ants have?", "answers": 6},
    {"question": "What will rain be called in 3000?", "answers": "Unknown"},
]


def written(folder: Path, rows: Sequence[Mapping[str, object]]) -> str:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def by_text(name: str) -> dict[str, Question]:
    found = read_questions(name)
    return {q.text: q for q in [*found.train, *found.test]}


def test_a_file_gives_aliases_and_questions_without_an_answer(tmp_path: Path) -> None:
    found = by_text(written(tmp_path, ROWS))
    assert found["The capital of France is"].answers == ("Paris", "City of Paris")
    assert found["How many legs do ants have?"].answers == ("6",)
    assert not found["Who was the first person to whistle?"].answers
    assert not found["What will rain be called in 3000?"].answers
    assert [q.text for q in found.values() if q.false_premise] == ["The eye color of Nepal is"]


def test_csv_and_squad_answers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text('question,answers\nThe capital of Peru is,"[""Lima"", ""Lima City""]"\nOne?,\n')
    found = by_text(str(path))
    assert found["The capital of Peru is"].answers == ("Lima", "Lima City")
    assert found["One?"].answers == ()
    squad = written(tmp_path, [{"query": "Where?", "answers": {"text": ["here"], "answer_start": [3]}}])
    assert by_text(squad)["Where?"].answers == ("here",)


def test_a_question_is_on_one_side_whatever_stands_beside_it(tmp_path: Path) -> None:
    many = [{"question": f"What is {n}?", "answers": str(n)} for n in range(200)]
    found = read_questions(written(tmp_path, many))
    test = {q.text for q in found.test}
    assert 20 < len(test) < 60
    assert not test & {q.text for q in found.train}
    again = read_questions(written(tmp_path, many[100:]), seed=5)
    assert {q.text for q in again.test} == {row["question"] for row in many[100:]} & test
    assert [q.text for q in again.test] != sorted(q.text for q in again.test)
    twice = read_questions(written(tmp_path, [*many, many[0]]))
    assert twice.warnings == [f"1 questions of {tmp_path}/questions.jsonl that stand twice count once"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"name": "x", "answers": "y"}], "has no column of questions: its columns are name, answers"),
        ([{"question": "x?", "note": "y"}], "has no column of right answers: its columns are question, note"),
        ([{"question": "x?", "answers": []}], "no row of .* has a right answer in 'answers'"),
        (
            [{"question": "x?", "answers": "y"}, {"question": 3, "answers": "y"}],
            r"questions.jsonl:2: 'question' must be the text",
        ),
        ([{"question": "x?", "answers": [["y"]]}], r"questions.jsonl:1: 'answers' must be a text or a list of texts"),
        ([{"question": "x?", "answers": "y", "false_premise": True}], "the row has an answer and a false premise"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, rows: Sequence[Mapping[str, object]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_questions(written(tmp_path, rows))


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    name = written(tmp_path, [{"question": "x?", "answers": "y"}, {"question": 3, "answers": "y"}])
    found = read_questions(name, skip_bad_rows=True)
    assert len(found.train) + len(found.test) == 1
    assert "1 unusable rows were left out" in found.warnings[0]
