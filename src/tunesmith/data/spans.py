"""Answers that are spans of a passage: windows over long passages, and from scores of both ends to the best answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """An answer: tokens first..last of a row, inclusive, and the sum of their logits of being start and end."""

    score: float
    first: int
    last: int


def windows(tokens: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Return windows [start, end) of at most `room` tokens that together hold all, each `stride` tokens after the one before.

    Raises:
        ValueError: windows that are further apart than they are long would leave tokens out.
    """
    if not 1 <= stride <= room:
        raise ValueError(f"a stride of {stride} tokens leaves out some of a passage in windows of {room}")
    found = [(0, min(room, tokens))]
    while found[-1][1] < tokens:
        start = found[-1][0] + stride
        found.append((start, min(start + room, tokens)))
    return found


def tokens_of(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Return the first and last token that stand for any of the characters [start, end) of a text; None if none does."""
    touching = [at for at, (begins, ends) in enumerate(offsets) if begins < end and ends > start]
    return (touching[0], touching[-1]) if touching else None


def best_spans(starts: NDArray[np.float32], ends: NDArray[np.float32], most_tokens: int, count: int) -> list[Span]:
    """Return the best spans with last >= first and at most `most_tokens` tokens, best first (Devlin et al. 2019, 4.2).

    s_ij = starts[i] + ends[j]. All pairs are looked at: taking the best start and the best end each by itself can end before
    it starts.

    Args:
        starts, ends: [T] logits; -inf where no answer can be.
    """
    found: list[Span] = []
    for length in range(min(most_tokens, len(starts))):
        scores = starts[: len(starts) - length] + ends[length:]
        for first in np.argsort(-scores, kind="stable")[:count]:
            if np.isfinite(scores[first]):
                found.append(Span(float(scores[first]), int(first), int(first) + length))
    return sorted(found, key=lambda span: (-span.score, span.first, span.last))[:count]


def tuned_threshold(margins: Sequence[float], if_answered: Sequence[float], if_not: Sequence[float]) -> float:
    """Return the tau that makes the sum of the measure largest when an answer is given where its margin is above tau.

    Args:
        margins: best answer's score minus that of "no answer", one a question (Devlin et al. 2019, 4.3).
        if_answered, if_not: what the question adds to the measure with its best answer, and without one.

    Returns:
        Half way between two margins, or beyond them all; of equally good places the one nearest to 0.
    """
    order = np.argsort(-np.asarray(margins), kind="stable")
    sorted_margins = np.asarray(margins, np.float64)[order]
    gain = (np.asarray(if_answered, np.float64) - np.asarray(if_not, np.float64))[order]
    totals = np.concatenate([[0.0], np.cumsum(gain)])
    edges = np.concatenate([[sorted_margins[0] + 1], (sorted_margins[1:] + sorted_margins[:-1]) / 2, [sorted_margins[-1] - 1]])
    # Equal margins cannot be told apart.
    apart = np.concatenate([[True], sorted_margins[1:] < sorted_margins[:-1], [True]])
    best = np.flatnonzero(apart & (totals >= totals[apart].max() - 1e-12))
    return float(edges[best[np.argmin(np.abs(edges[best]))]])
