"""The masked loss is the mean over hidden tokens that an independent computation gives, whatever the padding."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tunesmith.core.records import Encoded
from tunesmith.data.collate import collate
from tunesmith.models.fill import masked_logits
from tunesmith.objectives import masked_lm

SMALL = {"vocab_size": 50, "max_position_embeddings": 40, "pad_token_id": 0}
MODELS = {
    "bert": lambda: BertForMaskedLM(
        BertConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **SMALL)
    ),
    "roberta": lambda: RobertaForMaskedLM(
        RobertaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, **SMALL)
    ),
    "distilbert": lambda: DistilBertForMaskedLM(DistilBertConfig(dim=16, hidden_dim=32, n_layers=2, n_heads=2, **SMALL)),
}
ROWS = [
    Encoded((2, 7, 4, 9, 4, 3), (False, False, True, False, True, False), "a", (8, 11)),
    Encoded((2, 4, 3), (False, True, False), "b", (30,)),
    Encoded((2, 9, 9, 12, 13, 14, 4, 3), (False,) * 6 + (True, False), "c", (6,)),
]


def plain(model: torch.nn.Module, rows: list[Encoded]) -> float:
    """The summed loss in plain numpy, row by row through the model's own forward pass."""
    total = 0.0
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids])).logits[0].double().numpy()
        for place, target in zip(np.flatnonzero(row.loss_mask), row.targets or (), strict=True):
            total += math.log(np.exp(logits[place]).sum()) - logits[place, target]
    return total


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_a_computation_by_hand(name: str) -> None:
    model = MODELS[name]().eval()
    batch = collate(ROWS)
    assert batch.targets is not None
    with torch.no_grad():
        loss, _ = masked_lm.loss(masked_logits(model, batch.ids, batch.lengths, batch.loss_mask), batch.targets)
    assert float(loss) == pytest.approx(plain(model, ROWS), abs=1e-4)
    wrong = [*ROWS[:2], Encoded(ROWS[2].ids, ROWS[2].loss_mask, "c", (7,))]
    assert float(loss) != pytest.approx(plain(model, wrong), abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_hidden_places_have_logits_and_their_gradients_are_the_models_own(name: str) -> None:
    model = MODELS[name]().eval()
    batch = collate(ROWS)
    assert batch.targets is not None
    masked_lm.loss(masked_logits(model, batch.ids, batch.lengths, batch.loss_mask), batch.targets)[0].backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    real = (torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]).long()
    labels = torch.full_like(batch.ids, -100)
    labels[batch.loss_mask] = batch.targets
    (model(input_ids=batch.ids, attention_mask=real, labels=labels).loss * len(batch.targets)).backward()
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[n], theirs[n], atol=1e-5) for n in ours)


def test_the_golden_cross_entropy_of_pet() -> None:
    """Methods, section 4: label logits (2, 1), the first is right: log(1 + e^-1) = .313262; with L_MLM 2.5, a = 1e-4: .313480."""
    loss, stats = masked_lm.loss(torch.tensor([[2.0, 1.0]], dtype=torch.float64), torch.tensor([0]))
    assert float(loss) == pytest.approx(0.313262, abs=1e-6)
    assert (1 - 1e-4) * float(loss) + 1e-4 * 2.5 == pytest.approx(0.313480, abs=1e-6)
    assert stats == {"correct": 1.0}
