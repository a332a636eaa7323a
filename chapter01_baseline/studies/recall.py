"""Measure recall by exact score, not by id: of products with equal vectors any one is as good as another."""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCE = 1e-6  # two float32 sums of the same 384 products differ by less


def kth_scores(flat: Any, queries: np.ndarray, k: int) -> np.ndarray:
    """Return the k-th best score [Q] of each query over all products; of fewer than k products, the last one's."""
    found = flat.search(queries, min(k, flat.ntotal))[1]
    return _scores(flat, queries, found).min(axis=1)


def recall_by_score(flat: Any, queries: np.ndarray, found: np.ndarray, kth: np.ndarray) -> np.ndarray:
    """Return the recall@k [Q] of found rows [Q, k] (-1 for none).

    It is the share of k different products whose exact score is not below the k-th best score `kth` [Q], apart from
    rounding: of products that are as near as the k-th, it does not matter which was returned.
    """
    good = (found >= 0) & (_scores(flat, queries, found) >= kth[:, None] - TOLERANCE)
    first = np.ones_like(good)  # a product that is returned twice counts once
    for column in range(1, found.shape[1]):
        first[:, column] = (found[:, :column] != found[:, [column]]).all(axis=1)
    return (good & first).sum(axis=1) / min(found.shape[1], flat.ntotal)


def _scores(flat: Any, queries: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the inner products [Q, k] of queries and found rows, summed in one order, so equal vectors score equal."""
    vectors = flat.reconstruct_batch(np.maximum(found, 0).ravel()).reshape(*found.shape, flat.d)
    return np.einsum("qd,qkd->qk", queries, vectors)
