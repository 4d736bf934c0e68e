"""The loss counts each target once, and pieces of logits change neither it nor its gradient."""

import pytest
import torch

from tunesmith.core.levers import without
from tunesmith.models import lm_loss
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.objectives import causal_lm

LENGTHS = torch.tensor([6, 6])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows of six tokens; seven targets, none of them a first token."""
    ids = torch.arange(60, 72).reshape(2, 6)
    return ids, torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)


def by_hand(lm: LM, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum -log p over the targets, one after the other."""
    logprobs = lm.model(ids).logits.log_softmax(-1)
    return -sum(logprobs[b, t - 1, ids[b, t]] for b, t in mask.nonzero().tolist())


def test_the_loss_is_minus_the_sum_of_target_log_probabilities(toy: LM) -> None:
    ids, mask = batch()
    loss, stats = summed_loss(toy.model, ids, LENGTHS, mask, causal_lm.loss)
    assert 0 <= stats["correct"] <= 7
    assert loss.item() == pytest.approx(by_hand(toy, ids, mask).item(), abs=1e-4)
    # The control: a mask that is off by one token is seen.
    assert abs(loss.item() - by_hand(toy, ids, mask.roll(-1, dims=1)).item()) > 0.1


def test_pieces_of_logits_give_the_same_loss_and_gradient(toy: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = batch()
    found = []
    vocabulary = toy.model.config.vocab_size
    for rows, left_out in ((1000, "head"), (1000, ""), (2, ""), (1, "")):
        monkeypatch.setattr(lm_loss, "_BYTES_OF_LOGITS", rows * 4 * vocabulary)
        toy.model.zero_grad()
        with without(left_out):
            loss, stats = summed_loss(toy.model, ids, LENGTHS, mask, causal_lm.loss)
        (loss * 0.5).backward()
        gradient = torch.cat([p.grad.flatten() for p in toy.model.parameters()])
        found.append((loss.item(), stats["correct"], gradient))
    for loss, correct, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        assert correct == found[0][1]
        assert torch.allclose(gradient, found[0][2], rtol=1e-4, atol=1e-5)


def test_a_batch_without_targets_costs_nothing(toy: LM) -> None:
    ids, mask = batch()
    loss, stats = summed_loss(toy.model, ids, LENGTHS, mask & False, causal_lm.loss)
    loss.backward()
    assert (loss.item(), stats) == (0.0, {})
