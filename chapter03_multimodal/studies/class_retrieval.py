"""Measure search and classification where a query has several right answers, one or none.

`retrieval_metrics` is for pictures with a text each. Here a class has one text, one clean picture and any number of
photos. A query may have many right answers, or none where no picture shows its class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.metrics import bootstrap_macro_f1, macro_f1, rank_of_label
from chapter03_multimodal.retrieval_metrics import CUTOFFS, TIED
from common.errors import CourseError
from common.statistics import summarise

TOP = (1, 5)
ROUNDS = 2_000
"""Of the bootstrap."""


def class_retrieval(
    queries: np.ndarray, query_labels: Sequence[str], answers: np.ndarray, answer_labels: Sequence[str]
) -> pd.DataFrame:
    """Return a row a query that has a right answer (index: its position), and a column a metric: R@k, MRR and MAP.

    queries [Q, D], answers [A, D]: float32 of length 1, from one encoder. query_labels [Q], answer_labels [A]: the
    class of each; an answer of the query's class is relevant.

    R@k is 1 if a relevant answer is among the first k, else 0; MRR is one over the rank of the first relevant answer;
    MAP is the mean of average precision (with one relevant answer a query, it equals MRR). The mean of a column is the
    figure; `common.statistics.summarise` gives its interval.

    **A query whose class no answer shows is left out**: it has nothing to find, and a 0 would measure the answers, not
    the model. An answer whose class no query asks for stays, as a distractor. Ties are broken against the system, as in
    `retrieval_metrics`. Raises `CourseError` for shapes that do not fit, vectors that are not finite, and if no query
    has an answer.
    """
    query_labels, answer_labels = (np.asarray(labels, dtype=object) for labels in (query_labels, answer_labels))
    _check(queries, query_labels, "queries")
    _check(answers, answer_labels, "answers")
    if queries.shape[1] != answers.shape[1]:
        raise CourseError(
            f"class_retrieval: queries have {queries.shape[1]} dimensions, answers {answers.shape[1]}; encode both "
            "with one model"
        )
    relevant = query_labels[:, None] == answer_labels[None, :]
    answered = np.flatnonzero(relevant.any(axis=1))
    if not len(answered):
        raise CourseError("class_retrieval: no answer is of the class of any query; are the labels of one kind?")
    rows = []
    for row in answered:
        ranks = ranks_of_relevant(answers @ queries[row], relevant[row])
        found = {f"R@{k}": float(ranks[0] <= k) for k in CUTOFFS}
        rows.append(found | {"MRR": 1 / ranks[0], "MAP": (np.arange(1, len(ranks) + 1) / ranks).mean()})
    return pd.DataFrame(rows, index=answered)


def ranks_of_relevant(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return the ranks, from 1, of the relevant answers in a ranking of A answers: int64 [R], rising.

    scores: [A]. relevant: bool [A]. A wrong answer whose score is equal, or lower by less than `TIED`, comes before.
    """
    own, wrong = -np.sort(-scores[relevant]), np.sort(scores[~relevant])
    before = len(wrong) - np.searchsorted(wrong, own - TIED, side="right")
    return 1 + np.arange(len(own)) + before


def classification(scores: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """Compute `top-1`, `top-5` and `macro-F1` as rows of `common.statistics.summarise`: 95% bootstrap over pictures.

    scores: [N, C], a higher one for a more probable class. labels: int64 [N], 0 to C-1. Macro-F1 is the mean over the
    classes that occur among the labels (`categories.metrics.macro_f1`).
    """
    ranks = rank_of_label(scores, labels)
    shares = summarise(pd.DataFrame({f"top-{k}": ranks < k for k in TOP}), seed=seed, rounds=ROUNDS)
    predicted = scores.argmax(axis=1)
    low, high = bootstrap_macro_f1(labels, predicted, seed=seed, rounds=ROUNDS)
    value = macro_f1(labels, predicted)
    macro = {"metric": "macro-F1", "value": value, "ci_low": low, "ci_high": high, "n_queries": len(labels)}
    return pd.concat([shares, pd.DataFrame([macro])], ignore_index=True)


def _check(vectors: np.ndarray, labels: np.ndarray, what: str) -> None:
    if vectors.ndim != 2 or len(vectors) != len(labels):
        raise CourseError(f"class_retrieval: {what} {vectors.shape} with {len(labels)} labels; give one label a row")
    if not np.isfinite(vectors).all():
        raise CourseError(f"class_retrieval: not all {what} are finite; look at the model's training log")
