"""Training the rows of a table that the data use is training the table."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from tunesmith.core.levers import without
from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.models.bert import class_logits
from tunesmith.models.encoder import load_encoder
from tunesmith.models.load import LM
from tunesmith.objectives import classification
from tunesmith.train.fit import fit
from tunesmith.train.parameters import FitParameters
from tunesmith.train.training import Training
from tunesmith.train.vocabulary import UsedRows, used_rows_only

TABLE = "bert.embeddings.word_embeddings.weight"
ROWS = [Encoded((10 + n, 20, 30 + n % 3, 20), (True, False, False, False), f"row {n}", (n % 2,)) for n in range(12)]
USED = sorted({0}.union(*(row.ids for row in ROWS)))


def encoder(dtype: str = "fp32") -> LM:
    """A toy classifier in training, the same every time."""
    torch.manual_seed(0)
    lm = load_encoder("toy-bert", "classifier", ["no", "yes"], dtype)
    lm.model.train()
    return lm


def training_of(lm: LM, **changes: Any) -> Training:
    how = FitParameters(epochs=2, batch_size=3, learning_rate=1e-2, evaluations=0, save_steps=3, weight_decay=0.1, **changes)

    def loss_of(batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        return classification.loss(class_logits(lm.model, batch.ids, batch.lengths), batch.targets)

    return Training(loss_of, dict(lm.model.named_parameters()), ROWS, how, 0)


def trained(folder: Path, lever: bool, dtype: str = "fp32", **changes: Any) -> tuple[list[float], Mapping[str, torch.Tensor]]:
    lm = encoder(dtype)
    with nullcontext() if lever else without("vocabulary"), used_rows_only(lm.model, training_of(lm, **changes)) as training:
        assert (training.parameters[TABLE].shape[0] == len(USED)) == lever
        losses = fit(training, Run(folder, {}, {})).losses
    return losses, {name: p.detach().clone() for name, p in lm.model.named_parameters()}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_losses_and_used_rows_are_those_of_the_whole_table(dtype: str, tmp_path: Path) -> None:
    losses, weights = trained(tmp_path / "rows", True, dtype)
    all_losses, all_weights = trained(tmp_path / "table", False, dtype)
    # The norm of the gradient is summed up in another order.
    assert losses == pytest.approx(all_losses, rel=1e-5 if dtype == "fp32" else 1e-2)
    start = dict(encoder(dtype).model.named_parameters())
    others = torch.tensor([i for i in range(len(start[TABLE])) if i not in USED])
    for name, weight in weights.items():
        expected = all_weights[name].clone()
        if name == TABLE:  # what is not used does not decay
            assert not torch.equal(expected[others], start[name][others])
            expected[others] = start[name][others]
        if dtype == "fp32":
            assert torch.allclose(weight, expected, rtol=1e-3, atol=1e-5), name
        elif not name.endswith("key.bias"):
            # Weights are rounded at random, differently in a table of another size, so single ones differ; a weight has moved
            # by 0.01 or more. A bias of keys is moved by nothing but rounding: softmax does not see it.
            assert (weight.float() - expected.float()).abs().mean() < 1e-3, name
    assert not torch.allclose(weights[TABLE][USED], start[TABLE][USED], rtol=1e-2)


def test_a_training_that_was_stopped_goes_on_bit_for_bit(tmp_path: Path) -> None:
    straight = trained(tmp_path / "straight", True, "bf16")
    lm = encoder("bf16")
    run = Run(tmp_path / "stopped", {}, {})
    with used_rows_only(lm.model, training_of(lm)) as training:
        stop_at = iter(range(5))

        def loss_of(batch: Any) -> Any:
            if next(stop_at, None) is None:
                raise KeyboardInterrupt
            return training_of(lm).loss_of(batch)

        with pytest.raises(KeyboardInterrupt):
            fit(Training(loss_of, training.parameters, ROWS, training.how, 0), run)
    lm = encoder("bf16")
    with used_rows_only(lm.model, training_of(lm)) as training:
        losses = fit(training, run).losses
    assert losses == straight[0]
    assert all(torch.equal(p, straight[1][name]) for name, p in lm.model.named_parameters())


def test_inside_every_token_is_embedded_as_outside() -> None:
    lm = encoder()
    ids = torch.arange(60).view(3, 20)
    table = lm.model.get_input_embeddings()
    before = table(ids)
    with used_rows_only(lm.model, training_of(lm)):
        inside: Any = lm.model.get_input_embeddings()
        assert isinstance(inside, UsedRows)
        assert torch.equal(inside(ids), before)
        with torch.no_grad():
            inside.rows.add_(1)
        moved = inside(ids)
    assert lm.model.get_input_embeddings() is table
    assert table.weight.requires_grad
    assert torch.equal(table(ids), moved)
    assert {int(i) for i in ids[(moved != before).all(-1)]} == set(USED) & set(range(60))


def test_the_table_comes_back_from_a_training_that_failed() -> None:
    lm = encoder()
    table = lm.model.get_input_embeddings()
    with pytest.raises(ZeroDivisionError), used_rows_only(lm.model, training_of(lm)):
        raise ZeroDivisionError
    assert lm.model.get_input_embeddings() is table


@pytest.mark.parametrize("reason", ["tied", "frozen", "nearly all used", "switched off"])
def test_a_table_stays_whole_where_that_is_what_is_trained(reason: str) -> None:
    lm = encoder()
    training = training_of(lm)
    if reason == "tied":
        lm = load_encoder("toy-bert", "masked_lm")
        training = Training(training.loss_of, dict(lm.model.named_parameters()), ROWS, training.how, 0)
    if reason == "frozen":
        head = {name: p for name, p in training.parameters.items() if name.startswith("classifier")}
        training = Training(training.loss_of, head, ROWS, training.how, 0)
    if reason == "nearly all used":
        row = Encoded(tuple(range(250)), (True,) + (False,) * 249, "all", (0,))
        training = Training(training.loss_of, training.parameters, [row], training.how, 0)
    off: Callable[[], Any] = (lambda: without("vocabulary")) if reason == "switched off" else nullcontext
    with off(), used_rows_only(lm.model, training) as same:
        assert same is training


def test_the_padding_row_is_not_learned() -> None:
    model = encoder().model
    assert isinstance(model, BertForSequenceClassification)
    table = model.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    assert table.padding_idx == 0
    rows = UsedRows(table, torch.tensor([0, 3, 7]))
    rows(torch.tensor([0, 7, 0])).sum().backward()
    assert rows.rows.grad is not None
    assert rows.rows.grad[:, 0].tolist() == [0, 0, 1]
