"""Span corruption: exact counts, nothing lost, and another draw every epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.data.span_corruption import SpanCorruption, span_rows

SENTINELS = tuple(range(1000, 1100))
SPANS = SpanCorruption(SENTINELS, end=1)


def plain(tokens: int) -> Encoded:
    """A row of tokens 10, 11, ..."""
    return Encoded(tuple(range(10, 10 + tokens)), (True,) * tokens, "row")


def parts(row: Encoded) -> tuple[list[int], list[int]]:
    """Source and target."""
    border = row.loss_mask.index(True)
    return [*row.ids[:border]], [*row.ids[border:]]


def test_the_counts_are_those_of_the_paper() -> None:
    # T5 reads 512 tokens: 568 of text, of which 85 in 28 spans are hidden; targets have 85 + 28 + 1 = 114.
    source, target = parts(SPANS.corrupted(plain(568), 0))
    assert (len(source), len(target)) == (512, 114)
    assert SPANS.counts(568) == (85, 28)
    assert SPANS.counts(2) == (1, 1)
    # A mean length of 1 is BERT's way of hiding: as many spans as tokens.
    assert SpanCorruption(SENTINELS, 1, mean_length=1).counts(100) == (15, 15)


@settings(max_examples=60)
@given(st.integers(2, 300), st.integers(0, 1000))
def test_source_and_target_put_together_are_the_text(tokens: int, seed: int) -> None:
    source, target = parts(SPANS.corrupted(plain(tokens), seed))
    assert source[-1] == target[-1] == 1
    hidden: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            hidden[token] = []
        else:
            hidden[[*hidden][-1]].append(token)
    whole = [t for token in source[:-1] for t in hidden.get(token, [token])]
    assert whole == [*plain(tokens).ids]
    used = [t for t in source if t in SENTINELS]
    assert used == [*SENTINELS[: len(used)]], "sentinels in their order, each once"
    assert all(hidden.values()), "no empty span"
    counts = SPANS.counts(tokens)
    assert (sum(map(len, hidden.values())), len(used)) == counts


def test_what_is_hidden_is_spread_evenly_over_the_row() -> None:
    hidden = np.zeros(40)
    for seed in range(2000):
        source, _ = parts(SPANS.corrupted(plain(40), seed))
        hidden[[i for i in range(40) if i + 10 not in source]] += 1
    # Six of forty are hidden, in two spans; places near the ends are in fewer spans than those in the middle.
    assert hidden.sum() == 2000 * 6
    assert hidden.min() / 2000 > 0.03
    assert hidden.max() / 2000 < 0.25


def test_every_epoch_hides_something_else_and_the_same_every_time() -> None:
    rows = span_rows([plain(30), plain(30)], SPANS, seed=0)
    assert [*rows] == [*rows.in_epoch(0)]
    assert rows[0].ids == rows.in_epoch(0)[-2].ids
    assert rows[0].ids != rows[1].ids
    assert rows.in_epoch(1)[0].ids != rows[0].ids
    assert len(rows.in_epoch(1)[0]) == len(rows[0])


def test_more_spans_than_sentinels_are_refused() -> None:
    with pytest.raises(UserError, match="row: 300 tokens need 15 sentinels, and this model has 3"):
        SpanCorruption((5, 6, 7), 1).corrupted(plain(300), 0)
