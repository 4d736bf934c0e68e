"""Preferences drawn from ratings: texts are put side by side, and of each one human's rating is drawn (Ziegler et al. 2019).

Raters carry no identity from text to text, so two ratings of one judgement are two people's; equal ratings are a tie.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import Example, Preference
from tunesmith.core.seeds import derive

_FEWEST_RATINGS = 2
_DRAWS = 200_000


@dataclass(frozen=True)
class Rated:
    """Texts and what people gave them: `texts[i]` has `ratings[i]`, one number a person."""

    texts: tuple[str, ...]
    ratings: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, examples: Sequence[Example], field: str) -> Rated:
        """Take the rated texts among a task's rows.

        Raises:
            UserError: they do not hold every rater's score.
        """
        found = [e for e in examples if len(e.fields.get("ratings") or ()) >= _FEWEST_RATINGS]
        if not found or len(found) < len(examples):
            raise UserError(
                "the rows of this task do not hold what several people gave each",
                "Give a file of preferences, or a rated task: movies, tweets, products, editorials.",
            )
        return cls(tuple(str(e.fields[field]) for e in found), tuple(tuple(map(float, e.fields["ratings"])) for e in found))

    def means(self) -> np.ndarray:
        """[N] mean ratings."""
        return np.array([np.mean(row) for row in self.ratings])


def drawn(rated: Rated, count: int, completions: int, seed: int, once: bool = False) -> list[Preference]:
    """Draw judgements: texts in a shuffled order side by side, all before any comes again; of each one rating.

    Args:
        count: how many. completions: texts in each. once: no text stands in two of them, so there may be fewer.
    """
    generator, found = random.Random(derive(seed, "draw")), list[Preference]()
    order: list[int] = []
    while len(found) < count:
        if len(order) < completions:
            if (once and found) or len(rated.texts) < completions:
                break
            order = list(range(len(rated.texts)))
            generator.shuffle(order)
        chosen, order = order[:completions], order[completions:]
        given = tuple(generator.choice(rated.ratings[i]) for i in chosen)
        found.append(_judgement(tuple(rated.texts[i] for i in chosen), given, f"judgement {len(found) + 1}"))
    return found


def _judgement(texts: tuple[str, ...], given: tuple[float, ...], where: str) -> Preference:
    places = sorted(set(given), reverse=True)
    ranks = tuple(1 + places.index(rating) for rating in given)
    return Preference(text_hash(canonical([texts, given, where])), "", texts, ranks, where, ratings=given)


def one_human(rated: Rated, seed: int) -> dict[str, float]:
    """Return how often two people's ratings of two texts have the order of their means, by the means of all others' ratings.

    Returns:
        agreement: of pairs with different ratings; agreement_with_own: the same by means in which these two ratings count too;
        ties: share of pairs that were given equal ratings.
    """
    generator = np.random.default_rng(derive(seed, "one human"))
    sizes, sums = np.array([len(row) for row in rated.ratings]), np.array([sum(row) for row in rated.ratings])
    table = np.full((len(sizes), int(sizes.max())), np.nan)
    for row, given in zip(table, rated.ratings, strict=True):
        row[: len(given)] = given
    pair = generator.integers(0, len(sizes), (_DRAWS, 2))
    pair = pair[pair[:, 0] != pair[:, 1]]
    given = table[pair, (generator.random(pair.shape) * sizes[pair]).astype(int)]
    gap = given[:, 0] - given[:, 1]
    others = (sums[pair] - given) / (sizes[pair] - 1)
    means = sums[pair] / sizes[pair]
    return {
        "agreement": _agreement(gap, others[:, 0] - others[:, 1]),
        "agreement_with_own": _agreement(gap, means[:, 0] - means[:, 1]),
        "ties": float((gap == 0).mean()),
    }


def _agreement(gap: np.ndarray, wanted: np.ndarray) -> float:
    decided = (gap != 0) & (wanted != 0)
    return float((np.sign(gap) == np.sign(wanted))[decided].mean()) if decided.any() else float("nan")
