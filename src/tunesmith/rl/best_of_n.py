"""Best of n: what a policy gains, and how far it goes, by answering n times and giving the best (Stiennon et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def kl(n: int) -> float:
    """Return at most how far best-of-n is from the policy it samples, log n - (n - 1) / n nats (Stiennon et al. 2020, G.3)."""
    return math.log(n) - (n - 1) / n


def expected(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """Return the mean value of the best-scored of n answers, over all n-subsets of those sampled (Nakano et al. 2021, I).

    Args:
        scores: of N >= n answers to one prompt, which choose. values: what the chosen one is worth by another measure;
            None = its score.

    Raises:
        ValueError: fewer answers than n.
    """
    total = len(scores)
    if not 1 <= n <= total:
        raise ValueError(f"best of {n} needs {n} answers, and there are {total}")
    order = sorted(range(total), key=scores.__getitem__)
    worth = values if values is not None else scores
    # The answer at place i (from 0, worst first) is best in the subsets that take the others from the i below it.
    return sum(math.comb(i, n - 1) * worth[order[i]] for i in range(n - 1, total)) / math.comb(total, n)
