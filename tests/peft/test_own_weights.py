"""BitFit and selective fine-tuning train what they name, count as published, and write their own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.registry import PEFT
from tunesmith.models import toy
from tunesmith.models.decoder import hidden_states
from tunesmith.models.encoder import load_encoder
from tunesmith.models.load import LM, load
from tunesmith.models.score import Request, score_requests
from tunesmith.models.trunk import trunk_of
from tunesmith.peft import _files, _heads, bitfit, selective

IDS = torch.tensor([[10, 20, 30, 40, 50, 60, 7, 8]])


def names(model: Any, method: str, **given: Any) -> set[str]:
    """What a method trains on a model."""
    entry, parameters = PEFT.parameters({"name": method, **given})
    return set(entry.attach(model, parameters, 0))


def test_biases_of_bert_as_published() -> None:
    """Ben Zaken et al.: 0.08 % of BERT-large. Methods, section 11, counts both sizes."""
    assert bitfit.evaluate(12, 768, 3072, "all") == 102_912
    assert bitfit.evaluate(24, 1024, 4096, "all") == 272_384
    assert bitfit.evaluate(12, 768, 3072, "query+intermediate") == 46_080
    assert bitfit.evaluate(24, 1024, 4096, "query+intermediate") == 122_880


def test_the_bias_of_a_norm_counts_and_its_weight_does_not() -> None:
    found = names(load_encoder("toy-bert", "classifier", ["a", "b"]).model, "bitfit")
    assert "bert.encoder.layer.0.output.LayerNorm.bias" in found
    assert not [n for n in found if n.endswith("weight") or n.startswith("classifier")]


def test_a_llama_is_given_biases_of_zero() -> None:
    model = toy.build("toy-llama")[0]
    assert not [n for n, _ in model.named_parameters() if n.endswith("bias")]
    found = names(model, "bitfit")
    assert len(found) == 14
    assert {n.split(".")[-2] for n in found} == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not any(model.get_parameter(n).any() for n in found)
    with pytest.raises(UserError, match=r"a LlamaForCausalLM has no biases to train\n.*add=true"):
        names(toy.build("toy-llama")[0], "bitfit", add=False)
    half = names(toy.build("toy-llama")[0], "bitfit", biases="query+intermediate")
    assert {n.split(".")[-2] for n in half} == {"q_proj", "gate_proj", "up_proj"}


def test_biases_of_some_of_the_products_that_run_side_by_side_are_read() -> None:
    """The packed forward pass makes queries, keys and values in one product; only queries have a bias here."""
    lm = load("toy-llama", dtype="bf16")
    trained = bitfit.attach(lm.model, bitfit.Parameters(biases="query+intermediate"), 0)
    with torch.no_grad():
        for p in trained.values():
            p.add_(0.5)
    lm.model.requires_grad_(False)
    with torch.inference_mode():
        expected = torch.log_softmax(lm.model(input_ids=IDS).logits[0].float(), -1)
    trunk_of(lm.model, pack=True)
    ids = tuple(IDS[0].tolist())
    (scored,) = score_requests(lm, [Request(ids[:2], (ids[2:],))])
    assert scored.token_logprobs[0] == pytest.approx([float(expected[i + 1, t]) for i, t in enumerate(ids[2:])], abs=0.15)


def test_merged_biases_are_in_the_saved_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

    lm = load("toy-llama", dtype="fp32")
    with torch.no_grad():
        for p in bitfit.attach(lm.model, bitfit.Parameters(biases="query+intermediate"), 0).values():
            p.add_(0.2)
    bitfit.merge(lm.model)
    lm.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        assert float((again(input_ids=IDS).logits - lm.model(input_ids=IDS).logits).abs().max()) < 1e-6
        assert float((again(input_ids=IDS).logits - load("toy-llama").model(input_ids=IDS).logits).abs().max()) > 1e-2
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    mistral = MistralForCausalLM(MistralConfig(**sizes, vocab_size=262))
    bitfit.attach(mistral, bitfit.Parameters(), 0)
    with pytest.raises(UserError, match="whose own files have no place for them: they cannot be merged"):
        bitfit.merge(mistral)


@pytest.mark.parametrize(("given", "expected"), [
    ({}, {"model.layers.0.input_layernorm.weight", "model.layers.0.post_attention_layernorm.weight",
          "model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight", "model.norm.weight"}),
    ({"first_layer": -1}, {"model.layers.1.input_layernorm.weight", "model.layers.1.post_attention_layernorm.weight"}),
    ({"last_layer": 0, "names": ["input_layernorm"]}, {"model.layers.0.input_layernorm.weight"}),
    ({"parts": "all", "names": ["1.self_attn.q_proj", "norm"]}, {"model.layers.1.self_attn.q_proj.weight", "model.norm.weight"}),
])  # fmt: skip
def test_what_is_selected(given: dict[str, Any], expected: set[str]) -> None:
    assert names(toy.build("toy-llama")[0], "selective", **given) == expected


def test_selected_blocks_and_heads() -> None:
    last = names(toy.build("toy-llama")[0], "selective", parts="all", first_layer=1)
    assert {n.split(".")[2] for n in last} == {"1"}
    assert len(last) == 9
    bert = load_encoder("toy-bert", "classifier", ["a", "b"]).model
    assert names(bert, "selective", parts="head") == {"classifier.weight", "classifier.bias"}
    assert all("Norm" in n for n in names(bert, "selective"))
    # With a tied output layer, the head is the embedding table.
    llama = toy.build("toy-llama")[0]
    head = names(llama, "selective", parts="head")
    assert {id(llama.get_parameter(n)) for n in head} == {id(llama.get_output_embeddings().weight)}
    assert names(llama, "selective", parts=["norms", "head"]) > head


@pytest.mark.parametrize("given", [{"parts": "biases"}, {"first_layer": 7}, {"names": ["nowhere"]}])
def test_nothing_selected_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"selective: no weight of this LlamaForCausalLM is .*\n.*It has 2 blocks"):
        names(toy.build("toy-llama")[0], "selective", **given)


def test_norms_that_are_trained_reach_our_own_forward_pass() -> None:
    lm = load("toy-llama", dtype="fp32")
    trained = selective.attach(lm.model, selective.Parameters(), 0)
    wanted = torch.ones_like(IDS, dtype=torch.bool)
    hidden_states(lm.model, IDS, torch.tensor([8]), wanted).square().sum().backward()
    ours = {n: p.grad.clone() for n, p in trained.items()}
    lm.model.zero_grad()
    lm.model.base_model(input_ids=IDS).last_hidden_state.square().sum().backward()
    for name, p in trained.items():
        assert float((ours[name] - p.grad).abs().max() / p.grad.abs().max()) < 1e-3


def test_the_file_holds_new_values_and_not_the_rest(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    lm: LM = load("toy-llama", dtype="fp32")
    with torch.no_grad():
        for p in selective.attach(lm.model, selective.Parameters(first_layer=-1), 0).values():
            p.add_(1.0)
    _files.save_adapter(tmp_path / "a", lm, selective, selective.Parameters(first_layer=-1), [(10, 20)], "card")
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert set(tensors) == {f"base_model.model.model.layers.1.{n}layernorm.weight" for n in ("input_", "post_attention_")}
    assert all(torch.equal(t, lm.model.get_parameter(n.removeprefix("base_model.model."))) for n, t in tensors.items())


@pytest.mark.parametrize("parts", ["all", "embeddings", "norms"])
def test_selected_tables_and_heads_load_back(tmp_path: Path, parts: str) -> None:
    """An embedding table that is trained by the method is not one that was given new rows, tied to the output layer or not."""
    parameters = selective.Parameters.model_validate({"parts": parts})
    bert = load_encoder("toy-bert", "classifier", ["a", "b"])
    for at, (lm, heads) in enumerate([(load("toy-llama", dtype="fp32"), ()), (bert, ("classifier",))]):
        trained = selective.attach(lm.model, parameters, 0)
        with torch.no_grad():
            for p in {**trained, **_heads.modules_named(lm.model, heads)}.values():
                p.add_(0.1)
        _files.save_adapter(tmp_path / str(at), lm, selective, parameters, [(10, 20)], "card", heads)
        again = load_encoder("toy-bert", "classifier", ["a", "b"]) if heads else load("toy-llama", dtype="fp32")
        before = {n: p.detach().clone() for n, p in again.model.named_parameters()}
        attached = _files.load_adapter(again, tmp_path / str(at))
        now = dict(again.model.named_parameters())
        assert {n for n, p in now.items() if not torch.equal(p, before[n])} == set(attached.trained)
        assert all(torch.equal(p, now[n]) for n, p in lm.model.named_parameters())
