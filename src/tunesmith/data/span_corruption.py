"""Span corruption, T5's pre-training: spans of tokens are hidden behind sentinels, and are to be said (Raffel et al. 2020).

Of n tokens, round(0.15 n) are hidden in round(hidden / 3) spans; the lengths of the spans, and of what is left between them, are
drawn uniformly among all that add up. The source is the rest with a sentinel for each span; the target is, span after span, its
sentinel and what it hid. Counts are those of the authors' code, places are not: there a row always begins with a token that is
kept and ends with one that is hidden, so that a row with a single span, as short ones have, would lose its end every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import ChangedRows


@dataclass(frozen=True)
class SpanCorruption:
    """How spans are chosen and what takes their place.

    Attributes:
        sentinels: ids, one for each span of a row. end: id that ends source and target.
        share: of a row's tokens that is hidden. mean_length: of a span, tokens.
    """

    sentinels: tuple[int, ...]
    end: int
    share: float = 0.15
    mean_length: float = 3.0

    def counts(self, tokens: int) -> tuple[int, int]:
        """Return how many of so many tokens (at least 2) are hidden, and in how many spans."""
        hidden = min(max(round(tokens * self.share), 1), tokens - 1)
        return hidden, min(max(round(hidden / self.mean_length), 1), hidden, tokens - hidden)

    def corrupted(self, row: Encoded, seed: int) -> Encoded:
        """Hide spans of a row of plain tokens; the same seed hides the same.

        Returns:
            Source and target, end to end; the mask is True at the target.

        Raises:
            UserError: the row needs more spans than there are sentinels.
        """
        random = np.random.default_rng(seed)
        hidden, spans = self.counts(len(row.ids))
        if spans > len(self.sentinels):
            raise UserError(
                f"{row.example_id}: {len(row.ids)} tokens need {spans} sentinels, and this model has {len(self.sentinels)}",
                "Set a smaller --max_length, or a larger --span_length.",
            )
        # Before the first span and after the last there may be nothing; between two there is at least one token.
        kept, gaps = _parts(len(row.ids) - hidden + 2, spans + 1, random), _parts(hidden, spans, random)
        kept[[0, -1]] -= 1
        source: list[int] = []
        target: list[int] = []
        at = 0
        for left, gap, sentinel in zip(kept.tolist(), gaps.tolist(), self.sentinels, strict=False):
            source += [*row.ids[at : at + left], sentinel]
            target += [sentinel, *row.ids[at + left : at + left + gap]]
            at += left + gap
        source += [*row.ids[at:], self.end]
        target.append(self.end)
        return Encoded((*source, *target), (False,) * len(source) + (True,) * len(target), row.example_id)


def _parts(total: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Divide `total` into `count` parts of at least 1, all ways of doing so being equally likely."""
    cuts = np.sort(random.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)


def span_rows(rows: Sequence[Encoded], corruption: SpanCorruption, seed: int) -> ChangedRows:
    """Return rows that are corrupted anew every epoch."""
    return ChangedRows(rows, lambda row, place, drawn: corruption.corrupted(row, drawn), derive(seed, "spans"))
