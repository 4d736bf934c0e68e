"""The loss counts each target once, and pieces of logits change neither it nor its gradient."""

import pytest
import torch

from tunesmith.models import lm_loss
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.objectives import causal_lm


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
    loss, counted = summed_loss(toy.model, ids, mask, causal_lm.loss)
    assert counted == 7
    assert loss.item() == pytest.approx(by_hand(toy, ids, mask).item(), abs=1e-4)
    # The control: a mask that is off by one token is seen.
    assert abs(loss.item() - by_hand(toy, ids, mask.roll(-1, dims=1)).item()) > 0.1


def test_pieces_of_logits_give_the_same_loss_and_gradient(toy: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, mask = batch()
    found = []
    for rows in (1024, 2):
        monkeypatch.setattr(lm_loss, "_ROWS_OF_LOGITS", rows)
        toy.model.zero_grad()
        loss, _ = summed_loss(toy.model, ids, mask, causal_lm.loss)
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in toy.model.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)


def test_a_batch_without_targets_costs_nothing(toy: LM) -> None:
    ids, mask = batch()
    loss, counted = summed_loss(toy.model, ids, mask & False, causal_lm.loss)
    assert (loss.item(), counted) == (0.0, 0)
