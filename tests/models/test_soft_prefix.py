"""A soft prefix is read like tokens in front: training, scoring and generation agree with plain transformers behind it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.levers import without
from tunesmith.models import toy
from tunesmith.models.decoder import hidden_states
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.models.score import Request, score_requests
from tunesmith.models.soft_prefix import SoftPrefix, cache_of, prefix_key_values
from tunesmith.objectives import causal_lm

P = 6


class Values(torch.nn.Module):
    """Trained values themselves."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(4)))

    def forward(self) -> torch.Tensor:
        return self.values


def gpt2() -> Any:
    """A tiny random GPT-2, whose forward pass is its own code."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    size = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 262, "bos_token_id": 1, "eos_token_id": 1}
    return GPT2LMHeadModel(GPT2Config(**size)).eval()


def language_model(kind: str) -> LM:
    """A toy model with a prefix: "llama prompt", "llama prefix", "gpt2 prompt" or "gpt2 prefix"."""
    name, what = kind.split()
    model = toy.build("toy-llama")[0] if name == "llama" else gpt2()
    model.requires_grad_(False)
    heads = 2 if name == "llama" else 4
    soft = SoftPrefix(Values(P, 64), P) if what == "prompt" else SoftPrefix(Values(P, 4 * heads * 16), P, (2, heads, 16))
    model.soft_prefix = soft
    return LM(model, toy.byte_tokenizer(), name, "identity")


KINDS = [f"{name} {what}" for name in ("llama", "gpt2") for what in ("prompt", "prefix")]


def plain(lm: LM, ids: tuple[int, ...]) -> torch.Tensor:
    """Logits [T, V] of one unpadded row, by transformers alone: embeddings in front, or keys and values as a cache."""
    soft, row = lm.model.soft_prefix, torch.tensor([ids])
    if soft.cache_shape is None:
        embedded = torch.cat([soft.encoder.values[None], lm.model.get_input_embeddings()(row)], 1)
        return lm.model(inputs_embeds=embedded).logits[0, P:]
    layers, heads, width = soft.cache_shape
    values = soft.encoder.values.view(P, layers, 2, heads, width)
    cache = [(values[:, i, 0].transpose(0, 1)[None], values[:, i, 1].transpose(0, 1)[None]) for i in range(layers)]
    return lm.model(input_ids=row, past_key_values=cache_of(cache, 1), position_ids=torch.arange(P, P + len(ids))[None]).logits[0]


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three rows of 9, 7 and 4 tokens, and what counts in them."""
    ids = torch.randint(6, 200, (3, 9), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([9, 7, 4])
    mask = (torch.arange(9)[None] < lengths[:, None]) & (torch.arange(9)[None] > 1)
    return ids, lengths, mask


def loss_and_gradient(lm: LM, **how: bool) -> tuple[float, torch.Tensor]:
    """The summed loss of the batch and its gradient for the prefix."""
    ids, lengths, mask = batch()
    loss = summed_loss(lm.model, ids, lengths, mask, causal_lm.loss, **how)[0]
    (gradient,) = torch.autograd.grad(loss, list(lm.model.soft_prefix.parameters()))
    return float(loss.detach()), gradient


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_plain_transformers(kind: str) -> None:
    lm = language_model(kind)
    ids, lengths, mask = batch()
    expected = torch.zeros(())
    for row, length, counts in zip(ids, lengths, mask, strict=True):
        logprobs = plain(lm, tuple(row[:length].tolist())).log_softmax(-1)
        for t in range(1, int(length)):
            expected = expected - counts[t] * logprobs[t - 1, row[t]]
    (gradient,) = torch.autograd.grad(expected, list(lm.model.soft_prefix.parameters()))
    got, got_gradient = loss_and_gradient(lm)
    assert got == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float((got_gradient - gradient).abs().max()) < 1e-5
    assert float(gradient.abs().max()) > 1e-2
    lm.model.soft_prefix.enabled = False
    without_prefix = summed_loss(lm.model, ids, lengths, mask, causal_lm.loss)[0]
    assert abs(float(without_prefix) - got) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_no_lever_changes_the_gradient(kind: str) -> None:
    lm = language_model(kind)
    loss, gradient = loss_and_gradient(lm)
    for lever in ("decoder", "padding", "head", "all"):
        with without(lever):
            other, other_gradient = loss_and_gradient(lm)
        assert other == pytest.approx(loss, rel=1e-5)
        assert float((other_gradient - gradient).abs().max()) < 1e-5


@pytest.mark.parametrize("kind", ["llama prompt", "gpt2 prompt"])
def test_activations_computed_again_give_the_same_gradient(kind: str) -> None:
    lm = language_model(kind)
    loss, gradient = loss_and_gradient(lm)
    lm.model.train()
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    again, again_gradient = loss_and_gradient(lm, activation_checkpointing=True)
    assert again == pytest.approx(loss, rel=1e-6)
    assert float((again_gradient - gradient).abs().max()) < 1e-6


def test_activation_checkpointing_would_lose_keys_and_values() -> None:
    with pytest.raises(UserError, match="prefix tuning trains a cache"):
        loss_and_gradient(language_model("llama prefix"), activation_checkpointing=True)


def test_hidden_states_are_those_of_the_real_positions() -> None:
    lm = language_model("llama prompt")
    ids, lengths, _ = batch()
    real = torch.arange(9)[None] < lengths[:, None]
    with torch.inference_mode():
        got = lm.model.get_output_embeddings()(hidden_states(lm.model, ids, lengths, real))
        expected = torch.cat([plain(lm, tuple(row[:n].tolist())) for row, n in zip(ids, lengths, strict=True)])
    assert got.shape == (20, 262)
    assert float((got - expected).abs().max()) < 1e-5


def requests() -> list[Request]:
    """Requests that share 20 tokens, of one and of several tokens a continuation, and one that is a token long."""
    shared = tuple(range(30, 50))
    return [
        Request((*shared, 60, 61), ((70,), (71, 72, 73))),
        Request((*shared, 62), ((70,), (71, 72, 73), (74, 75))),
        Request((*shared, 60, 61, 63, 64, 65), ((76,), (77,))),
    ]


def expected_scores(lm: LM, request: Request) -> list[float]:
    """Each continuation by itself, token by token, through the plain forward pass."""
    found = []
    with torch.inference_mode():
        for continuation in request.continuations:
            logprobs = plain(lm, (*request.prompt, *continuation)).log_softmax(-1)
            start = len(request.prompt) - 1
            found.append(sum(float(logprobs[start + i, token]) for i, token in enumerate(continuation)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_plain_transformers_whatever_the_batch(kind: str) -> None:
    lm = language_model(kind)
    asked = requests()
    together = score_requests(lm, asked)
    for request, scored in zip(asked, together, strict=True):
        assert scored.logprobs == pytest.approx(expected_scores(lm, request), abs=1e-4)
        alone = score_requests(lm, [request])[0]
        assert alone.logprobs == pytest.approx(scored.logprobs, abs=1e-5)
        assert alone.free_choice == scored.free_choice
    with without("prefixes"):
        apart = score_requests(lm, asked[::-1])[::-1]
    assert [s.logprobs for s in apart] == [pytest.approx(s.logprobs, abs=1e-5) for s in together]
    short = Request((60,), ((70,), (71,)))  # nothing shared, one token a continuation
    assert score_requests(lm, [short])[0].logprobs == pytest.approx(expected_scores(lm, short), abs=1e-4)
    lm.model.soft_prefix.enabled = False
    assert abs(score_requests(lm, asked)[0].logprobs[1] - together[0].logprobs[1]) > 1e-3


@pytest.mark.parametrize("shared", [(), tuple(range(80, 104))])
@pytest.mark.parametrize("kind", KINDS)
def test_generation_continues_behind_the_prefix(kind: str, shared: tuple[int, ...]) -> None:
    lm = language_model(kind)
    prompts = [(*shared, 60, 61, 62), (*shared, 63), (*shared, 64, 65, 66, 67, 68)]
    answers = complete(lm, prompts, Sampling(6, temperature=0.0))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids, logprobs = list(prompt), []
        for _ in answer.ids:
            with torch.inference_mode():
                after = plain(lm, tuple(ids))[-1].log_softmax(-1)
            ids.append(int(after.argmax()))
            logprobs.append(float(after.max()))
        assert tuple(ids[len(prompt) :]) == answer.ids
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-4)
    sampled = complete(lm, prompts, Sampling(6, temperature=1.0), seed=3)
    assert [complete(lm, [p], Sampling(6, temperature=1.0), seed=3)[0].ids for p in prompts] == [a.ids for a in sampled]


def test_the_context_is_shorter_by_the_prefix() -> None:
    lm = language_model("gpt2 prompt")
    assert lm.context_length == 64 - P
    with pytest.raises(UserError, match="the model was built for 58"):
        score_requests(lm, [Request(tuple([60] * 59), ((70,),))])
    assert score_requests(lm, [Request(tuple([60] * 58), ((70,),))])
    with pytest.raises(UserError, match="exceed the context of 58"):
        complete(lm, [tuple([60] * 50)], Sampling(9))
    lm.model.soft_prefix.enabled = False
    assert lm.context_length == 64
    assert prefix_key_values(lm.model) is None


def test_virtual_tokens_as_a_cache_are_what_the_model_reads() -> None:
    lm = language_model("llama prompt")
    found = prefix_key_values(lm.model)
    assert found is not None
    assert [k.shape for k, _ in found] == [(1, 2, P, 16)] * 2
    with torch.inference_mode():
        cache = lm.model(inputs_embeds=lm.model.soft_prefix.embeddings()[None], use_cache=True).past_key_values
    for (keys, values), layer in zip(found, cache.layers, strict=True):
        assert torch.equal(keys, layer.keys)
        assert torch.equal(values, layer.values)
