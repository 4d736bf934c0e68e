"""How a batch is cut into micro-batches changes nothing but memory: 1 x N equals N x 1, and padding counts nowhere."""

import random

import pytest
import torch

from tunesmith.core.records import Encoded
from tunesmith.data.collate import Batch, collate, micro_batches
from tunesmith.evaluate.loss import mean_loss
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM, load
from tunesmith.objectives import causal_lm


@pytest.fixture
def lm() -> LM:
    """The toy decoder in double precision."""
    lm = load("toy-llama")
    lm.model.double().requires_grad_(True)
    return lm


@pytest.fixture
def rows() -> list[Encoded]:
    """Twelve rows of 3 to 40 tokens whose targets are a tail of them."""
    chance = random.Random(0)
    made = []
    for number in range(12):
        length = chance.randrange(3, 41)
        answer = chance.randrange(1, length)
        ids = tuple(chance.randrange(6, 262) for _ in range(length))
        made.append(Encoded(ids, (False,) * (length - answer) + (True,) * answer, str(number)))
    return made


def gradient(lm: LM, batches: list[Batch], per_batch: bool = False) -> torch.Tensor:
    """Accumulate the gradient over micro-batches, divided by all targets (or wrongly, by each micro-batch's own)."""
    lm.model.zero_grad()
    total = sum(int(batch.loss_mask[:, 1:].sum()) for batch in batches)
    for batch in batches:
        loss, _ = summed_loss(lm.model, *batch.tensors(lm.device), causal_lm.loss)
        counted = int(batch.loss_mask[:, 1:].sum())
        (loss / (counted * len(batches) if per_batch else total)).backward()
    return torch.cat([p.grad.flatten() for p in lm.model.parameters()])


def test_every_token_budget_gives_the_same_gradient(lm: LM, rows: list[Encoded]) -> None:
    whole = gradient(lm, [collate(rows)])
    for budget in (1, 50, 120, 10_000):
        batches = micro_batches(rows, budget)
        assert (gradient(lm, batches) - whole).abs().max() < 1e-12
    assert len(micro_batches(rows, 1)) == 12
    assert len(micro_batches(rows, 10_000)) == 1
    # The control: dividing by each micro-batch's own targets is the well-known mistake.
    assert (gradient(lm, micro_batches(rows, 50), per_batch=True) - whole).abs().max() > 1e-4


def test_padding_changes_neither_loss_nor_gradient(lm: LM, rows: list[Encoded]) -> None:
    bare = collate(rows[:1])
    extra = 25
    padded = Batch(
        torch.nn.functional.pad(bare.ids, (0, extra), value=77),
        bare.lengths,
        torch.nn.functional.pad(bare.loss_mask, (0, extra)),
        ("0",),
        1,
    )
    assert (gradient(lm, [padded]) - gradient(lm, [bare])).abs().max() < 1e-12


def test_the_mean_loss_does_not_depend_on_order(lm: LM, rows: list[Encoded]) -> None:
    assert mean_loss(lm, rows) == pytest.approx(mean_loss(lm, rows[::-1]), abs=1e-9)
    total = sum(summed_loss(lm.model, *collate([r]).tensors(lm.device), causal_lm.loss)[0].item() for r in rows)
    assert mean_loss(lm, rows) == pytest.approx(total / sum(sum(r.loss_mask) for r in rows), abs=1e-9)


def test_the_mean_loss_of_more_targets_than_one_piece_of_logits(lm: LM) -> None:
    ids = tuple(random.Random(1).randrange(6, 262) for _ in range(1500))
    row = Encoded(ids, (False,) + (True,) * 1499, "long")
    loss = summed_loss(lm.model, *collate([row]).tensors(lm.device), causal_lm.loss)[0]
    assert mean_loss(lm, [row]) == pytest.approx(loss.item() / 1499, abs=1e-6)
