"""(IA)^3 scales what was published, counts as published, and its files are PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.registry import PEFT
from tunesmith.models import toy
from tunesmith.models.encoder import load_encoder
from tunesmith.models.load import LM
from tunesmith.peft import _files, ia3

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def gpt2() -> Any:
    """A tiny random GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    config = GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=64, vocab_size=262, bos_token_id=1, eos_token_id=1)
    return GPT2LMHeadModel(config).eval()


def bert() -> Any:
    """A toy encoder with a head that says what it sees aloud: a new one is close to silent."""
    model = load_encoder("toy-bert", "classifier", ["a", "b"], "fp32").model
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    return model


MODELS = {
    "llama": lambda: toy.build("toy-llama")[0],
    "bert": bert,
    "gpt2": gpt2,
    "t5": lambda: toy.build("toy-t5")[0],
}
TYPES = {"llama": "CAUSAL_LM", "bert": "SEQ_CLS", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


def lm_of(name: str) -> LM:
    """A model and the byte tokenizer."""
    return LM(MODELS[name](), toy.byte_tokenizer(), name, "identity")


def logits(model: Any) -> torch.Tensor:
    """Logits of the test's tokens."""
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        return model(input_ids=IDS, **more).logits.clone()


def moved(model: Any, **given: Any) -> ia3.Parameters:
    """Attach it and scale by something."""
    parameters = ia3.Parameters(**given)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in ia3.attach(model, parameters, 0).values():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return parameters


def test_counts_as_published() -> None:
    """T0-3B and T0-11B: keys and values of 24 encoder and 2 x 24 decoder attentions, and 48 feed-forward parts (section 12)."""
    from transformers import T5Config, T5ForConditionalGeneration

    for width, heads, inner, expected in ((2048, 32, 5120, 540_672), (4096, 64, 10240, 1_081_344)):
        with torch.device("meta"):
            model = T5ForConditionalGeneration(
                T5Config(d_model=width, d_kv=64, num_heads=heads, d_ff=inner, num_layers=24, feed_forward_proj="gated-gelu")
            )
        assert sum(p.numel() for p in ia3.attach(model, ia3.Parameters(), 0).values()) == expected


@pytest.mark.parametrize("name", MODELS)
def test_peft_reads_our_files_and_computes_the_same(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    lm = lm_of(name)
    before = logits(lm.model)
    parameters = moved(lm.model)
    heads = ("classifier",) if name == "bert" else ()
    _files.save_adapter(tmp_path / "a", lm, ia3, parameters, [(10, 20, 30)], "card", heads, TYPES[name])
    ours = logits(lm.model)
    theirs = PeftModel.from_pretrained(MODELS[name](), str(tmp_path / "a")).eval()
    assert float((logits(theirs) - ours).abs().max()) < 1e-5
    assert float((ours - before).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_we_read_the_files_of_peft(name: str, tmp_path: Path) -> None:
    from peft import IA3Config, get_peft_model

    # PEFT's own choice of layers; of a BERT, output.dense is that of attention too.
    theirs: Any = get_peft_model(MODELS[name](), IA3Config(task_type=TYPES[name], fan_in_fan_out=name == "gpt2"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for n, p in theirs.named_parameters():
            if "ia3_l" in n:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    theirs.save_pretrained(str(tmp_path / "a"))
    lm = lm_of(name)
    _files.load_adapter(lm, tmp_path / "a")
    assert float((logits(lm.model) - logits(theirs.eval())).abs().max()) < 1e-5
    assert float((logits(lm.model) - logits(MODELS[name]())).abs().max()) > 1e-3


def test_of_a_gated_part_the_linear_branch_is_scaled() -> None:
    """(silu(g) u) * l into W2 is silu(g) (l * u), and not silu(l * g) u."""
    model = MODELS["llama"]()
    moved(model)
    mlp = model.model.layers[0].mlp
    scale, x = mlp.down_proj.ia3_l.flatten(), 3 * torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    gate, up, w2 = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.base.weight
    silu = torch.nn.functional.silu
    linear = (silu(x @ gate.T) * ((x @ up.T) * scale)) @ w2.T
    wrong = (silu((x @ gate.T) * scale) * (x @ up.T)) @ w2.T
    assert float((mlp(x) - linear).detach().abs().max()) < 1e-6
    assert float((mlp(x) - wrong).detach().abs().max()) > 1e-3


def test_what_is_scaled() -> None:
    model = MODELS["bert"]()
    ia3.attach(model, ia3.Parameters(), 0)
    first = {n.partition("layer.0.")[2]: layer for n, layer in ia3.layers(model).items() if "layer.0." in n}
    width, inner = model.config.hidden_size, model.config.intermediate_size
    assert {n: tuple(layer.ia3_l.shape) for n, layer in first.items()} == {
        "attention.self.key": (width, 1), "attention.self.value": (width, 1), "output.dense": (1, inner),
    }  # fmt: skip
    some = MODELS["llama"]()
    ia3.attach(some, ia3.Parameters(targets=["k_proj"], feedforward=["layers.1.mlp.down_proj"]), 0)
    assert {n: layer.feedforward for n, layer in ia3.layers(some).items()} == {
        "model.layers.0.self_attn.k_proj": False, "model.layers.1.self_attn.k_proj": False, "model.layers.1.mlp.down_proj": True,
    }  # fmt: skip


@pytest.mark.parametrize(("change", "message"), [
    ({"feedforward_modules": ["fc"]}, "feedforward_modules has fc, which is not among target_modules"),
    ({"target_modules": ".*k"}, "target_modules is '.\\*k'"),
    ({"feedforward_modules": ".*k"}, "feedforward_modules is '.\\*k'"),
])  # fmt: skip
def test_configurations_that_are_not_read(change: dict[str, Any], message: str) -> None:
    good = {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    assert ia3.from_peft_config(good) == ia3.Parameters(targets=["k_proj"], feedforward=["down_proj"])
    with pytest.raises(UserError, match=message):
        ia3.from_peft_config({**good, **change})


def test_names_that_match_nothing() -> None:
    entry, parameters = PEFT.parameters({"name": "ia3", "targets": ["key"]})
    with pytest.raises(UserError, match=r"ia3 targets \['key'\] match no layer\n.*k_proj"):
        entry.attach(MODELS["llama"](), parameters, 0)
