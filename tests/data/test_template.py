"""Templates substitute names and do nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.data.template import Template


def test_the_prompt_ends_where_the_white_space_of_the_answer_begins() -> None:
    template = Template("Review: {text}\nSentiment: {answer}")
    assert template.prompt({"text": "Good."}) == "Review: Good.\nSentiment:"
    assert (template.lead, template.fields) == (" ", ["text"])
    assert Template("{a}{b}{a}\n\n{answer}\n").fields == ["a", "b"]
    assert Template("{a}\n\n{answer}\n").lead == "\n\n"
    assert Template("{a}:{answer}").lead == ""
    assert Template("{a}:{answer}").prompt({"a": 5, "b": 6}) == "5:"


@given(st.text())
def test_what_is_filled_in_is_never_read_as_a_template(text: str) -> None:
    assert Template("<{text}|{other}>{answer}").prompt({"text": text, "other": "{text}"}) == f"<{text}|{{text}}>"


def test_braces_that_are_no_names_stay() -> None:
    assert Template('{"a": {text}, {}} {0} {x.y} {answer}').prompt({"text": 1}) == '{"a": 1, {}} {0} {x.y}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{text}", "needs the slot {answer} exactly once"),
        ("{answer} {text} {answer}", "needs the slot {answer} exactly once"),
        ("{text} {answer}.", "must end with {answer}"),
        ("What is it? {answer}", "needs a {field} of the rows"),
    ],
)
def test_a_template_that_cannot_work_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Template(text)


def test_a_missing_field_has_a_near_miss() -> None:
    with pytest.raises(UserError, match=r"uses \{text\}, which the row does not have\n  Did you mean 'texts'"):
        Template("{text} {answer}").prompt({"texts": "a"})
