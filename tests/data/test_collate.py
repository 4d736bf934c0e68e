"""Batches: every row once an epoch, in an order that is a function, with little padding and within the budget."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.records import Encoded
from tunesmith.data.collate import collate, epoch_order, micro_batches

lengths = st.lists(st.integers(1, 500), max_size=200)


def row(length: int, number: int = 0) -> Encoded:
    """A row whose last token counts."""
    return Encoded(tuple(range(1, length + 1)), (False,) * (length - 1) + (True,), str(number))


@given(lengths, st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_row_comes_once_an_epoch_and_the_order_is_a_function(rows: list[int], size: int, seed: int, epoch: int) -> None:
    batches = epoch_order(rows, size, seed, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    assert [len(batch) for batch in batches if len(batch) != size] in ([], [len(rows) % size])
    assert epoch_order(rows, size, seed, epoch) == batches


def test_the_order_does_not_touch_or_follow_the_global_random_state() -> None:
    random.seed(1)
    before = random.getstate()
    first = epoch_order([5, 3, 8] * 20, 4, 0, 0)
    assert random.getstate() == before
    random.seed(2)
    assert epoch_order([5, 3, 8] * 20, 4, 0, 0) == first


def test_seed_and_epoch_change_the_order_and_long_batches_come_at_any_time() -> None:
    chance = random.Random(0)
    rows = [chance.randrange(1, 300) for _ in range(640)]
    orders = [epoch_order(rows, 16, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4
    first = [max(rows[i] for i in order[0]) for order in (epoch_order(rows, 16, seed, 0) for seed in range(40))]
    assert min(first) < 75
    assert max(first) > 225
    neighbours = [{frozenset(batch) for batch in order} for order in orders]
    assert not neighbours[0] & neighbours[1]


def padding(rows: list[int], batches: list[list[int]]) -> float:
    """Share of a padded epoch that is padding."""
    area = sum(max(rows[i] for i in batch) * len(batch) for batch in batches)
    return 1 - sum(rows) / area


def test_batches_hold_little_padding() -> None:
    chance = random.Random(0)
    rows = [int(chance.lognormvariate(4, 0.7)) + 1 for _ in range(2000)]
    shuffled = chance.sample(range(2000), 2000)
    naive = [shuffled[i : i + 16] for i in range(0, 2000, 16)]
    assert padding(rows, epoch_order(rows, 16, 0, 0)) < 0.1
    assert padding(rows, naive) > 0.4


@given(lengths.filter(bool), st.integers(1, 2000))
def test_micro_batches_keep_every_row_and_the_budget(rows: list[int], budget: int) -> None:
    batches = micro_batches([row(length, number) for number, length in enumerate(rows)], budget)
    assert sorted(int(i) for batch in batches for i in batch.example_ids) == list(range(len(rows)))
    for batch in batches:
        assert batch.ids.numel() <= budget or len(batch.example_ids) == 1
        assert batch.tokens == sum(rows[int(i)] for i in batch.example_ids)


def test_rows_are_padded_on_the_right_where_nothing_counts() -> None:
    batch = collate([row(2, 7), row(4, 8)])
    assert batch.ids.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    assert batch.loss_mask.tolist() == [[False, True, False, False], [False, False, False, True]]
    assert (batch.example_ids, batch.tokens, batch.loss_mask.dtype) == (("7", "8"), 6, torch.bool)


def test_no_rows_make_no_batches() -> None:
    assert epoch_order([], 4, 0, 0) == []
    assert micro_batches([], 100) == []
    with pytest.raises(ValueError, match="empty"):
        collate([])
