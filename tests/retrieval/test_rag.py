"""RAG-Sequence and RAG-Token are the paper's sums, and recall is the share of what was to be found."""

import math
from itertools import product

import pytest

from tunesmith.core.errors import UserError
from tunesmith.retrieval.rag import recall_at_k, sequence_logprob, token_logprob

PRIOR = [math.log(0.6), math.log(0.4)]
TOKENS = [[math.log(0.5), math.log(0.2)], [math.log(0.1), math.log(0.9)]]


def test_the_golden_values() -> None:
    # methods.md, section 33: 0.6 x 0.5 x 0.2 + 0.4 x 0.1 x 0.9; (0.6 x 0.5 + 0.4 x 0.1) (0.6 x 0.2 + 0.4 x 0.9).
    assert math.exp(sequence_logprob(PRIOR, TOKENS)) == pytest.approx(0.096, abs=1e-12)
    assert math.exp(token_logprob(PRIOR, TOKENS)) == pytest.approx(0.1632, abs=1e-12)
    # Negative control: the priors the other way round.
    assert math.exp(sequence_logprob(PRIOR[::-1], TOKENS)) == pytest.approx(0.094, abs=1e-12)
    assert math.exp(token_logprob(PRIOR[::-1], TOKENS)) == pytest.approx(0.26 * 0.62, abs=1e-12)


def test_both_agree_for_one_passage_and_for_one_token() -> None:
    assert sequence_logprob([0.0], TOKENS[:1]) == pytest.approx(token_logprob([0.0], TOKENS[:1])) == pytest.approx(math.log(0.1))
    short = [[row[0]] for row in TOKENS]
    assert sequence_logprob(PRIOR, short) == pytest.approx(token_logprob(PRIOR, short)) == pytest.approx(math.log(0.34))


def test_each_sums_to_one_over_all_answers() -> None:
    # Two passages, answers of two tokens from a vocabulary of two; the second token does not depend on the first.
    first, second = [0.5, 0.1], [0.2, 0.9]  # p(token = 0) a passage
    for of in (sequence_logprob, token_logprob):
        total = 0.0
        for a, b in product((0, 1), repeat=2):
            rows = [
                [math.log(abs(a - p)) if a else math.log(p), math.log(1 - q if b else q)]
                for p, q in zip(first, second, strict=True)
            ]
            total += math.exp(of(PRIOR, rows))
        assert total == pytest.approx(1.0)


def test_long_answers_do_not_underflow() -> None:
    long = [[-30.0] * 100, [-30.5] * 100]
    assert sequence_logprob(PRIOR, long) == pytest.approx(-3000.0 + math.log(0.6))
    assert token_logprob(PRIOR, long) == pytest.approx(100 * (-30.0 + math.log(0.6 + 0.4 * math.exp(-0.5))))


def test_recall_by_hand() -> None:
    assert recall_at_k(["a", "b"], ["x", "a", "y", "b"], 2) == 0.5
    assert recall_at_k(["a", "b"], ["x", "a", "y", "b"], 4) == 1.0
    # Two passages of one document find it once.
    assert recall_at_k(["a", "b"], ["a", "a"], 2) == 0.5
    assert recall_at_k(["a"], [], 5) == 0.0
    with pytest.raises(UserError, match="at least one relevant id"):
        recall_at_k([], ["a"], 1)
