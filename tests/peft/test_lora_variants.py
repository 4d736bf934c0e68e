"""Every variant of LoRA computes what Hugging Face PEFT computes, and its files go both ways."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.registry import PEFT
from tunesmith.models import toy
from tunesmith.models.load import LM, load
from tunesmith.peft import _files, lora

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])
PATTERNS = {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6}, "alpha_pattern": {"v_proj": 3.0}}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True, "alpha": 3.0},
    "dora": {"dora": True},
    "dora rslora": {"dora": True, "rslora": True},
    "patterns": PATTERNS,
    "patterns rslora": {**PATTERNS, "rslora": True},
    "pissa": {"init": "pissa"},
    "pissa rslora": {"init": "pissa", "rslora": True},
    "attention": {"targets": "attention"},
}
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def logits(model: Any) -> torch.Tensor:
    """Logits of the test's tokens."""
    with torch.inference_mode():
        return model(input_ids=IDS).logits.clone()


def moved(model: Any, **parameters: Any) -> lora.Parameters:
    """Attach a variant and move all it trains."""
    chosen = lora.Parameters(**{"rank": 4, **parameters})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in lora.attach(model, chosen, 3).values():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return chosen


@pytest.mark.parametrize("variant", VARIANTS)
def test_peft_reads_our_files_and_computes_the_same(variant: str, tmp_path: Path) -> None:
    from peft import PeftModel

    lm = load("toy-llama", dtype="fp32")
    before = logits(lm.model)
    parameters = moved(lm.model, **VARIANTS[variant])
    _files.save_adapter(tmp_path / "a", lm, lora, parameters, [(10, 20, 30)], "card")
    ours = logits(lm.model)
    theirs = logits(PeftModel.from_pretrained(load("toy-llama", dtype="fp32").model, str(tmp_path / "a")).eval())
    assert float((theirs - ours).abs().max()) < 1e-5
    assert float((ours - before).abs().max()) > 1e-2


@pytest.mark.parametrize("variant", ["rslora", "dora", "dora rslora", "patterns", "attention"])
def test_we_read_the_files_of_peft_and_compute_the_same(variant: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    given = VARIANTS[variant]
    theirs = get_peft_model(load("toy-llama", dtype="fp32").model, LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, use_rslora=given.get("rslora", False), use_dora=given.get("dora", False),
        rank_pattern={"^model.layers.1.mlp.down_proj": 2, "q_proj": 3} if variant == "patterns" else {},
        alpha_pattern={"v_proj": 5} if variant == "patterns" else {},
        target_modules=["q_proj", "v_proj"] if variant == "attention" else "all-linear", init_lora_weights=False,
    ))  # fmt: skip
    theirs.save_pretrained(str(tmp_path / "a"))
    lm = load("toy-llama", dtype="fp32")
    before = logits(lm.model)
    found = _files.load_adapter(lm, tmp_path / "a")
    assert float((logits(lm.model) - logits(theirs.eval())).abs().max()) < 1e-5
    assert float((logits(lm.model) - before).abs().max()) > 1e-2
    # And what we write of it is read again as the same.
    _files.save_adapter(tmp_path / "b", lm, lora, found.parameters, [(10, 20, 30)], "card")
    again = load("toy-llama", dtype="fp32")
    _files.load_adapter(again, tmp_path / "b")
    assert torch.equal(logits(again.model), logits(lm.model))


def our_name(name: str) -> str:
    """What a tensor in a model of PEFT's is called in ours."""
    for part in (".default", ".weight", "base_model.model."):
        name = name.replace(part, "")
    return name.replace("lora_magnitude_vector", "lora_m")


def test_one_step_of_dora_and_of_pissa_is_that_of_peft() -> None:
    """The same gradients for the same tensors: DoRA's norm is a constant, and PiSSA's base is what remains of the weight."""
    from peft import LoraConfig, get_peft_model

    for variant, given in (("dora", {"use_dora": True}), ("pissa", {"init_lora_weights": "pissa"})):
        theirs = get_peft_model(
            load("toy-llama", dtype="fp32").model,
            LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], **given),
        ).eval()
        lm = load("toy-llama", dtype="fp32")
        parameters = lora.Parameters(rank=4, targets=["q_proj", "down_proj"], **VARIANTS[variant])
        trained = lora.attach(lm.model, parameters, 0)
        own = {our_name(n): p for n, p in theirs.named_parameters() if p.requires_grad}
        assert set(own) == set(trained)
        with torch.no_grad():
            for name, p in own.items():
                if variant == "pissa":  # the same decomposition, up to nothing
                    assert float((trained[name] - p).abs().max()) < 1e-5, name
                else:
                    trained[name].copy_(p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))))
        for model in (theirs, lm.model):
            model(input_ids=IDS, labels=IDS).loss.backward()
        for name, p in own.items():
            assert float((trained[name].grad - p.grad).abs().max()) < 1e-6, name
            assert float(p.grad.abs().max()) > 0 or name.endswith("lora_A")


def test_scales_by_hand() -> None:
    assert lora.Parameters(rank=16).scaling == 2.0
    assert lora.Parameters(rank=16, rslora=True).scaling == 2.0
    assert lora.Parameters(rank=64, rslora=True).scaling == 1.0
    assert lora.Parameters(rank=9, alpha=6, rslora=True).scaling == pytest.approx(2.0)
    assert lora.Parameters(rank=9, alpha=6).scaling == pytest.approx(2 / 3)


def test_dora_by_hand() -> None:
    """W = [3 4; 0 2], B A = [0 0; 1 0] x 0: m = (5, 2). m' = (10, 2) doubles the first output and leaves the second."""
    base = torch.nn.Linear(2, 2)
    base.weight.data, base.bias.data = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([1.0, 1.0])
    layer = lora.LoraLinear(base, lora.Parameters(rank=1, alpha=1.0, dora=True), torch.Generator())
    assert layer.lora_m is not None
    assert layer.lora_m.tolist() == [5.0, 2.0]
    layer.lora_m.data = torch.tensor([10.0, 2.0])
    assert layer(torch.tensor([1.0, 1.0])).tolist() == [15.0, 3.0]
    # A change of direction alone does not lengthen: W' = [3 4; 1.5 2], of length 2.5, back to length 2.
    layer.lora_A.data, layer.lora_B.data = torch.tensor([[1.5, 0.0]]), torch.tensor([[0.0], [1.0]])
    assert layer(torch.tensor([1.0, 1.0])).tolist() == pytest.approx([15.0, 3.5 * 2 / 2.5 + 1])
    assert layer.update().flatten().tolist() == pytest.approx([3.0, 4.0, 1.2, 1.6 - 2.0])


def test_pissa_is_saved_as_a_lora_of_twice_the_rank() -> None:
    model = toy.build("toy-llama")[0]
    before = logits(model)
    trained = lora.attach(model, lora.Parameters(rank=4, init="pissa"), 0)
    assert torch.equal(logits(model), before)
    layer = lora.layers(model)["model.layers.0.self_attn.q_proj"]
    # What B A begins with are the four largest singular values of the weight.
    largest = torch.linalg.svdvals(layer.scaling * layer.lora_B.detach() @ layer.lora_A.detach())[:5]
    assert largest[:4].tolist() == pytest.approx(torch.linalg.svdvals(layer.weight)[:4].tolist(), rel=1e-4)
    assert float(largest[4].detach()) < 1e-5
    start = lora.state(model)
    assert max(float(t.abs().max()) for t in start.values()) < 1e-3
    with torch.no_grad():
        for p in trained.values():
            p.mul_(1.1)
    tensors = lora.state(model)
    a, b = (tensors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight"] for x in "AB")
    assert a.shape[0] == b.shape[1] == 8
    with torch.no_grad():
        assert float((layer.scaling * b @ a - layer.update()).abs().max()) < 1e-6
        assert float(layer.update().abs().max()) > 1e-3
    config = lora.to_peft_config(model, lora.Parameters(rank=4, init="pissa"))
    assert (config["r"], config["lora_alpha"]) == (8, 16.0)


def test_pissa_in_bfloat16_comes_back(tmp_path: Path) -> None:
    """The update is small beside its factors; saved as they are, rounding them would be larger than all that was learned."""
    lm = load("toy-llama", dtype="bf16")
    parameters = lora.Parameters(rank=4, init="pissa")
    with torch.no_grad():
        for p in lora.attach(lm.model, parameters, 0).values():
            p.mul_(1.01)
    exact = {n: layer.update().detach() for n, layer in lora.layers(lm.model).items()}
    _files.save_adapter(tmp_path / "a", lm, lora, parameters, [(10, 20, 30)], "card")
    again = load("toy-llama", dtype="bf16")
    _files.load_adapter(again, tmp_path / "a")
    for name, layer in lora.layers(again.model).items():
        error = float((layer.update().detach() - exact[name]).norm() / exact[name].norm())
        assert error < 0.02, name


def test_loraplus_lets_b_learn_faster() -> None:
    model = toy.build("toy-llama")[0]
    parameters = lora.Parameters(rank=2, targets=["q_proj"], loraplus_lr_ratio=16.0)
    trained = lora.attach(model, parameters, 0)
    rates = lora.rates(model, parameters)
    assert set(rates) == {name for name in trained if name.endswith("lora_B")}
    assert set(rates.values()) == {16.0}
    assert lora.rates(model, lora.Parameters()) == {}


def test_ranks_of_layers_by_name(tmp_path: Path) -> None:
    model = toy.build("toy-llama")[0]
    parameters = lora.Parameters(rank=4, **PATTERNS)
    lora.attach(model, parameters, 0)
    found = lora.layers(model)
    assert {n: len(layer.lora_A) for n, layer in found.items() if len(layer.lora_A) != 4} == {
        "model.layers.0.self_attn.q_proj": 2, "model.layers.1.self_attn.q_proj": 2, "model.layers.1.mlp.down_proj": 6,
    }  # fmt: skip
    assert found["model.layers.0.self_attn.v_proj"].scaling == 3.0 / 4
    assert found["model.layers.1.mlp.down_proj"].scaling == 2.0
    config = lora.to_peft_config(model, parameters)
    assert json.loads(json.dumps(config))["rank_pattern"]["model.layers.1.mlp.down_proj"] == 6
    assert config["alpha_pattern"]["model.layers.1.mlp.down_proj"] == 12
    again = lora.from_peft_config(config)
    assert all(again.of_layer(n).scaling == layer.scaling for n, layer in found.items())


@pytest.mark.parametrize(("given", "message", "fix"), [
    ({"rank": 33}, "rank 33 is larger than the matrix model.layers.0.self_attn.k_proj (32 x 64)", "at most 32, or fewer targets"),
    ({"rank": 17, "init": "pissa"}, "rank 17 is larger", "at most 16, or fewer targets. PiSSA is saved with twice its rank"),
    ({"rank_pattern": {"q_porj": 2}}, "the pattern q_porj fits no target layer", "Targets end in down_proj"),
    ({"targets": ["query"]}, "targets ['query'] match no layer", "down_proj, gate_proj"),
    ({"targets": ["lm_head"]}, "targets ['lm_head'] match no layer", "down_proj"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_way_out(given: dict[str, Any], message: str, fix: str) -> None:
    entry, parameters = PEFT.parameters({"name": "lora", **given})
    with pytest.raises(UserError) as caught:
        entry.attach(toy.build("toy-llama")[0], parameters, 0)
    assert message in caught.value.message
    assert fix in caught.value.fix


@pytest.mark.parametrize(("given", "message"), [
    ({"dora": True, "init": "pissa"}, "dora and init pissa exclude each other"),
    ({"rank_pattern": {"q_proj": 0}}, "must be positive, and q_proj is not"),
    ({"alpha_pattern": {"q_proj": -1}}, "must be positive, and q_proj is not"),
    ({"loraplus_lr_ratio": 0}, "loraplus_lr_ratio"),
    ({"init": "gaussian"}, "init"),
])  # fmt: skip
def test_parameters_that_mean_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PEFT.parameters({"name": "lora", **given})


def test_scale_of_pissa_with_rslora_survives_the_file() -> None:
    model = toy.build("toy-llama")[0]
    parameters = lora.Parameters(rank=4, init="pissa", rslora=True)
    lora.attach(model, parameters, 0)
    config = lora.to_peft_config(model, parameters)
    assert config["lora_alpha"] / math.sqrt(config["r"]) == pytest.approx(parameters.scaling)
    assert lora.from_peft_config(config).scaling == pytest.approx(parameters.scaling)


def test_the_real_model_starts_as_its_base() -> None:
    lm: LM = load("smollm2", dtype="bf16")
    before = logits(lm.model)
    lora.attach(lm.model, lora.Parameters(rank=8, dora=True, targets="attention"), 0)
    assert torch.equal(logits(lm.model), before)
