"""LoRA layers: drawn, counted, targeted and merged as published, on nn.Linear and on GPT-2's transposed Conv1D."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.models import toy
from tunesmith.models.load import LM
from tunesmith.peft import _files, lora
from tunesmith.train.update import Updater

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])


def gpt2() -> Any:
    """A tiny random GPT-2 whose layers keep their weights as [in, out]."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 262, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(**size)).eval()


def llama() -> Any:
    """The toy decoder."""
    return toy.build("toy-llama")[0]


MODELS = {"llama": llama, "gpt2": gpt2}


def logits(model: Any) -> torch.Tensor:
    """Logits of the test's tokens, without gradients."""
    with torch.inference_mode():
        return model(input_ids=IDS).logits.clone()


def moved(model: Any, seed: int = 0, **parameters: Any) -> dict[str, nn.Parameter]:
    """Attach LoRA and fill A and B with something."""
    trained = lora.attach(model, lora.Parameters(**parameters), 3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trained.values():
            p.add_(0.2 * torch.randn(p.shape, generator=generator).to(p.dtype))
    return trained


@pytest.mark.parametrize("name", MODELS)
def test_identity_until_the_first_update(name: str) -> None:
    model = MODELS[name]()
    before = logits(model)
    trained = lora.attach(model, lora.Parameters(rank=4), 3)
    assert torch.equal(logits(model), before)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(trained)
    updater = Updater(trained, 0.0, 1.0)
    model(input_ids=IDS, labels=IDS).loss.backward()
    for n, p in model.named_parameters():
        assert (p.grad is not None) == (n in trained)
    assert all(not p.grad.any() for n, p in trained.items() if n.endswith("lora_A"))
    assert all(p.grad.any() for n, p in trained.items() if n.endswith("lora_B"))
    updater.gather()
    updater.step(1e-2)
    assert not torch.equal(logits(model), before)
    with lora.disabled(model):
        assert torch.equal(logits(model), before)
    assert not torch.equal(logits(model), before)


@pytest.mark.parametrize("name", MODELS)
def test_merged_equals_attached(name: str) -> None:
    model = MODELS[name]()
    before = logits(model)
    moved(model, rank=4, alpha=3.0)
    attached = logits(model)
    lora.merge(model)
    assert not lora.layers(model)
    assert float((logits(model) - attached).abs().max()) < 1e-5
    assert float((attached - before).abs().max()) > 1e-2


def test_scaling_and_layout_by_hand() -> None:
    # W = I, A = [1 2], B = [3 4]^T, alpha / r = 2: B A x = (9, 12) for x = (1, 1); rectangular, so that a transposition shows.
    base = nn.Linear(2, 3, bias=True)
    base.weight.data, base.bias.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0, 0.0, 5.0])
    layer = lora.LoraLinear(base, lora.Parameters(rank=1, alpha=2.0), torch.Generator())
    layer.lora_A.data, layer.lora_B.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0], [0.5]])
    assert layer(torch.ones(2)).tolist() == [19.0, 25.0, 8.0]
    assert layer.update().tolist() == [[6.0, 12.0], [8.0, 16.0], [1.0, 2.0]]
    assert lora.Parameters(rank=8).scaling == 2.0
    assert lora.Parameters(rank=8, alpha=4).scaling == 0.5


def test_the_transposed_layer_by_hand() -> None:
    from transformers.pytorch_utils import Conv1D

    base = Conv1D(3, 2)  # [in = 2, out = 3]
    base.weight.data, base.bias.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.zeros(3)
    layer = lora.LoraLinear(base, lora.Parameters(rank=1, alpha=2.0), torch.Generator())
    layer.lora_A.data, layer.lora_B.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0], [0.5]])
    assert layer(torch.ones(1, 2)).tolist() == [[19.0, 25.0, 3.0]]
    assert layer.update().shape == base.weight.shape == (2, 3)


def test_a_is_drawn_as_published_and_by_seed() -> None:
    def drawn(seed: int) -> torch.Tensor:
        return lora.LoraLinear(nn.Linear(400, 3), lora.Parameters(rank=50), torch.Generator().manual_seed(seed)).lora_A.detach()

    a = drawn(1)
    # Kaiming uniform with a = sqrt 5: bound sqrt(6 / ((1 + 5) k)) = 1 / sqrt k, variance bound^2 / 3.
    assert float(a.abs().max()) == pytest.approx(1 / math.sqrt(400), rel=0.01)
    assert float(a.abs().max()) <= 1 / math.sqrt(400)
    assert float(a.var()) == pytest.approx(1 / 1200, rel=0.03)
    assert torch.equal(a, drawn(1))
    assert not torch.equal(a, drawn(2))


def test_every_layer_draws_its_own_a() -> None:
    model = llama()
    lora.attach(model, lora.Parameters(rank=4), 3)
    drawn = [layer.lora_A for layer in lora.layers(model).values()]
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_dropout_is_on_the_branch_and_in_training_only() -> None:
    model = llama()
    moved(model, rank=4, dropout=0.5)
    assert not model.training
    assert torch.equal(logits(model), logits(model))  # attached to a model that answers, it does not drop anything
    model.train()
    assert not torch.equal(logits(model), logits(model))
    with lora.disabled(model):
        assert torch.equal(logits(model), logits(model))


def on_meta(build: Any, config: Any) -> Any:
    with torch.device("meta"):
        return build(config)


def count(model: Any, **parameters: Any) -> int:
    """How many parameters LoRA trains."""
    return sum(p.numel() for p in lora.attach(model, lora.Parameters(**parameters), 0).values())


def test_parameter_counts_of_the_paper() -> None:
    """Methods, section 9: 2 x layers x matrices x d x r."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaModel

    roberta = on_meta(RobertaModel, RobertaConfig())
    assert count(roberta, rank=8, targets=["query", "value"]) == 2 * 12 * 2 * 768 * 8 == 294_912
    medium = on_meta(GPT2LMHeadModel, GPT2Config(n_embd=1024, n_layer=24, n_head=16))
    assert count(medium, rank=4, targets=["c_attn"]) == 24 * 4 * (1024 + 3 * 1024) == 393_216

    def gpt3() -> Any:  # only the sizes that LoRA on attention sees
        return on_meta(LlamaForCausalLM, LlamaConfig(
            hidden_size=12288, num_hidden_layers=96, num_attention_heads=96, intermediate_size=16, vocab_size=16))  # fmt: skip

    assert count(gpt3(), rank=1, targets=["q_proj", "v_proj"]) == 4_718_592
    assert count(gpt3(), rank=8, targets=["q_proj"]) == 18_874_368
    assert count(gpt3(), rank=2, targets="attention") == 18_874_368


def test_targets() -> None:
    def names(build: Any = llama, **parameters: Any) -> set[str]:
        model = build()
        lora.attach(model, lora.Parameters(**parameters), 0)
        return set(lora.layers(model))

    every = names()
    assert len(every) == 14
    assert not any("lm_head" in name for name in every)
    assert {n.rpartition(".")[2] for n in names(targets="attention")} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert names(targets=["layers.1.self_attn.q_proj"]) == {"model.layers.1.self_attn.q_proj"}
    assert {n.rpartition(".")[2] for n in names(gpt2)} == {"c_attn", "c_proj", "c_fc"}
    with pytest.raises(UserError, match=r"match no layer\n.* down_proj, .*q_proj"):
        names(targets=["qproj"])


@pytest.mark.parametrize("bad", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"targets": "linear"}])
def test_parameters_that_mean_nothing_are_refused(bad: dict[str, Any]) -> None:
    from tunesmith.core.registry import PEFT

    with pytest.raises(UserError, match=f"peft method 'lora': {next(iter(bad))}"):
        PEFT.parameters({"name": "lora", **bad})


def test_tensors_must_fit() -> None:
    model = llama()
    lora.attach(model, lora.Parameters(rank=4), 0)
    tensors = lora.state(model)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    with pytest.raises(UserError, match=f"tensor {name} is missing"):
        lora.load_state(model, {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(UserError, match="tensor another is unexpected"):
        lora.load_state(model, {**tensors, "another": torch.zeros(1)})
    with pytest.raises(UserError, match=r"q_proj.lora_A.weight is \[3, 64\], the model needs \[4, 64\]"):
        lora.load_state(model, {**tensors, name: torch.zeros(3, 64)})
    before = lora.state(model)
    lora.load_state(model, {n: t.clone() for n, t in tensors.items()})
    assert all(torch.equal(before[n], t) for n, t in lora.state(model).items())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT asks transformers by its older name
@pytest.mark.parametrize(("name", "targets"), [
    ("llama", "all-linear"), ("llama", ["layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"]), ("gpt2", "all-linear"),
])  # fmt: skip
def test_plain_peft_gives_the_same_logits(name: str, targets: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    lm = LM(MODELS[name](), toy.byte_tokenizer(), "base", "identity")
    before = logits(lm.model)
    parameters = lora.Parameters(rank=3, alpha=5.0, targets=targets)
    moved(lm.model, rank=3, alpha=5.0, targets=targets)
    _files.save_adapter(tmp_path / "a", lm, lora, parameters, [(10, 20)], "card")
    theirs = PeftModel.from_pretrained(MODELS[name](), str(tmp_path / "a")).eval()
    assert float((logits(theirs) - logits(lm.model)).abs().max()) <= 1e-5
    assert float((logits(lm.model) - before).abs().max()) > 1e-2


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(("name", "targets"), [
    ("llama", "all-linear"), ("llama", ["layers.1.self_attn.q_proj"]), ("gpt2", ["c_attn", "c_fc"]),
])  # fmt: skip
def test_an_adapter_of_plain_peft_loads(name: str, targets: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=5, lora_alpha=7, lora_dropout=0.2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM",
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    theirs = get_peft_model(MODELS[name](), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    lm = LM(MODELS[name](), toy.byte_tokenizer(), "base", "identity")
    attached = _files.load_adapter(lm, tmp_path / "theirs")
    assert float((logits(lm.model) - logits(theirs)).abs().max()) <= 1e-5
    assert float((logits(lm.model) - logits(MODELS[name]())).abs().max()) > 1e-2
    assert (attached.entry, attached.parameters.rank, attached.parameters.dropout) == (lora, 5, 0.2)
    assert all(p.requires_grad for p in attached.trained.values())
