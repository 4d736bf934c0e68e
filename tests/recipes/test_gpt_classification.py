"""`tune --objective gpt-classification`: it learns, transformers classifies with what is saved, bad input is one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tunesmith import cli
from tunesmith.recipes._tune import ready
from tunesmith.recipes._tune.config import Config

TOY = ["--objective", "gpt-classification", "--model", "toy-llama", "--threads", "1", "--dtype", "fp32", "--batch_size", "8"]
FULL = ["--peft", "full", "--learning_rate", "3e-3", "--evaluations", "1"]
KINDS = {
    "classification": "inputs: {classification: [text]}",
    "entailment": "inputs: {entailment: [text, other]}",
    "similarity": "inputs: {similarity: [text, other]}",
    "choice": "inputs: {choice: [text, answers]}",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task(inputs: str = "", name: str = "mine") -> str:
    """Write a task that a toy can learn: the label is the letter that the text says."""
    lines = []
    for i in range(64):
        right = "ab"[i % 2]
        answers = ["aaaa", "bbbb"]
        row = {"text": f"{i % 10} {4 * right}", "other": f"{4 * right}", "answers": answers, "label": right}
        lines.append(json.dumps(row))
    Path("rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = f"name: {name}\ndata: {{train: rows.jsonl}}\ntemplate: '{{text}} {{answer}}'\nchoices: [a, b]\n{inputs}\n"
    Path(f"{name}.yaml").write_text(text, encoding="utf-8")
    return f"{name}.yaml"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Run a command line; its exit code and its report."""
    code = cli.main(["tune", *words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_it_learns_and_transformers_reads_what_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, task(), *TOY, *FULL, "--epochs", "10", "--run_dir", "run")
    assert code == 0, report
    assert report["test"][0]["value"] >= 0.9
    assert (report["test"][0]["metric"], report["test"][0]["n"]) == ("accuracy", 13)
    # The same directory is a classifier and, with the auxiliary loss, still a language model.
    classifier = AutoModelForSequenceClassification.from_pretrained("run/model")
    writer, info = AutoModelForCausalLM.from_pretrained("run/model", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained("run/model")
    assert not info["missing_keys"]
    assert classifier.config.id2label == {0: "a", 1: "b"}
    prediction = json.loads(Path("run/predictions.jsonl").read_text(encoding="utf-8").splitlines()[0])
    ids = tokenizer("_start_" + prediction["text"] + "_classify_", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = classifier(ids).logits.log_softmax(-1)[0].tolist()
        assert writer(ids).logits.shape[-1] == 265
    assert [*prediction["scores"].values()] == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_trains_and_answers(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, task(KINDS[kind]), *TOY, *FULL, "--max_steps", "4", "--validation_rows", "4")
    assert code == 0, report
    assert report["supervised_tokens"] == 32
    predictions = [json.loads(line) for line in Path("runs/tune-mine/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(sum(torch.tensor([*p["scores"].values()]).exp()) == pytest.approx(1, abs=1e-5) for p in predictions)
    assert all(set(p["scores"]) == {"a", "b"} for p in predictions)


def loss(*words: str, **settings: Any) -> float:
    """The loss of all rows in one batch before any training, dropout off."""
    from tunesmith.data.collate import collate

    it = ready.ready(
        Config(data=task(), objective={"name": "gpt-classification", **settings}, model="toy-llama", dtype="fp32", threads=1)
    )
    it.lm.model.eval()
    with torch.no_grad():
        return float(it.training.loss_of(collate(list(it.training.data)))[0]) / len(it.training.data)


def test_lambda_weighs_the_texts_own_loss() -> None:
    none, half, one = (loss(lm_weight=weight) for weight in (0.0, 0.5, 1.0))
    assert half - none == pytest.approx((one - none) / 2, abs=1e-4)
    # Bytes that a toy has never seen cost about log 265 each.
    assert one - none == pytest.approx(5.58, abs=0.5)


def test_an_adapter_trains_the_new_tokens_and_the_classifier_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    it = ready.ready(Config(data=task(), objective="gpt-classification", model="toy-llama", dtype="fp32", threads=1))
    others = {name: p.shape for name, p in it.training.parameters.items() if "lora" not in name}
    assert others == {"score.weight": (2, 64), "model.embed_tokens.new.weight": (3, 64)}
    code, report = run(capsys, task(), *TOY, "--max_steps", "3", "--test_rows", "0", "--run_dir", "run")
    assert (code, report["test"]) == (0, [])
    assert Path("run/adapter/adapter_model.safetensors").is_file()


def test_a_saved_classifier_is_taken_up_again(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, task(), *TOY, *FULL, "--max_steps", "3", "--test_rows", "0", "--run_dir", "run")
    assert code == 0, report
    config = Config(data=task(), objective="gpt-classification", model="run/model", peft="full", dtype="fp32", threads=1)
    again = ready.ready(config).lm.model.score.weight
    saved = load_file("run/model/model.safetensors")["score.weight"]
    assert torch.equal(again, saved)
    # The control: a classifier of other labels is none of this task's.
    other = Path(task(name="other"))
    other.write_text(other.read_text(encoding="utf-8").replace("[a, b]", "{b: b, a: a}"), encoding="utf-8")
    assert not torch.equal(ready.ready(config.model_copy(update={"data": "other.yaml"})).lm.model.score.weight, saved)


def free_text() -> str:
    """A task without choices."""
    name = task()
    Path(name).write_text(Path(name).read_text(encoding="utf-8").replace("choices: [a, b]\n", ""), encoding="utf-8")
    return name


BAD = {
    "free text": (free_text, [], "the answers of task 'mine' are free text, not labels"),
    "an encoder": (task, ["--model", "toy-bert"], "'toy-bert' is not a decoder"),
    "fields": (lambda: task("inputs: {entailment: [text, others]}"), [], "reads the field 'others', which the row does not have"),
    "one field": (lambda: task("inputs: {entailment: [text]}"), [], "inputs: entailment names text, and needs two fields"),
    "lambda": (task, ["--objective.lm_weight", "-1"], "objective 'gpt-classification': lm_weight"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, words, message = BAD[name]
    code, report = run(capsys, make(), *TOY, *words)
    assert (code, message in report["error"]) == (2, True), report["error"]
    assert not Path("runs").exists()


def test_an_adapter_is_trained_further_with_its_classifier_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = run(capsys, task(), *TOY, "--max_steps", "3", "--test_rows", "0", "--run_dir", "run")
    assert code == 0, report
    saved = load_file("run/adapter/adapter_model.safetensors")
    config = Config(
        data=task(), objective="gpt-classification", adapter="run/adapter", model="toy-llama", dtype="fp32", threads=1
    )
    again = ready.ready(config).training.parameters
    for name in ("score.weight", "model.embed_tokens.new.weight"):
        assert torch.equal(again[name], saved[f"base_model.model.{name}"])
    # Where text is to be gone on with it is an error and never a silent no-op; asked as a classifier it answers.
    assert cli.main(["generate", "--model", "toy-llama", "--adapter", "run/adapter", "hello", "--json"]) == 2
    assert "is an adapter for gpt-classification and does not go on with text" in capsys.readouterr().out
    assert cli.main(["chat", "--model", "toy-llama", "--adapter", "run/adapter", "hello", "--threads", "1"]) == 0
