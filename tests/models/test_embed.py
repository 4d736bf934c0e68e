"""Sentence embeddings are unit vectors of meaning, the same in every batch."""

import numpy as np
import pytest

from tunesmith.models.embed import embed_texts

TEXTS = ["The kitten is asleep.", "A young cat sleeps.", "Interest rates rose again.", "", "word " * 400]


def test_embeddings_are_unit_vectors_that_do_not_depend_on_their_neighbours() -> None:
    together = embed_texts(TEXTS)
    alone = np.concatenate([embed_texts([text]) for text in reversed(TEXTS)])[::-1]
    assert together.shape == (5, 384)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert np.abs(together - alone).max() < 1e-5
    similar = together @ together.T
    assert similar[0, 1] > 0.6 > 0.2 > similar[0, 2]


def test_a_long_text_is_embedded_by_its_first_256_tokens() -> None:
    # Two of them open and close the sequence.
    one, other, shorter = embed_texts(
        ["word " * 254, "word " * 254 + "unrelated end of it", "word " * 100 + "unrelated end of it"]
    )
    assert np.abs(one - other).max() < 1e-5
    assert np.abs(one - shorter).max() > 1e-3


def test_no_texts_give_no_vectors() -> None:
    assert embed_texts([]).shape == (0, 384)
