"""What an answer is worth after several passages (Lewis et al. 2020, Retrieval-Augmented Generation, section 2.1).

    RAG-Sequence: p(y|x) = sum_z p(z|x) prod_i p(y_i | x, z, y_<i)
    RAG-Token:    p(y|x) = prod_i sum_z p(z|x) p(y_i | x, z, y_<i)

z runs over the K passages retrieved, and p(z|x) is normalised over them. Everything is in natural logarithms: an answer of fifty
tokens has a probability below the smallest float.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.core.errors import UserError


def sequence_logprob(log_prior: Sequence[float], token_logprobs: Sequence[Sequence[float]]) -> float:
    """Return log p(y|x) where one passage answers for the whole answer (equation of RAG-Sequence), nats.

    Args:
        log_prior: K values log p(z|x). token_logprobs: [K][T], of the answer's T tokens after each passage.
    """
    return float(np.logaddexp.reduce(np.asarray(log_prior) + np.asarray(token_logprobs, dtype=np.float64).sum(axis=1)))


def token_logprob(log_prior: Sequence[float], token_logprobs: Sequence[Sequence[float]]) -> float:
    """Return log p(y|x) where every token may come from another passage (equation of RAG-Token), nats; arguments as above."""
    mixed = np.logaddexp.reduce(np.asarray(log_prior)[:, None] + np.asarray(token_logprobs, dtype=np.float64), axis=0)
    return float(mixed.sum())


def recall_at_k(relevant: Sequence[str], retrieved: Sequence[str], k: int) -> float:
    """Return the share of the relevant ids that stand among the first k retrieved ones, each counted once.

    Raises:
        UserError: nothing is relevant, or k < 1; recall has no value there.
    """
    wanted = set(relevant)
    if not wanted or k < 1:
        raise UserError("recall needs at least one relevant id and k >= 1")
    return len(wanted & set(retrieved[:k])) / len(wanted)
