"""`tune` with each head on a toy encoder: it learns, is saved, answers again from its directory, and refuses bad rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data.sources import _bigbench
from tunesmith.data.task import load_task
from tunesmith.recipes import eval as evaluation
from tunesmith.recipes import tune
from tunesmith.recipes._tune.ready import ready

WHO, WHERE = ("Ana", "Bob", "Eve"), ("Rome", "Oslo")


def tagged(number: int) -> dict[str, Any]:
    """Who sees which town."""
    return {"tokens": [WHO[number % 3], "sees", WHERE[number % 2], str(number)], "tags": ["B-PER", "O", "B-LOC", "O"]}


def asked(number: int) -> dict[str, Any]:
    """Where somebody is; every fourth question has no answer."""
    context = f"{WHO[number % 3]} is in {WHERE[number % 2]} {number}"
    if number % 4 == 0:
        return {"context": context, "question": "how?", "answers": {"text": [], "answer_start": []}}
    return {"context": context, "question": "where?", "answers": {"text": [WHERE[number % 2]], "answer_start": [10]}}


def labelled(number: int) -> dict[str, Any]:
    """A text of the letters that are its labels."""
    labels = [label for at, label in enumerate("abc") if number >> at & 1]
    return {"text": "-".join(label * 3 for label in labels) + f" {number}", "labels": labels}


def counted(number: int) -> dict[str, Any]:
    """A text that says whether its number is high."""
    return {"text": f"{('low', 'high')[number % 2]} {number}", "label": (0.5, 2.5)[number % 2]}


ROWS = {"token-classification": tagged, "span": asked, "multi-label": labelled, "regression": counted}


def written(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    """Write rows to a file."""
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def config(folder: Path, data: str, objective: Any, **settings: Any) -> tune.Config:
    """Settings of a short training."""
    settings = {"learning_rate": 3e-3, "epochs": 3.0, "batch_size": 8, "threads": 1, **settings}
    return tune.Config(
        data=data, objective=objective, model=settings.pop("model", "toy-bert"), run_dir=str(folder / "run"), overwrite=True,
        validation_rows=10, **settings,
    )  # fmt: skip


LEAST = {"token-classification": ("entity_f1", 0.9), "span": ("squad_f1", 0.6), "multi-label": ("multi_label_f1", 0.6),
         "regression": ("pearson", 0.6)}  # fmt: skip


@pytest.mark.parametrize("objective", list(ROWS))
def test_it_learns_is_saved_and_answers_alike_again(tmp_path: Path, objective: str) -> None:
    data = written(tmp_path, [ROWS[objective](n) for n in range(100)])
    report = tune.run(config(tmp_path, data, objective))
    metric, least = LEAST[objective]
    assert report["test"][0]["metric"] == metric
    assert report["test"][0]["value"] >= least
    again = evaluation.run(
        evaluation.Config(task=data, model=report["artefact"], run_dir=str(tmp_path / "eval"), threads=1)
    )  # fmt: skip
    assert again["results"] == report["test"]
    saved, asked_again = ((tmp_path / part / "predictions.jsonl").read_text() for part in ("run", "eval"))
    assert saved == asked_again
    # The directory is a model to train further, too.
    further = ready(config(tmp_path / "more", data, objective, model=report["artefact"]))
    assert further.validation is not None
    further.lm.model.eval()
    assert further.validation.measure() >= least - 0.2


@pytest.mark.parametrize("objective", [*ROWS, {"name": "regression", "pooling": "mean"}])
def test_an_adapter_carries_its_head(tmp_path: Path, objective: Any) -> None:
    name = objective if isinstance(objective, str) else objective["name"]
    data = written(tmp_path, [ROWS[name](n) for n in range(60)])
    report = tune.run(config(tmp_path, data, objective, peft={"name": "lora", "rank": 4}, epochs=0.5))
    assert report["artefact"].endswith("adapter")
    asked = evaluation.Config(
        task=data, model="toy-bert", adapter=report["artefact"], run_dir=str(tmp_path / "eval"), threads=1
    )  # fmt: skip
    assert evaluation.run(asked)["results"] == report["test"]
    saved, again = ((tmp_path / part / "predictions.jsonl").read_text() for part in ("run", "eval"))
    assert saved == again
    further = ready(config(tmp_path / "more", data, objective, adapter=report["artefact"]))
    assert {"classifier.weight", "qa_outputs.weight"} & set(further.training.parameters)


def test_no_answer_is_given_by_a_threshold_of_validation_rows(tmp_path: Path) -> None:
    data = written(tmp_path, [asked(n) for n in range(100)])
    report = tune.run(config(tmp_path, data, {"name": "span", "doc_stride": 8}, max_length=22, epochs=1.0))
    saved = json.loads((Path(report["artefact"]) / "config.json").read_text(encoding="utf-8"))["span"]
    assert saved["doc_stride"] == 8
    assert saved["max_length"] == 22
    assert saved["null_threshold"] != 0.0
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    for row in rows:
        best = max(score for text, score in row["scores"].items() if text)
        assert (row["predicted"] != "") == (best - row["scores"][""] > saved["null_threshold"])


def test_where_all_have_answers_none_is_never_one(tmp_path: Path) -> None:
    data = written(tmp_path, [asked(n) for n in range(120) if n % 4])
    report = tune.run(config(tmp_path, data, "span", epochs=0.2))
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert all(row["predicted"] for row in rows)
    assert report["test"][1]["metric"] == "squad_em"


def test_a_passage_is_read_in_windows(tmp_path: Path) -> None:
    long = {"context": "Ana is in Rome. " + "x" * 60, "question": "where?", "answers": {"text": ["Rome"], "answer_start": [10]}}
    data = written(tmp_path, [{**long, "context": f"{long['context']}{n}"} for n in range(40)])
    it = ready(config(tmp_path, data, {"name": "span", "doc_stride": 10}, max_length=40))
    rows = list(it.rows.train)
    inside = [row for row in rows if row.targets != (0, 0)]
    # 33 tokens of passage a window: the answer is whole in the first two of them.
    assert len(rows) > 4 * len(inside) / 2
    decode = it.lm.tokenizer.decode
    assert {decode(row.ids[row.targets[0] : row.targets[1] + 1]) for row in inside if row.targets} == {"Rome"}  # type: ignore[misc]


def test_rates_fall_from_the_head_down(tmp_path: Path) -> None:
    data = written(tmp_path, [tagged(n) for n in range(40)])
    rates = ready(config(tmp_path, data, "token-classification", layer_decay=0.5)).training.rates
    assert rates["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.125
    assert "classifier.weight" not in rates


def test_regression_learns_another_field_of_a_task(tmp_path: Path) -> None:
    rows = [{"text": f"{'x' * (n % 5)} {n}", "label": "ab"[n % 2], "mean": n % 5 / 2} for n in range(60)]
    report = tune.run(config(tmp_path, written(tmp_path, rows), {"name": "regression", "field": "mean"}, epochs=0.3))
    assert [row["metric"] for row in report["test"]] == ["pearson", "spearman"]
    again = evaluation.run(
        evaluation.Config(task=str(tmp_path / "rows.jsonl"), model=report["artefact"], run_dir=str(tmp_path / "e"), threads=1)
    )
    assert again["results"] == report["test"]


@pytest.mark.parametrize(
    ("objective", "bad", "said"),
    [
        ("regression", {"text": "x 99", "label": "many"}, "the answer 'many' is no number"),
        ("span", {**asked(1), "question": "x" * 600}, "the question has 600 tokens"),
        ("token-classification", {"tokens": ["a" * 600], "tags": ["O"]}, "the text has 600 tokens; toy-bert reads at most 512"),
    ],
)
def test_a_row_that_cannot_be_learned_is_named_or_left_out(
    tmp_path: Path, objective: str, bad: dict[str, Any], said: str
) -> None:  # fmt: skip
    data = written(tmp_path, [*(ROWS[objective](n) for n in range(40)), bad])
    with pytest.raises(UserError) as error:
        ready(config(tmp_path, data, objective))
    assert error.value.message.startswith("rows.jsonl:41: ")
    assert said in error.value.message
    assert "--skip_bad_rows" in error.value.fix
    settings = config(tmp_path, data, objective, skip_bad_rows=True)
    assert any("1 rows were left out" in warning and said in warning for warning in ready(settings).rows.warnings)


@pytest.mark.parametrize(
    ("objective", "new", "said"),
    [
        ("token-classification", {"tokens": ["Zoe"], "tags": ["B-NEW"]}, "the tag 'B-NEW' is none of those of the training rows"),
        ("multi-label", {"text": "zzz", "labels": ["new"]}, "the label 'new' is none of those of the training rows: a, b, c"),
    ],
)
def test_a_label_that_was_not_in_training_is_named(tmp_path: Path, objective: str, new: dict[str, Any], said: str) -> None:
    written(tmp_path, [ROWS[objective](n) for n in range(40)])
    written(tmp_path, [ROWS[objective](n) for n in range(50, 55)] + [new], "test.jsonl")
    answer = "tags" if objective == "token-classification" else "labels"
    field = "tokens" if objective == "token-classification" else "text"
    (tmp_path / "task.yaml").write_text(
        f"name: t\ndata: {{train: rows.jsonl, test: test.jsonl}}\ntemplate: '{{{field}}} {{answer}}'\nanswer: {answer}\n"
    )
    with pytest.raises(UserError) as error:
        ready(config(tmp_path, str(tmp_path / "task.yaml"), objective))
    assert error.value.message.startswith("test.jsonl:6: ")
    assert said in error.value.message


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path, [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 3)
    with pytest.raises(UserError, match="holds no texts with tokens and tags"):
        ready(config(tmp_path, data, "token-classification"))
    data = written(tmp_path, [labelled(n) for n in range(40)])
    with pytest.raises(UserError, match=r"the row has no text 'question'|does not say where its answer stands"):
        ready(config(tmp_path, data, "span"))
    with pytest.raises(UserError, match=r"there are .* words and .* tags"):
        ready(config(tmp_path, data, "token-classification"))


CHOICES = {"yes": 0, "no": 0}
TASKS: dict[str, dict[str, Any]] = {
    "sure": {
        "task_prefix": "Say yes or no.\n", "append_choices_to_input": False,
        "examples": [{"input": f"Is {n} even?", "target_scores": {**CHOICES, ("no", "yes")[n % 2 == 0]: 1}} for n in range(60)]
        + [{"input": "is  0 EVEN?", "target_scores": {**CHOICES, "yes": 1}}, {"input": "?", "target_scores": CHOICES}],
    },
    "free": {"examples": [{"input": f"After {n}?", "target": [str(n + 1), f"{n} + 1"]} for n in range(60)]},
    "varied": {"examples": [{"input": "a?", "target_scores": {f"{n}": 1, "x": 0}} for n in range(3)]},
    "whole": {},
    "whole/part": {"examples": [{"input": "a", "target": "b"}]},
    "disfl_qa": {
        "examples": [{"input": f"Where no who ?  \ncontext: He {n} paid 40 , 000 . ", "target": "40,000"} for n in range(30)]
        + [{"input": f"What {n}?\ncontext: Nothing .", "target": "unknown"} for n in range(30)]
    },
}  # fmt: skip


@pytest.fixture
def bigbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as `tunesmith fetch bigbench` leaves it, with small tasks."""
    root = tmp_path / "bigbench"
    for name, content in TASKS.items():
        path = root.joinpath(*name.split("/")).with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name, "canary": "x", **content}), encoding="utf-8")
    monkeypatch.setattr(_bigbench, "folder", lambda: root)
    _bigbench._content.cache_clear()
    return root


def test_choices_of_all_rows_are_the_tasks(bigbench: Path) -> None:
    task = load_task("bigbench:sure")
    assert task.verbalizer is not None
    assert task.verbalizer.labels == ["yes", "no"]
    assert task.template.text == "Q: {input}\nA: {answer}"
    assert task.file.instruction == "Say yes or no."
    parts = [task.splits.train, task.splits.validation, task.splits.test]
    texts = [" ".join(e.fields["input"].split()).casefold() for part in parts for e in part]
    assert len(texts) == len(set(texts)) == 60
    assert "2 of 62 rows" in task.splits.warnings[0]
    again = load_task("bigbench:sure").splits
    assert [e.id for e in again.test] == [e.id for e in task.splits.test]


def test_targets_are_answers_and_each_is_right(bigbench: Path) -> None:
    task = load_task("bigbench:free")
    assert task.verbalizer is None
    golds = task.golds(task.splits.test[0])
    assert len(golds) == 2
    assert golds[0] == task.gold(task.splits.test[0])


def test_questions_with_passages_become_spans(bigbench: Path) -> None:
    rows = load_task("bigbench:disfl_qa").splits.train
    for row in rows:
        for text, start in zip(*row.fields["answers"].values(), strict=True):
            assert row.fields["context"][start : start + len(text)] == text == "40 , 000"
    assert {len(row.fields["answers"]["text"]) for row in rows} == {0, 1}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bigbench:varied", "the choices of bigbench:varied differ from row to row"),
        ("bigbench:whole", "bigbench:whole is 1 subtasks and has no rows of its own"),
        ("bigbench:shure", "unknown BIG-bench task 'shure'"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(bigbench: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_task(name)


def test_nothing_learns_from_rows_with_a_canary_unasked(bigbench: Path, tmp_path: Path) -> None:
    from tunesmith.recipes import decide, ladder, pretrain, prompt

    (tmp_path / "mine.yaml").write_text(
        "name: mine\ndata: {source: 'bigbench:sure'}\ntemplate: '{input} {answer}'\nchoices: [yes, no]\n"
    )
    for data in ("bigbench:sure", str(tmp_path / "mine.yaml")):
        for learn in (
            lambda data: ready(config(tmp_path, data, "classification")),
            lambda data: ready(config(tmp_path, data, "causal-lm", model="toy-llama")),
            lambda data: ladder.run(ladder.Config(task=data, model="toy-llama", routes=["lora"], run_dir=str(tmp_path / "l"))),
            lambda data: prompt.run(prompt.Config(task=data, model="toy-llama", method="few_shot", run_dir=str(tmp_path / "p"))),
            lambda data: decide.run(decide.Config(what=data, model="toy-llama", run_dir=str(tmp_path / "d"))),
            lambda data: pretrain.run(pretrain.Config(data=data, model="toy-bert", run_dir=str(tmp_path / "t"))),
        ):  # fmt: skip
            with pytest.raises(UserError, match="carry a canary") as error:
                learn(data)
            assert "--allow_canary" in error.value.fix
    allowed = ready(config(tmp_path, "bigbench:sure", "classification", allow_canary=True))
    assert allowed.config.allow_canary
    report = evaluation.run(
        evaluation.Config(task="bigbench:sure", model="toy-llama", limit=3, run_dir=str(tmp_path / "e"), threads=1)
    )
    assert report["results"][0]["n"] == 3
