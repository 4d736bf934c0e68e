"""The fast forward pass of encoders is the models' own: same hidden states, logits and gradients, whatever is padded or attached."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForMaskedLM, AutoModelForSequenceClassification, BertConfig, CamembertConfig, ElectraConfig, RobertaConfig,
    XLMRobertaConfig,
)  # fmt: skip

from tunesmith.core.levers import without
from tunesmith.models import bert, encoder_operations
from tunesmith.models.bert import class_logits, hidden_states, real_tokens
from tunesmith.models.fill import masked_logits
from tunesmith.peft import lora

SHAPE: dict[str, Any] = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 1, "num_labels": 3,
}  # fmt: skip
CONFIGS = {kind.__name__: kind(**SHAPE) for kind in (BertConfig, RobertaConfig, XLMRobertaConfig, CamembertConfig)}
LENGTHS = {"mixed": [9, 40, 3], "equal": [8, 8, 8], "nearly": [30, 29, 30]}
Tensor = torch.Tensor


def model_of(config: Any, kind: Any = AutoModelForSequenceClassification) -> Any:
    """A seeded random model with weights large enough that everything matters."""
    torch.manual_seed(0)
    model = kind.from_config(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3) if p.ndim > 1 else p.uniform_(0.5, 1.5)
    return model


def batch(lengths: str = "mixed") -> tuple[Tensor, Tensor]:
    """Three rows padded with nonsense; one real token is the padding token itself."""
    long = torch.tensor(LENGTHS[lengths])
    ids = torch.randint(2, 90, (3, int(long.max())), generator=torch.Generator().manual_seed(0))
    ids[0, 3] = 1
    return ids, long


def every_third(ids: Tensor, lengths: Tensor) -> Tensor:
    return real_tokens(ids, lengths) & (torch.arange(ids.shape[1]) % 3 == 1)


READ: dict[str, Callable[..., Tensor]] = {
    "classes": class_logits,
    "all": lambda model, ids, lengths: hidden_states(model, ids, lengths, real_tokens(ids, lengths)),
    "some": lambda model, ids, lengths: hidden_states(model, ids, lengths, every_third(ids, lengths)),
}


def result(model: Any, read: Callable[..., Tensor], lengths: str = "mixed") -> tuple[Tensor, dict[str, Tensor]]:
    """What is read from the model, and gradients of something that depends on all of it."""
    model.zero_grad()
    out = read(model, *batch(lengths))
    (out * torch.arange(out.numel()).view_as(out).cos()).sum().backward()
    return out.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def same(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    """Equal results, and equal gradients of the same parameters, relative to their norms.

    Attention does not depend on what is added to all keys, so their biases' gradients are rounding on both sides.
    """
    names = [n for n in b[1] if not n.endswith("key.bias")]
    pairs = [(a[0], b[0]), *((a[1][n], b[1][n]) for n in names)]
    return set(names) <= a[1].keys() and all(float((x - y).norm() / y.norm()) < tolerance for x, y in pairs)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("what", READ)
def test_it_is_the_models_own_forward_pass(name: str, lengths: str, what: str) -> None:
    model, read = model_of(CONFIGS[name]), READ[what]
    with without("encoder"):
        plain = result(model, read, lengths)
    assert same(result(model, read, lengths), plain)
    with without("padding"):
        assert same(result(model, read, lengths), plain)
    # The control: a norm's weight matters.
    with torch.no_grad():
        model.base_model.encoder.layer[0].output.LayerNorm.weight.mul_(1.01)
    assert not same(result(model, read, lengths), plain, 1e-4)


def test_in_float32_it_differs_by_rounding_only() -> None:
    model = model_of(CONFIGS["BertConfig"]).float()
    with without("encoder"):
        plain = result(model, class_logits)
    ours = result(model, class_logits)
    assert torch.allclose(ours[0], plain[0], rtol=0, atol=1e-5)
    assert same(ours, plain, 1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_masked_tokens_are_predicted_as_the_model_does(name: str) -> None:
    model = model_of(CONFIGS[name], AutoModelForMaskedLM)
    ids, lengths = batch()
    where = every_third(ids, lengths)
    own = model(input_ids=ids, attention_mask=real_tokens(ids, lengths).long()).logits
    assert torch.allclose(masked_logits(model, ids, lengths, where), own[where], rtol=1e-9, atol=1e-9)
    assert len(masked_logits(model, ids, lengths, where & False)) == 0


def test_its_gradients_are_finite_differences() -> None:
    model = model_of(CONFIGS["BertConfig"])
    ids, lengths = batch()
    for name in (
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.attention.self.key.weight",
        "bert.pooler.dense.bias",
    ):
        weight = model.get_parameter(name)
        (grad,) = torch.autograd.grad(class_logits(model, ids, lengths).sin().sum(), weight)
        place = int(grad.abs().argmax())
        with torch.no_grad():
            moved = []
            for step in (1e-6, -2e-6):
                weight.view(-1)[place] += step
                moved.append(float(class_logits(model, ids, lengths).sin().sum()))
        assert (moved[0] - moved[1]) / 2e-6 == pytest.approx(float(grad.view(-1)[place]), rel=1e-5)


def test_it_is_used_for_what_it_fits_and_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    block = bert._block
    monkeypatch.setattr(bert, "_block", lambda *a: used.append(1) or block(*a))

    def uses(model: Any) -> bool:
        used.clear()
        assert class_logits(model, *batch()).shape == (3, 3)
        return bool(used)

    assert all(uses(model_of(config)) for config in CONFIGS.values())
    assert not uses(model_of(ElectraConfig(**SHAPE)))
    model = model_of(CONFIGS["BertConfig"])
    with without("encoder"):
        assert not uses(model)
    # What somebody hooks on, or puts in the place of a module that would not be called, is not passed over.
    handle = model.bert.encoder.layer[1].register_forward_hook(lambda *a: None)
    assert not uses(model)
    handle.remove()
    assert uses(model)
    layer = model.bert.encoder.layer[0]
    layer.attention.self = _Halved(layer.attention.self)
    assert not uses(model)


class _Halved(nn.Module):
    """Something that a method of the future may put around a module: half of its first result."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.base(*args, **kwargs)
        return (out[0] / 2, *out[1:]) if isinstance(out, tuple) else out / 2


@pytest.mark.parametrize(
    "place",
    [
        "attention.self.query", "attention.self.value", "attention.output.dense", "attention.output.LayerNorm", "attention.output",
        "intermediate", "intermediate.dense", "output.dense", "output.dropout", "output", "attention.self", "attention",
    ],
)  # fmt: skip
def test_whatever_is_put_around_a_module_is_called(place: str) -> None:
    model = model_of(CONFIGS["BertConfig"])
    before = result(model, class_logits)[0]
    layer = model.bert.encoder.layer[1]
    parent, _, last = place.rpartition(".")
    setattr(layer.get_submodule(parent), last, _Halved(layer.get_submodule(place)))
    with without("encoder"):
        plain = result(model, class_logits)
    assert same(result(model, class_logits), plain)
    assert not torch.allclose(plain[0], before, rtol=1e-6)


def test_lora_trains_the_same() -> None:
    model = model_of(CONFIGS["BertConfig"])
    for p in lora.attach(model, lora.Parameters(rank=2), 0).values():
        nn.init.normal_(p, std=0.3)
    with without("encoder"):
        plain = result(model, class_logits)
    assert len(plain[1]) > 20
    assert same(result(model, class_logits), plain)


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model = model_of(CONFIGS["BertConfig"])
    ids, lengths = batch()
    together = class_logits(model, ids, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = class_logits(model, ids[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(alone[0], together[row], rtol=1e-9, atol=1e-9)
    changed = ids.clone()
    changed[1] = changed[1].roll(1)
    again = class_logits(model, changed, lengths)
    assert torch.equal(again[[0, 2]], together[[0, 2]])
    assert not torch.allclose(again[1], together[1])


def test_dropout_is_where_it_was_published_and_follows_from_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the embeddings, behind every sub-layer, on attention's weights; the head's own is torch's."""
    config = BertConfig(**SHAPE, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.125, classifier_dropout=0.0)
    model = model_of(config).train()
    ids, lengths = batch("equal")

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return class_logits(model, ids, lengths).detach()

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    made: list[tuple[tuple[int, ...], float]] = []
    mask = encoder_operations.drop_mask
    monkeypatch.setattr(
        encoder_operations, "drop_mask", lambda shape, p, dtype: made.append((tuple(shape), p)) or mask(shape, p, dtype)
    )
    logits(1)
    hidden, weights = ((24, 32), 0.25), ((12, 8, 8), 0.125)
    # In the last block only the first token of each row goes on.
    assert made == [hidden, weights, hidden, hidden, ((12, 1, 8), 0.125), ((3, 32), 0.25), ((3, 32), 0.25)]
    keep = lambda shape, p, dtype: (torch.full(shape, -1, dtype=encoder_operations._WHOLE[dtype.itemsize]), 1.0)  # noqa: E731
    monkeypatch.setattr(encoder_operations, "drop_mask", keep)
    undropped = logits(1)
    assert torch.equal(undropped, class_logits(model.eval(), ids, lengths))


def test_checkpointing_changes_memory_only() -> None:
    model = model_of(BertConfig(**SHAPE, hidden_dropout_prob=0.25)).train()
    kept: list[int] = []

    def counted() -> tuple[Tensor, dict[str, Tensor]]:
        kept.clear()
        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            return result(model, class_logits)

    plain, plain_kept = counted(), sum(kept)
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert same(counted(), plain)
    assert sum(kept) < 0.5 * plain_kept


def test_only_wanted_tokens_go_through_the_last_block(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONFIGS["BertConfig"])
    seen: list[int] = []
    for layer in model.bert.encoder.layer:
        layer.output.dense.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    class_logits(model, *batch())
    assert seen == [9 + 40 + 3, 3]
