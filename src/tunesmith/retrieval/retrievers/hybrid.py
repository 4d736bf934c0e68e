"""Hybrid: BM25 and dense joined by reciprocal rank fusion (Cormack, Clarke & Büttcher 2009).

    RRF(d) = sum over rankings r of 1 / (k + r(d)),   r(d) = 1, 2, ...,   k = 60

Ranks need no common scale, which scores of words and cosines do not have. A passage without a word of the query is not in BM25's
ranking and gets nothing from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from tunesmith.core.records import WorkedExample
from tunesmith.retrieval.retrievers import bm25, dense

CITATION = "Cormack, Clarke & Büttcher 2009, Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods"
# Whatever stands in a ranking has something.
UNRELATED = 0.0
_PARTS: tuple[tuple[str, Any], ...] = (("bm25", bm25), ("dense", dense))
Arrays = dict[str, np.ndarray]


class Parameters(bm25.Parameters):
    """What hybrid retrieval can be told: what its BM25 can, and the constant of the fusion."""

    rrf_k: float = Field(60.0, ge=0)
    """larger = the first ranks count less against the later ones"""


def encoder() -> str:
    """Identity of the model whose vectors are kept."""
    return dense.encoder()


def build(texts: Sequence[str], parameters: Parameters, known: Mapping[str, np.ndarray] | None = None) -> Arrays:
    """Return what both retrievers keep; as `bm25.build` and `dense.build`."""
    arrays = {}
    for name, part in _PARTS:
        kept = part.build(texts, _for(part, parameters), known)
        arrays.update({f"{name}.{key}": values for key, values in kept.items()})
    return arrays


def searcher(arrays: Arrays, parameters: Parameters) -> Callable[[Sequence[str]], np.ndarray]:
    """Return what scores passages: Q queries -> [Q, N] float64."""
    searchers = [part.searcher(_of(arrays, name), _for(part, parameters)) for name, part in _PARTS]

    def search(queries: Sequence[str]) -> np.ndarray:
        ranked = [_ranks(find(queries), part.UNRELATED) for find, (_, part) in zip(searchers, _PARTS, strict=True)]
        return _fused(ranked, parameters.rrf_k)

    return search


def log_weights(scores: np.ndarray) -> np.ndarray:
    """Return log p(z|x) up to a constant: p is proportional to the fused score, for ranks know no probabilities."""
    return np.log(scores)


def _for(part: object, parameters: Parameters) -> bm25.Parameters | dense.Parameters:
    return bm25.Parameters(k1=parameters.k1, b=parameters.b) if part is bm25 else dense.Parameters()


def _of(arrays: Arrays, name: str) -> Arrays:
    return {key.removeprefix(f"{name}."): values for key, values in arrays.items() if key.startswith(f"{name}.")}


def _ranks(scores: np.ndarray, unrelated: float) -> np.ndarray:
    """Turn scores [Q, N] into ranks from 1, infinity for what is not ranked; of equal scores the earlier passage is first."""
    ranks = np.empty(scores.shape)
    order = np.argsort(-scores, axis=1, kind="stable")
    np.put_along_axis(ranks, order, np.arange(1.0, scores.shape[1] + 1)[None].repeat(len(scores), axis=0), axis=1)
    return np.where(scores > unrelated, ranks, np.inf)


def _fused(rankings: Sequence[np.ndarray], k: float) -> np.ndarray:
    return np.sum([1.0 / (k + ranks) for ranks in rankings], axis=0)


def evaluate(rankings: Sequence[Sequence[float]], k: float = 60.0) -> list[float]:
    """Return the fused score of each document.

    Args:
        rankings: per ranking, each document's rank from 1; infinity = not in it.
    """
    return [float(score) for score in _fused([np.array(ranks) for ranks in rankings], k)]


def worked_example() -> WorkedExample:
    """Return two rankings of three documents, worked by hand."""
    inf = float("inf")
    how = (
        "The first: 1/61 + 1/62 = 0.0325225; the second: 1/62 + 1/61, the same; the third, in one ranking only: 1/63 = 0.0158730."
    )
    inputs = {"rankings": [[1, 2, 3], [2, 1, inf]]}
    return WorkedExample(inputs, [0.0325225, 0.0325225, 0.0158730], how, wrong={"rankings": [[1, 2, 3], [2, 1, 3]]})
