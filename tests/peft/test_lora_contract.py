"""What LoRA promises: nothing changes at the start, only it is trained, and its files are plain PEFT files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tunesmith.core.errors import TunesmithError
from tunesmith.models.load import LM, load
from tunesmith.peft import _files, lora

IDS = torch.tensor([[10, 20, 30, 40, 50, 60]])


def _logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits


@pytest.fixture
def attached() -> tuple[LM, dict[str, torch.nn.Parameter], torch.Tensor]:
    """A toy model with LoRA on it, and the logits it had before."""
    lm = load("toy-llama")
    before = _logits(lm.model)
    return lm, lora.attach(lm.model, lora.Parameters(rank=4), seed=3), before


def _move(trained: dict[str, torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_identity_at_the_start_and_gradients(attached) -> None:
    lm, trained, before = attached
    assert torch.equal(_logits(lm.model), before)
    lm.model(input_ids=IDS).logits.square().sum().backward()
    for name, parameter in lm.model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    # B starts at zero, so nothing reaches A in the first step, and everything reaches B.
    assert all(float(p.grad.abs().sum()) == 0 for n, p in trained.items() if n.endswith("lora_A"))
    assert all(float(p.grad.abs().sum()) > 0 for n, p in trained.items() if n.endswith("lora_B"))


def test_disabled_is_bitwise_the_base_and_merged_is_attached(attached) -> None:
    lm, trained, before = attached
    _move(trained)
    adapted = _logits(lm.model)
    assert float((adapted - before).abs().max()) > 0.01
    with lora.disabled(lm.model):
        assert torch.equal(_logits(lm.model), before)
    lora.merge(lm.model)
    assert not lora.layers(lm.model)
    assert float((_logits(lm.model) - adapted).abs().max()) < 1e-4
    assert float((_logits(lm.model) - before).abs().max()) > 0.01


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers by its older name
def test_plain_peft_reads_the_files(attached, tmp_path: Path) -> None:
    from peft import PeftModel

    lm, trained, _ = attached
    _move(trained)
    _files.save_adapter(tmp_path / "a", lm, lora, lora.Parameters(rank=4), [(10, 20, 30)], "card")
    theirs = PeftModel.from_pretrained(load("toy-llama").model, str(tmp_path / "a")).eval()
    assert float((_logits(theirs) - _logits(lm.model)).abs().max()) < 1e-5


def test_loading_replays_the_probe(attached, tmp_path: Path) -> None:
    lm, trained, _ = attached
    _move(trained)
    _files.save_adapter(tmp_path / "a", lm, lora, lora.Parameters(rank=4), [(10, 20, 30)], "card")
    again = load("toy-llama")
    _files.load_adapter(again, tmp_path / "a")
    assert torch.equal(_logits(again.model), _logits(lm.model))
    wrong = load("toy-llama")
    with torch.no_grad():
        for parameter in wrong.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    with pytest.raises(TunesmithError, match="probe"):
        _files.load_adapter(wrong, tmp_path / "a")


def test_damage_is_refused(attached, tmp_path: Path) -> None:
    lm, _, _ = attached
    _files.save_adapter(tmp_path / "a", lm, lora, lora.Parameters(rank=4), [(10, 20, 30)], "card")
    path = tmp_path / "a" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(TunesmithError, match="damaged"):
        _files.load_adapter(load("toy-llama"), tmp_path / "a")
