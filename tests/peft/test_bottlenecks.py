"""Houlsby and Pfeiffer adapters stand where they were published to stand, count as published and start near the identity."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.registry import PEFT
from tunesmith.models import toy
from tunesmith.models.encoder import load_encoder
from tunesmith.peft import houlsby, pfeiffer
from tunesmith.peft._bottleneck import bottlenecks

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])


def gpt2() -> Any:
    """A tiny random GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=2, n_head=2, n_positions=64, vocab_size=262)).eval()


MODELS = {
    "llama": lambda: toy.build("toy-llama")[0],
    "bert": lambda: load_encoder("toy-bert", "classifier", ["a", "b"], "fp32").model,
    "gpt2": gpt2,
    "t5": lambda: toy.build("toy-t5")[0],
}


def logits(model: Any) -> torch.Tensor:
    """Logits of the test's tokens."""
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=IDS, **more).logits.clone()


def bert(layers: int, width: int) -> Any:
    """A BERT without weights."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        config = BertConfig(hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width, num_attention_heads=16)
        return BertModel(config)


def count(entry: Any, model: Any, **given: Any) -> int:
    """How many parameters a method trains."""
    return sum(p.numel() for p in entry.attach(model, entry.Parameters(**given), 0).values())


def test_counts_as_published() -> None:
    """2 m d + d + m each: 48 of them in BERT-large (d = 1024) with m = 64, and 49 norms; Pfeiffer has 24 (section 10)."""
    assert count(houlsby, bert(24, 1024), norms=False) == 48 * 132_160 == 6_343_680
    assert count(houlsby, bert(24, 1024)) == 6_343_680 + 100_352 == 6_444_032
    assert count(pfeiffer, bert(24, 1024)) == 24 * 132_160 == 3_171_840
    assert count(houlsby, bert(1, 768), norms=False) == 2 * 99_136


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["houlsby", "pfeiffer"])
def test_it_starts_near_its_base_and_zero_is_the_identity(name: str, model: str) -> None:
    built = MODELS[model]()
    before = logits(built)
    entry, parameters = PEFT.parameters(name)
    entry.attach(built, parameters, 3)
    found = bottlenecks(built)
    blocks = {"llama": 2, "bert": 2, "gpt2": 2, "t5": 4}[model]
    crossing = 2 if model == "t5" else 0  # T5's decoder attends to its encoder as well
    assert len(found) == (blocks if name == "pfeiffer" else 2 * blocks + crossing)
    assert 0 < float((logits(built) - before).abs().max()) < 1e-3
    weights = torch.cat([w.detach().flatten() for b in found.values() for w in (b.down.weight, b.up.weight)])
    assert float(weights.abs().max()) <= 2e-3  # normal with deviation 1e-3, cut off at two
    # A normal cut off at two deviations has 0.8796 of its deviation.
    assert float(weights.std()) == pytest.approx(0.88e-3, rel=0.05)
    with torch.no_grad():
        for bottleneck in found.values():
            bottleneck.up.weight.zero_()
    # With a norm around it, adding zeros is adding nothing.
    assert torch.equal(logits(built), before)


def filled(model: Any, name: str, **given: Any) -> dict[str, Any]:
    """Attach bottlenecks and fill them with numbers that matter."""
    entry, parameters = PEFT.parameters({"name": name, **given})
    entry.attach(model, parameters, 3)
    generator = torch.Generator().manual_seed(1)
    found = bottlenecks(model)
    with torch.no_grad():
        for p in (p for b in found.values() for p in b.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return found


def f(bottleneck: Any, h: torch.Tensor, activation: Any) -> torch.Tensor:
    """The formula, by hand."""
    inner = activation(h @ bottleneck.down.weight.T + bottleneck.down.bias)
    return inner @ bottleneck.up.weight.T + bottleneck.up.bias


def test_houlsby_in_bert_stands_before_both_sums() -> None:
    """attention.output: LN(x + a + f(a)) with a = W h + b; the same of the feed-forward part."""
    model = MODELS["bert"]()
    found = filled(model, "houlsby", size=8)
    layer = model.bert.encoder.layer[0]
    h, x = torch.randn(2, 1, 5, layer.attention.output.LayerNorm.weight.shape[0], generator=torch.Generator().manual_seed(2))
    own = found["bert.encoder.layer.0.attention.output.dense.bottleneck"]
    base = layer.attention.output.dense.base
    a = h @ base.weight.T + base.bias
    expected = layer.attention.output.LayerNorm(x + a + f(own, a, torch.nn.functional.gelu))
    assert float((layer.attention.output(h, x) - expected).detach().abs().max()) < 1e-5
    assert float((layer.attention.output.LayerNorm(x + a) - expected).detach().abs().max()) > 1e-2


def test_pfeiffer_in_bert_stands_between_two_turns_of_the_norm() -> None:
    """LN(x + r + f(LN(x + r))) with r = W h + b of the feed-forward part, as AdapterHub's configurations of it say."""
    model = MODELS["bert"]()
    found = filled(model, "pfeiffer", reduction=4)
    assert set(found) == {f"bert.encoder.layer.{i}.output.LayerNorm.bottleneck" for i in (0, 1)}
    layer = model.bert.encoder.layer[0]
    x = torch.randn(1, 5, layer.output.dense.weight.shape[0], generator=torch.Generator().manual_seed(2))
    h = torch.randn(1, 5, layer.output.dense.weight.shape[1], generator=torch.Generator().manual_seed(3))
    norm, r = layer.output.LayerNorm.base, layer.output.dense(h)
    expected = norm(x + r + f(found["bert.encoder.layer.0.output.LayerNorm.bottleneck"], norm(x + r), torch.relu))
    assert float((layer.output(h, x) - expected).detach().abs().max()) < 1e-5
    assert float((norm(x + r) - expected).detach().abs().max()) > 1e-2


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_pfeiffer_in_a_decoder_stands_behind_the_block(model: str) -> None:
    built = MODELS[model]()
    seen: list[torch.Tensor] = []
    built.requires_grad_(False)
    blocks = built.model.layers if model == "llama" else built.transformer.h
    entry, parameters = PEFT.parameters("pfeiffer")
    first = lambda out: out[0] if isinstance(out, tuple) else out  # noqa: E731
    handle = blocks[0].register_forward_hook(lambda block, inputs, output: seen.append(first(output)))
    logits(built)
    handle.remove()
    found = filled(built, "pfeiffer", reduction=4)
    blocks[0].register_forward_hook(lambda block, inputs, output: seen.append(first(output)))
    logits(built)
    s, mapped = seen
    expected = s + f(next(iter(found.values())), s, torch.relu)
    assert float((mapped - expected).detach().abs().max()) < 1e-5
    assert float((mapped - s).detach().abs().max()) > 1e-2
    assert (entry.PEFT_TYPE, parameters.reduction) == ("PFEIFFER", 16)


@pytest.mark.parametrize("name", ["houlsby", "pfeiffer", "ia3"])
def test_a_model_of_another_kind_is_refused(name: str) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    with torch.device("meta"):
        model = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=32))
    entry, parameters = PEFT.parameters(name)
    with pytest.raises(UserError, match=f"{name} does not know where to stand in a MambaForCausalLM\n.*Llama, BERT"):
        entry.attach(model, parameters, 0)
