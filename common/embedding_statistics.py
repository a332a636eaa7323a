"""Summarise a set of embeddings in three numbers that tell a healthy training from a collapsing one.

Alignment says how near a query lies to its positives, uniformity how evenly the vectors cover the sphere; contrastive
training improves the sum of both (Wang and Isola, "Understanding Contrastive Representation Learning through Alignment
and Uniformity on the Hypersphere", 2020).
"""

from __future__ import annotations

import numpy as np

from common.errors import CourseError


def embedding_statistics(
    queries: np.ndarray, positives: np.ndarray, products: np.ndarray, *, sample: int = 2_000, seed: int = 0
) -> dict[str, float]:
    """Return `mean_cosine`, `uniformity` and `alignment` of L2-normalised vectors.

    queries, positives: [N, D], row i of one belongs to row i of the other. products: [P, D], of which at most `sample`
    are compared with each other.
    mean_cosine: between two different products; near 1 the space has collapsed.
    uniformity: log of the mean of exp(-2 |x - y|^2) over two different products; 0 if all are one point, lower is more
    even.
    alignment: mean |query - positive|^2; 0 if each query lies on its positive.
    Raises `CourseError` for fewer than two products, no pair, or shapes that do not fit.
    """
    if len(products) < 2 or not len(queries) or queries.shape != positives.shape:
        raise CourseError(
            f"embedding_statistics: needs two products and a pair or more, with as many queries as positives; got "
            f"products {products.shape}, queries {queries.shape}, positives {positives.shape}."
        )
    if len(products) > sample:
        products = products[np.random.default_rng(seed).choice(len(products), sample, replace=False)]
    cosines = (products @ products.T)[np.triu_indices(len(products), k=1)].astype(np.float64)
    return {
        "mean_cosine": float(cosines.mean()),
        "uniformity": float(np.log(np.exp(-2 * (2 - 2 * cosines)).mean())),
        "alignment": float(((queries - positives) ** 2).sum(axis=1).mean()),
    }
