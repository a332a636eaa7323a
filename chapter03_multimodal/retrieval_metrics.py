"""How well pictures are found by their texts, and texts by their pictures: Recall@k and MRR in both directions.

Of M pictures with a text each, every text searches all M pictures and every picture all M texts. Right are the own one
and those of an equal text: where two products are called alike, nobody could tell which of them was meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.errors import CourseError

CUTOFFS = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")
TIED = 1e-6
"""Scores that differ by less are equal: a sum of some hundred products in float32 is not surer than that."""

_SCORES_AT_ONCE = 1 << 24


def retrieval_metrics(
    image_vectors: np.ndarray, text_vectors: np.ndarray, texts: Sequence[str], *, cutoffs: Sequence[int] = CUTOFFS
) -> pd.DataFrame:
    """One row a pair, one column a metric: `text_to_image_R@1`, ..., `text_to_image_MRR`, and so for `image_to_text`.

    image_vectors, text_vectors: float [M, D] of length 1, row i of one belongs to row i of the other. texts: [M], what
    the text vectors were made of, to see which are equal. R@k is 1 if a right answer is among the first k, else 0; MRR
    is one over the place of the first right answer. The mean of a column is the figure; intervals and tests come from
    `common.statistics` (`summarise`, `compare`), which take the table as it is.

    Ties are broken against the system: a wrong answer that scores as high as the best right one stands before it. A
    model that gives all the same vector therefore scores the worst there is, not what the order of the rows makes of
    it. Wrong texts that are equal take a place each. Raises `CourseError` for shapes that do not fit, and for vectors
    that are not finite.
    """
    images, words = _checked(image_vectors, texts, "image"), _checked(text_vectors, texts, "text")
    if images.shape[1] != words.shape[1]:
        raise CourseError(
            f"retrieval_metrics: pictures have {images.shape[1]} dimensions, texts {words.shape[1]}; "
            "encode both with one model"
        )
    labels = pd.factorize(np.asarray(texts, dtype=object))[0]
    columns = {}
    for direction, (asking, asked) in zip(DIRECTIONS, ((words, images), (images, words)), strict=True):
        places = first_right_place(asking, asked, labels)
        columns |= {f"{direction}_R@{k}": (places <= k).astype(np.float64) for k in cutoffs}
        columns[f"{direction}_MRR"] = 1 / places
    return pd.DataFrame(columns)


def mean_of_directions(means: pd.Series) -> float:
    """The MRR of both directions, averaged: the one figure by which checkpoints are chosen. means: by metric."""
    return float(np.mean([means[f"{direction}_MRR"] for direction in DIRECTIONS]))


def first_right_place(queries: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The place [M], from 1, at which each query meets its first right answer; right are those of its own label.

    queries, answers: float32 [M, D]. labels: [M], of both.
    """
    places = np.empty(len(queries), dtype=np.int64)
    size = max(1, _SCORES_AT_ONCE // len(answers))
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        scores = queries[block] @ answers.T
        right = labels[block, None] == labels[None, :]
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        places[block] = 1 + np.count_nonzero(~right & (scores > best - TIED), axis=1)
    return places


def _checked(vectors: np.ndarray, texts: Sequence[str], what: str) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not len(texts):
        raise CourseError(f"retrieval_metrics: {what} vectors {vectors.shape} for {len(texts)} texts; give one a row")
    if not np.isfinite(vectors).all():
        raise CourseError(f"retrieval_metrics: not all {what} vectors are finite; look at the model's training log")
    return vectors
