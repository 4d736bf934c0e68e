"""Mixtures: rates as published, epochs of the right make-up, and no row twice before all have come."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.data.mixture import Mixture, rates, whole_numbers

SIZES = dict(zip("abcde", [400_000, 30_000, 10_000, 2_000, 500], strict=True))


def test_rates_are_those_of_the_papers() -> None:
    # Raffel et al. 2020 with K = 2^19, T = 1 and 2 (methods, section 3); FLAN's limit of 3,000 (section 16).
    assert [*rates(SIZES, cap=2**19).values()] == pytest.approx([0.903955, 0.067797, 0.022599, 0.004520, 0.001130], abs=1e-6)
    tempered = [0.650178, 0.178058, 0.102802, 0.045975, 0.022987]
    assert [*rates(SIZES, cap=2**19, temperature=2).values()] == pytest.approx(tempered, abs=1e-6)
    assert [*rates(SIZES, cap=3000).values()] == pytest.approx([0.260870] * 3 + [0.173913, 0.043478], abs=1e-6)
    # The cap comes before the temperature; the other way round would be this.
    late = np.minimum(np.sqrt([*SIZES.values()]), 100)
    early = [*rates(SIZES, cap=10_000, temperature=2).values()]
    assert early == pytest.approx(late / late.sum(), abs=1e-6)
    assert [*rates(SIZES, cap=100, temperature=2).values()] == pytest.approx([0.2] * 5)
    assert [*rates(SIZES, "equal").values()] == pytest.approx([0.2] * 5)
    assert rates({"a": 5, "b": 9}, {"b": 1, "a": 3}) == pytest.approx({"a": 0.75, "b": 0.25})


def test_weights_of_other_tasks_are_refused() -> None:
    with pytest.raises(UserError, match="unknown task in the mixture 'moves'") as caught:
        rates({"movies": 3, "tweets": 4}, {"moves": 1, "tweets": 1})
    assert "movies" in caught.value.fix
    with pytest.raises(UserError, match="gives no weight to 'tweets'"):
        rates({"movies": 3, "tweets": 4}, {"movies": 1})
    with pytest.raises(UserError, match="the weight of 'movies' in the mixture is 0"):
        rates({"movies": 3, "tweets": 4}, {"movies": 0, "tweets": 1})


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(6, 300))
def test_shares_become_whole_numbers_that_add_up(weights: list[float], size: int) -> None:
    shares = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    counts = whole_numbers(shares, size)
    assert sum(counts.values()) == size
    assert min(counts.values()) >= 1
    assert all(abs(counts[name] - share * size) < len(weights) + 1 for name, share in shares.items())


def mixture(seed: int = 0) -> Mixture:
    """Ten rows of one task and four of another, half of each."""
    rows = EncodedRows(Encoded((i, i), (False, True), f"row {i}") for i in range(14))
    return Mixture(rows, {"a": np.arange(10), "b": np.arange(10, 14)}, {"a": 0.5, "b": 0.5}, 12, seed)


def ids(rows: EncodedRows) -> list[int]:
    """Which rows these are."""
    return [row.ids[0] for row in rows]


def test_an_epoch_has_each_tasks_share_and_the_next_one_goes_on() -> None:
    epochs = [ids(mixture().in_epoch(epoch)) for epoch in range(5)]
    assert all(sum(i < 10 for i in epoch) == 6 for epoch in epochs)
    assert len(mixture()) == 12
    assert [row.ids[0] for row in mixture()] == epochs[0]
    # Thirty draws of ten rows, and thirty of four: every row as often as the others, to within one.
    counts = Counter(i for epoch in epochs for i in epoch)
    assert {counts[i] for i in range(10)} == {3}
    assert {counts[i] for i in range(10, 14)} == {7, 8}


def test_an_epoch_follows_from_the_seed_alone() -> None:
    assert ids(mixture().in_epoch(3)) == ids(mixture().in_epoch(3))
    assert ids(mixture().in_epoch(3)) != ids(mixture(seed=1).in_epoch(3))
    assert ids(mixture().in_epoch(0)) != ids(mixture().in_epoch(1))
