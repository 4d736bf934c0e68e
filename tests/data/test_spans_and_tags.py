"""Windows, best spans, the threshold of no answer, and entities: against worked values and second implementations."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from tunesmith.data.spans import best_spans, tokens_of, tuned_threshold, windows
from tunesmith.data.tags import entities

START, END = np.array([1, 0.2, 3, 0.1], np.float32), np.array([0.5, 2.5, 0.3, 1], np.float32)


def test_the_best_span_is_the_published_one() -> None:
    """Methods, section 2: position 0 is [CLS]; best span (2, 3) with 4.0, no answer 1.5."""
    masked = np.where(np.arange(4) > 0, START, -np.inf), np.where(np.arange(4) > 0, END, -np.inf)
    best = best_spans(*masked, most_tokens=30, count=20)
    assert (best[0].first, best[0].last) == (2, 3)
    assert best[0].score == pytest.approx(4.0)
    assert START[0] + END[0] == pytest.approx(1.5)
    # Each end by itself gives (2, 1), which ends before it begins and would score 5.5.
    assert (int(START[1:].argmax()) + 1, int(END[1:].argmax()) + 1) == (2, 1)
    assert all(span.last >= span.first for span in best)


def test_spans_are_all_pairs_in_order_of_their_score() -> None:
    generator = np.random.default_rng(0)
    starts, ends = generator.normal(size=(2, 12)).astype(np.float32)
    pairs = [(i, j) for i in range(12) for j in range(i, min(i + 4, 12))]
    expected = sorted(pairs, key=lambda p: -(starts[p[0]] + ends[p[1]]))[:9]
    assert [(s.first, s.last) for s in best_spans(starts, ends, 4, 9)] == expected


@pytest.mark.parametrize(("tokens", "room", "stride"), [(1, 5, 5), (5, 5, 2), (6, 5, 2), (100, 20, 7), (100, 20, 20)])
def test_windows_hold_every_token_and_end_with_the_last(tokens: int, room: int, stride: int) -> None:
    found = windows(tokens, room, stride)
    assert sorted({t for a, b in found for t in range(a, b)}) == list(range(tokens))
    assert all(b - a <= room for a, b in found)
    assert found[-1][1] == tokens
    assert all(later - earlier == stride for (earlier, _), (later, _) in itertools.pairwise(found))


def test_windows_with_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves out"):
        windows(100, 20, 21)


def test_an_answer_inside_a_token_is_that_token() -> None:
    offsets = [(0, 3), (4, 9), (9, 12)]
    assert tokens_of(offsets, 5, 7) == (1, 1)
    assert tokens_of(offsets, 1, 10) == (0, 2)
    assert tokens_of(offsets, 3, 4) is None


def test_the_threshold_is_the_best_of_all() -> None:
    draw = random.Random(0)
    for _ in range(50):
        n = draw.randrange(1, 12)
        margins = [draw.choice([-2.0, -1.0, 0.5, 1.0, 3.0]) for _ in range(n)]
        answered, none = ([draw.random() for _ in range(n)] for _ in range(2))

        def worth(tau: float, of: tuple[list[float], ...] = (margins, answered, none)) -> float:
            return sum(a if m > tau else b for m, a, b in zip(*of, strict=True))

        best = max(worth(tau) for tau in [-9.0, -1.5, 0.0, 0.7, 2.0, 9.0])
        assert worth(tuned_threshold(margins, answered, none)) == pytest.approx(best)


def conll_entities(tags: list[str]) -> set[tuple[int, int, str]]:
    """The rules of conlleval, written down token by token as its table of chunk starts and ends."""
    found, start, kind = set(), None, ""
    for at, tag in enumerate([*tags, "O"]):
        prefix, _, this = tag.partition("-")
        before, _, last = (tags[at - 1] if at else "O").partition("-")
        ends = before != "O" and at > 0 and (
            before in "ES" or prefix in "BSO" or this != last
        )  # fmt: skip
        if ends and start is not None:
            found.add((start, at, kind))
            start = None
        if tag != "O" and (prefix in "BS" or before in "ESO" or this != last):
            start, kind = at, this
    return found


def test_entities_are_those_of_conlleval() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        tags = [draw.choice(["O", "B-X", "I-X", "B-Y", "I-Y", "E-X", "S-Y"]) for _ in range(draw.randrange(1, 7))]
        assert set(entities(tags)) == conll_entities(tags), tags


def test_plain_tags_make_runs() -> None:
    assert entities(["nam", "nam", "O", "nam", "t3"]) == [(0, 2, "nam"), (3, 4, "nam"), (4, 5, "t3")]
