"""When answering, hedging and declining are best: exact, by brute force, and refused where signs are wrong."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.rl.reward_table import SCHULMAN, RewardTable


def test_the_default_table_lets_hedging_win_between_ten_seventeenths_and_ten_elevenths() -> None:
    # 0.7 p - (1 - p) = 0 at p = 1 / 1.7; p - 4 (1 - p) = 0.7 p - (1 - p) at 3.3 p = 3.
    found = [(r.action, r.low, r.high) for r in RewardTable().regions()]
    assert found == [
        ("decline", Fraction(0), Fraction(10, 17)),
        ("hedge", Fraction(10, 17), Fraction(10, 11)),
        ("answer", Fraction(10, 11), Fraction(1)),
    ]
    assert RewardTable().never_best() == []


def test_under_schulmans_own_table_hedging_is_never_best() -> None:
    # 5 p - 4 = 2 (2.5 p - 2): both lines cross zero at 4/5, together.
    assert [(r.action, r.high) for r in SCHULMAN.regions()] == [("decline", Fraction(4, 5)), ("answer", Fraction(1))]
    assert SCHULMAN.never_best() == ["hedge"]
    golden = {0.5: (-1.5, -0.75, 0.0), 0.8: (0.0, 0.0, 0.0), 0.9: (0.5, 0.25, 0.0)}
    for p, (answer, hedge, decline) in golden.items():
        assert [float(SCHULMAN.expected(a, p)) for a in ("answer", "hedge", "decline")] == pytest.approx([answer, hedge, decline])
    # The negative control: a hedge that costs a little less when wrong is best somewhere.
    assert RewardTable(1.0, 0.5, 0.0, -1.9, -4.0).never_best() == []


REWARD = st.integers(-50, 50).map(lambda n: n / 10)


@settings(max_examples=200, deadline=None)
@given(st.tuples(REWARD, REWARD, REWARD, REWARD, REWARD))
def test_regions_are_those_of_brute_force(numbers: tuple[float, ...]) -> None:
    correct, hedged_correct, declined, hedged_wrong, wrong = numbers
    if not (wrong < declined < correct and hedged_wrong < hedged_correct):
        return
    table = RewardTable(*numbers)
    regions = table.regions()
    assert regions[0].low == 0
    assert regions[-1].high == 1
    assert all(a.high == b.low and a.action != b.action for a, b in itertools.pairwise(regions))
    for p in np.linspace(0, 1, 197):
        values = {
            "answer": correct * p + wrong * (1 - p),
            "hedge": hedged_correct * p + hedged_wrong * (1 - p),
            "decline": declined,
        }
        named = [r.action for r in regions if float(r.low) - 1e-9 <= p <= float(r.high) + 1e-9]
        assert any(math.isclose(values[action], max(values.values()), abs_tol=1e-6) for action in named)
        assert values[table.best(float(p))] == pytest.approx(max(values.values()), abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wrong": 4.0}, "'wrong' 4 and 'declined' 0, so that declining could never be better"),
        ({"declined": 1.0}, "'declined' 1 and 'correct' 1, so that answering would never be worth it"),
        ({"hedged_correct": -0.7, "hedged_wrong": 1.0}, "a hedge would be better wrong than right"),
        ({"wrong": -math.inf}, "the reward of 'wrong' is -inf"),
    ],
)
def test_wrong_signs_are_named(changes: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RewardTable(**changes)
