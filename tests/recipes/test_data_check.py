"""`tunesmith data check`: what is said of files and tasks, good and bad, and what of them would count in the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tickets import rows, write_rows, write_task

from tunesmith.core.errors import UserError
from tunesmith.recipes import data


def checked(what: Path | str, **settings: Any) -> dict[str, Any]:
    return data.run(data.Config(action="check", what=str(what), model="toy-llama", **settings))


def marked(report: dict[str, Any]) -> list[str]:
    return data.render(report).split("in «marks»:\n\n")[1].split("\n\n")


def test_a_task_is_shown_as_the_model_reads_it(tmp_path: Path) -> None:
    report = checked(write_task(tmp_path), samples=1)
    assert data.render(report).startswith("tickets: 60 train + 12 test rows\n")
    prompt, _, answer = marked(report)[0].partition("\nTipo:")
    assert prompt.startswith("Ticket: Hola, ")
    assert answer.startswith("« ")
    assert answer.endswith("<|end|>»")
    counted = [[text for text, counts in sample if counts] for sample in report["samples"]]
    assert counted == [[answer.strip("«»")]]


def test_templates_that_lean_and_columns_nobody_reads_are_said(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{**row, "channel": "mail", "when": 3} for row in rows(40, 1)])
    names = "name: t\ndata: {train: rows.jsonl}\nchoices: {refund: refund, refund request: wish, delivery delay: late}\n"
    yaml = names + 'templates: ["{text} ({channel}) {answer}", "Late? {text} {answer}"]\n'
    (tmp_path / "t.yaml").write_text(yaml, encoding="utf-8")
    said = checked(tmp_path / "t.yaml")["warnings"]
    assert said[-2:] == ("template '2' says the choice 'late' once and 'refund' never: it leans", "no template uses 'when'")


def test_jinja_is_shown_as_it_is_rendered(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", rows(40, 1))
    yaml = "name: t\ndata: {train: rows.jsonl}\ntemplate: '{{ text|upper }} Why? ||| {{ label }}'\n"
    (tmp_path / "t.yaml").write_text(yaml + "answer_choices: refund ||| refund request ||| delivery delay\n", encoding="utf-8")
    report = checked(tmp_path / "t.yaml", samples=1)
    assert marked(report)[0].startswith("HOLA, ")
    assert " WHY?" not in marked(report)[0]
    assert "Why?« " in marked(report)[0]
    assert report["splits"]["train"]["labels"] == {"refund": 14, "delivery delay": 13, "refund request": 13}
    assert report["splits"]["train"]["duplicates"] == 0


def test_a_file_of_text_and_label_is_shown_as_the_ladder_would_use_it(tmp_path: Path) -> None:
    report = checked(write_rows(tmp_path / "rows.jsonl", rows(40, 1)))
    assert len(marked(report)) == 2
    assert all("\nLabel:« " in sample for sample in marked(report))
    assert report["splits"]["rows"]["labels"] == {"refund": 14, "delivery delay": 13, "refund request": 13}
    assert "rows rows" not in data.render(report)


def test_chats_show_only_what_the_assistant_says_as_counting(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "buenas"}]
    path = write_rows(tmp_path / "chats.jsonl", [{"messages": turns}] * 2)
    assert marked(checked(path, samples=1)) == ["<|user|>hola<|end|><|assistant|>«buenas<|end|>»"]


def test_bad_rows_are_listed_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", rows(40, 1))
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[4], lines[9] = '{"text": "half', '{"text": "no label here"}'
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    report = checked(path)
    assert (report["splits"]["rows"]["rows"], report["splits"]["rows"]["bad"]) == (38, 2)
    assert [row["where"] for row in report["splits"]["rows"]["bad_rows"]] == ["rows.jsonl:5", "rows.jsonl:10"]
    assert "2 of 40 rows cannot be used" in data.render(report)


def test_rows_that_do_not_fit_the_task_are_bad_rows(tmp_path: Path) -> None:
    """Columns by their own names, one empty and one with a label that is no choice."""
    content: list[dict[str, Any]] = [{"frase": f"número {i}", "clase": "ab"[i % 2]} for i in range(40)]
    content[3]["frase"], content[8]["clase"] = None, "zz"
    write_rows(tmp_path / "r.jsonl", content)
    yaml = tmp_path / "r.yaml"
    yaml.write_text("name: r\ndata: {train: r.jsonl}\ntemplate: '{frase} = {answer}'\nanswer: clase\nchoices: [a, b]\n")
    bad = {row["where"]: row["reason"] for row in checked(yaml)["splits"]["train"]["bad_rows"]}
    assert list(bad) == ["r.jsonl:4", "r.jsonl:9"]
    assert "'frase' is null" in bad["r.jsonl:4"]
    assert "'zz' is not one of the task's choices" in bad["r.jsonl:9"]


def test_leakage_repeats_and_long_rows_are_said(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    train = rows(60, 1)
    long = {"text": "muy " * 80, "label": "refund"}
    write_rows(tmp_path / "train.jsonl", [*train, train[0], long])
    write_rows(tmp_path / "test.jsonl", [*rows(12, 2), *train[:3]])
    text = data.render(checked(task, max_length=200))
    assert "3 of 15 test rows also stand in train" in text
    assert "1 of 62 rows repeats an earlier row" in text
    assert "1 of 62 rows is longer than 200 tokens" in text


def test_codes_for_the_terminal_in_the_data_are_not_passed_on(tmp_path: Path) -> None:
    content = [{"text": f"\x1b[31mred \u202e{i}\ttab", "label": "ab"[i % 2]} for i in range(20)]
    shown = data.render(checked(write_rows(tmp_path / "rows.jsonl", content)))
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\ttab" in shown


def test_no_line_about_the_data_is_wider_than_a_terminal(tmp_path: Path) -> None:
    content = [
        {"text": "x " * 90, "label": "a label of a good many words that goes on and on and on " + str(i % 2)} for i in range(30)
    ]
    report = checked(write_rows(tmp_path / "a file with a very long name indeed, as people have them.jsonl", content), samples=0)
    assert [line for line in data.render(report).splitlines() if len(line) > 80] == []


def test_a_file_of_one_label_is_looked_at_though_it_is_no_task(tmp_path: Path) -> None:
    report = checked(write_rows(tmp_path / "rows.jsonl", [{"text": f"t {i}", "label": "x"} for i in range(20)]))
    assert "every row has the label 'x'" in data.render(report)
    assert report["samples"] == []


def test_the_answer_is_json(tmp_path: Path) -> None:
    report = checked(write_task(tmp_path))
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, default=str))
    assert report["status"] == "done"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("movis", "unknown task 'movis'\n  Did you mean 'movies'?"),
        ("nowhere.jsonl", "there is no file 'nowhere.jsonl'"),
        ("nowhere.yaml", "there is no task file 'nowhere.yaml'"),
        (".", "is a directory"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        checked(what)
    assert said in str(caught.value)


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model 'toy-lama'"):
        data.run(data.Config(action="check", what="movies", model="toy-lama"))
