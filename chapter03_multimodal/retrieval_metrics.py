"""Measure how well pictures are found by their texts and texts by their pictures: Recall@k and MRR, both directions.

Of M pictures with a text each, every text searches all M pictures, and every picture all M texts. Its own partner is
right, and so is every partner with an equal text: if two products have the same text, nobody can tell which is meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.errors import CourseError

CUTOFFS = (1, 5, 10)
DIRECTIONS = ("text_to_image", "image_to_text")
TIED = 1e-6
"""Scores that differ by less count as equal: a sum of some hundred products in float32 is no more precise."""

_SCORES_AT_ONCE = 1 << 24


def retrieval_metrics(
    image_vectors: np.ndarray, text_vectors: np.ndarray, texts: Sequence[str], *, cutoffs: Sequence[int] = CUTOFFS
) -> pd.DataFrame:
    """Return a row a pair and a column a metric: `text_to_image_R@1`, ..., `text_to_image_MRR`, then `image_to_text`.

    image_vectors, text_vectors: float [M, D] of length 1; row i of one belongs to row i of the other. texts: [M], which
    the text vectors were made of, to see which are equal. R@k is 1 if a right answer is among the first k, else 0. MRR
    is 1 / the rank of the first right answer. The mean of a column is the figure; `common.statistics` (`summarise`,
    `compare`) takes the table as it is for intervals and tests.

    Ties count against the system: a wrong answer with the score of the best right one ranks before it. A model that
    gives the same vector for everything gets the worst figures, whatever the order of the rows. Equal wrong texts take
    a rank each. Raises `CourseError` for shapes that do not fit and for vectors that are not finite.
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
    """Average the MRR of both directions, the figure that selects the checkpoint. means: by metric."""
    return float(np.mean([means[f"{direction}_MRR"] for direction in DIRECTIONS]))


def first_right_place(queries: np.ndarray, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank [M], from 1, of the first right answer to each query; those with its label are right.

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
