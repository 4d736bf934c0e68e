"""The fast forward pass is the model's own: same hidden states and gradients, whatever is padded, switched off or made again."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config
from transformers.models.gpt2 import GPT2Config

from tunesmith.core.errors import UserError
from tunesmith.core.levers import LEVERS, on, without
from tunesmith.models import decoder
from tunesmith.models.decoder import hidden_states
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.objectives import causal_lm
from tunesmith.peft import lora

SHAPE: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "llama-biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-long": LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}),
    "mistral": MistralConfig(**SHAPE, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**SHAPE),
}
LENGTHS = torch.tensor([9, 80, 3])


def model_of(config: Any) -> Any:
    """A seeded random model with weights large enough that everything matters."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3) if p.ndim > 1 else p.uniform_(0.5, 1.5)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows padded with nonsense, and what is wanted of them."""
    ids = torch.randint(1, 90, (3, 80), generator=torch.Generator().manual_seed(0))
    wanted = torch.arange(80) < LENGTHS[:, None]
    return ids, wanted & (torch.arange(80) % 3 != 1)


def result(model: Any, **how: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states at the wanted positions, and gradients of something that depends on all of them."""
    ids, wanted = batch()
    model.zero_grad()
    hidden = hidden_states(model, ids, LENGTHS, wanted, **how)
    (hidden.sin() * torch.arange(hidden.numel()).view_as(hidden).cos()).sum().backward()
    return hidden.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Equal results, and equal gradients of the same parameters, relative to their norms.

    The tolerance is float32's: transformers normalises in it even in a float64 model.
    """
    pairs = [(a[0], b[0]), *((a[1][n], b[1][n]) for n in a[1] if n in b[1])]
    return a[1].keys() == b[1].keys() and all(float((x - y).norm() / y.norm()) < tolerance for x, y in pairs)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_models_own_forward_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONFIGS[name])
    with without("all"):
        plain = result(model)
    assert same(result(model), plain)
    with without("padding"):
        assert same(result(model), plain)
    # The control: without its positions it would be another.
    turn = decoder.Rotate.apply
    monkeypatch.setattr(decoder.Rotate, "apply", lambda x, cos, sin, heads: turn(x, cos * 0 + 1, sin * 0, heads))
    assert not same(result(model), plain, 0.01)


def test_it_is_used_for_what_it_fits_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    block = decoder._block
    monkeypatch.setattr(decoder, "_block", lambda *a: used.append(1) or block(*a))
    ids, wanted = batch()

    def uses(model: Any) -> bool:
        used.clear()
        hidden_states(model, ids, LENGTHS, wanted)
        return bool(used)

    assert all(uses(model_of(config)) for config in CONFIGS.values())
    assert not uses(model_of(GPT2Config(vocab_size=90, n_embd=32, n_layer=1, n_head=4)))
    assert not uses(model_of(MistralConfig(**SHAPE, sliding_window=20)))
    assert not uses(model_of(LlamaConfig(**SHAPE, hidden_act="gelu")))
    assert not uses(model_of(LlamaConfig(**SHAPE, attention_dropout=0.5)).train())
    with without("decoder"):
        assert not uses(model_of(CONFIGS["llama"]))


@pytest.mark.parametrize(
    "config",
    [CONFIGS["llama"], GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)],
)
def test_checkpointing_changes_memory_only(config: Any) -> None:
    model = model_of(config)
    kept: list[int] = []

    def counted(checkpointing: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            return result(model, activation_checkpointing=checkpointing)

    plain, plain_kept = counted(False), sum(kept)
    model.train()
    assert same(counted(True), plain)
    assert sum(kept) < 0.5 * plain_kept


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model = model_of(CONFIGS["llama"])
    ids, _ = batch()
    last = torch.zeros(3, 80, dtype=torch.bool)
    last[torch.arange(3), LENGTHS - 1] = True
    together = hidden_states(model, ids, LENGTHS, last)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = hidden_states(model, ids[row : row + 1, :length], LENGTHS[row : row + 1], last[row : row + 1, :length])
        assert torch.allclose(alone[0], together[row], rtol=1e-9, atol=1e-9)
    changed = ids.clone()
    changed[1] = changed[1].roll(1)
    again = hidden_states(model, changed, LENGTHS, last)
    assert torch.equal(again[[0, 2]], together[[0, 2]])
    assert not torch.allclose(again[1], together[1])


def test_short_rows_cost_their_real_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 1 to 64 tokens: at least 90 % of the tokens that go through the matrices are real."""
    model = model_of(CONFIGS["llama"])
    lengths = torch.randint(1, 65, (32,), generator=torch.Generator().manual_seed(0))
    ids = torch.ones(32, 64, dtype=torch.long)
    rows = []
    model.base_model.layers[0].mlp.down_proj.register_forward_hook(lambda m, i, o: rows.append(o.numel() // o.shape[-1]))
    wanted = torch.arange(64) < lengths[:, None]
    hidden_states(model, ids, lengths, wanted)
    with without("padding"):
        hidden_states(model, ids, lengths, wanted)
    assert int(lengths.sum()) / rows[0] >= 0.9
    assert int(lengths.sum()) / rows[1] < 0.6


@pytest.mark.parametrize("lever", LEVERS)
def test_leaving_a_lever_out_changes_neither_loss_nor_gradient(toy: LM, lever: str) -> None:
    lora.attach(toy.model, lora.Parameters.model_validate({"rank": 4}), 0)
    with torch.no_grad():
        for layer in lora.layers(toy.model).values():
            layer.lora_B.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(1, 200, (3, 80), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(80) < LENGTHS[:, None]) & (torch.arange(80) > 0)

    def gradient() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        toy.model.zero_grad()
        loss, _ = summed_loss(toy.model, ids, LENGTHS, mask, causal_lm.loss)
        loss.backward()
        return loss.detach(), {n: p.grad.clone() for n, p in toy.model.named_parameters() if p.grad is not None}

    with_it = gradient()
    with without(lever):
        assert not on(lever)
        left_out = gradient()
    assert on(lever)
    assert same(with_it, left_out)
    assert with_it[1].keys() == {n for n, p in toy.model.named_parameters() if p.requires_grad}


def test_an_unknown_lever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_WITHOUT", "padding,decodre")
    with pytest.raises(UserError, match="there is no lever 'decodre'"):
        on("padding")
    monkeypatch.setenv("TUNESMITH_WITHOUT", "all")
    assert not any(on(name) for name in LEVERS)


# What captures graphs asks every tensor for a gradient it does not have.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_blocks_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU compiles, captured here and run by torch as it is: states and gradients of LoRA, checkpointed or not."""
    seen: list[Any] = []

    def capture(graph: Any, inputs: Any) -> Any:
        seen.append(graph)
        return graph

    model = model_of(CONFIGS["llama"])
    for p in lora.attach(model, lora.Parameters(rank=2, alpha=4), 0).values():
        torch.nn.init.normal_(p)
    with without("decoder"):
        expected = result(model)
        assert not seen
        monkeypatch.setattr(decoder, "_backend", lambda device: capture)
        assert same(expected, result(model), 1e-9)
        assert seen
        assert same(expected, result(model, activation_checkpointing=True), 1e-9)
        # Control: taken back, nothing is captured any more.
        before = len(seen)
        torch.compiler.reset()
        monkeypatch.setattr(decoder, "_backend", lambda device: None)
        assert same(expected, result(model), 1e-9)
        assert len(seen) == before


def test_blocks_are_compiled_on_a_gpu_only() -> None:
    assert decoder._backend(torch.device("cpu")) is None
    assert decoder._backend(torch.device("cuda")) == "inductor"
    with without("compile"):
        assert decoder._backend(torch.device("cuda")) is None
