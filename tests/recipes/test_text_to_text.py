"""`tune --objective text-to-text`: several tasks in one model, wrong words counted wrong, numbers as strings."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tunesmith import cli
from tunesmith.core.runs import read_metrics
from tunesmith.objectives import causal_lm
from tunesmith.recipes._tune import text_to_text
from tunesmith.recipes._tune.config import Config
from tunesmith.recipes._tune.text_to_text import TextTask, rounded
from tunesmith.recipes._tune.text_to_text_config import Parameters

TOY = ["--objective", "text-to-text", "--threads", "1", "--batch_size", "8", "--learning_rate", "3e-3", "--evaluations", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def task(name: str = "letters", rows: int = 40, labels: tuple[str, str] = ("ja", "no"), more: str = "choices: labels") -> str:
    """Write a task that a toy can learn: which letter the text says."""
    lines = [json.dumps({"text": f"{'ab'[i % 2] * 3} {i % 7}", "label": labels[i % 2]}) for i in range(rows)]
    Path(f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = f"name: {name}\ndata: {{train: {name}.jsonl}}\ntemplate: '{{text}} {{answer}}'\n{more}\n"
    Path(f"{name}.yaml").write_text(text, encoding="utf-8")
    return f"{name}.yaml"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """Run a command line; its exit code and its report."""
    code = cli.main(["tune", *words, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def text_task(lm: Any, name: str, **settings: Any) -> TextTask:
    """A task as the model sees it."""
    return TextTask.of(name, Config(data=name), Parameters(**settings), lm)


@pytest.fixture(scope="module")
def t5() -> Any:
    from tunesmith.models.seq2seq import load_seq2seq

    return load_seq2seq("toy-t5")


def test_two_tasks_are_learned_by_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    both = f"{task()},{task('turned', labels=('no', 'ja'))}"
    code, report = run(capsys, both, *TOY, "--max_steps", "150", "--run_dir", "run")
    assert code == 0, report
    # The same texts with other answers: only the name that the text begins with says which.
    assert {r["task"]: r["value"] for r in report["test"] if r["metric"] == "accuracy"} == {"letters": 1.0, "turned": 1.0}
    assert report["validation"] == 1.0
    assert "shares of the mixture: letters 0.500, turned 0.500" in report["warnings"]
    predictions = [json.loads(line) for line in Path("run/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert predictions[0]["prompt"].startswith("letters text: ")
    assert len(predictions) == 6


def test_words_that_are_no_label_are_wrong(t5: Any) -> None:
    letters = text_task(t5, task())
    assert [letters.read(said) for said in ("ja", "ja!", "JA", "")] == [("ja", True), ("", False), ("", False), ("", False)]
    items = letters.task.splits.test
    # A model that has learned nothing says nothing of use, and that is counted.
    found = letters.answer(items, 4)
    assert not any(p.valid or p.correct for p in found)
    assert {p.predicted for p in found} == {""}


def test_numbers_are_said_rounded_and_read_back(t5: Any) -> None:
    assert [rounded(x, 0.2) for x in (3.27, 3.31, 5.0, 0.0, 2.5, 0.1)] == ["3.2", "3.4", "5.0", "0.0", "2.4", "0.0"]
    assert rounded(7.3, 1) == "7"
    assert len({rounded(i / 100, 0.2) for i in range(100, 501)}) == 21, "the 21 strings of STS-B"
    stsb = text_task(t5, task("stsb", labels=("3.27", "5"), more="metrics: [exact_match]"), step=0.2)
    row = next(e for e in stsb.task.splits.train if e.fields["label"] == "3.27")
    assert stsb.target(row) == "3.2"
    assert [stsb.read(said) for said in ("3.2", "three", "nan")] == [("3.2", True), ("-1", False), ("-1", False)]
    # Without it, numbers are words like others.
    assert text_task(t5, "stsb.yaml").target(row) == "3.27"


def test_source_and_target_end_and_only_the_target_counts(t5: Any) -> None:
    letters = text_task(t5, task())
    example = letters.task.splits.train[0]
    (row,) = letters.encode([example])
    end = t5.tokenizer.eos_token_id
    border = row.loss_mask.index(True)
    assert (row.ids[border - 1], row.ids[-1]) == (end, end)
    assert letters.said(row.ids[:border]) == f"letters text: {example.fields['text']}"
    assert letters.said(row.ids[border:]) == example.fields["label"]
    assert text_task(t5, "letters.yaml", reads="template").source(example) == example.fields["text"]


def test_stopped_and_resumed_is_straight(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    both = f"{task()},{task('rare', rows=20)}"
    words = [both, *TOY, "--epochs", "3", "--objective.mixing", "equal", "--test_rows", "0"]
    code, straight = run(capsys, *words, "--run_dir", "straight")
    assert code == 0, straight
    real, calls = causal_lm.loss, []

    def stopping(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        calls.append(torch.is_grad_enabled())
        if sum(calls) == 2 + 8:  # two passes count memory; step 8 is in the second epoch
            signal.raise_signal(signal.SIGTERM)
        return real(logits, targets)

    with monkeypatch.context() as patch:
        patch.setattr(text_to_text, "teacher_forced", lambda lm, objective: TEACHER(lm, stopping))
        code, stopped = run(capsys, *words, "--run_dir", "resumed")
    assert (code, stopped["status"]) == (143, "stopped")
    assert run(capsys, *words, "--run_dir", "resumed")[0] == 0
    ends = [load_file(f"{name}/model/model.safetensors") for name in ("straight", "resumed")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    losses = [[row["loss"] for row in read_metrics(Path(folder))] for folder in ("straight", "resumed")]
    assert losses[0] == losses[1]
    code, other = run(capsys, *words, "--seed", "1", "--run_dir", "other")
    assert other["final_loss"] != straight["final_loss"], "negative control: another seed mixes otherwise"


TEACHER = text_to_text.teacher_forced

BAD: dict[str, tuple[Any, list[str], str]] = {
    "weights": (task, ["--objective.mixing", "{lettres: 1}"], "unknown task in the mixture 'lettres'"),
    "cap": (task, ["--objective.mixing", "equal", "--objective.cap", "5"], "cap belongs to mixing: proportional"),
    "rule": (task, ["--objective.mixing", "size"], "objective 'text-to-text': mixing"),
    "a decoder": (task, ["--model", "toy-llama"], "'toy-llama' is not an encoder-decoder"),
    "twice": (lambda: f"{task()},./letters.yaml", [], "two tasks are called 'letters'"),
    "no number": (lambda: task(more=""), ["--objective.step", "0.2"], "is not a number, and step is for numbers"),
    "nothing": (lambda: ",", [], "data names no task"),
    "no task": (lambda: f"{task()},nothing", [], "unknown task 'nothing'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, words, message = BAD[name]
    code, report = run(capsys, make(), *TOY, *words)
    assert (code, message in report["error"]) == (2, True), report["error"]
    assert not Path("runs").exists()


def test_a_label_that_the_tokenizer_cannot_write_is_refused(t5: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = task()
    # A vocabulary without the letter j, as T5's own lacks line ends and braces.
    real = text_to_text.token_ids
    lost = t5.tokenizer("j", add_special_tokens=False).input_ids[0]
    monkeypatch.setattr(text_to_text, "token_ids", lambda tokenizer, text: tuple(i for i in real(tokenizer, text) if i != lost))
    with pytest.raises(Exception, match="'ja', the word for 'ja', is 'a' once this tokenizer has read it"):
        text_task(t5, name)


def test_an_adapter_on_an_encoder_decoder_is_saved_and_trained_further(capsys: pytest.CaptureFixture[str]) -> None:
    words = [task(), *TOY, "--peft", "lora", "--peft.rank", "2", "--max_steps", "3", "--test_rows", "0"]
    code, report = run(capsys, *words, "--run_dir", "run")
    assert code == 0, report
    saved = json.loads(Path("run/adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert (saved["peft_type"], saved["task_type"]) == ("LORA", "SEQ_2_SEQ_LM")
    more = [task(), *TOY, "--adapter", "run/adapter", "--max_steps", "2", "--run_dir", "more"]
    code, report = run(capsys, *more)
    assert (code, report["artefact"]) == (0, "more/adapter")
