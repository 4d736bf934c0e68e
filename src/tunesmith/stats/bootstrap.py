"""The bootstrap over items: how a number would vary had other items of the same kind been drawn.

Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tunesmith.core.errors import UserError

_CELLS = 1 << 22


def resample_blocks(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of `resample_counts` in blocks of a few million counts, so memory stays bounded.

    Raises:
        UserError: n or resamples is below 1.
    """
    if n < 1 or resamples < 1:
        raise UserError(f"cannot draw {resamples:,} resamples of {n:,} items", "Both must be at least 1.")
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS // n)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(0, n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        # A count above 255 has probability below 1/255!, whatever n.
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.uint8)


def resample_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """Draw n items out of n with replacement, `resamples` times, and count how often each was drawn.

    Args:
        n: items. resamples: R. seed: same seed, same counts.

    Returns:
        [R, n] uint8; every row sums to n.

    Raises:
        UserError: n or resamples is below 1.
    """
    return np.concatenate(list(resample_blocks(n, resamples, seed)))


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval: the middle `level` of the resampled values (linear between neighbours).

    Args:
        values: [R], the statistic on each resample.
        level: share inside, between 0 and 1.

    Raises:
        UserError: no values, or a level outside 0..1.
    """
    if not 0 < level < 1 or len(values) == 0:
        raise UserError(f"no {level:g} interval of {len(values):,} values", "The level must lie between 0 and 1.")
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
