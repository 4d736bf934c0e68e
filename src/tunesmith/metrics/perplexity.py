"""How many equally likely tokens the model hesitates between, on average: exp of the loss per token. Lower is better.

    perplexity = exp( sum_d nll_d / sum_d tokens_d )

over documents d, with nll_d the summed negative log-likelihood of its counted tokens, in nats. The sums are taken before
they are divided, so every token weighs the same; the mean of the documents' own perplexities is another, larger number.
Only models with the same tokenizer can be compared. Source: Jelinek et al. 1977; Radford et al. 2019, section 3.1.

Perplexity compares no answers, so its arguments are not (gold, predicted) like those of the other metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.metrics import _weights

HIGHER_IS_BETTER = False


def evaluate(nll: Sequence[float], tokens: Sequence[int], weights: np.ndarray | None = None) -> float | np.ndarray:
    """Return the perplexity per token, from 1 upwards; infinite above exp(709).

    Args:
        nll: summed negative log-likelihood of each of n documents (nats).
        tokens: how many tokens each sum is over, at least 1.
        weights: [R, n], how often each document was drawn in each of R resamples.

    Returns:
        A float, or [R] float64 with weights.

    Raises:
        UserError: no documents, different lengths, weights that do not fit, a sum that is not finite, or no tokens.
    """
    _weights.check(weights, nll=nll, tokens=tokens)
    sums = np.column_stack([np.asarray(nll, dtype=np.float64), np.asarray(tokens, dtype=np.float64)])
    for i in np.flatnonzero(~np.isfinite(sums).all(axis=1))[:1]:
        raise UserError(f"the log-likelihood of document {i} is {sums[i, 0]}", "Check the model: its output is not finite.")
    for i in np.flatnonzero(sums[:, 1] < 1)[:1]:
        raise UserError(f"document {i} has {sums[i, 1]:g} tokens", "Leave out documents without a counted token.")
    loss, counted = _weights.totals(sums, weights).T
    with np.errstate(over="ignore"):
        result = np.exp(_weights.quotient(loss, counted, weights))
    return float(result) if weights is None else result


def worked_example() -> WorkedExample:
    """Return a case worked by hand."""
    ln2 = 0.6931471805599453
    return WorkedExample(
        inputs={"nll": [ln2, 9 * ln2], "tokens": [1, 3]},
        expected=2**2.5,
        how="10 ln 2 nats over 4 tokens is 2.5 ln 2 a token; exp(2.5 ln 2) = 2^2.5 = 5.656854. (Mean of documents: 5.)",
        wrong={"nll": [ln2, 9 * ln2], "tokens": [1, 4]},
    )
