"""A classifier on a decoder: texts of a row are read apart, and their own loss is the mean over tokens, then over texts."""

import numpy as np
import pytest
import torch

from tunesmith.core.records import Encoded
from tunesmith.data.collate import collate
from tunesmith.models.decoder_classifier import Score, Texts, class_logits, last_hidden, last_hidden_and_lm_loss
from tunesmith.models.load import LM, load

ROWS = [[[60, 70, 71, 61], [60, 72, 61]], [[60, 73, 74, 75, 76, 61], [60, 77, 78, 61]]]


@pytest.fixture
def lm() -> LM:
    lm = load("toy-llama")
    torch.manual_seed(0)
    lm.model.score = Score(2, lm.model.get_input_embeddings().weight)
    return lm


def texts(rows: list[list[list[int]]]) -> Texts:
    """Rows of several texts, as a batch has them."""
    encoded = [
        Encoded(tuple(i for t in row for i in t), tuple(n == 0 for t in row for n in range(len(t))), "row", (0,)) for row in rows
    ]
    return Texts.of(*collate(encoded).tensors(torch.device("cpu")))


def test_rows_are_taken_apart(lm: LM) -> None:
    found = texts(ROWS)
    assert found.lengths.tolist() == [4, 3, 6, 4]
    assert found.row.tolist() == [0, 0, 1, 1]
    assert found.ids[1].tolist() == [60, 72, 61, 0, 0, 0]


def test_loss_and_hidden_states_are_those_of_each_text_alone(lm: LM) -> None:
    with torch.no_grad():
        hidden, loss = last_hidden_and_lm_loss(lm.model, texts(ROWS), False)
        only = last_hidden(lm.model, texts(ROWS))
    assert torch.allclose(hidden, only, atol=1e-5)
    wanted, states = 0.0, []
    for row in ROWS:
        means = []
        for text in row:
            with torch.no_grad():
                out = lm.model(torch.tensor([text]), output_hidden_states=True)
            logits = out.logits[0].double().numpy()
            nll = [np.log(np.exp(logits[t]).sum()) - logits[t, text[t + 1]] for t in range(len(text) - 1)]
            means.append(np.mean(nll))
            states.append(out.hidden_states[-1][0, -1])
        wanted += np.mean(means)
    assert float(loss) == pytest.approx(wanted, abs=1e-4)
    assert torch.allclose(hidden, torch.stack(states), atol=1e-4)
    # The control: all tokens alike, whichever text they are in, is another number.
    assert abs(float(loss) - 2 * wanted) > 0.1


def test_the_order_of_a_pair_does_not_matter_to_similarity(lm: LM) -> None:
    with torch.no_grad():
        one, other = (
            class_logits(lm.model, last_hidden(lm.model, texts(rows)), texts(rows), choice=False)
            for rows in (ROWS, [row[::-1] for row in ROWS])
        )
        by_hand = [sum(lm.model.score(last_hidden(lm.model, texts([[text]])))[0] for text in row) for row in ROWS]
    assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(one, torch.stack(by_hand), atol=1e-4)


def test_a_choice_is_one_score_a_text(lm: LM) -> None:
    lm.model.score = Score(1, lm.model.get_input_embeddings().weight)
    with torch.no_grad():
        found = class_logits(lm.model, last_hidden(lm.model, texts(ROWS)), texts(ROWS), choice=True)
        alone = lm.model.score(last_hidden(lm.model, texts([[ROWS[1][1]]])))
    assert found.shape == (2, 2)
    assert float(found[1, 1]) == pytest.approx(float(alone), abs=1e-4)
