"""Measure classifiers whose classes are not equally frequent: top-k accuracy, macro-F1, recall by class frequency."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.long_tail import BUCKETS
from common.statistics import bootstrap_interval

TOP = (1, 3, 5)
ABSENT = "absent"
INTERVAL = (0.025, 0.975)


def class_counts(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the examples of each class, its predictions and its correct predictions: int64 [K] each.

    labels, predicted: int64 [N], classes from 0 on; K is one more than the highest.
    """
    size = int(max(labels.max(), predicted.max())) + 1
    support, guessed, hits = (np.bincount(x, minlength=size) for x in (labels, predicted, labels[labels == predicted]))
    return support, guessed, hits


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over classes of F1 = 2 hits / (support + predictions), all classes with equal weight.

    The classes are those that occur among the *labels*. One that is never predicted, for instance because it has no
    training example, counts 0. One that occurs only among the predictions is not in the mean: the wrong guess already
    lowers the F1 of the true class. That is sklearn's `f1_score(labels, predicted, labels=np.unique(labels),
    average="macro", zero_division=0)`; its default would count the guessed class as another 0, so that one odd guess
    could cost more than ten ordinary mistakes.

    labels, predicted: int64 [N].
    """
    support, guessed, hits = class_counts(labels, predicted)
    occurs = support > 0
    return float((2 * hits[occurs] / (support + guessed)[occurs]).mean())


def bootstrap_macro_f1(
    labels: np.ndarray,
    predicted: np.ndarray,
    baseline: np.ndarray | None = None,
    *,
    seed: int = 0,
    rounds: int = 1_000,
) -> tuple[float, float]:
    """Return the 95% bootstrap interval of macro-F1, or of its difference to a baseline's on the same N pictures.

    Pictures are drawn with replacement, the same ones for both, and the figure is computed anew: macro-F1 is no mean
    over pictures, so `common.statistics.bootstrap_interval` does not apply. A class that a draw misses is left out.
    """

    def figure(rows: np.ndarray) -> float:
        own = macro_f1(labels[rows], predicted[rows])
        return own if baseline is None else own - macro_f1(labels[rows], baseline[rows])

    low, high = np.quantile([figure(rows) for rows in _draws(len(labels), seed, rounds)], INTERVAL)
    return float(low), float(high)


def compare_over_draws(
    labels: np.ndarray,
    plain: np.ndarray,
    chosen: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    rounds: int = 1_000,
) -> pd.DataFrame:
    """Compare two classifiers on the same N pictures, each trained on D draws of the training pictures.

    Returns columns as `compare_classifiers`, a row each for "macro-F1" and "top-1", and besides the interval of either
    classifier (`plain_low`, `plain_high`, `chosen_low`, `chosen_high`). Figures are means over the D trainings. The
    intervals are those of `bootstrap_macro_f1`, with the same pictures drawn for both classifiers and all trainings:
    they say how much other test pictures would change, not how much other draws would.

    labels: int64 [N]. plain, chosen: predicted classes, int64 [D, N]. groups: the group of each picture, [N]; groups
    are drawn then, with all their pictures, since pictures of one group are right or wrong together.
    """

    def figures(rows: np.ndarray) -> list[list[float]]:
        truth, guesses = labels[rows], (plain[:, rows], chosen[:, rows])
        return [[np.mean([macro_f1(truth, row) for row in guess]), np.mean(guess == truth)] for guess in guesses]

    draws = _draws(len(labels), seed, rounds) if groups is None else _draws_of_groups(groups, seed, rounds)
    found = np.array([figures(np.arange(len(labels))), *map(figures, draws)])  # [1 + rounds, classifier, metric]
    gains = found[:, 1] - found[:, 0]
    table = pd.DataFrame({"metric": ["macro-F1", "top-1"], "plain": found[0, 0], "chosen": found[0, 1]})
    table["difference"] = gains[0]
    for name, values in (("ci", gains), ("plain", found[:, 0]), ("chosen", found[:, 1])):
        table[f"{name}_low"], table[f"{name}_high"] = np.quantile(values[1:], INTERVAL, axis=0)
    return table


def rank_of_label(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank of each label among the classes, from 0: int64 [N], for [N, C] and [N].

    Of equal probabilities the class with the lower number comes first. A label from C on, which the head does not know,
    has the largest integer as its rank: it is in no top k.
    """
    n_classes = probabilities.shape[1]
    column = np.minimum(labels, n_classes - 1)[:, None]
    own = np.take_along_axis(probabilities, column, axis=1)
    before = (probabilities > own) | ((probabilities == own) & (np.arange(n_classes) < column))
    return np.where(labels < n_classes, before.sum(axis=1), np.iinfo(np.int64).max)


def buckets_of(labels: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """Return the bucket of each label, str [N]; "absent" for labels from C on. buckets: str [C], by class."""
    return np.append(buckets, ABSENT)[np.minimum(labels, len(buckets))]


def classification_figures(probabilities: np.ndarray, labels: np.ndarray, buckets: np.ndarray) -> dict[str, float]:
    """Compute `top-1`, `top-3`, `top-5`, `macro-F1` and `head recall`, `middle recall`, `tail recall`.

    probabilities [N, C], labels int64 [N], buckets: str [C]. All but macro-F1 are shares of pictures. A label from C on
    is wrong in every top-k, 0 in macro-F1, and in no bucket. The recall of a bucket is the top-1 accuracy on its
    pictures; NaN if it has none.
    """
    ranks, own = rank_of_label(probabilities, labels), buckets_of(labels, buckets)
    found = {f"top-{k}": float((ranks < k).mean()) for k in TOP}
    found["macro-F1"] = macro_f1(labels, probabilities.argmax(axis=1))
    for bucket in BUCKETS:
        inside = ranks[own == bucket] == 0
        found[f"{bucket} recall"] = float(inside.mean()) if len(inside) else float("nan")
    return found


def compare_classifiers(labels: np.ndarray, chosen: np.ndarray, plain: np.ndarray, buckets: np.ndarray) -> pd.DataFrame:
    """Compare two classifiers on the same pictures by their probabilities [N, C].

    Returns metric, plain, chosen, difference (chosen - plain), and the 95% interval ci_low, ci_high of the difference:
    a bootstrap over pictures, the same ones drawn for both.
    """
    figures = [classification_figures(probabilities, labels, buckets) for probabilities in (plain, chosen)]
    ranks = [rank_of_label(probabilities, labels) for probabilities in (plain, chosen)]
    tail = buckets_of(labels, buckets) == "tail"
    gains = {f"top-{k}": (ranks[1] < k) * 1.0 - (ranks[0] < k) for k in TOP}
    gains["tail recall"] = ((ranks[1] == 0) * 1.0 - (ranks[0] == 0))[tail]
    intervals = {metric: bootstrap_interval(gain) for metric, gain in gains.items() if len(gain)}
    intervals["macro-F1"] = bootstrap_macro_f1(labels, chosen.argmax(axis=1), plain.argmax(axis=1))
    rows = [
        {"metric": metric, "plain": figures[0][metric], "chosen": figures[1][metric]}
        | {"difference": figures[1][metric] - figures[0][metric], "ci_low": float(low), "ci_high": float(high)}
        for metric, (low, high) in intervals.items()
    ]
    return pd.DataFrame(rows)


def _draws(count: int, seed: int, rounds: int) -> np.ndarray:
    """Draw the pictures of each bootstrap round with replacement: int64 [rounds, count]."""
    return np.random.default_rng(seed).integers(0, count, (rounds, count))


def _draws_of_groups(groups: np.ndarray, seed: int, rounds: int) -> Iterator[np.ndarray]:
    """Draw groups with replacement, as many as there are, and yield the pictures of each round."""
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(sizes)[:-1])
    for drawn in _draws(len(members), seed, rounds):
        yield np.concatenate([members[group] for group in drawn])
