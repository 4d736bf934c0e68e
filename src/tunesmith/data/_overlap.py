"""Texts that are the same, or nearly: what a test set must not share with the rows trained on."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

NEAR = 0.8
_GRAM = 5


def normalised(text: str) -> str:
    """Return a text without what makes no difference to a reader: case, runs of white space, Unicode compatibility forms."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def nearest(texts: Sequence[str], references: Sequence[str], threshold: float = NEAR) -> list[tuple[int, float] | None]:
    """Find for each text a reference whose set of character 5-grams overlaps with its own by at least `threshold` (Jaccard).

    Exact, not sketched: by the prefix filter (Chaudhuri, Ganti and Kaushik 2006, "A primitive operator for similarity
    joins in data cleaning"), two sets of sizes m and n with Jaccard >= t share one of the m - ceil(t m) + 1 and
    n - ceil(t n) + 1 rarest elements of each, so only references that do are compared. Texts are `normalised` ones.
    At 0.8 a changed word in ten of a sentence passes as near, a changed word in five does not.

    Returns:
        Per text (index of the best reference, Jaccard in 0..1), or None where none reaches the threshold.
    """
    sets = _rarest_first([*references, *texts])
    known, asked = sets[: len(references)], sets[len(references) :]
    index: dict[int, list[int]] = {}
    for at, grams in enumerate(known):
        for gram in _prefix(grams, threshold):
            index.setdefault(gram, []).append(at)
    best: list[tuple[int, float] | None] = []
    for grams in asked:
        candidates = {at for gram in _prefix(grams, threshold) for at in index.get(gram, ())}
        best.append(_best(set(grams.tolist()), sorted(candidates), known, threshold))
    return best


def _best(
    grams: set[int], candidates: Sequence[int], known: Sequence[NDArray[np.int64]], threshold: float
) -> tuple[int, float] | None:
    best: tuple[int, float] | None = None
    for at in candidates:
        other = known[at]
        if not threshold * len(grams) <= len(other) <= len(grams) / threshold:
            continue
        shared = len(grams.intersection(other.tolist()))
        similarity = shared / (len(grams) + len(other) - shared)
        if similarity >= threshold and (best is None or similarity > best[1]):
            best = (at, similarity)
        if best and best[1] == 1.0:
            break
    return best


def _prefix(grams: NDArray[np.int64], threshold: float) -> list[int]:
    return grams[: len(grams) - ceil(threshold * len(grams)) + 1].tolist() if len(grams) else []


def _rarest_first(texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return each text's distinct 5-grams as numbers that grow with how many texts have the gram."""
    hashed = [_grams(text) for text in texts]
    if not hashed:
        return []
    _, inverse, counts = np.unique(np.concatenate(hashed), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    ends = np.cumsum([len(grams) for grams in hashed])[:-1]
    return [np.sort(grams) for grams in np.split(rank[inverse], ends)]


def _grams(text: str) -> NDArray[np.uint64]:
    """Return 64-bit polynomial hashes of a text's distinct 5-grams; a shorter text is one gram."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(letters) < _GRAM:
        return np.array([zlib.crc32(text.encode("utf-8", "surrogatepass"))] if text else [], dtype=np.uint64)
    value = np.zeros(len(letters) - _GRAM + 1, dtype=np.uint64)
    for offset in range(_GRAM):
        value = value * np.uint64(0x9E3779B97F4A7C15) + letters[offset : len(letters) - _GRAM + 1 + offset]
    return np.unique(value)
