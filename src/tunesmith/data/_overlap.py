"""Texts that are the same, or nearly: what a test set must not share with the rows trained on."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

NEAR = 0.8
_GRAM = 5
_SKETCH = 12
_SHARED = 4
_COMPARED = 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


def normalised(text: str) -> str:
    """Return a text without what makes no difference to a reader: case, runs of white space, Unicode compatibility forms."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def nearest(texts: Sequence[str], references: Sequence[str], threshold: float = NEAR) -> list[tuple[int, float] | None]:
    """Find for each text a reference whose set of character 5-grams overlaps with its own by at least `threshold` (Jaccard).

    Candidates come from bottom-k sketches (Broder 1997, "On the resemblance and containment of documents"): the 12
    smallest hashes of a text's 5-grams. Two texts of Jaccard J share at least Binomial(12, J) of them, so asking for 4
    misses a pair at J = 0.8 with probability 6e-5. The 16 candidates that share most are compared exactly.
    At 0.8, one changed word in a sentence of fifteen is near, two changed words in a sentence of ten are not.

    Args:
        texts, references: `normalised` texts.

    Returns:
        Per text (index of the best reference, exact Jaccard in 0..1), or None where none reaches the threshold.
    """
    known = [_grams(text) for text in references]
    sketches = [grams[:_SKETCH] for grams in known]
    if not known:
        return [None] * len(texts)
    flat = np.concatenate(sketches)
    order = np.argsort(flat, kind="stable")
    hashes, owners = flat[order], np.repeat(np.arange(len(known)), [len(sketch) for sketch in sketches])[order]
    best: list[tuple[int, float] | None] = []
    for text in texts:
        grams = _grams(text)
        sketch = grams[:_SKETCH]
        starts, ends = np.searchsorted(hashes, sketch, "left"), np.searchsorted(hashes, sketch, "right")
        runs = [owners[start:end] for start, end in zip(starts, ends, strict=True) if end > start]
        best.append(_best(grams, np.concatenate(runs), known, threshold) if runs else None)
    return best


def _best(grams: Hashes, sharing: NDArray[np.int64], known: Sequence[Hashes], threshold: float) -> tuple[int, float] | None:
    candidates, shared = np.unique(sharing, return_counts=True)
    enough = shared >= min(_SHARED, ceil(threshold * len(grams)))
    candidates, shared = candidates[enough], shared[enough]
    best: tuple[int, float] | None = None
    for at in candidates[np.argsort(-shared, kind="stable")][:_COMPARED].tolist():
        common = len(np.intersect1d(grams, known[at], assume_unique=True))
        similarity = common / (len(grams) + len(known[at]) - common)
        if similarity >= threshold and (best is None or similarity > best[1]):
            best = (at, similarity)
    return best


def _grams(text: str) -> Hashes:
    """Return the 64-bit hashes of a text's distinct 5-grams, smallest first; a shorter text is one gram."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    width = min(_GRAM, len(letters))
    if not width:
        return np.empty(0, np.uint64)
    value = np.zeros(len(letters) - width + 1, dtype=np.uint64)
    for offset in range(width):
        value = (value + letters[offset : len(letters) - width + 1 + offset]) * _GOLDEN
        value ^= value >> np.uint64(29)
    return np.unique(value)
