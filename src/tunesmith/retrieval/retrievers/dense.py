"""Dense retrieval: the inner product of sentence embeddings, over all passages and exact (Karpukhin et al. 2020, DPR).

    score(q, d) = e(q) . e(d),   |e| = 1

e is MiniLM (`models/embed.py`), so the score is a cosine. The encoder was trained with 20 times the cosine as logits (Reimers &
Gurevych 2019; scale of the multiple-negatives loss), and so p(z|x) ~ exp(20 e(q) . e(d)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tunesmith.core.config import Config
from tunesmith.core.records import WorkedExample

CITATION = "Karpukhin et al. 2020, Dense Passage Retrieval; Reimers & Gurevych 2019, Sentence-BERT; Wang et al. 2020, MiniLM"
# Any cosine may be the highest there is.
UNRELATED = -math.inf
_SCALE = 20.0
Arrays = dict[str, np.ndarray]


class Parameters(Config):
    """Dense retrieval has nothing to choose."""


def encoder() -> str:
    """Identity of the model whose vectors are kept."""
    from tunesmith.models import embedded
    from tunesmith.models.load import identity_of

    return f"minilm {identity_of(str(embedded.folder_of('minilm')))}"


def build(texts: Sequence[str], parameters: Parameters, known: Mapping[str, np.ndarray] | None = None) -> Arrays:
    """Return the unit vectors [N, 384] of passages; a text whose vector is `known` is not embedded again."""
    from tunesmith.models.embed import embed_texts

    vectors = dict(known or {})
    fresh = list(dict.fromkeys(text for text in texts if text not in vectors))
    vectors.update(zip(fresh, embed_texts(fresh, "embedding passages"), strict=True))
    return {"vectors": np.stack([vectors[text] for text in texts]).astype(np.float32)}


def searcher(arrays: Arrays, parameters: Parameters) -> Callable[[Sequence[str]], np.ndarray]:
    """Return what scores passages: Q queries -> [Q, N] float32."""
    from tunesmith.models.embed import embed_texts

    return lambda queries: _products(arrays["vectors"], embed_texts(queries))


def log_weights(scores: np.ndarray) -> np.ndarray:
    """Return log p(z|x) up to a constant: 20 times the cosine."""
    return _SCALE * scores


def _products(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    import torch

    # Through torch, which has just embedded the question: numpy's own threads would fight with torch's for the processor.
    product = torch.from_numpy(np.ascontiguousarray(queries)) @ torch.from_numpy(np.ascontiguousarray(vectors)).T
    return product.numpy()


def evaluate(vectors: Sequence[Sequence[float]], query: Sequence[float]) -> list[float]:
    """Return the score of each vector for one query vector."""
    return [float(score) for score in _products(np.array(vectors), np.array([query]))[0]]


def worked_example() -> WorkedExample:
    """Return three unit vectors and a query, worked by hand."""
    vectors = [[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]
    how = "1 x 0.8 + 0 x 0.6 = 0.8; 0.6 x 0.8 + 0.8 x 0.6 = 0.96; 0 x 0.8 - 1 x 0.6 = -0.6."
    inputs = {"vectors": vectors, "query": [0.8, 0.6]}
    return WorkedExample(inputs, [0.8, 0.96, -0.6], how, wrong={**inputs, "query": [0.6, 0.8]})
