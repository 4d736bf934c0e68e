"""Search over prompts with a fixed budget of scored rows: successive halving inside a round, Pareto parents between rounds.

- **Successive halving** (Jamieson & Talwalkar 2016; here by thirds): all candidates of a round answer the same few held-out
  rows, the best third goes on to more rows, and so on; most rows are spent on prompts that may win.
- **Pareto parents** (GEPA, Agrawal et al. 2025): a parent is drawn in proportion to the rows on which no other candidate is
  better, so a prompt that is the only one to get a hard row right is kept in play though its mean is not the highest.

The candidate numbered 0 is the prompt as given. It is never dropped, and wins all ties: a prompt must be better to replace it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from tunesmith.core.config import Config

# Whether a row was answered right (0 or 1), and the log-probability of its gold answer, which breaks ties.
Row = tuple[float, float]
_KEPT = 3


class Parameters(Config):
    """What the search for a prompt can be told."""

    scored_rows: int = Field(2000, ge=50)
    """the budget: how often a training row is asked and scored, over all candidates"""
    minutes: float | None = Field(None, gt=0)
    """stop the search after this time; absent = only the budget counts, and a seed gives the same prompt every time"""
    rounds: int = Field(3, ge=1)
    """rounds of new candidates"""
    candidates: int = Field(8, ge=2)
    """new candidates a round"""
    shots: int = Field(4, ge=1)
    """most demonstrations a prompt may show"""
    held_out: int = Field(200, ge=8)
    """most training rows that candidates are judged on; demonstrations come from the others"""
    writer: str = ""
    """model, or OpenAI-compatible URL, that writes new instructions; absent = the model itself"""


@dataclass(frozen=True)
class Candidate:
    """A prompt that may win.

    Attributes:
        number: in the order they were thought of. shown: numbers of the demonstration rows, in order.
        origin: how it was made. parents: numbers of the candidates it was made from. round: when.
    """

    number: int
    instruction: str
    shown: tuple[int, ...]
    origin: str
    parents: tuple[int, ...] = ()
    round: int = 0


@dataclass
class Search:
    """Candidates, what they scored, and what is left of the budget.

    Attributes:
        judge: scores a candidate on held-out rows from one number up to another (not included).
        held_out: how many held-out rows there are. budget: how many rows may be scored altogether.
        out_of_time: asked before each batch of rows.
    """

    judge: Callable[[Candidate, int, int], Sequence[Row]]
    held_out: int
    budget: int
    out_of_time: Callable[[], bool] = lambda: False
    candidates: list[Candidate] = field(default_factory=list)
    scores: dict[int, list[Row]] = field(default_factory=dict)
    spent: int = 0

    def add(
        self, instruction: str, shown: Sequence[int], origin: str, parents: Sequence[int] = (), round: int = 0
    ) -> Candidate | None:
        """Take up a new candidate; None if there is one with the same prompt."""
        if any(c.instruction == instruction and c.shown == tuple(shown) for c in self.candidates):
            return None
        candidate = Candidate(len(self.candidates), instruction, tuple(shown), origin, tuple(parents), round)
        self.candidates.append(candidate)
        self.scores[candidate.number] = []
        return candidate

    def halve(self, pool: Sequence[Candidate], budget: int) -> list[Candidate]:
        """Score a pool in rungs within `budget` rows, and keep its best third from one rung to the next.

        Returns:
            Those on the last rung, best first; the given prompt is always among them.
        """
        alive, end = list(dict.fromkeys([self.candidates[0], *pool])), min(self.spent + budget, self.budget)
        rungs = max(math.ceil(math.log(len(alive), _KEPT)), 1)
        for rung in range(rungs):
            self.deepen(alive, (end - self.spent) // (rungs - rung))
            if rung < rungs - 1:
                best = self.ranked(alive)[: math.ceil(len(alive) / _KEPT)]
                alive = best if self.candidates[0] in best else [*best, self.candidates[0]]
        return self.ranked(alive)

    def deepen(self, pool: Sequence[Candidate], budget: int) -> None:
        """Score all of a pool on as many rows as `budget` more scored rows allow, the same rows for each."""
        have = [len(self.scores[c.number]) for c in pool]
        budget = min(budget, self.budget - self.spent)
        costs = ((rows, sum(max(rows - h, 0) for h in have)) for rows in range(self.held_out, -1, -1))
        rows = next(rows for rows, cost in costs if cost <= budget)
        for candidate in pool:
            done = self.scores[candidate.number]
            if len(done) < rows and not self.out_of_time():
                self.spent += rows - len(done)
                done += self.judge(candidate, len(done), rows)

    def ranked(self, pool: Sequence[Candidate]) -> list[Candidate]:
        """Sort by the mean over the rows that all of them answered, best first; ties go to the older candidate."""
        rows = self.common(pool)
        return sorted(pool, key=lambda c: (*(-value for value in self.mean(c, rows)), c.number))

    def common(self, pool: Sequence[Candidate]) -> int:
        """Return how many rows all of a pool have answered."""
        return min(len(self.scores[c.number]) for c in pool)

    def mean(self, candidate: Candidate, rows: int) -> Row:
        """Return the share of right answers and the mean log-probability over the first so many rows; zeros for none."""
        seen = self.scores[candidate.number][:rows]
        return (sum(r for r, _ in seen) / len(seen), sum(p for _, p in seen) / len(seen)) if seen else (0.0, 0.0)

    def weights(self, pool: Sequence[Candidate]) -> list[int]:
        """Return how often each of a pool should be drawn as a parent."""
        rows = self.common(pool)
        return pareto_weights([self.scores[c.number][:rows] for c in pool])


def pareto_weights(scores: Sequence[Sequence[Row]]) -> list[int]:
    """Return per candidate on how many rows none is better than it (GEPA, algorithm 2); ones where no row was scored.

    Args:
        scores: per candidate its rows, the same for all.
    """
    rows = list(zip(*scores, strict=True))
    return [sum(row[i] == max(row) for row in rows) if rows else 1 for i in range(len(scores))]
