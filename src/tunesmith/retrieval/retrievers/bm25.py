"""BM25: shared words, weighed by how rare they are (Robertson & Zaragoza 2009), with Lucene's idf, which is never negative.

    score(q, d) = sum_{t in q} idf(t) f(t, d) / (f(t, d) + k1 (1 - b + b |d| / avgdl))
    idf(t)      = ln(1 + (N - n + 0.5) / (n + 0.5))

f counts a word in a passage, n the passages that have it, N all passages, avgdl their mean length in words; a word that stands
twice in the query counts twice. The factor (k1 + 1) of the original only rescales and is left out, as in Lucene. The sparse
arithmetic is `bm25s` (Lù 2024).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample

CITATION = "Robertson & Zaragoza 2009, BM25 and Beyond; Kamphuis et al. 2020, Which BM25 Do You Mean?; Lù 2024, BM25S"
# A passage that shares no word with the query scores 0, and is not found.
UNRELATED = 0.0
_WORD = re.compile(r"\w+")
Arrays = dict[str, np.ndarray]


class Parameters(Config):
    """What BM25 can be told."""

    k1: float = Field(1.2, ge=0)
    """how soon more of the same word stops to matter"""
    b: float = Field(0.75, ge=0, le=1)
    """how much long passages are held back; 0 = not at all"""


def encoder() -> str:
    """Identity of the model whose vectors are kept: none."""
    return ""


def build(texts: Sequence[str], parameters: Parameters, known: Mapping[str, np.ndarray] | None = None) -> Arrays:
    """Return the sparse matrix of scores (words x N passages) and the sorted vocabulary.

    Every number depends on all passages (N, n, avgdl), so what is `known` of some does not help.

    Raises:
        UserError: `bm25s` is not installed, or no passage has a word.
    """
    tokens = [words(text) for text in texts]
    vocabulary = {word: i for i, word in enumerate(sorted({word for passage in tokens for word in passage}))}
    if not vocabulary:
        raise UserError("no passage has a word that BM25 could look for", "Use --retriever dense, or another corpus.")
    engine = _engine(parameters)
    ids = [[vocabulary[word] for word in passage] for passage in tokens]
    engine.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    sparse = {name: np.asarray(engine.scores[name]) for name in ("data", "indices", "indptr")}
    # Words have no line breaks in them.
    spelled = np.frombuffer("\n".join(vocabulary).encode(), dtype=np.uint8)
    return {**sparse, "vocabulary": spelled, "passages": np.array([len(texts)])}


def searcher(arrays: Arrays, parameters: Parameters) -> Callable[[Sequence[str]], np.ndarray]:
    """Return what scores passages: Q queries -> [Q, N] float32."""
    engine = _engine(parameters)
    engine.scores = {**{name: arrays[name] for name in ("data", "indices", "indptr")}, "num_docs": int(arrays["passages"][0])}
    engine.nonoccurrence_array = None
    known = {word: i for i, word in enumerate(arrays["vocabulary"].tobytes().decode().split("\n"))}

    def search(queries: Sequence[str]) -> np.ndarray:
        ids = [[known[word] for word in words(query) if word in known] for query in queries]
        return np.stack([engine.get_scores_from_ids(of) for of in ids])

    return search


def log_weights(scores: np.ndarray) -> np.ndarray:
    """Return log p(z|x) up to a constant: the score itself, a sum of logarithms of rarity."""
    return scores


def words(text: str) -> list[str]:
    """Return the words of a text: letters, digits and underscores, case folded; nothing is stemmed and nothing left out."""
    return _WORD.findall(text.casefold())


def _engine(parameters: Parameters) -> Any:
    try:
        # By name, for type checkers that run where it is not installed.
        package = import_module("bm25s")
    except ImportError:
        raise UserError("the package 'bm25s' is not installed", "Install it: pip install 'tunesmith[retrieval]'") from None
    return package.BM25(method="lucene", k1=parameters.k1, b=parameters.b, backend="numpy", csc_backend="numpy")


def evaluate(texts: Sequence[str], query: str, k1: float = 1.2, b: float = 0.75) -> list[float]:
    """Return the score of each text for one query."""
    parameters = Parameters(k1=k1, b=b)
    return [float(score) for score in searcher(build(texts, parameters), parameters)([query])[0]]


def worked_example() -> WorkedExample:
    """Return three texts and a query of two words, worked by hand."""
    texts = ["the cat sat", "the dog sat on the mat", "birds fly"]
    return WorkedExample(
        {"texts": texts, "query": "cat mat"}, [0.481657, 0.353742, 0.0],
        "N = 3, avgdl = 11/3; each word stands in one text: idf = ln(1 + 2.5/1.5) = 0.980829; 'cat': 0.980829 / (1 + 1.2 (0.25 + "
        "0.75 x 3 x 3/11)) = 0.481657; 'mat': 0.980829 / (1 + 1.2 (0.25 + 0.75 x 6 x 3/11)) = 0.353742.",
        wrong={"texts": texts, "query": "cat mat", "b": 0.0},
    )  # fmt: skip
