"""Scores are those of the papers' formulas, worked out a second time in plain Python."""

import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.errors import UserError
from tunesmith.core.registry import RETRIEVERS
from tunesmith.models.embed import embed_texts
from tunesmith.retrieval.retrievers import bm25, dense, hybrid

TEXTS = ["the cat sat", "the dog sat on the mat", "birds fly"]
FILMS = ["A thrilling space adventure.", "The romance drags on.", "Aliens attack the space station.", "A tender love story."]


def plain_bm25(texts: Sequence[str], query: str, k1: float, b: float, classic: bool = False, scaled: bool = False) -> list[float]:
    """BM25 word by word; `classic` takes the idf that may be negative, `scaled` the factor k1 + 1."""
    split = [text.split() for text in texts]
    mean = sum(map(len, split)) / len(split)
    scores = []
    for words in split:
        counts, score = Counter(words), 0.0
        for word in query.split():
            n = sum(word in other for other in split)
            inner = (len(split) - n + 0.5) / (n + 0.5)
            idf = math.log(inner) if classic else math.log(1 + inner)
            score += idf * counts[word] / (counts[word] + k1 * (1 - b + b * len(words) / mean)) if counts[word] else 0.0
        scores.append(score * (k1 + 1 if scaled else 1))
    return scores


def test_the_golden_scores() -> None:
    # methods.md, section 33, with Lucene's idf; the second row has the factor k1 + 1 that only rescales.
    golden, scaled = [0.481657, 0.353742, 0.0], [1.059646, 0.778232, 0.0]
    ours = bm25.evaluate(TEXTS, "cat mat")
    assert ours == pytest.approx(golden, abs=1e-6)
    assert [2.2 * score for score in ours] == pytest.approx(scaled, abs=2e-6)
    assert plain_bm25(TEXTS, "cat mat", 1.2, 0.75) == pytest.approx(golden, abs=1e-6)
    assert plain_bm25(TEXTS, "cat mat", 1.2, 0.75, scaled=True) == pytest.approx(scaled, abs=1e-6)
    assert plain_bm25(TEXTS, "cat mat", 1.2, 0.75, classic=True) != pytest.approx(golden, abs=1e-3)


def test_a_word_of_most_texts_still_counts_for_its_text() -> None:
    # The idf of "the" (N = 3, n = 2): 0.470004 with Lucene's formula, -0.510826 with the classic one.
    assert min(bm25.evaluate(TEXTS, "the")[:2]) > 0 > plain_bm25(TEXTS, "the", 1.2, 0.75, classic=True)[0]
    assert bm25.evaluate(["the", "the", "dog"], "the", b=0.0)[0] == pytest.approx(0.470004 / 2.2, abs=1e-6)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1.2, 2.0]), st.sampled_from([0.0, 0.75, 1.0]))
def test_bm25_is_its_formula(seed: int, k1: float, b: float) -> None:
    chance = random.Random(seed)
    texts = [" ".join(chance.choices("abcdefghij", k=chance.randint(1, 12))) for _ in range(chance.randint(1, 15))]
    query = " ".join(chance.choices("abcdefghijxyz", k=5))
    assert bm25.evaluate(texts, query, k1, b) == pytest.approx(plain_bm25(texts, query, k1, b), abs=1e-5)


def test_a_word_asked_twice_counts_twice_and_an_unknown_one_not_at_all() -> None:
    once = bm25.evaluate(TEXTS, "cat")
    assert bm25.evaluate(TEXTS, "cat CAT, zebra") == pytest.approx([2 * score for score in once], abs=1e-6)
    assert bm25.evaluate(TEXTS, "zebra") == bm25.evaluate(TEXTS, "!?") == [0.0, 0.0, 0.0]


def test_a_corpus_without_words_is_refused() -> None:
    with pytest.raises(UserError, match="no passage has a word that BM25 could look for"):
        bm25.evaluate(["!!!", "..."], "cat")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError) as refused:
        bm25.evaluate(TEXTS, "cat")
    assert refused.value.message == "the package 'bm25s' is not installed"
    assert refused.value.fix == "Install it: pip install 'tunesmith[retrieval]'"


def test_dense_scores_are_cosines_of_the_embeddings() -> None:
    arrays = dense.build(FILMS, dense.Parameters())
    scores = dense.searcher(arrays, dense.Parameters())(["a love story", "science fiction"])
    queries = embed_texts(["a love story", "science fiction"])
    texts = embed_texts(FILMS)
    plain = [[sum(float(x) * float(y) for x, y in zip(q, t, strict=True)) for t in texts] for q in queries]
    assert scores == pytest.approx(np.array(plain), abs=1e-5)
    assert scores.argmax(axis=1).tolist() in ([3, 0], [3, 2])


def test_hybrid_is_reciprocal_rank_fusion_of_the_other_two() -> None:
    query = "space romance"
    scores = {}
    for name in RETRIEVERS.names():
        entry = RETRIEVERS.get(name)
        scores[name] = entry.searcher(entry.build(FILMS, entry.Parameters()), entry.Parameters())([query])[0]
    expected = dict.fromkeys(range(4), 0.0)
    for name, least in (("bm25", 0.0), ("dense", -math.inf)):
        ranking = [i for i in sorted(range(4), key=lambda i, of=scores[name]: -of[i]) if scores[name][i] > least]
        for rank, i in enumerate(ranking, 1):
            expected[i] += 1 / (60 + rank)
    assert scores["hybrid"] == pytest.approx([expected[i] for i in range(4)], abs=1e-12)
    # Negative control: had BM25 ranked what shares no word with the query, the sum would be another.
    assert sum(expected.values()) < 2 * sum(1 / (60 + rank) for rank in range(1, 5)) - 1e-3


def test_fusion_by_hand() -> None:
    inf = math.inf
    assert hybrid.evaluate([[1, 2, inf], [inf, 1, 2]]) == pytest.approx([1 / 61, 1 / 62 + 1 / 61, 1 / 62])
    assert hybrid.evaluate([[1, 2, inf], [inf, 1, 2]], k=0) == pytest.approx([1.0, 1.5, 0.5])


@pytest.mark.parametrize("name", RETRIEVERS.names())
def test_a_query_is_scored_the_same_in_any_company(name: str) -> None:
    entry: Any = RETRIEVERS.get(name)
    search = entry.searcher(entry.build(FILMS, entry.Parameters()), entry.Parameters())
    queries = ["space", "a long and winding love story of two aliens", "zzz"]
    together, alone = search(queries), np.concatenate([search([query]) for query in queries])
    assert together == pytest.approx(alone, abs=1e-5)


def test_k1_and_b_out_of_range_and_unknown_retrievers_are_refused() -> None:
    with pytest.raises(UserError, match="b"):
        RETRIEVERS.parameters("bm25:b=1.5")
    with pytest.raises(UserError, match="unknown retriever 'bm52'"):
        RETRIEVERS.parameters("bm52")
