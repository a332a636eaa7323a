"""Figures for pictures and texts of classes: search among answers of which several, one or none are right, and
classification.

`retrieval_metrics` is for pictures with a text each. Here a class has one text, one clean picture and any number of
photos, so a query meets many right answers, or, where the pictures do not show its class, none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.metrics import macro_f1, rank_of_label
from chapter03_multimodal.retrieval_metrics import CUTOFFS, TIED
from common.errors import CourseError
from common.statistics import summarise

TOP = (1, 5)


def class_retrieval(
    queries: np.ndarray,
    query_labels: Sequence[str],
    answers: np.ndarray,
    answer_labels: Sequence[str],
    *,
    cutoffs: Sequence[int] = CUTOFFS,
) -> pd.DataFrame:
    """One row a query that has a right answer (index: its position), one column a metric: R@k, MRR and MAP.

    queries [Q, D], answers [A, D]: float32 of length 1, from one encoder. query_labels [Q], answer_labels [A]: the
    class of each; an answer of the query's class is right.

    R@k is 1 if a right answer is among the first k, else 0; MRR one over the place of the first right answer; MAP the
    average precision, the mean over all right answers of the share of right ones down to each (where each query has one
    right answer, it equals MRR). The mean of a column is the figure, its interval comes from
    `common.statistics.summarise`.

    **A query whose class no answer shows is left out**: there is nothing to be found, and a 0 would measure the
    answers, not the model. An answer whose class nobody asks for stays, as a distractor. Ties are broken against the
    system, as in `retrieval_metrics`. Raises `CourseError` for shapes that do not fit, vectors that are not finite, and
    if no query has an answer.
    """
    query_labels, answer_labels = (np.asarray(labels, dtype=object) for labels in (query_labels, answer_labels))
    _check(queries, query_labels, "queries")
    _check(answers, answer_labels, "answers")
    if queries.shape[1] != answers.shape[1]:
        raise CourseError(
            f"class_retrieval: queries have {queries.shape[1]} dimensions, answers {answers.shape[1]}; encode both "
            "with one model"
        )
    right = query_labels[:, None] == answer_labels[None, :]
    answered = np.flatnonzero(right.any(axis=1))
    if not len(answered):
        raise CourseError("class_retrieval: no answer is of the class of any query; are the labels of one kind?")
    rows = []
    for row in answered:
        places = right_places(answers @ queries[row], right[row])
        found = {f"R@{k}": float(places[0] <= k) for k in cutoffs}
        rows.append(found | {"MRR": 1 / places[0], "MAP": (np.arange(1, len(places) + 1) / places).mean()})
    return pd.DataFrame(rows, index=answered)


def right_places(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The places, from 1, of the right answers in a ranking of A answers, rising: int64 [R].

    scores: [A]. right: bool [A]. A wrong answer whose score is equal, or lower by less than `TIED`, stands before.
    """
    own, wrong = -np.sort(-scores[right]), np.sort(scores[~right])
    before = len(wrong) - np.searchsorted(wrong, own - TIED, side="right")
    return 1 + np.arange(len(own)) + before


def classification(scores: np.ndarray, labels: np.ndarray, *, seed: int = 0, rounds: int = 2_000) -> pd.DataFrame:
    """The rows `top-1`, `top-5` and `macro-F1`, as `common.statistics.summarise` has them: metric, value, ci_low,
    ci_high (95%, bootstrap over pictures) and n_queries.

    scores: [N, C], higher is likelier. labels: int64 [N], 0 to C-1. Macro-F1 is the mean over the classes that occur
    among the labels (`classification_metrics.macro_f1`): one that the pictures do not show has no F1, and whoever
    guesses it pays in that of the true class.
    """
    ranks = rank_of_label(scores, labels)
    shares = summarise(pd.DataFrame({f"top-{k}": ranks < k for k in TOP}), seed=seed, rounds=rounds)
    predicted = scores.argmax(axis=1)
    low, high = macro_f1_interval(labels, predicted, seed=seed, rounds=rounds)
    value = macro_f1(labels, predicted)
    macro = {"metric": "macro-F1", "value": value, "ci_low": low, "ci_high": high, "n_queries": len(labels)}
    return pd.concat([shares, pd.DataFrame([macro])], ignore_index=True)


def macro_f1_interval(
    labels: np.ndarray, predicted: np.ndarray, *, seed: int = 0, rounds: int = 2_000
) -> tuple[float, float]:
    """95% bootstrap interval of `macro_f1`: N pictures are drawn with replacement, and the figure computed anew.

    It is no mean over pictures, so `common.statistics.bootstrap_interval` does not apply. A class that a draw misses is
    left out of it. labels, predicted: int64 [N].
    """
    draws = np.random.default_rng(seed).integers(0, len(labels), (rounds, len(labels)))
    low, high = np.quantile([macro_f1(labels[drawn], predicted[drawn]) for drawn in draws], [0.025, 0.975])
    return float(low), float(high)


def _check(vectors: np.ndarray, labels: np.ndarray, what: str) -> None:
    if vectors.ndim != 2 or len(vectors) != len(labels):
        raise CourseError(f"class_retrieval: {what} {vectors.shape} with {len(labels)} labels; give one label a row")
    if not np.isfinite(vectors).all():
        raise CourseError(f"class_retrieval: not all {what} are finite; look at the model's training log")
