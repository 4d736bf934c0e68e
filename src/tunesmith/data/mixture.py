"""Mixtures of tasks: how often each is drawn from (Raffel et al. 2020, section 3.5.2), and which rows make an epoch.

    r_m = min(e_m, K)        e_m rows of task m, K the artificial limit on the size of a task
    p_m = r_m^(1/T) / sum over m of r_m^(1/T)

The limit comes before the temperature, as in the authors' code: T = 1 is examples-proportional, T = infinity (or "equal") draws
all tasks alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.errors import UserError, unknown
from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import VaryingRows
from tunesmith.data.encoded_rows import EncodedRows

Rule = Literal["proportional", "equal"] | Mapping[str, float]


def rates(
    sizes: Mapping[str, int], rule: Rule = "proportional", cap: int | None = None, temperature: float = 1.0
) -> dict[str, float]:
    """Return how large a share of the rows drawn is each task's; they add up to 1.

    Args:
        sizes: rows of each task. rule: proportional to sizes, equal, or weights by name.
        cap: K, and temperature: T, of the proportional rule.

    Raises:
        UserError: weights that name other tasks than there are, or that are not positive.
    """
    if isinstance(rule, Mapping):
        if strange := [name for name in rule if name not in sizes]:
            raise unknown("task in the mixture", strange[0], sizes)
        if lacking := [name for name in sizes if name not in rule]:
            raise UserError(f"the mixture gives no weight to '{lacking[0]}'", f"Give one to each of {', '.join(sizes)}.")
        weights = {name: float(rule[name]) for name in sizes}
        if bad := [name for name, weight in weights.items() if not (math.isfinite(weight) and weight > 0)]:
            raise UserError(f"the weight of '{bad[0]}' in the mixture is {weights[bad[0]]:g}", "Give numbers above 0.")
    elif rule == "equal":
        weights = dict.fromkeys(sizes, 1.0)
    else:
        weights = {name: min(size, cap or size) ** (1 / temperature) for name, size in sizes.items()}
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


class Mixture(VaryingRows):
    """Rows of several tasks, other ones every epoch; as a sequence, those of epoch 0.

    An epoch has `size` rows, of each task its share of them. Which ones follows from seed and epoch alone, and no row of a task
    comes again before all of them have come.

    Args:
        rows: of all tasks. numbers: task -> the numbers of its rows. shares: task -> its share (see `rates`).
    """

    def __init__(
        self, rows: EncodedRows, numbers: Mapping[str, NDArray[np.int64]], shares: Mapping[str, float], size: int, seed: int
    ) -> None:
        self.rows, self.numbers, self.seed, self.size = rows, numbers, seed, size
        self.counts = whole_numbers(shares, size)
        self._first = self.in_epoch(0)

    def in_epoch(self, epoch: int) -> EncodedRows:
        """Return the rows of an epoch, counted from 0, task by task."""
        chosen = [self._drawn(name, epoch) for name in self.numbers]
        return self.rows.select(np.concatenate(chosen))

    def _drawn(self, name: str, epoch: int) -> NDArray[np.int64]:
        """Go through a task's rows again and again, each time in another order, and return what falls into this epoch."""
        numbers, count = self.numbers[name], self.counts[name]
        begin, end = epoch * count, (epoch + 1) * count
        passes = range(begin // len(numbers), -(-end // len(numbers)))
        orders = [np.random.default_rng(derive(self.seed, "mixture", name, i)).permutation(numbers) for i in passes]
        skipped = begin - passes.start * len(numbers)
        return np.concatenate([*orders, numbers[:0]])[skipped : skipped + count]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row of epoch 0."""
        return self._first.lengths

    def row(self, number: int) -> Encoded:
        """Read a row of epoch 0."""
        return self._first[number]

    def __len__(self) -> int:
        return self.size


def whole_numbers(shares: Mapping[str, float], size: int) -> dict[str, int]:
    """Divide `size` rows by shares; what rounding down leaves goes to the largest remainders, and nobody gets none."""
    counts = {name: max(math.floor(share * size), 1) for name, share in shares.items()}
    order = sorted(shares, key=lambda name: (counts[name] - shares[name] * size, name))
    for name in order[: max(size - sum(counts.values()), 0)]:
        counts[name] += 1
    over = sum(counts.values()) - size
    if over > 0:  # tasks too rare for a row of their own got one; the most frequent gives it
        counts[max(counts, key=lambda name: counts[name])] -= over
    return counts
