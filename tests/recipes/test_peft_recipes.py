"""Peft methods through the commands: trained, saved, read again, climbed as a rung; and what they refuse, with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tickets import climb_here, write_task

from tunesmith import cli
from tunesmith.models import toy
from tunesmith.models.encoder import load_encoder
from tunesmith.peft import _files
from tunesmith.recipes import _adapt
from tunesmith.recipes._models import load

SHORT = [*("--threads", "1", "--batch_size", "4", "--max_steps", "4", "--save_steps", "2", "--validation_rows", "0")]
DECODER = ["tune", "rows.jsonl", "--model", "toy-llama", *SHORT]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with a file of labelled rows."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"number {i}", "label": ("even", "odd")[i % 2]} for i in range(24)]
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


@pytest.mark.parametrize(("peft", "saved"), [
    ("houlsby:size=4", "HOULSBY"), ("bitfit", "BITFIT"), ("lora:rank=4,init=pissa", "LORA"), ("ia3", "IA3"),
])  # fmt: skip
def test_a_decoder_is_tuned_and_used(peft: str, saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(capsys, *DECODER, "--peft", peft, "--run_dir", "run")
    seen = reported(capsys, "inspect", "adapter", "run/adapter", "--threads", "1")
    assert seen["peft_type"] == saved
    assert seen["probe"]["replayed"]
    assert report["trained_parameters"] > 0
    ids = torch.tensor([[10, 20, 30]])
    with torch.inference_mode():
        adapted = load("toy-llama", "run/adapter").model(input_ids=ids).logits
        assert float((adapted - load("toy-llama").model(input_ids=ids).logits).abs().max()) > 1e-6


def test_a_classifier_is_tuned_and_its_head_saved(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--objective", "classification", "--model", "toy-bert", "--peft", "lora:rank=4", *SHORT, "--run_dir", "run"]
    report = reported(capsys, "tune", str(write_task(Path("tickets"))), *words)
    folder = Path(report["artefact"])
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["bert.pooler.dense", "classifier"])
    tensors = load_file(folder / "adapter_model.safetensors")
    head = sum(t.numel() for n, t in tensors.items() if "classifier" in n)
    assert head == 3 * 64 + 3
    assert report["trained_parameters"] == sum(t.numel() for t in tensors.values())
    lm = load_encoder("toy-bert", "classifier", ["a", "b", "c"], "fp32", new_head=True)
    _files.load_adapter(lm, folder)  # which replays the head's logits
    assert torch.equal(lm.model.classifier.weight, tensors["base_model.model.classifier.weight"])


@pytest.mark.parametrize(("route", "label", "trained"), [
    ("ia3", "(IA)3", 2 * (2 * 32 + 128)),
    ("selective:parts=all,first_layer=-1", "selective parts=all first_layer=-1", None),
])  # fmt: skip
def test_a_method_is_a_rung(route: str, label: str, trained: int | None, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task", train=24, test=6)
    result, predictions = climb_here(task, tmp_path / "run", route, train={"max_steps": 3})
    assert result.route == label
    assert len(predictions) == 6
    assert result.trained_parameters == (trained or result.trained_parameters) > 0
    assert list((tmp_path / "run").rglob("adapter_model.safetensors"))


def test_the_rates_of_loraplus_reach_the_training() -> None:
    from tunesmith.core.registry import PEFT
    from tunesmith.train.parameters import FitParameters

    lm = load("toy-llama")
    method = PEFT.parameters("lora:rank=2,loraplus_lr_ratio=16")
    loss_of = _adapt.language_modelling(lm, False)
    training = _adapt.attach(lm, method, [], FitParameters(), 0, loss_of, heads=("lm_head",))
    assert set(training.rates) == {n for n in training.parameters if n.endswith("lora_B")}
    assert set(training.rates.values()) == {16.0}
    assert lm.model.lm_head.weight.requires_grad


@pytest.mark.parametrize(("words", "message", "fix"), [
    (["--peft", "lora:rank=64"], "rank 64 is larger than the matrix", "Give a rank of at most 32"),
    (["--peft.targets", "[query]"], "LoRA targets ['query'] match no layer", "This model has down_proj"),
    (["--peft", "ia3", "--peft.targets", "[key]"], "ia3 targets ['key'] match no layer", "This model has down_proj"),
    (["--peft", "selective:first_layer=9"], "no weight of this LlamaForCausalLM", "It has 2 blocks"),
    (["--peft", "bitfit:add=false"], "has no biases to train", "add=true"),
    (["--peft", "hulsby"], "unknown peft method 'hulsby'", "Did you mean 'houlsby'?"),
    (["--peft", "houlsby:width=3"], "unknown key 'width'", ""),
])  # fmt: skip
def test_bad_settings_end_with_2_and_one_line(
    words: list[str], message: str, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(capsys, *DECODER, *words, "--run_dir", "run")
    assert code == 2
    assert message in err
    assert fix in err
    assert "Traceback" not in err
    assert not Path("run").exists()


def test_an_adapter_for_another_base_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, *DECODER, "--peft", "lora:rank=4", "--learning_rate", "0.05", "--run_dir", "run")[0] == 0
    model, tokenizer = toy.build("toy-llama", seed=1)
    model.save_pretrained("other")
    tokenizer.save_pretrained("other")
    capsys.readouterr()
    code, _, err = command(capsys, "inspect", "adapter", "run/adapter", "--model", "other", "--threads", "1")
    assert code == 2
    assert "does not behave as it did when it was saved" in err
    assert "Load it on the base it was trained on" in err
