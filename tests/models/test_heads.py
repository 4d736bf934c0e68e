"""Heads on encoders: what they compute is what transformers computes, and what is saved comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tunesmith.core.encode import encoder_ids, token_ids, word_ids
from tunesmith.core.errors import UserError
from tunesmith.core.levers import without
from tunesmith.models.encoder import architecture_of, load_encoder, load_headed
from tunesmith.models.heads import answer_places, separator_of, span_logits, text_logits, word_logits
from tunesmith.models.load import LM

LABELS = ["no", "maybe", "yes"]


def padded(rows: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad rows of ids on the right."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids, torch.tensor([len(row) for row in rows])


def pairs(lm: LM) -> list[tuple[int, ...]]:
    """Two pairs of different lengths, and a text."""
    a, b, c = (token_ids(lm.tokenizer, text) for text in ("why?", "because it is so", "no"))
    return [encoder_ids(lm.tokenizer, a, b), encoder_ids(lm.tokenizer, a, c), encoder_ids(lm.tokenizer, b)]


def by_hand(lm: LM, row: tuple[int, ...], segments: bool = True) -> torch.Tensor:
    """The model's own code on one row without padding."""
    at = row.index(separator_of(lm.tokenizer)) if separator_of(lm.tokenizer) in row else len(row)
    types = torch.tensor([[int(i > at and segments) for i in range(len(row))]])
    made = lm.model(input_ids=torch.tensor([row]), token_type_ids=types)
    return torch.stack([made.start_logits, made.end_logits], -1)[0] if "start_logits" in made else made.logits[0]


def test_a_pair_has_segments() -> None:
    lm = load_encoder("toy-bert", "classifier", LABELS)
    rows = pairs(lm)
    with torch.inference_mode():
        found = text_logits(lm, *padded(rows))
        expected = torch.stack([by_hand(lm, row) for row in rows])
        without = torch.stack([by_hand(lm, row, segments=False) for row in rows])
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found[:2], without[:2], atol=1e-4)
    assert torch.allclose(found[2], without[2], atol=1e-5)


def test_ends_of_spans_are_found_only_in_the_second_text() -> None:
    lm = load_encoder("toy-bert", "span")
    rows = pairs(lm)
    ids, lengths = padded(rows)
    places = answer_places(lm, ids, lengths)
    first = len("why?") + 1
    assert places[0].nonzero()[:, 0].tolist() == [0, *range(first, len(rows[0]))]
    assert places[2].nonzero()[:, 0].tolist() == [0]
    with torch.inference_mode():
        found = span_logits(lm, ids, lengths)
        for number, row in enumerate(rows):
            chosen = places[number, : len(row)]
            assert torch.allclose(found[number, : len(row)][chosen], by_hand(lm, row)[chosen], atol=1e-5)


def test_words_are_asked_at_their_first_piece() -> None:
    lm = load_encoder("toy-bert", "tokens", LABELS)
    pieces = word_ids(lm.tokenizer, ["why", "so"])
    assert [len(piece) for piece in pieces] == [3, 3]
    row = encoder_ids(lm.tokenizer, tuple(i for piece in pieces for i in piece))
    places = torch.tensor([[True, False, False, True, False, False]])
    with torch.inference_mode():
        found = word_logits(lm, torch.tensor([row]), torch.tensor([6]), places)
        assert torch.allclose(found, by_hand(lm, row)[[0, 3]], atol=1e-5)


@pytest.mark.parametrize("left_out", [(), ("encoder",)])
def test_the_mean_of_real_tokens_is_pooled(left_out: tuple[str, ...]) -> None:
    lm, heads = load_headed("toy-bert", "classifier", LABELS, settings={"pooling": "mean"})
    assert heads == ("classifier",)
    rows = pairs(lm)
    with torch.inference_mode(), without(*left_out):
        found = text_logits(lm, *padded(rows))
        for number, row in enumerate(rows):
            kinds = torch.tensor([[int(1 in row and i > row.index(1)) for i in range(len(row))]])
            states = lm.model.bert(input_ids=torch.tensor([row]), token_type_ids=kinds).last_hidden_state[0]
            assert torch.allclose(found[number], lm.model.classifier(states.mean(0)), atol=1e-5)


def test_a_saved_head_comes_back_and_one_for_other_labels_is_new(tmp_path: Path) -> None:
    lm, heads = load_headed("toy-bert", "classifier", LABELS, settings={"pooling": "mean", "dropout": 0.3})
    assert {m.p for m in lm.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    again, _ = load_headed(str(tmp_path), "classifier")
    ids = padded(pairs(lm))
    with torch.inference_mode():
        assert torch.equal(text_logits(lm, *ids), text_logits(again, *ids))
    assert list(again.model.config.id2label.values()) == LABELS
    assert {m.p for m in again.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}
    assert architecture_of(str(tmp_path)) == ("BertForSequenceClassification", "")
    other, new = load_headed(str(tmp_path), "classifier", ["a", "b", "c"], new_head=True)
    assert new == heads
    assert not torch.equal(other.model.classifier.weight, lm.model.classifier.weight)
    kept, _ = load_headed(str(tmp_path), "classifier", LABELS, new_head=True)
    assert torch.equal(kept.model.classifier.weight, lm.model.classifier.weight)
    fewer, _ = load_headed(str(tmp_path), "tokens", ["a"], new_head=True)
    assert fewer.model.classifier.weight.shape == (1, 64)
    with pytest.raises(UserError, match="no trained span head"):
        load_headed(str(tmp_path), "span")


def test_the_pooler_that_a_checkpoint_lacks_is_trained_with_the_head() -> None:
    _, heads = load_headed("toy-bert", "classifier", LABELS)
    assert heads == ("bert.pooler.dense", "classifier")
    assert load_headed("toy-bert", "span")[1] == ("qa_outputs",)
