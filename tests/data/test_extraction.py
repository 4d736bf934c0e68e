"""Answers are read as a person would read them, and votes are counted as the paper counts them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.records import Example
from tunesmith.data.extraction import Extraction, canonical, extraction_for, number, same, vote
from tunesmith.data.task import Task, load_task

NUMBER = Extraction("number", {})
TEXT = Extraction("text", {})
LABELS = Extraction("choice", {"refund": ("refund",), "refund request": ("refund request",), "delay": ("late", "delay")})


def test_the_golden_vote_of_the_methods_page() -> None:
    """methods.md, section 7: [18, 26, 18, "", 26.0, 18] -> 18 with 3 votes against 2, and 1 invalid."""
    outcome = vote([18, 26, 18, "", 26.0, 18])
    assert (outcome.answer, outcome.counts, outcome.invalid) == ("18", {"18": 3, "26": 2}, 1)
    assert outcome.shares == pytest.approx({"18": 0.6, "26": 0.4})
    # The controls: without normalising, 26 and 26.0 are two answers; with the invalid path counted, shares would be sixths.
    assert Counter(map(str, [18, 26, 18, "", 26.0, 18])) != {"18": 3, "26": 2, "": 1}
    assert vote([26, 26.0, 18, "26.00", 18]).answer == "26"


def test_ties_go_to_the_answer_seen_first_and_no_valid_path_has_none() -> None:
    assert vote(["b", "a", "a", "b"]).answer == "b"
    assert vote(["a", "b", "b", "a"]).answer == "a"
    empty = vote(["", "", ""])
    assert (empty.answer, empty.counts, empty.invalid, empty.shares) == ("", {}, 3, {})


@given(st.lists(st.sampled_from(["18", "18.0", "$18", "26", "", "Paris", "paris."]), max_size=12))
def test_a_vote_agrees_with_a_plain_count(answers: list[str]) -> None:
    names = {"18.0": "18", "$18": "18", "Paris": "paris", "paris.": "paris"}
    plain = [names.get(a, a) for a in answers if a]
    outcome = vote(answers)
    assert outcome.invalid == answers.count("")
    assert {a.casefold(): n for a, n in outcome.counts.items()} == Counter(plain)
    best = max(Counter(plain).values(), default=0)
    first = next((a for a in plain if plain.count(a) == best), "")
    assert outcome.answer.casefold() == first


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("18", "18"), ("18.0", "18"), ("$18", "18"), ("$18.00", "18"), ("18%", "18"), ("18 percent", "18"), ("18.", "18"),
        ("1,234,567.50", "1234567.5"), ("-3", "-3"), ("−3", "-3"), ("-$5", "-5"), ("$-5", "-5"), ("€ 7", "7"), ("0.50", "0.5"),
        (".5", "0.5"), ("-0.0", "0"), ("007", "7"), ("100", "100"),
        ("12 apples", ""), ("", ""), ("eighteen", ""), ("3 4", ""), ("1e9", ""), ("1.2.3", ""), ("1,23", ""),
    ],
)  # fmt: skip
def test_numbers_have_one_form(text: str, plain: str) -> None:
    assert number(text) == plain


def test_a_number_with_a_huge_exponent_is_no_trap() -> None:
    assert number("1e999999999") == ""
    assert NUMBER.answer("the answer is " + "9" * 5000) == ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She sells 16 - 3 - 4 = 9 eggs, 9 * 2 = 18. The answer is $18.00.", "18"),
        ("The answer is 5. Wait, that is wrong. The answer is 1,200 dollars", "1200"),
        ("Therefore, the answer (arabic numerals) is -7.", "-7"),
        ("Answer: 12", "12"),
        ("the answer is 3 4", "3"),  # an unescaped full stop in a known regex reads "3 4" as one number
        ("The answer is unknown. 18 were left.", ""),
        ("So there are 18.", ""),
        ("", ""),
    ],
)
def test_the_last_stated_number_counts(text: str, answer: str) -> None:
    assert NUMBER.answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is refund.", "refund"),
        ("The answer is Refund Request, since they ask.", "refund request"),
        ("the answer is: **late**", "delay"),
        ("the answer is a refund request and no delay", "refund request"),
        ("The answer is not refund, it is delay.", "delay"),
        ("The answer is refund or delay.", ""),
        ("The answer is that there is both a refund and a delay.", ""),
        ("The answer is refunded.", ""),
        ("The answer is refund. No: the answer is late.", "delay"),
        ("I think refund.", ""),
        ("The answer is\nrefund", "refund"),
        ("The answer is unclear\nrefund", ""),
    ],
)
def test_choices_are_found_as_whole_words(text: str, answer: str) -> None:
    assert LABELS.answer(text) == answer


def test_a_letter_is_a_choice_and_not_an_article() -> None:
    letters = Extraction("choice", {"A": ("A",), "b": ("b",)})
    assert [letters.answer(f"The answer is {said}") for said in ("(A)", "A.", "b)", "b")] == ["A", "A", "b", "b"]
    assert letters.answer("The answer is A dog") == ""
    assert letters.answer("The answer is a") == ""


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is New York.", "New York"),
        ("The answer is St. Louis. It lies on a river.", "St. Louis"),
        ('The answer is "Paris".\nNext question', "Paris"),
        ("The answer is 18.50", "18.5"),
        ("Nobody knows.", ""),
    ],
)
def test_free_text_is_the_rest_of_the_sentence(text: str, answer: str) -> None:
    assert TEXT.answer(text) == answer


def test_answers_that_a_person_calls_equal_are_equal() -> None:
    assert same("18.0", "$18")
    assert same("Paris.", "paris")
    assert same('"New  York"', "New York")
    assert not same("18", "81")
    assert not same("18.5", "18")
    assert canonical("  The End. ") == "The End"


def task_of(folder, answers: list[str], choices: str = "") -> tuple[Task, list[Example]]:
    rows = "".join(f'{{"question": "q{i}", "answer": "{a}"}}\n' for i, a in enumerate(answers))
    (folder / "rows.jsonl").write_text(rows)
    (folder / "t.yaml").write_text(f"name: t\ndata: {{train: rows.jsonl}}\ntemplate: '{{question}} {{answer}}'\n{choices}")
    task = load_task(str(folder / "t.yaml"))
    return task, task.splits.train


def test_the_kind_follows_from_the_task(tmp_path) -> None:
    assert extraction_for(*task_of(tmp_path, ["18", "$2.50", "1,000", "7%"] * 5)).kind == "number"
    assert extraction_for(*task_of(tmp_path, ["18", "Paris", "3", "4"] * 5)).kind == "text"
    polar = extraction_for(*task_of(tmp_path, ["Yes", "No"] * 10))
    assert polar.answer("Let us see. The answer is yes.") == "Yes"
    assert polar.answer("The answer is nothing.") == ""
    movies = load_task("movies")
    named = extraction_for(movies, movies.splits.train)
    assert (named.kind, named.answer("So the answer is positive.")) == ("choice", "positive")
