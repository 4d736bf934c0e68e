"""Masking: exactly as many tokens as should be, hidden in the right proportions, never special ones, new every epoch."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import byte_pairs, wordpiece

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Example
from tunesmith.core.seeds import derive
from tunesmith.data.cloze import Pattern
from tunesmith.data.collate import collate
from tunesmith.data.masking import Masking, encode_answer, encode_document, masked_rows
from tunesmith.models.toy import byte_tokenizer

BERT = wordpiece()
MASKING = Masking.of(BERT)


def row(length: int, seed: int = 0) -> Encoded:
    """A document of ordinary tokens between [CLS] and [SEP]."""
    ids = np.random.default_rng(seed).choice(MASKING.ordinary, length)
    return Encoded((2, *ids.tolist(), 3), (False, *[True] * length, False), f"row {seed}")


@given(st.integers(1, 200), st.integers(0, 10_000), st.floats(0.01, 0.9))
def test_exactly_the_share_is_hidden_and_the_rest_is_as_it_was(length: int, seed: int, share: float) -> None:
    before = row(length)
    after = Masking.of(BERT, share).masked(before, seed)
    assert sum(after.loss_mask) == len(after.targets or ()) == after.counted == max(1, round(share * length))
    assert not after.loss_mask[0]
    assert not after.loss_mask[-1]
    hidden = [i for i, counts in enumerate(after.loss_mask) if counts]
    assert after.targets == tuple(before.ids[i] for i in hidden)
    assert all(a == b for i, (a, b) in enumerate(zip(before.ids, after.ids, strict=True)) if i not in hidden)
    assert after.example_id == before.example_id


def test_eight_in_ten_become_a_mask_one_another_token_and_one_stays() -> None:
    rows = [row(100, seed) for seed in range(400)]
    masked = masked_rows(rows, MASKING, seed=1)
    kinds = {"mask": 0, "same": 0, "other": 0}
    others = []
    for before, after in zip(rows, masked, strict=True):
        for old, new, counts in zip(before.ids, after.ids, after.loss_mask, strict=True):
            if counts:
                kinds["mask" if new == MASKING.mask_id else "same" if new == old else "other"] += 1
                others += [new] if new not in (MASKING.mask_id, old) else []
    total = sum(kinds.values())
    assert total == 400 * 15
    # A random token is the old one by chance once in a vocabulary. Four standard errors of 0.8 and 0.1 on 6,000 tokens:
    by_chance = 0.1 / len(MASKING.ordinary)
    assert kinds["mask"] / total == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / total) ** 0.5)
    assert kinds["other"] / total == pytest.approx(0.1 - by_chance, abs=4 * (0.1 * 0.9 / total) ** 0.5)
    assert kinds["same"] / total == pytest.approx(0.1 + by_chance, abs=4 * (0.1 * 0.9 / total) ** 0.5)
    # Negative control: this many tokens would notice 82, 9 and 9 percent.
    assert abs(0.82 - 0.8) > 3 * (0.8 * 0.2 / total) ** 0.5
    assert set(others) <= set(MASKING.ordinary.tolist())
    assert len(set(others)) > 0.9 * len(MASKING.ordinary)
    assert not set(BERT.all_special_ids) & set(others)


def test_every_place_is_hidden_as_often_as_any_other() -> None:
    masked = masked_rows([row(20)] * 4000, MASKING, seed=2)
    often = np.mean([after.loss_mask for after in masked], 0)
    assert often[0] == often[-1] == 0
    assert np.allclose(often[1:-1], 3 / 20, atol=4 * (0.15 * 0.85 / 4000) ** 0.5)


def test_what_is_hidden_follows_from_seed_epoch_and_row_alone() -> None:
    rows = [row(60, seed) for seed in range(8)]
    masked = masked_rows(rows, MASKING, seed=3)
    first, second = list(masked.in_epoch(0)), list(masked.in_epoch(1))
    assert first == list(masked) == masked[:] == [masked[i] for i in range(-8, 0)]
    assert [r.ids for r in second] == [r.ids for r in reversed([masked.in_epoch(1)[i] for i in range(7, -1, -1)])]
    assert all(a.loss_mask != b.loss_mask for a, b in zip(first, second, strict=True))
    assert [(len(a), a.counted) for a in first] == [(len(b), b.counted) for b in second]
    assert list(masked_rows(rows, MASKING, seed=4)) != first
    same_text_twice = masked_rows([rows[0], rows[0]], MASKING, seed=3)
    assert same_text_twice[0].loss_mask != same_text_twice[1].loss_mask
    assert masked[5] == MASKING.masked(rows[5], derive(derive(3, "mask"), 0, 5))


def test_targets_stand_in_the_order_of_the_mask_in_a_batch() -> None:
    rows = [row(n, n) for n in (30, 7, 55)]
    batch = collate(list(masked_rows(rows, MASKING, seed=5)))
    before = collate(rows).ids
    assert batch.targets is not None
    assert batch.targets.tolist() == before[batch.loss_mask].tolist()


def test_whole_words_are_hidden_or_left_whole() -> None:
    masking = Masking.of(BERT, 0.3, whole_words=True)
    (document,) = encode_document(
        BERT, "the unfavorable film was so unfavorable. it was a great plot, films all in all good", "x", 64
    )
    counts = set()
    for seed in range(300):
        after = masking.masked(document, seed)
        tokens = BERT.convert_ids_to_tokens(list(document.ids))
        for i, token in enumerate(tokens[1:-1], 1):
            if token.startswith("##"):
                assert after.loss_mask[i] == after.loss_mask[i - 1]
        counts.add(sum(after.loss_mask))
    wanted = round(0.3 * (len(document) - 2))
    assert max(counts) == wanted
    assert min(counts) >= wanted - 3
    alone = [Masking.of(BERT, 0.3).masked(document, seed).loss_mask for seed in range(50)]
    at = BERT.convert_ids_to_tokens(list(document.ids)).index("##fav")
    assert any(mask[at] != mask[at - 1] for mask in alone), "negative control: token by token, words are parted"


def test_word_beginnings_of_byte_pairs_are_their_spaces() -> None:
    tokenizer = byte_pairs()
    masking = Masking.of(tokenizer, 0.5, whole_words=True)
    (document,) = encode_document(tokenizer, "great grit great grit", "x", 64)
    tokens = tokenizer.convert_ids_to_tokens(list(document.ids))
    starts = [1, *[i for i, token in enumerate(tokens) if token.startswith("Ġ")], len(document) - 1]
    words = [range(*pair) for pair in pairwise(starts)]
    for seed in range(50):
        hidden = masking.masked(document, seed).loss_mask
        assert all(len({hidden[i] for i in word}) == 1 for word in words)
    assert len(words) == 4


def test_a_word_longer_than_the_share_is_still_hidden_whole() -> None:
    masking = Masking.of(BERT, 0.05, whole_words=True)
    (document,) = encode_document(BERT, "unfavorable", "x", 64)
    assert sum(masking.masked(document, 0).loss_mask) == 4


def test_a_long_document_becomes_several_rows_and_loses_nothing() -> None:
    text = " ".join(["the film was great"] * 10)
    rows = encode_document(BERT, text, "a.txt:1", 18)
    assert [len(r) for r in rows] == [18, 18, 10]
    assert [i for r in rows for i in r.ids[1:-1]] == BERT(text, add_special_tokens=False).input_ids
    assert {(r.ids[0], r.ids[-1]) for r in rows} == {(BERT.cls_token_id, BERT.sep_token_id)}
    assert [r.example_id for r in rows] == ["a.txt:1 part 1", "a.txt:1 part 2", "a.txt:1 part 3"]
    assert encode_document(BERT, "  ", "a.txt:1", 18) == []
    (special,) = encode_document(BERT, "so [MASK] [SEP]", "b", 30)
    assert BERT.mask_token_id not in special.ids


def test_tokenizers_that_cannot_be_masked_are_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(UserError, match="this model's tokenizer has no mask token"):
        Masking.of(tokenizer)


def test_an_answer_in_a_pattern_is_hidden_whole_and_nothing_else_is() -> None:
    example = Example("1", {"text": "the film was so good"}, "rows:1")
    document = encode_answer(BERT, Pattern("{text}. It was {answer}."), example, "unfavorable", 32)
    read = " ".join(BERT.convert_ids_to_tokens(list(document.ids)))
    assert read == "[CLS] the film was so good . it was un ##fav ##or ##able . [SEP]"
    rows = masked_rows([document, row(40)], Masking.of(BERT), 0, np.array([True, False]))
    for epoch in range(30):
        answer, text = rows.in_epoch(epoch)
        assert " ".join(BERT.convert_ids_to_tokens(list(answer.ids))) == (
            "[CLS] the film was so good . it was [MASK] [MASK] [MASK] [MASK] . [SEP]"
        )
        assert answer.targets == tuple(BERT.convert_tokens_to_ids(["un", "##fav", "##or", "##able"]))
        assert len(text.targets or ()) == 6
    short = encode_answer(BERT, Pattern("{text}. It was {answer}."), example, "good", 10)
    assert " ".join(BERT.convert_ids_to_tokens(list(short.ids))) == "[CLS] the film was . it was good . [SEP]"
