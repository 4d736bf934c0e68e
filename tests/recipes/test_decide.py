"""`tunesmith decide` calibrates decoders, adapters and classifiers, keeps what it made, and answers single questions."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith import cli
from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.evaluate.decision import NEVER, Decider, question_of
from tunesmith.models.encoder import load_encoder
from tunesmith.recipes import decide, tune
from tunesmith.recipes._decide.opening import open_artefact, reopen

TOY = ["--model", "toy-llama", "--threads", "1"]


def write_rows(path: Path, n: int, start: int = 0) -> None:
    """Rows whose label is p mostly where the text is bright, with one in six the other way round."""
    words = {i: "bright" if i % 2 else "dim" for i in range(start, start + n)}
    rows = [{"text": f"{word} day {i * 7}", "label": "np"[(i % 2) ^ (i % 6 == 0)]} for i, word in words.items()]
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task with 160 validation and 120 test rows."""
    folder = tmp_path_factory.mktemp("decide")
    for name, n, start in (("train", 64, 0), ("validation", 160, 1000), ("test", 120, 3000)):
        write_rows(folder / f"{name}.jsonl", n, start)
    files = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    task = {"name": "days", "data": files, "template": "Day: {text}\nMood:{answer}", "choices": ["n", "p"]}
    (folder / "days.yaml").write_text(json.dumps(task))
    return folder


def run(folder: Path, run_dir: Path, **keys: Any) -> dict[str, Any]:
    config = {"what": str(folder / "days.yaml"), "model": "toy-llama", "run_dir": str(run_dir), "threads": 1, **keys}
    return decide.run(decide.Config.model_validate(config))


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(folder, tmp_path_factory.mktemp("made") / "run", calibration="platt", target_accuracy=0.5)


def test_the_report_says_what_each_calibrator_is_worth(made: dict[str, Any]) -> None:
    folder = Path(made["run_dir"])
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(made))
    assert list(made["calibrators"]) == ["none", "isotonic", "platt", "temperature"]
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    p = np.array([row["probabilities"]["p"] for row in rows])
    right = np.array([row["gold"] == "p" for row in rows])
    found = made["calibrators"]["platt"]
    assert found["accuracy"]["value"] == pytest.approx(np.mean((p > 0.5) == right))
    assert found["brier"]["value"] == pytest.approx(2 * np.mean((p - right) ** 2))
    assert found["brier"]["low"] < found["brier"]["value"] < found["brier"]["high"]
    assert found["nll"]["value"] < made["calibrators"]["none"]["nll"]["value"]
    before, scaled = (made["calibrators"][name]["accuracy"]["value"] for name in ("none", "temperature"))
    assert before == scaled


def test_the_threshold_is_what_is_reported(made: dict[str, Any]) -> None:
    assert (made["fitted_rows"], made["test_rows"], made["target"]["rows"]) == (80, 120, 80)
    decider = Decider.load(Path(made["decision"]))
    assert decider.abstain_below == made["threshold"]["abstain_below"] == made["target"]["abstain_below"]
    assert made["target"]["bound"] >= 0.5
    page = (Path(made["run_dir"]) / "report.html").read_text()
    assert "Risk and coverage" in page
    assert page.count("<polyline") >= 3


def test_a_single_question_gets_the_probabilities_of_the_report(made: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    row = json.loads((Path(made["run_dir"]) / "predictions.jsonl").read_text().splitlines()[0])
    text = json.loads((Path(made["run_dir"]) / "run.json").read_text())["inputs"]["what"]
    number = int(row["where"].rpartition(":")[2])
    asked = json.loads((Path(text).parent / "test.jsonl").read_text().splitlines()[number - 1])["text"]
    assert cli.main(["decide", made["decision"], "--text", asked, "--threads", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["probabilities"] == pytest.approx(row["probabilities"], abs=1e-5)
    assert answer["answer"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert (answer["kind"], answer["value"]) == ("choice", None)


def test_a_decider_that_is_not_sure_gives_no_answer(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(folder, tmp_path / "run", abstain_below=0.999)
    assert report["threshold"]["coverage"] == 0
    assert report["not_in_decision_json"] == ["the abstention threshold has no place in decision.json"]
    assert cli.main(["decide", report["decision"], "--text", "dim", "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith("no answer: it is not sure enough\n")


def test_a_target_out_of_reach_means_silence_and_says_how_many_rows_it_takes(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "run", target_accuracy=0.99)
    assert report["target"]["abstain_below"] == NEVER
    assert report["target"]["rows_needed"] == 528  # .99^527 > .005 >= .99^528
    assert "always abstains; that takes at least 528 rows" in decide.render(report)


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tune.Config(
        data=str(folder / "days.yaml"), model="toy-llama", run_dir=str(tmp_path_factory.mktemp("tuned") / "run"), threads=1,
        max_steps=15, learning_rate=0.02, validation_rows=0, evaluations=0, guard=False,
    )  # fmt: skip
    return tune.run(config)["artefact"]


def test_an_adapter_travels_with_its_decision(
    folder: Path, adapter: str, made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(folder, tmp_path / "run", adapter=adapter)
    base, adapted = (r["calibrators"]["none"]["nll"]["value"] for r in (made, report))
    assert adapted != pytest.approx(base, abs=1e-3)
    moved = tmp_path / "elsewhere"
    shutil.move(report["decision"], moved)
    assert cli.main(["decide", str(moved), "--text", "bright day 5", "--threads", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    decider, artefact = reopen(moved, None)
    row = Example("0", {"text": "bright day 5"}, "here")
    assert answer["probabilities"] == pytest.approx(decider.decide(artefact.scores([row], "")[0]).probabilities)
    without = open_artefact(artefact.task, "toy-llama", None, "fp32").scores([row], "")[0]
    assert answer["probabilities"] != pytest.approx(decider.decide(without).probabilities, abs=1e-3)

    from transformers import pipeline

    from tunesmith.evaluate.decision_config import request_of
    from tunesmith.models.load import load

    lm = load("toy-llama")
    theirs = pipeline("decision", model=lm.model, tokenizer=lm.tokenizer, decision_config=str(moved))
    said = theirs(request_of(question_of(["n", "p"]), "bright day 5"))["answer"]["probabilities"]
    assert said == pytest.approx(answer["probabilities"], abs=1e-4)


def test_a_classifier_is_calibrated_too(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = load_encoder("toy-bert", "classifier", labels=["p", "n"])
    encoder.model.save_pretrained(tmp_path / "classifier")
    encoder.tokenizer.save_pretrained(tmp_path / "classifier")
    report = run(folder, tmp_path / "run", model=str(tmp_path / "classifier"), calibration="platt")
    assert report["not_in_decision_json"] == ["transformers' decision pipeline cannot ask this: it has no place for a classifier"]
    assert cli.main(["decide", report["decision"], "--text", "dim", "--threads", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])

    import torch

    batch = encoder.tokenizer("dim", return_tensors="pt")
    with torch.inference_mode():
        logits = encoder.model(**{key: batch[key] for key in ("input_ids", "attention_mask")}).logits[0]
    decider = Decider.load(Path(report["decision"]))
    expected = decider.decide({"p": float(logits[0]), "n": float(logits[1])})  # the classifier's own order of labels
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    with pytest.raises(UserError, match="adapters stand on decoders"):
        run(folder, tmp_path / "other", model=str(tmp_path / "classifier"), adapter="somewhere")


def test_a_classifier_of_other_labels_is_refused(folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder("toy-bert", "classifier", labels=["LABEL_0", "LABEL_1"])
    encoder.model.save_pretrained(tmp_path / "classifier")
    encoder.tokenizer.save_pretrained(tmp_path / "classifier")
    with pytest.raises(UserError, match="classifies into LABEL_0, LABEL_1, and task 'days' has n, p"):
        run(folder, tmp_path / "run", model=str(tmp_path / "classifier"))


def test_a_question_of_transformers_is_asked_by_its_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.decision import DecisionConfig

    DecisionConfig(labels={"noul": ["y", "n"]}).save_pretrained(tmp_path)
    words = ["decide", str(tmp_path), *TOY, "--text", "a sunny day"]
    assert cli.main([*words, "--question", '{"type": "noul", "instructions": "Is it warm?"}', "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(answer["probabilities"]) == {"yes", "no"}
    assert cli.main(words) == 2
    assert "holds transformers' decision.json and no question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"validation_rows": 20}, "calibration needs at least 30 held-out rows, and there are 20"),
        ({"validation_rows": 50, "target_accuracy": 0.9}, "at least 30 held-out rows, and there are 25"),
        ({"kind": "score"}, "the option 'n' is no number"),
        ({"text": "hello"}, "--text asks a decision directory"),
        ({"model": "smollm3"}, "there is no model 'smollm3'"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(keys: dict[str, Any], message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(folder, tmp_path / "run", **keys)


def test_rows_of_one_class_and_free_text_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        shutil.copy(folder / f"{name}.jsonl", tmp_path)
    one = [{"text": f"only {i}", "label": "p"} for i in range(50)]
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, one)))
    shutil.copy(folder / "days.yaml", tmp_path)
    with pytest.raises(UserError, match="all 50 held-out rows have the answer 'p'"):
        run(tmp_path, tmp_path / "run")
    free = {"name": "free", "data": {"train": "train.jsonl"}, "template": "{text}: {answer}", "answer": "label"}
    (tmp_path / "days.yaml").write_text(json.dumps(free))
    with pytest.raises(UserError, match="the answers of 'free' are free text"):
        run(tmp_path, tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--abstain_below", "0.8", "--target_accuracy", "0.9"], "abstain_below and target_accuracy exclude each other"),
        (["--error", "0.1"], "error needs target_accuracy"),
        (["--calibration", "plat"], "Did you mean 'platt'?"),
        (["--abstain_below", "1.5"], "less than or equal to 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["decide", "movies", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "this decision reads text"),
        (["--fields.other", "x"], "this decision reads text"),
        (["--text", "x", "--calibration", "platt"], "--calibration is for calibrating on a task"),
        (["--text", "x", "--question", "{type: noul}"], "has its own question"),
    ],
)
def test_a_directory_is_asked_only_what_it_knows(
    words: list[str], message: str, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["decide", made["decision"], *words]) == 2
    assert message in capsys.readouterr().err


def test_a_directory_that_changed_or_lost_its_model_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made["decision"], copy)
    path = copy / "decider.json"
    path.write_text(path.read_text().replace('"abstain_below": 0.0', '"abstain_below": 0.5', 1))
    with pytest.raises(UserError, match=r"is damaged: decider.json has changed"):
        reopen(copy, None)
    (copy / "MANIFEST.json").unlink()
    path.write_text(path.read_text().replace(Decider.load(copy).about["identity"], "0" * 16))
    with pytest.raises(UserError, match="was calibrated for other weights"):
        reopen(copy, None)
    with pytest.raises(UserError, match="holds no decider"):
        reopen(tmp_path, None)


def test_training_rows_may_calibrate_and_the_report_warns(folder: Path, tmp_path: Path) -> None:
    report = run(folder, tmp_path / "run", calibrate_on="train")
    assert report["fitted_rows"] == 64
    assert any("worth nothing if the model has learned from them" in warning for warning in report["warnings"])
