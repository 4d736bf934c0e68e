"""Demonstrations: seeded, from the pool only, and what each choice promises."""

from collections import Counter

import numpy as np
import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.core.registry import DEMONSTRATIONS

POOL = [Example(str(i), {"text": str(i), "label": "rare" if i % 10 == 0 else "often"}, f"rows:{i}") for i in range(60)]
ITEMS = [Example(f"item {i}", {"text": f"item {i}"}, "") for i in range(3)]


def label_of(example: Example) -> str:
    """The label of a row."""
    return example.fields["label"]


def embed(rows: list[Example]) -> np.ndarray:
    """Unit vectors on a circle, by number; items lie at 10, 11 and 12 and a half degrees."""
    degrees = [float(row.id.removeprefix("item ")) + (10.5 if row.id.startswith("item") else 0) for row in rows]
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)


def similar(these: list[Example], those: list[Example]) -> np.ndarray:
    """Cosines."""
    return embed(these) @ embed(those).T


def chosen(name: str, shots: int, seed: int = 0) -> list[list[str]]:
    """Ids of the demonstrations of each item."""
    found = DEMONSTRATIONS.get(name).choose(POOL, ITEMS, shots, seed, label_of=label_of, similar=similar)
    return [[e.id for e in one] for one in found]


@pytest.mark.parametrize("name", ["random", "balanced"])
def test_a_draw_is_seeded_without_repetition_and_the_same_for_all_items(name: str) -> None:
    draws = [chosen(name, 8, seed) for seed in range(20)]
    assert chosen(name, 8, 3) == draws[3]
    assert len({tuple(draw[0]) for draw in draws}) == 20
    for draw in draws:
        assert draw[0] == draw[1] == draw[2]
        assert len(set(draw[0])) == 8


@pytest.mark.parametrize("name", ["random", "balanced", "nearest", "diverse"])
def test_more_shots_than_rows_are_all_rows(name: str) -> None:
    assert sorted(chosen(name, 100)[0], key=int) == [str(i) for i in range(60)]


def test_balanced_draws_have_labels_as_equal_as_they_can_be() -> None:
    labels = {e.id: label_of(e) for e in POOL}
    for shots, expected in ((6, {3}), (7, {3, 4}), (20, {6, 14})):
        for seed in range(10):
            assert set(Counter(labels[i] for i in chosen("balanced", shots, seed)[0]).values()) == expected
    # The control: a random draw of six mostly has none or one of the rare label.
    assert {Counter(labels[i] for i in chosen("random", 6, seed)[0])["rare"] for seed in range(10)} <= {0, 1, 2}
    # Which label stands last is chance too: the last one weighs most.
    assert {labels[chosen("balanced", 6, seed)[0][-1]] for seed in range(20)} == {"rare", "often"}


def test_every_row_is_drawn_at_some_time() -> None:
    assert len({i for seed in range(400) for i in chosen("random", 4, seed)[0]}) == 60


def test_nearest_rows_stand_nearest_last() -> None:
    # Item 0 lies between rows 10 and 11; equally near rows keep the order of the pool, the first nearest.
    assert [set(one[-2:]) for one in chosen("nearest", 4)] == [{"10", "11"}, {"11", "12"}, {"12", "13"}]
    assert set(chosen("nearest", 4)[0]) == {"9", "10", "11", "12"}
    with pytest.raises(UserError, match="needs a similarity"):
        DEMONSTRATIONS.get("nearest").choose(POOL, ITEMS, 4, 0, label_of=label_of)
    assert DEMONSTRATIONS.get("nearest").choose(POOL, [], 4, 0, label_of=label_of, similar=similar) == []


@pytest.mark.parametrize("shots", [1, 3, 8])
def test_diverse_rows_are_those_of_maximal_marginal_relevance(shots: int) -> None:
    # A second way: the definition, row by row, with plain sums.
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(63, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    at = {row.id: i for i, row in enumerate([*POOL, *ITEMS])}

    def cosine(one: Example, other: Example) -> float:
        return float(sum(a * b for a, b in zip(vectors[at[one.id]], vectors[at[other.id]], strict=True)))

    def by_definition(item: Example) -> list[str]:
        taken: list[Example] = []
        while len(taken) < shots:
            left = [row for row in POOL if row not in taken]
            redundant = {row.id: max((cosine(row, t) for t in taken), default=0.0) for row in left}
            taken.append(max(left, key=lambda row: 0.5 * cosine(row, item) - 0.5 * redundant[row.id]))
        return [row.id for row in taken[::-1]]

    table = lambda rows, others: np.array([[cosine(r, o) for o in others] for r in rows])  # noqa: E731
    found = DEMONSTRATIONS.get("diverse").choose(POOL, ITEMS, shots, 0, label_of=label_of, similar=table)
    assert [[e.id for e in one] for one in found] == [by_definition(item) for item in ITEMS]
    # The control: the nearest are others, as soon as there are several.
    nearest = DEMONSTRATIONS.get("nearest").choose(POOL, ITEMS, shots, 0, label_of=label_of, similar=table)
    assert (nearest == found) == (shots == 1)
