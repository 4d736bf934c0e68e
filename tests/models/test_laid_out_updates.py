"""LoRA laid out for decoding: the same answers as layer by layer, and those of the weights as they are now."""

from collections.abc import Sequence

import pytest
import torch

from tunesmith.core.records import Completion
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM, load
from tunesmith.models.score import Request, score_requests
from tunesmith.models.trunk import Trunk, trunk_of
from tunesmith.peft import lora

PROMPTS = [(70, 80, 90), (100, 110), (75, 76, 77, 78, 79)]
HOW = Sampling(12, ignore_end=True)
TARGETS = ["all-linear", "attention", ["q_proj", "up_proj", "down_proj"]]


def with_lora(dtype: str, targets: str | list[str]) -> LM:
    """A toy with an update large enough to matter, the same in every precision."""
    lm = load("toy-llama", dtype)
    lora.attach(lm.model, lora.Parameters.model_validate({"rank": 4, "targets": targets}), seed=0)
    change(lm, 1)
    return lm


def change(lm: LM, seed: int) -> None:
    """Draw all B anew, as a fused optimizer would: without counting it in their versions."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in lm.model.named_parameters():
        if name.endswith("lora_B"):
            p.data = (torch.randn(p.shape, generator=generator) * 0.05).to(p)


def off_by(lm: LM, found: Sequence[Completion]) -> float:
    """How far log-probabilities noted while sampling are from those of the same tokens by a model, nats."""
    requests = [Request(prompt, (one.ids,)) for prompt, one in zip(PROMPTS, found, strict=True)]
    scored = [s.token_logprobs[0] for s in score_requests(lm, requests)]
    return max(abs(a - b) for one, exact in zip(found, scored, strict=True) for a, b in zip(one.logprobs, exact, strict=True))


@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_updates_side_by_side_are_those_of_the_layers(targets: str | list[str]) -> None:
    lm, exact = with_lora("bf16", targets), with_lora("fp32", targets)
    found = complete(lm, PROMPTS, HOW, 1)
    blocks = trunk_of(lm.model).updates()
    assert all((b.qkv, b.output, b.both, b.down) == (None,) * 4 for b in blocks) is not trunk_of(lm.model).packed
    assert off_by(exact, found) < 0.04
    with lora.disabled(exact.model):
        assert off_by(exact, found) > 0.05
    # What is switched off is not added.
    with lora.disabled(lm.model), lora.disabled(exact.model):
        assert off_by(exact, complete(lm, PROMPTS, HOW, 1)) < 0.04


def test_a_later_answer_has_the_weights_of_its_time() -> None:
    lm, exact = with_lora("bf16", "all-linear"), with_lora("fp32", "all-linear")
    before = complete(lm, PROMPTS, HOW, 1)
    change(lm, 2)
    after = complete(lm, PROMPTS, HOW, 1)
    assert off_by(exact, before) < 0.1 < off_by(exact, after)
    change(exact, 2)
    assert off_by(exact, after) < 0.1


def test_layer_by_layer_is_what_it_is_measured_against(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = with_lora("bf16", "all-linear")
    together = complete(lm, PROMPTS, HOW, 1)
    monkeypatch.setattr(Trunk, "updates", lambda self: None)
    apart = complete(lm, PROMPTS, HOW, 1)
    first = [(a.logprobs[0], b.logprobs[0]) for a, b in zip(together, apart, strict=True) if a.ids[0] == b.ids[0]]
    assert first
    assert max(abs(a - b) for a, b in first) < 0.1
