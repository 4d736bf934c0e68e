"""In bfloat16 too, a sampled token has the log-probability that training computes for it, whatever else is in the batch."""

from collections.abc import Sequence

import pytest
import torch

from tunesmith.core.levers import without
from tunesmith.core.records import Completion, Encoded
from tunesmith.data.collate import collate
from tunesmith.models.beginnings import same_prompts
from tunesmith.models.decoder import before, hidden_states
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM, load
from tunesmith.models.packed import can_pack
from tunesmith.models.token_logprobs import token_logprobs
from tunesmith.peft import lora
from tunesmith.train.elsewhere import scored_again

SYSTEM = "You are a careful critic of films, and say in one sentence what you think of what comes next:"
OPENINGS = [
    " a slow and tender story about",
    " the worst hour of all",
    " why would",
    " nobody expects the second half of it to be",
]
HOW = Sampling(24, ignore_end=True, whole_prompts=True)
# What float32 makes of a sum over the vocabulary in another order, nats. One number of a hidden state that is rounded the other
# way, 0.4 % of it, is a hundred times as much.
SAME = 1e-4


@pytest.fixture(scope="module")
def policy() -> LM:
    """A real model with an update large enough to matter, whose scaling is no power of two."""
    lm = load("smollm2", "bf16")
    lora.attach(lm.model, lora.Parameters(rank=8, alpha=10), seed=0)
    generator = torch.Generator().manual_seed(1)
    for name, p in lm.model.named_parameters():
        if name.endswith("lora_B"):
            p.data = (torch.randn(p.shape, generator=generator) * 0.02).to(p)
    return lm


def prompts_of(lm: LM, system: str, samples: int) -> list[tuple[int, ...]]:
    ids = [tuple(lm.tokenizer.encode(system + text)) for text in OPENINGS]
    assert len({len(prompt) % 2 for prompt in ids}) == 2, "prompts of even and of odd lengths"
    return [prompt for prompt in ids for _ in range(samples)]


def apart(said: Sequence[float], again: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(said, again, strict=True))


def by_training(lm: LM, prompts: Sequence[tuple[int, ...]], found: Sequence[Completion], share: bool) -> list[float]:
    """Log-probabilities of sampled tokens through the pass that gradients go through, rows in another order."""
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(2)).tolist()
    rows = [
        Encoded((*prompts[i], *found[i].ids), (False,) * len(prompts[i]) + (True,) * len(found[i].ids), str(i)) for i in order
    ]
    batch = collate(rows)
    ids, mask = batch.ids, batch.loss_mask
    hidden = hidden_states(lm.model, ids, batch.lengths, before(mask), of_prompt=same_prompts(ids, mask) if share else None)
    assert hidden.requires_grad
    parts = token_logprobs(lm.model, hidden, ids[mask]).split(mask.sum(1).tolist())
    by_number = {i: part.tolist() for i, part in zip(order, parts, strict=True)}
    return [x for i in range(len(found)) for x in by_number[i]]


@pytest.mark.parametrize("system", ["", SYSTEM], ids=["plain", "system"])
@pytest.mark.parametrize("samples", [1, 4])
def test_what_is_sampled_is_what_is_learned_from(policy: LM, system: str, samples: int) -> None:
    prompts = prompts_of(policy, system, samples)
    found = complete(policy, prompts, HOW, seed=3)
    said = [x for c in found for x in c.logprobs]
    # A processor without units for bfloat16 rounds as it likes.
    close = SAME if can_pack(policy.model.get_output_embeddings().weight) else 0.7
    assert apart(said, by_training(policy, prompts, found, share=False)) < close
    assert apart(said, by_training(policy, prompts, found, share=True)) < close
    assert apart(said, [x for c in scored_again(policy, prompts, found) for x in c.logprobs]) < close
    # Alone in its batch it is what it is among others.
    (alone,) = complete(policy, prompts[:1], HOW, seed=3)
    assert alone.ids == found[0].ids
    assert apart(alone.logprobs, found[0].logprobs) < close
    # The control: with one number of one adapter's B changed by a rounding, all are others.
    b = next(p for n, p in policy.model.named_parameters() if n.endswith("lora_B"))
    kept = b.data.clone()
    b.data[0, 0] += 0.01
    try:
        assert apart(said, [x for c in scored_again(policy, prompts, found) for x in c.logprobs]) > SAME
    finally:
        b.data = kept


def test_a_prompt_that_is_read_in_two_pieces_is_rounded_otherwise(policy: LM) -> None:
    """Why rollouts read whole prompts: a shared beginning is attended to by itself, and that sum is rounded."""
    prompts = prompts_of(policy, SYSTEM, 1)
    shared = complete(policy, prompts, Sampling(24, ignore_end=True), seed=3)
    assert apart([x for c in shared for x in c.logprobs], by_training(policy, prompts, shared, share=False)) > 10 * SAME
    with without("prefixes"):
        whole = complete(policy, prompts, Sampling(24, ignore_end=True), seed=3)
    assert [c.logprobs for c in whole] == [c.logprobs for c in complete(policy, prompts, HOW, seed=3)]
