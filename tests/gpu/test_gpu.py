"""The same on a GPU: losses, gradients, whole runs and resuming. Run these with `pytest -m gpu` where there is one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.cli import main
from tunesmith.core.levers import without
from tunesmith.core.records import Encoded
from tunesmith.data.collate import Batch, collate
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM, load
from tunesmith.objectives import causal_lm
from tunesmith.peft import lora

pytestmark = pytest.mark.gpu


def batch() -> Batch:
    """Rows of different lengths, half of whose tokens count."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 250, (length,), generator=generator).tolist() for length in (60, 9, 33)]
    return collate([Encoded(tuple(row), tuple(i % 2 == 1 for i in range(len(row))), str(i)) for i, row in enumerate(rows)])


def loss_and_gradients(lm: LM) -> tuple[float, dict[str, torch.Tensor]]:
    trained = lora.attach(lm.model, lora.Parameters(rank=4, alpha=8), 0)
    with torch.no_grad():
        for number, p in enumerate(trained.values()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(number)) / 10)
    loss, _ = summed_loss(lm.model, *batch().to(lm.device).tensors(lm.device), causal_lm.loss)
    loss.backward()
    return float(loss), {name: p.grad.cpu() for name, p in trained.items() if p.grad is not None}


@pytest.mark.parametrize("left_out", ["", "compile", "all"])
def test_loss_and_gradients_are_those_of_the_processor(left_out: str) -> None:
    expected, gradients = loss_and_gradients(load("toy-llama", "fp32", "cpu"))
    with without(*filter(None, [left_out])):
        loss, found = loss_and_gradients(load("toy-llama", "fp32", "cuda"))
    assert loss == pytest.approx(expected, rel=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_a_batch_travels_whole() -> None:
    there, here = batch().to(torch.device("cuda")), batch()
    assert there.ids.is_cuda
    assert torch.equal(there.ids.cpu(), here.ids)
    assert torch.equal(there.loss_mask.cpu(), here.loss_mask)
    assert there.example_ids == here.example_ids


def trained(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> dict[str, Any]:
    rows = folder.parent / "rows.jsonl"
    lines = [{"prompt": f"What comes after {i}? ", "completion": f"{i + 1}, I think"} for i in range(40)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["tune", str(rows), "--model", "toy-llama", "--run_dir", str(folder), "--batch_size", "4", "--save_steps", "3"]
    code = main([*words, "--validation_rows", "4", "--json", *more])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("peft", ["lora", "full"])
def test_stopped_and_resumed_is_straight(peft: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight = trained(capsys, tmp_path / "a" / "run", "--peft", peft, "--max_steps", "8")
    trained(capsys, tmp_path / "b" / "run", "--peft", peft, "--max_steps", "8")
    newest = max((tmp_path / "b" / "run" / "checkpoints").iterdir())
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    again = trained(capsys, tmp_path / "b" / "run", "--peft", peft, "--max_steps", "8")
    assert again["final_loss"] == straight["final_loss"]
    weights = [next(Path(r["artefact"]).glob("*model.safetensors")).read_bytes() for r in (straight, again)]
    assert hashlib.sha256(weights[0]).digest() == hashlib.sha256(weights[1]).digest()
    # Control: other rows in another order end elsewhere.
    other = trained(capsys, tmp_path / "c" / "run", "--peft", peft, "--max_steps", "8", "--seed", "1")
    assert next(Path(other["artefact"]).glob("*model.safetensors")).read_bytes() != weights[0]


def test_the_memory_reported_is_the_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = trained(capsys, tmp_path / "run", "--max_steps", "2")
    assert report["peak_memory_gb"] == pytest.approx(torch.cuda.max_memory_reserved() / 1e9, rel=0.2)
