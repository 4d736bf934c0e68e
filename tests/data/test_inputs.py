"""What a task compares: the texts of each kind of input, and rows that do not have them."""

from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.inputs import Inputs, shown
from tunesmith.data.task import Task, load_task

ROW = {"premise": "it rains", "hypothesis": "it is wet", "answers": ["yes it does", "no"], "label": "a"}


def task(folder: Path, inputs: str, row: dict[str, Any] = ROW, template: str = "{premise} {answer}") -> Task:
    """A task of ten rows, the last two of them for the test."""
    import json

    rows = [{**row, "label": "ab"[i % 2], "premise": f"{row['premise']} {i}"} for i in range(10)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    text = f"name: mine\ndata: {{train: rows.jsonl}}\ntemplate: '{template}'\nchoices: [a, b]\n{inputs}\n"
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return load_task(str(folder / "mine.yaml"))


def first(made: Task) -> list[list[str]]:
    """The texts of the first row."""
    example = min(made.splits.train, key=lambda e: e.fields["premise"])
    return Inputs.of(made).texts(example)


def test_each_kind_of_input_has_its_texts(tmp_path: Path) -> None:
    assert first(task(tmp_path, ""))[0][0].startswith("it rains ")
    premise = first(task(tmp_path, "inputs: {classification: [premise]}"))[0][0]
    assert first(task(tmp_path, "inputs: {entailment: [premise, hypothesis]}")) == [[premise, "it is wet"]]
    similar = first(task(tmp_path, "inputs: {similarity: [premise, hypothesis]}"))
    assert similar == [[premise, "it is wet"], ["it is wet", premise]]
    choice = first(task(tmp_path, "inputs: {choice: [premise, answers]}"))
    assert choice == [[premise, "yes it does"], [premise, "no"]]
    # Answers may also stand in fields of their own.
    assert first(task(tmp_path, "inputs: {choice: [hypothesis, premise, label]}"))[0] == ["it is wet", premise]
    assert shown(similar) == f"{premise} $ it is wet\nit is wet $ {premise}"


def test_a_prompt_of_several_fields_is_one_text(tmp_path: Path) -> None:
    made = task(tmp_path, "", template="{premise}, so {hypothesis}: {answer}")
    assert first(made)[0][0].endswith(", so it is wet:")


BAD = {
    "one field": ("inputs: {entailment: [premise]}", "task 'mine': inputs: entailment names premise, and needs two fields"),
    "no such field": (
        "inputs: {similarity: [premise, hypotheses]}",
        "reads the field 'hypotheses', which the row does not have",
    ),
    "answers": ("inputs: {choice: [premise, hypothesis]}", "it has 1 answers to choose from, and the task 2 labels"),
}


@pytest.mark.parametrize("name", BAD)
def test_inputs_that_do_not_fit_are_one_clear_line(name: str, tmp_path: Path) -> None:
    inputs, message = BAD[name]
    made = task(tmp_path, inputs)
    with pytest.raises(UserError, match=message) as caught:
        Inputs.of(made).texts(made.splits.train[0])
    assert caught.value.fix


def test_two_kinds_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="inputs: "):
        task(tmp_path, "inputs: {classification: [premise], similarity: [premise, hypothesis]}")
