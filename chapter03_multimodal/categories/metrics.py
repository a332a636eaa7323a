"""How well pictures are classified where classes are not equally frequent: top-k, macro-F1, recall by frequency."""

from __future__ import annotations

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.long_tail import BUCKETS
from common.statistics import bootstrap_interval

TOP = (1, 3, 5)
ABSENT = "absent"


def class_counts(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class: how many examples have it, how many are said to, how many of those rightly; int64 [K] each.

    labels, predicted: int64 [N], classes from 0 on; K is one more than the highest.
    """
    size = int(max(labels.max(), predicted.max())) + 1
    labelled, said, hits = (np.bincount(x, minlength=size) for x in (labels, predicted, labels[labels == predicted]))
    return labelled, said, hits


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over classes of F1 = 2 hits / (labelled + said), each class counting alike; 1 if all is right.

    The classes are those that occur among the *labels*. One that is never predicted, for one because it has no training
    example, counts 0. One that occurs only among the predictions is no part of the mean: the guess is paid for in the
    F1 of the true class. That is sklearn's `f1_score(labels, predicted, labels=np.unique(labels), average="macro",
    zero_division=0)`; its default would take the guessed class for a further 0, so that a single odd guess could cost
    more than ten usual mistakes.

    labels, predicted: int64 [N].
    """
    labelled, said, hits = class_counts(labels, predicted)
    occurs = labelled > 0
    return float((2 * hits[occurs] / (labelled + said)[occurs]).mean())


def bootstrap_macro_f1(
    labels: np.ndarray, predicted_a: np.ndarray, predicted_b: np.ndarray, *, seed: int = 0, rounds: int = 1_000
) -> tuple[float, float]:
    """95% bootstrap interval of macro_f1(a) - macro_f1(b), two classifiers on the same N pictures.

    Pictures are drawn with replacement, for both alike, and both figures computed anew: macro-F1 is no mean over
    pictures, so `common.statistics.bootstrap_interval` does not apply. A class that a draw misses is left out of it.
    """
    draws = np.random.default_rng(seed).integers(0, len(labels), (rounds, len(labels)))
    gains = [macro_f1(labels[d], predicted_a[d]) - macro_f1(labels[d], predicted_b[d]) for d in draws]
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def compare_over_draws(
    labels: np.ndarray, plain: np.ndarray, chosen: np.ndarray, *, seed: int = 0, rounds: int = 1_000
) -> pd.DataFrame:
    """Two classifiers, each trained on D draws of the training pictures, on the same N pictures: columns as in
    `compare_on`, a row each for "macro-F1" and "top-1", and for either classifier its own interval (`plain_low`,
    `plain_high`, `chosen_low`, `chosen_high`). Figures are means over the D trainings.

    The intervals are those of `bootstrap_macro_f1`, with the same pictures drawn for both classifiers and all
    trainings: they say what other pictures to measure on would change, not what other draws would.

    labels: int64 [N]. plain, chosen: predicted classes, int64 [D, N].
    """

    def figures(rows: np.ndarray) -> list[list[float]]:
        truth, guesses = labels[rows], (plain[:, rows], chosen[:, rows])
        return [[np.mean([macro_f1(truth, row) for row in guess]), np.mean(guess == truth)] for guess in guesses]

    draws = np.random.default_rng(seed).integers(0, len(labels), (rounds, len(labels)))
    found = np.array([figures(np.arange(len(labels))), *map(figures, draws)])  # [1 + rounds, classifier, metric]
    gains = found[:, 1] - found[:, 0]
    table = pd.DataFrame({"metric": ["macro-F1", "top-1"], "plain": found[0, 0], "chosen": found[0, 1]})
    table["difference"] = gains[0]
    for name, values in (("ci", gains), ("plain", found[:, 0]), ("chosen", found[:, 1])):
        table[f"{name}_low"], table[f"{name}_high"] = np.quantile(values[1:], [0.025, 0.975], axis=0)
    return table


def rank_of_label(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """At which place each label stands in the ranking of the classes, from 0 on: int64 [N], for [N, C] and [N].

    Of equal probabilities the class with the lower number comes first. A label from C on, of which the head has not
    heard, has an infinite place, as it were: it is in no top k.
    """
    n_classes = probabilities.shape[1]
    column = np.minimum(labels, n_classes - 1)[:, None]
    own = np.take_along_axis(probabilities, column, axis=1)
    before = (probabilities > own) | ((probabilities == own) & (np.arange(n_classes) < column))
    return np.where(labels < n_classes, before.sum(axis=1), np.iinfo(np.int64).max)


def buckets_of(labels: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """The bucket of each label, str [N]; "absent" for labels from C on. buckets: str [C], of `frequency_buckets`."""
    return np.append(buckets, ABSENT)[np.minimum(labels, len(buckets))]


def classification_figures(probabilities: np.ndarray, labels: np.ndarray, buckets: np.ndarray) -> dict[str, float]:
    """`top-1`, `top-3`, `top-5`, `macro-F1` and, by bucket, `head recall`, `middle recall`, `tail recall`.

    probabilities [N, C], labels int64 [N], buckets: str [C]. All but `macro_f1` are shares of pictures. A label from C
    on is wrong in every top-k, 0 in macro-F1, and in no bucket. The recall of a bucket is the share of its pictures
    that have their own class as the first; NaN if the bucket has no picture.
    """
    ranks, own = rank_of_label(probabilities, labels), buckets_of(labels, buckets)
    found = {f"top-{k}": float((ranks < k).mean()) for k in TOP}
    found["macro-F1"] = macro_f1(labels, probabilities.argmax(axis=1))
    for bucket in BUCKETS:
        inside = ranks[own == bucket] == 0
        found[f"{bucket} recall"] = float(inside.mean()) if len(inside) else float("nan")
    return found


def compare_on(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray, buckets: np.ndarray) -> pd.DataFrame:
    """Two classifiers on the same pictures, from their probabilities [N, C]: metric, plain (theirs), chosen (ours),
    difference, and its 95% interval ci_low, ci_high by a bootstrap over pictures, drawn for both alike."""
    found = [classification_figures(probabilities, labels, buckets) for probabilities in (theirs, ours)]
    ranks = [rank_of_label(probabilities, labels) for probabilities in (theirs, ours)]
    tail = buckets_of(labels, buckets) == "tail"
    gains = {f"top-{k}": (ranks[1] < k) * 1.0 - (ranks[0] < k) for k in TOP}
    gains["tail recall"] = ((ranks[1] == 0) * 1.0 - (ranks[0] == 0))[tail]
    intervals = {metric: bootstrap_interval(gain) for metric, gain in gains.items() if len(gain)}
    intervals["macro-F1"] = bootstrap_macro_f1(labels, ours.argmax(axis=1), theirs.argmax(axis=1))
    rows = [
        {"metric": metric, "plain": found[0][metric], "chosen": found[1][metric]}
        | {"difference": found[1][metric] - found[0][metric], "ci_low": float(low), "ci_high": float(high)}
        for metric, (low, high) in intervals.items()
    ]
    return pd.DataFrame(rows)
