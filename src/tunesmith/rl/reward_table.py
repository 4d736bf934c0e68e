"""What an answer to a question is worth, and so from which probability of being right on each way of answering is best.

With p the probability that the answer one would give is right, each way's expected reward is a line in p:

    answer plainly  p R(correct) + (1 - p) R(wrong)
    hedge           p R(hedged correct) + (1 - p) R(hedged wrong)
    decline         R("I don't know")

and the best way is their upper envelope. Schulman (Berkeley, 2023) gives +1 / +0.5 / 0 / -2 / -4, where all three lines meet at
p = 0.8, so that hedging is never best; the default here is +1 / +0.7 / 0 / -1 / -4, where it is for 10/17 < p < 10/11.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from typing import Literal

from tunesmith.core.errors import UserError

Action = Literal["decline", "hedge", "answer"]
# Of equally good ways the more careful one counts.
ACTIONS: tuple[Action, ...] = ("decline", "hedge", "answer")


@dataclass(frozen=True)
class Region:
    """Probabilities of being right, low to high, for which one way of answering is best."""

    action: Action
    low: Fraction
    high: Fraction


@dataclass(frozen=True)
class RewardTable:
    """Rewards of the five outcomes."""

    correct: float = 1.0
    hedged_correct: float = 0.7
    declined: float = 0.0
    hedged_wrong: float = -1.0
    wrong: float = -4.0

    def __post_init__(self) -> None:
        """Check the signs.

        Raises:
            UserError: a number is not finite, or an outcome is worth more than a better one.
        """
        for field, value in zip(fields(self), astuple(self), strict=True):
            if not math.isfinite(value):
                raise UserError(f"the reward of '{field.name}' is {value}", "Give a finite number.")
        order = (
            ("wrong", "declined", "so that declining could never be better than guessing"),
            ("declined", "correct", "so that answering would never be worth it"),
            ("hedged_wrong", "hedged_correct", "so that a hedge would be better wrong than right"),
        )
        for lower, higher, why in order:
            low, high = getattr(self, lower), getattr(self, higher)
            if low >= high:
                raise UserError(
                    f"the reward table gives '{lower}' {low:g} and '{higher}' {high:g}, {why}", "Check the signs of the table."
                )

    def expected(self, action: Action, p: float | Fraction) -> float | Fraction:
        """Return the expected reward of a way of answering, where the answer is right with probability p."""
        right, wrong = self._ends(action)
        return right * p + wrong * (1 - p)

    def best(self, p: float) -> Action:
        """Return the way of answering with the highest expected reward; of equal ones the more careful."""
        exact = Fraction(p)
        return max(ACTIONS, key=lambda action: (self.expected(action, exact), -ACTIONS.index(action)))

    def regions(self) -> list[Region]:
        """Return the upper envelope of the three lines: exact, from p = 0 to p = 1."""
        corners = {Fraction(0), Fraction(1)}
        for a in ACTIONS:
            for b in ACTIONS[: ACTIONS.index(a)]:
                (ra, wa), (rb, wb) = self._ends(a), self._ends(b)
                slope = (ra - wa) - (rb - wb)
                if slope:
                    corners.add((wb - wa) / slope)
        inside = sorted(p for p in corners if 0 <= p <= 1)
        found: list[Region] = []
        for low, high in itertools.pairwise(inside):
            middle = (low + high) / 2
            best = max(ACTIONS, key=lambda action: (self.expected(action, middle), -ACTIONS.index(action)))
            if found and found[-1].action == best:
                low = found.pop().low
            found.append(Region(best, low, high))
        return found

    def never_best(self) -> list[Action]:
        """Return the ways of answering that are best for no probability: in Schulman's own table, hedging."""
        return [action for action in ACTIONS if action not in {region.action for region in self.regions()}]

    def _ends(self, action: Action) -> tuple[Fraction, Fraction]:
        """The reward where the answer is right and where it is wrong, as written: 0.7 is 7/10."""
        right, wrong = {
            "answer": (self.correct, self.wrong),
            "hedge": (self.hedged_correct, self.hedged_wrong),
            "decline": (self.declined, self.declined),
        }[action]
        return Fraction(str(right)), Fraction(str(wrong))


SCHULMAN = RewardTable(1.0, 0.5, 0.0, -2.0, -4.0)
