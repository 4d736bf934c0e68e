"""Several templates of one task, Jinja among them, and what is said about those that are probably a mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data._templates import lint, unused_fields
from tunesmith.data.task import Task, embedded_tasks, load_task
from tunesmith.data.verbalizer import Verbalizer

ROWS = [{"text": f"film {i}", "label": ("bad", "good")[i % 2], "stars": i % 5} for i in range(40)]
TWO = """
templates:
  plain: "{text}\\nVerdict: {answer}"
  asked: "Is this bad or good? {text} {answer}"
choices: [bad, good]
"""
JINJA = """
templates:
  first: "{{text}} Is it {{ answer_choices | join(' or ') }}? ||| {{ answer_choices[0 if label == 'bad' else 1] }}"
  second: "{{stars}} stars: {{text}} ||| {{ answer_choices[('bad', 'good').index(label)] }}"
answer_choices: terrible ||| great
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Task]:
    """Write a task and load it."""

    def make(yaml: str, rows: list[dict[str, Any]] = ROWS, skip_bad_rows: bool = False) -> Task:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "mine.yaml").write_text("name: mine\ndata: {train: train.jsonl}\n" + yaml)
        return load_task(str(tmp_path / "mine.yaml"), skip_bad_rows=skip_bad_rows)

    return make


def error_of(call: Callable[[], object]) -> str:
    """What a person reads."""
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def test_the_first_template_is_the_tasks_and_the_others_are_at_hand(make: Callable[..., Task]) -> None:
    task = make(TWO)
    item = task.splits.test[0]
    assert list(task.templates) == ["plain", "asked"]
    assert task.template.prompt(item.fields) == f"{item.fields['text']}\nVerdict:"
    other = task.with_template("asked")
    assert other.template.prompt(item.fields) == f"Is this bad or good? {item.fields['text']}"
    assert (other.splits, other.verbalizer, other.gold(item)) == (task.splits, task.verbalizer, task.gold(item))
    assert other.template_hash != task.template_hash
    listed = make('templates: ["{text} {answer}", "{text}: {answer}"]\nchoices: [bad, good]\n')
    assert list(listed.templates) == ["1", "2"]


def test_one_template_is_named_alone_and_keeps_its_hash(make: Callable[..., Task]) -> None:
    one = make('template: "{text} {answer}"\nchoices: [bad, good]\n')
    assert list(one.templates) == ["1"]
    assert one.with_template("1").template_hash == one.template_hash
    assert make('templates: ["{text} {answer}", "{text}: {answer}"]\nchoices: [bad, good]\n').template_hash != one.template_hash


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ('template: "{text} {answer}"\ntemplates: ["{text}: {answer}"]', "give template or templates, not both"),
        ("templates: []", "templates must be a list of texts"),
        ("templates: {a: [b]}", "templates must be a list of texts"),
        ("choices: [bad, good]", "'template' is missing"),
        ('templates: {a: "{text} {answer}", b: "{answer} {text}"}', "template 'b': a template must end with {answer}"),
        ('templates: {a: "{text} {answer}", b: "{txet} {answer}"}', "template 'b': the template uses {txet}, which the row"),
        ('templates: {a: "{text} {answer}", b: "{{text}} ||| {{label}}"}', "template 'b' is Jinja (it has |||) and 'a' is not"),
        ('template: "{text} {answer}"\nanswer_choices: a ||| b', "has answer_choices and no Jinja template"),
        ('template: "{{text}} ||| {{label}}"\nanswer: label', "a Jinja template says its target, so 'answer' would be ignored"),
        (JINJA + "choices: [a, b]", "a Jinja template says its target, so 'choices' would be ignored"),
        ('template: "{{txet}} ||| {{label}}"', "template '1': it uses 'txet', which the row does not have. Did you mean 'text'?"),
        (
            'templates: ["{{text}} ||| {{label}}", "{{text}} ||| {{stars}}"]\nanswer_choices: bad ||| good',
            "template '1' gives the target 'bad' and '2' gives '0'",
        ),
        ('template: "{{text}} ||| {{label}}"\nanswer_choices: "x{{stars}} ||| y"', "other rows have x0, y, and a task has one"),
        ('template: "{{text}} ||| {{label}}"\nanswer_choices: ugly ||| good', "label 'bad' is not one of the task's choices"),
    ],
)  # fmt: skip
def test_templates_that_cannot_work_are_refused(make: Callable[..., Task], yaml: str, said: str) -> None:
    assert said in error_of(lambda: make(yaml + "\n"))


def test_jinja_is_rendered_once_and_the_task_is_like_any_other(make: Callable[..., Task]) -> None:
    task = make(JINJA)
    assert task.verbalizer is not None
    assert task.verbalizer.words == {"terrible": ("terrible",), "great": ("great",)}
    for item in (*task.splits.train, *task.splits.test):
        word = {"bad": "terrible", "good": "great"}[item.fields["label"]]
        assert task.gold(item) == task.answer(item) == word
        assert task.template.prompt(item.fields) == f"{item.fields['text']} Is it terrible or great?"
        stars = task.with_template("second").template.prompt(item.fields)
        assert stars == f"{item.fields['stars']} stars: {item.fields['text']}"
    assert task.with_template("second").template_hash != task.template_hash


def test_jinja_without_choices_is_a_task_of_free_text(make: Callable[..., Task]) -> None:
    task = make('template: "How many stars has {{text}}? ||| {{stars}}"\n')
    assert task.verbalizer is None
    assert task.metrics == ("exact_match",)
    assert {task.gold(item) for item in task.splits.train} == {"0", "1", "2", "3", "4"}


def test_a_row_that_jinja_cannot_use_is_bad_like_any_other(make: Callable[..., Task]) -> None:
    rows = [*ROWS, {"text": "film", "label": "bad"}]
    yaml = 'template: "{{text}} {{stars + 1}} ||| {{label}}"\nanswer_choices: bad ||| good\n'
    assert "train.jsonl:41: template '1': it uses 'stars', which the row does not have" in error_of(lambda: make(yaml, rows))
    task = make(yaml, rows, skip_bad_rows=True)
    assert [row.where for row in task.splits.bad] == ["train.jsonl:41"]


TONE = Verbalizer({"n": ("not good",), "g": ("good",), "b": ("bad",)})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{text} {answer}", []),
        ("Good, bad or not good? {text} {answer}", []),
        ("Is it good? {text} {answer}", ["the template says the choice 'good' once and 'not good' never: it leans"]),
        ("good bad not good Good {text} {answer}", ["the template says the choice 'good' twice and 'not good' once: it leans"]),
        ("good bad not good? {text} Good, bad or not good? {answer}", ["the template says every choice twice; once is enough"]),
        ("{{ good }} {% if bad %}goodness{% endif %} ||| {{ good }}", []),
    ],
)
def test_choices_are_said_once_each_or_not_at_all(text: str, said: list[str]) -> None:
    assert lint({"1": text}, TONE) == said


def test_a_leaning_template_is_named_where_there_are_several(make: Callable[..., Task]) -> None:
    task = make('templates: {a: "{text} {answer}", b: "Is it good? {text} {answer}"}\nchoices: [bad, good]\n')
    assert "template 'b' says the choice 'good' once and 'bad' never: it leans" in task.splits.warnings
    assert lint({"1": "good {answer}"}, None) == []


def test_columns_that_no_template_mentions_are_found(make: Callable[..., Task]) -> None:
    plain = make('template: "{text} {answer}"\nchoices: [bad, good]\n')
    assert unused_fields(plain.file.texts.values(), plain.splits.train, "label") == ["stars"]
    jinja = make(JINJA)
    assert unused_fields(jinja.file.texts.values(), jinja.splits.train, "label") == []


@pytest.mark.parametrize("name", embedded_tasks())
def test_embedded_tasks_have_templates_that_are_worth_their_place(name: str) -> None:
    task = load_task(name)
    if task.verbalizer and len(task.templates) > 1:
        prompts = {task.with_template(t).template.prompt(task.splits.test[0].fields) for t in task.templates}
        assert 4 <= len(prompts) == len(task.templates)
        assert not [w for w in task.splits.warnings if "template" in w]
