"""Soft prompts through the commands: tune, resume, plan, chat, generate, the ladder's routes, and inspect adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tickets import climb_here, write_task

from tunesmith import cli
from tunesmith.core.files import sha256
from tunesmith.core.registry import ROUTES
from tunesmith.evaluate.results import Prediction
from tunesmith.recipes import _models
from tunesmith.recipes._routes.vote import vote

METHODS = {
    "prompt-tuning": (["--peft.tokens", "6"], 6 * 64, 6 * 64),
    "prefix-tuning": (["--peft.tokens", "3", "--peft.hidden", "8"], 3 * 64 + 65 * 8 + 9 * 128, 3 * 128),
    # LSTM of two layers, 8 wide each way, then 16 -> 16 -> 64; of it only the tokens are kept.
    "p-tuning": (["--peft.tokens", "6", "--peft.hidden", "16"], 6 * 64 + 4736 + 1664 + 272 + 1088, 6 * 64),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with a file of labelled rows."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"number {i}", "label": ("even", "odd")[i % 2]} for i in range(40)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; its exit code, stdout and stderr."""
    code = cli.main([*words])
    return (code, *capsys.readouterr())


def reported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command with --json, which must succeed, and read the last line of stdout."""
    code, out, err = command(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def tune_words(name: str, run_dir: str) -> list[str]:
    """The words of a short training."""
    shared = [
        "--model",
        "toy-llama",
        "--threads",
        "1",
        "--batch_size",
        "4",
        "--max_steps",
        "6",
        "--save_steps",
        "2",
        "--guard=false",
    ]
    return ["tune", "rows.jsonl", *shared, "--learning_rate", "0.02", "--peft", name, *METHODS[name][0], "--run_dir", run_dir]


@pytest.mark.parametrize("name", METHODS)
def test_tune_resume_and_use(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, trained, saved = METHODS[name]
    report = reported(capsys, *tune_words(name, "run"))
    assert report["trained_parameters"] == trained
    steps = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [s["loss"] for s in steps if "loss" in s]
    assert losses[-1] < losses[0]
    # A run that lost its last checkpoint and its artefact makes the same artefact again, bit for bit.
    artefact = Path(report["artefact"])
    digest = sha256(artefact / "adapter_model.safetensors")
    shutil.rmtree(artefact)
    shutil.rmtree(max(Path("run/checkpoints").glob("step-*")))
    reported(capsys, *tune_words(name, "run"))
    assert sha256(artefact / "adapter_model.safetensors") == digest
    lm = _models.load("toy-llama", str(artefact))
    assert lm.context_length == 2048 - lm.model.soft_prefix.length
    assert lm.model.soft_prefix.values().numel() == saved
    toy = ["--model", "toy-llama", "--threads", "1", "--max_new_tokens", "8"]
    with_it = command(capsys, "generate", "number 3", *toy, "--adapter", str(artefact))
    assert with_it[0] == 0, with_it[2]
    assert with_it[1] != command(capsys, "generate", "number 3", *toy)[1]
    assert command(capsys, "chat", "number 3", *toy, "--adapter", str(artefact))[0] == 0


def test_an_adapter_is_trained_further(capsys: pytest.CaptureFixture[str]) -> None:
    first = reported(capsys, *tune_words("prefix-tuning", "first"))["artefact"]
    words = ["--model", "toy-llama", "--threads", "1", "--max_steps", "2", "--learning_rate", "0.02", "--adapter", first]
    second = reported(capsys, "tune", "rows.jsonl", *words, "--run_dir", "second")
    assert second["trained_parameters"] == 3 * 128  # without its MLP
    config = json.loads((Path(second["artefact"]) / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"]) == ("PREFIX_TUNING", 3)


def test_a_prompt_starts_from_the_words_of_its_task(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from tunesmith.core.encode import token_ids

    words = [*tune_words("prompt-tuning", "run"), "--learning_rate", "1e-12", "--weight_decay", "0"]
    artefact = reported(capsys, *words, "--overwrite")["artefact"]
    lm = _models.load("toy-llama", artefact)
    table, values = lm.model.get_input_embeddings().weight, lm.model.soft_prefix.values()
    for row, word in zip(values, (" even", " odd"), strict=False):
        assert torch.allclose(row, table[list(token_ids(lm.tokenizer, word))].mean(0), atol=1e-5)
    chats = [{"messages": [{"role": "user", "content": f"{i}"}, {"role": "assistant", "content": "ja"}]} for i in range(20)]
    Path("chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats), encoding="utf-8")
    # Rows without choices have no answer words: all tokens are sampled.
    words = ["tune", "chats.jsonl", *tune_words("prompt-tuning", "chats")[2:], "--learning_rate", "1e-12", "--weight_decay", "0"]
    values = _models.load("toy-llama", reported(capsys, *words)["artefact"]).model.soft_prefix.values()
    assert all(bool(((table - row).abs().max(1).values < 1e-5).any()) for row in values)


def test_plan_counts_a_soft_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    plan = reported(capsys, "plan", *tune_words("prompt-tuning", "run"))
    assert (plan["trained_parameters"], plan["fits"], plan["peft"]) == (6 * 64, True, "prompt_tuning")
    assert plan["artefact_gb"] == pytest.approx(6 * 64 * 4 / 1e9)


def test_a_checkpointed_prefix_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = command(capsys, *tune_words("prefix-tuning", "run"), "--activation_checkpointing")
    assert code == 2
    assert "prefix tuning trains a cache" in err


@pytest.mark.parametrize(("route", "trained"), [("soft-prompt:tokens=4", 4 * 64), ("prefix-tuning:tokens=2,hidden=4", 1028)])
def test_routes_train_and_answer(route: str, trained: int, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task", train=24, test=6)
    settings = {"train": {"max_steps": 3, "learning_rate": 0.02}, "validation_rows": 0, "guard_rows": 1}
    result, predictions = climb_here(task, tmp_path / "run", route, **settings)
    assert result.trained_parameters == trained
    assert {p.predicted for p in predictions} <= {"refund", "refund request", "delivery delay"}
    assert list((tmp_path / "run").rglob("adapter_config.json"))


def test_an_ensemble_votes(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task", train=24, test=6)
    settings = {"train": {"max_steps": 2, "learning_rate": 0.05}, "validation_rows": 0, "guard_rows": 1}
    result, predictions = climb_here(task, tmp_path / "run", "soft-prompt:tokens=4,ensemble=3", **settings)
    assert result.trained_parameters == 3 * 4 * 64
    assert result.route == "soft prompt 4 x 3"
    assert len(predictions) == 6
    members = sorted((tmp_path / "run").rglob("adapter_model.safetensors"))
    assert len({sha256(m) for m in members}) == 3
    assert "right answers of each alone" in result.notes[-1]


def test_labels_of_the_routes_say_what_is_not_as_usual() -> None:
    soft, prefix = ROUTES.get("soft-prompt"), ROUTES.get("prefix-tuning")
    assert soft.label(soft.Parameters(init="random", ensemble=5)) == "soft prompt 20 random x 5"
    assert prefix.label(prefix.Parameters(hidden=None)) == "prefix 10 hidden=none"


def said(predicted: str, low: float, valid: bool = True) -> Prediction:
    """One member's answer to an item of two labels."""
    scores = {"a": low, "b": -1.0}
    return Prediction("i", "", "", "", "", scores, predicted, "a", valid)


def test_the_majority_wins_and_a_tie_goes_to_the_higher_score() -> None:
    won = vote([said("a", -0.5), said("a", -0.5), said("b", -9.0)])
    assert (won.predicted, won.valid) == ("a", True)
    assert won.scores["a"] == pytest.approx(-10 / 3)  # the mean would have said b
    assert vote([said("a", -0.5), said("b", -9.0)]).predicted == "b"
    assert vote([said("b", -2.0), said("a", -0.5)]).predicted == "b"
    assert vote([said("a", -0.5), said("b", -0.5)]).predicted == "a"
    assert not vote([said("a", -0.5, valid=False), said("a", -0.5)]).valid


def test_inspect_reads_a_soft_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    task = "name: parity\ndata: {train: rows.jsonl}\ntemplate: '{text} is {answer}'\nchoices: labels\n"
    Path("parity.yaml").write_text(task.replace("choices: labels\n", "choices: {even: [e], odd: [o]}\n"), encoding="utf-8")
    words = ["tune", "parity.yaml", *tune_words("prompt-tuning", "run")[2:], "--learning_rate", "1e-9"]
    artefact = reported(capsys, *words)["artefact"]
    report = reported(capsys, "inspect", "adapter", artefact, "--task", "parity.yaml", "--nearest", "3")
    assert (report["method"], report["peft_type"], report["base"]) == ("prompt_tuning", "PROMPT_TUNING", "toy-llama")
    assert (report["saved_parameters"], report["tensors"]) == (6 * 64, 1)
    assert report["probe"]["replayed"] is True
    assert [len(t["nearest"]) for t in report["tokens"]] == [3] * 6
    # It never moved, so every virtual token is where it began: at a word, the first two at those of the task.
    assert all(t["nearest"][0]["cosine"] == pytest.approx(1, abs=1e-3) for t in report["tokens"][2:])
    assert all(n["distance"] == pytest.approx(1 - n["cosine"]) for t in report["tokens"] for n in t["nearest"])
    found = report["class_words"]
    assert {"e", "o"} <= set(found["words"])
    assert found["of"] == 18
    assert {0, 1} <= set(found["positions"])
    text = command(capsys, "inspect", "adapter", artefact, "--task", "parity.yaml")[1]
    assert "probe: 3 prompts gave the logits" in text
    assert "class words among them:" in text
    assert "384 parameters in 1 tensor; " in text
    assert report["parameters"] == {"tokens": 6}
    assert "no translation of the prompt" in " ".join(text.split())


def test_inspect_reads_any_other_adapter_and_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "toy-llama", "--threads", "1", "--max_steps", "2", "--peft.rank", "2", "--run_dir", "run"]
    artefact = reported(capsys, "tune", "rows.jsonl", *words)["artefact"]
    report = reported(capsys, "inspect", "adapter", artefact)
    assert (report["method"], report["parameters"]["rank"], "tokens" in report) == ("lora", 2, False)
    assert "lora (LORA) of toy-llama" in command(capsys, "inspect", "adapter", artefact)[1]
    code, _, err = command(capsys, "inspect", "adapter", artefact, "--task", "movies")
    assert (code, "this adapter has none" in err) == (2, True)
    code, _, err = command(capsys, "inspect", "adapter", "nowhere")
    assert (code, "there is no adapter directory 'nowhere'" in err) == (2, True)
    code, _, err = command(capsys, "inspect", "adaptor", artefact)
    assert (code, "kind" in err) == (2, True)
    path = Path(artefact) / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": None}))
    code, _, err = command(capsys, "inspect", "adapter", artefact)
    assert (code, "does not say which model it was made for" in err) == (2, True)
