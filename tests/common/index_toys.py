"""Embeddings, ids and an encoder for the tests of the indices."""

from __future__ import annotations

import numpy as np

from common.encoders import Embeddings

DIMENSION = 16


def unit(rows, seed=0, dimension=DIMENSION, encoder_id="encoder"):
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return Embeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), encoder_id)


def names(rows, seed=0):
    return [f"p{number}" for number in np.random.default_rng(seed).permutation(rows)]


def assert_same(found, expected, atol=1e-6):
    assert found.ids.tolist() == expected.ids.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, atol=atol)


def recall(found, exact):
    rows = zip(found.ids, exact.ids, strict=True)
    return np.mean([len(set(a) & set(b) - {None}) / len(set(b) - {None}) for a, b in rows])


class LengthEncoder:
    """Encode a text by its length alone, as one of `embeddings`."""

    def __init__(self, embeddings):
        self.encoder_id, self._vectors = embeddings.encoder_id, embeddings.vectors

    def encode(self, texts, *, desc=None):
        assert all(text.strip() for text in texts)
        return Embeddings(self._vectors[[len(text) for text in texts]], self.encoder_id)
