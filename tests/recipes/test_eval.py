"""`tunesmith eval`: a task of ours with intervals, and tasks of lm-eval whose numbers are those of lm-eval itself."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tunesmith import cli
from tunesmith.core.errors import UserError
from tunesmith.recipes import eval as recipe

ASKED = {"doc_to_text": "Q: {{q}}\nA:"}
TASKS = {
    "choice": ("multiple_choice", {**ASKED, "doc_to_choice": "{{options}}", "doc_to_target": "gold"}, ["acc", "acc_norm"]),
    "gen": ("generate_until", {**ASKED, "doc_to_target": "{{a}}"}, ["exact_match"]),
    "roll": ("loglikelihood_rolling", {"doc_to_text": "", "doc_to_target": "{{page}}"}, ["word_perplexity", "byte_perplexity"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three lm-eval tasks beside their rows, and one of ours."""
    folder = tmp_path_factory.mktemp("eval")
    words = ["the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "over", "old", "hills"]
    rows = [
        {
            "q": " ".join(words[i % 7 : i % 7 + 3]), "options": [words[i % 5], words[i % 3] + " " + words[i % 4], "no"],
            "gold": i % 3, "a": words[i % 5], "page": " ".join(words[: 3 + i]), "text": words[i % 9], "label": "pn"[i % 2],
        }
        for i in range(8)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, (kind, prompts, metrics) in TASKS.items():
        task = {
            "task": f"my_{name}", "dataset_path": "json", "test_split": "test", "output_type": kind, **prompts,
            "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}, "cache_dir": str(folder / "cache")},
            "metric_list": [{"metric": metric} for metric in metrics],
        }  # fmt: skip
        if kind == "generate_until":
            task["generation_kwargs"] = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
        (folder / f"{name}.yaml").write_text(json.dumps(task))
    ours = {
        "name": "ours",
        "data": {"train": "rows.jsonl", "test": "test.jsonl"},
        "template": "{text}:{answer}",
        "choices": ["n", "p"],
    }
    (folder / "test.jsonl").write_text("\n".join(json.dumps({"text": f"t{i}", "label": "pn"[i % 2]}) for i in range(20)))
    (folder / "ours.yaml").write_text(json.dumps(ours))
    return folder


def test_lm_eval_tasks_give_lm_evals_own_numbers(folder: Path, tmp_path: Path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tunesmith.models.load import load

    files = [str(folder / f"{name}.yaml") for name in TASKS]
    config = recipe.Config(lm_eval_tasks=files, model="toy-llama", dtype="fp32", run_dir=str(tmp_path / "run"), threads=1)
    report = recipe.run(config)
    lm = load("toy-llama", dtype="fp32", device="cpu")
    hflm = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=2, device="cpu")
    theirs = evaluate(hflm, TaskManager(include_defaults=False).load(files), bootstrap_iters=0)
    assert theirs is not None
    ours = {(row["task"], row["metric"]): row["value"] for row in report["results"]}
    expected = {
        (task, key.partition(",")[0]): value
        for task, values in theirs["results"].items()
        for key, value in values.items()
        if key.endswith(",none") and "_stderr" not in key
    }
    assert ours == pytest.approx(expected, rel=1e-4)
    assert len(ours) == 5
    assert {row["n"] for row in report["results"]} == {8}
    samples = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(samples) == 24
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(name in page for name in ("my_choice", "acc_norm", "byte_perplexity"))
    assert json.loads((tmp_path / "run" / "report.json").read_text())["results"] == report["results"]


def test_a_task_of_ours_is_measured_with_intervals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [
        "eval",
        str(folder / "ours.yaml"),
        "--model",
        "toy-llama",
        "--threads",
        "1",
        "--run_dir",
        str(tmp_path / "run"),
        "--json",
    ]
    assert cli.main(run) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    accuracy = next(row for row in report["results"] if row["metric"] == "accuracy")
    assert accuracy["n"] == len(rows) == 20
    assert accuracy["value"] == pytest.approx(np.mean([row["predicted"] == row["gold"] for row in rows]))
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert cli.main([*run, "--limit", "6", "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["results"][0]["n"] == 6


def test_without_the_package_one_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match="needs lm-eval") as caught:
        recipe.run(recipe.Config(lm_eval_tasks=[str(folder / "gen.yaml")], model="toy-llama"))
    assert caught.value.fix == "pip install 'tunesmith[eval]'"


def test_few_shot_examples_are_shown_or_it_is_said_why_not(folder: Path, tmp_path: Path) -> None:
    task = json.loads((folder / "choice.yaml").read_text())
    (tmp_path / "shown.yaml").write_text(json.dumps({**task, "task": "shown"}))
    (tmp_path / "fixed.yaml").write_text(json.dumps({**task, "task": "fixed", "num_fewshot": 0}))
    config = recipe.Config(
        lm_eval_tasks=[str(tmp_path / "shown.yaml"), str(tmp_path / "fixed.yaml")], model="toy-llama", num_fewshot=2, limit=3,
        apply_chat_template=True, run_dir=str(tmp_path / "run"), threads=1,
    )  # fmt: skip
    report = recipe.run(config)
    assert report["warnings"] == ["fixed says num_fewshot 0 itself and keeps it"]
    samples = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    prompts = {sample["task"]: sample["arguments"][0][0] for sample in samples}
    assert (prompts["shown"].count("<|user|>"), prompts["fixed"].count("<|user|>")) == (3, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either a task or --lm_eval_tasks"),
        (["movies", "--lm_eval_tasks", "arc_easy"], "give either a task or --lm_eval_tasks"),
        (["movies", "--num_fewshot", "2"], "num_fewshot is for lm_eval_tasks"),
        (["--lm_eval_tasks", "a.yaml", "--skip_bad_rows"], "skip_bad_rows is for a task of Tunesmith"),
        (["moovies"], "unknown task 'moovies'"),
        (["movies", "--limit", "0"], "limit: Input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_command_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", *words]) == 2
    assert message in capsys.readouterr().err


def test_data_that_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    task = json.loads((folder / "gen.yaml").read_text())
    (tmp_path / "gone.yaml").write_text(
        json.dumps({**task, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "gone.jsonl")}}})
    )
    with pytest.raises(UserError, match=r"the data of .*gone.yaml cannot be loaded"):
        recipe.run(recipe.Config(lm_eval_tasks=[str(tmp_path / "gone.yaml")], model="toy-llama"))
