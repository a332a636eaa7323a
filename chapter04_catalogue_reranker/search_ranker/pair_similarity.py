"""Compare queries with products pair by pair, by their vectors: dot products and standardised cosines.

The pairs are given by `row`, the position of the query [M], ascending, and `product`, the product's row [M].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from common.encoders import TextEncoder


@dataclass(frozen=True)
class Encoded:
    """Hold an encoder for queries, and vectors [N, D] of the catalogue's products, NaN for products without one."""

    encoder: TextEncoder
    vectors: np.ndarray

    @cached_property
    def mean_and_covariance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [D] and covariance [D, D] of the products' vectors."""
        known = self.vectors[np.isfinite(self.vectors[:, 0])].astype(np.float64)
        if not len(known):
            return np.zeros(self.vectors.shape[1]), np.zeros((self.vectors.shape[1],) * 2)
        mean = known.mean(axis=0)
        return mean, (known - mean).T @ (known - mean) / len(known)


class StandardisedCosines:
    """Standardise the cosines of texts [T] with products, which shows how far a product stands out for a text.

    A standardised cosine is the cosine less the text's mean over all products with a vector, divided by the standard
    deviation. Both follow from the products' mean m and covariance S: mean q.m, variance q'Sq.
    """

    def __init__(self, encoded: Encoded, texts: Sequence[str]) -> None:
        width = encoded.vectors.shape[1]
        asked = encoded.encoder.encode(list(texts)).vectors if len(texts) else np.empty((0, width), dtype=np.float32)
        mean, covariance = encoded.mean_and_covariance
        self.asked, self.products = asked, encoded.vectors
        self.mean = (asked @ mean).astype(np.float32)
        variance = np.einsum("td,de,te->t", asked, covariance, asked, optimize=True)
        self.deviation = np.sqrt(np.maximum(variance, 1e-12)).astype(np.float32)

    def of(self, texts: np.ndarray, products: np.ndarray) -> np.ndarray:
        """Return the scores of some texts and products, [texts, products]; NaN for a product without a vector."""
        cosines = self.asked[texts] @ self.products[products].T
        return (cosines - self.mean[texts, None]) / self.deviation[texts, None]


def standardised_cosines(encoded: Encoded, texts: Sequence[str], row: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Return the standardised cosine of each pair [M]; NaN where the text is empty."""
    scaled, column = StandardisedCosines(encoded, texts), np.full(len(row), np.nan, dtype=np.float32)
    for query, (start, stop) in enumerate(query_ranges(row, len(texts))):
        if texts[query].strip():
            column[start:stop] = scaled.of(np.array([query]), product[start:stop])[0]
    return column


def dot_products(queries: np.ndarray, products: np.ndarray, row: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Return the dot product of each pair [M]. queries: [Q, D], products: [N, D]."""
    column = np.empty(len(row), dtype=np.float32)
    for query, (start, stop) in enumerate(query_ranges(row, len(queries))):
        column[start:stop] = products[product[start:stop]] @ queries[query]
    return column


def query_ranges(row: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return where the pairs of each of `count` queries start and stop."""
    ends = np.searchsorted(row, np.arange(count + 1))
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
