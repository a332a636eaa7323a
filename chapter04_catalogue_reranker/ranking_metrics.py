"""Measure ranked category paths: the rank of the true path, and how near to it the first path is.

A path "Home > Kitchen > Mugs" is a leaf in a tree, and mistakes differ: "Home > Kitchen > Cups" is nearly right, "Toys"
is not. Acc@k and MRR count whole paths; the hierarchical figures count levels.

All tables have one row per product, as `common.statistics` (`summarise`, `compare`) expects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from chapter03_multimodal.retrieval_metrics import TIED
from common.category_path import split_path
from common.errors import CourseError

CUTOFFS = (1, 3, 5)
MRR = "MRR"
MACRO_RECALL = "macro R@1"
DEPTHS = {"1": 1, "2": 2, "3": 3, "4+": 4}
FREQUENCIES = {"unseen": 0, "1-2": 1, "3-9": 3, "10-29": 10, "30+": 30}
"""First number of each group of products; a group ends where the next begins."""


# the rank of the true path


def rank_of_truth(scores: np.ndarray, listed: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the rank, from 1, of each product's true candidate: float64 [N], infinite where no candidate is true.

    Ties are broken against the system, as in `chapter03_multimodal.retrieval_metrics`: a wrong candidate that scores
    as high (within `TIED`, 1e-6) ranks above the true one. A model that scores all alike thus ranks it last, whatever
    the order of the columns. The columns of a row must be different paths; the true path in a second column would be a
    wrong candidate.

    scores: [N, K], cosines, or numbers of that size: at a scale of 100, float32 rounds to 1e-5.
    listed: bool [N, K], False for padding, whose score may be anything. truth: [N], the column of the true candidate,
    -1 if there is none. Raises `CourseError` for shapes that do not fit, a true candidate that is padding, and scores
    that are not finite.
    """
    scores, listed, truth = checked_lists(scores, listed, truth)
    own = np.take_along_axis(scores, np.maximum(truth, 0)[:, None], axis=1)
    wrong = listed & (np.arange(scores.shape[1]) != truth[:, None])
    before = np.count_nonzero(wrong & (scores > own - TIED), axis=1)
    return np.where(truth >= 0, 1.0 + before, np.inf)


def rank_in_lists(ranked: Sequence[Sequence[str]], truth: Sequence[str | None]) -> np.ndarray:
    """Return the rank, from 1, of each product's true path in its ranked list: float64 [N], infinite if it is missing.

    For search results, cut off at some k. ranked: N lists, the best first, None for padding, ties already broken.
    truth: N paths, None if no path is true. Raises `CourseError` if a list names a path twice: all ranks after the
    second would be one too high.
    """
    ranks = np.full(len(ranked), np.inf)
    for row, (answers, true) in enumerate(zip(ranked, truth, strict=True)):
        paths = [path for path in answers if path is not None]
        if len(set(paths)) < len(paths):
            twice = Counter(paths).most_common(1)[0][0]
            raise CourseError(f"rank_in_lists: product {row} has the path {twice!r} twice in its list; name it once.")
        if true in paths:
            ranks[row] = 1 + paths.index(true)
    return ranks


def per_product(ranks: np.ndarray) -> pd.DataFrame:
    """Return one row per product, from its rank: `Acc@1`, `Acc@3`, `Acc@5` (1 if the true path is among the first k,
    else 0) and `MRR` (the reciprocal rank). Raises `CourseError` for no products, and for ranks below 1."""
    ranks = np.asarray(ranks, dtype=np.float64)
    if ranks.ndim != 1 or not len(ranks) or not (ranks >= 1).all():
        raise CourseError("per_product: give one rank from 1 on for each product, and at least one product.")
    columns = {f"Acc@{k}": (ranks <= k).astype(np.float64) for k in CUTOFFS}
    return pd.DataFrame(columns | {MRR: 1 / ranks})


def ranking_figures(ranks: np.ndarray) -> dict[str, float]:
    """Return the means of `per_product` over the products: Acc@1, Acc@3, Acc@5 and MRR."""
    return {name: float(value) for name, value in per_product(ranks).mean().items()}


def checked_lists(scores: np.ndarray, listed: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return candidate lists as float64 [N, K], bool [N, K], int64 [N]. Raises `CourseError`, see `rank_of_truth`."""
    scores, listed, truth = np.asarray(scores, np.float64), np.asarray(listed, bool), np.asarray(truth, np.int64)
    if scores.ndim != 2 or not scores.size or listed.shape != scores.shape or truth.shape != scores.shape[:1]:
        shapes = f"scores {scores.shape}, listed {listed.shape}, truth {truth.shape}"
        raise CourseError(
            f"candidate lists: {shapes}; give [N, K], [N, K] and [N], of one product and column at least."
        )
    if not np.isfinite(scores[listed]).all():
        raise CourseError("candidate lists: not all scores are finite; look at the model's training log.")
    if (truth >= scores.shape[1]).any() or not listed[truth >= 0, truth[truth >= 0]].all():
        raise CourseError("candidate lists: a true candidate is marked as padding, or its column is not there.")
    return scores, listed, truth


# how near the first path is


def hierarchical(predicted: Sequence[str], accepted: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Return how much of the right path each predicted one shares, one row per product: `precision`, `recall`, `F1`.

    A path is the set of its nodes: itself and all above it but the root. With P the nodes of the predicted path and T
    those of the right one

        precision = |P and T| / |P|     recall = |P and T| / |T|     F1 = 2 |P and T| / (|P| + |T|)

    A node includes the way to it, so "Men > Shoes" and "Women > Shoes" share nothing, and two paths share their common
    first levels. A path that stops above the right one has precision 1, one that continues below it recall 1.

    predicted: N paths, the first of each ranking. accepted: for each product the right paths: *strict* with the one
    true path, [[true], ...]; *lenient* with its whole list, of which the path with the best F1 counts (the earliest of
    equals). Lenient measures whether a path of the whole taxonomy is at least near a candidate of the shop; for a path
    from the list it is always 1.

    Further columns, which `hierarchical_figures` sums: `shared` = |P and T|, `predicted` = |P|, `right` = |T|.
    Raises `CourseError` for no products, and for one without a right path: leave those out.

    Source: Kiritchenko et al. 2006 ("Learning and evaluation in the presence of class hierarchies").
    """
    if not len(predicted) or any(isinstance(paths, str) or not len(paths) for paths in accepted):
        raise CourseError("hierarchical: give each product a list of right paths; leave out those that have none.")
    rows = []
    for path, right in zip(predicted, accepted, strict=True):
        counts = [_shared_levels(split_path(path), split_path(other)) for other in right]
        rows.append(max(counts, key=lambda count: count[0] / (count[1] + count[2])))
    table = pd.DataFrame(rows, columns=["shared", "predicted", "right"])
    table.insert(0, "precision", table["shared"] / table["predicted"])
    table.insert(1, "recall", table["shared"] / table["right"])
    table.insert(2, "F1", 2 * table["shared"] / (table["predicted"] + table["right"]))
    return table


def hierarchical_figures(table: pd.DataFrame) -> dict[str, float]:
    """Return macro figures (means over products) and micro figures (of nodes summed over products).

    table: of `hierarchical`. Kiritchenko et al. define the micro figures, in which a deep path counts for more than a
    shallow one.
    """
    found = {f"{name} macro": float(table[name].mean()) for name in ("precision", "recall", "F1")}
    shared, predicted, right = (int(table[name].sum()) for name in ("shared", "predicted", "right"))
    return found | {
        "precision micro": shared / predicted,
        "recall micro": shared / right,
        "F1 micro": 2 * shared / (predicted + right),
    }


def _shared_levels(one: list[str], other: list[str]) -> tuple[int, int, int]:
    """Return the number of common first levels, and of the levels of each."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    return shared, len(one), len(other)


# which paths are found


def macro_recall_at_1(hits: np.ndarray, labels: Sequence[str] | np.ndarray) -> float:
    """Return the mean over true paths of the share of their products that rank them first; each path counts alike.

    hits: [N], whether the first path is the true one. labels: [N], the true paths. Raises `CourseError` for none.
    """
    return float(pd.Series(np.asarray(hits, np.float64)).groupby(_known(labels)).mean().mean())


def macro_shares(hits: np.ndarray, labels: Sequence[str] | Sequence[int] | np.ndarray) -> np.ndarray:
    """Return each product's contribution to `macro_recall_at_1`, [N], whose mean over products is that figure:

        hit * N / (paths * products of its path)

    Intervals and paired tests over products then apply; they take the paths' frequencies as given. Arguments and errors
    are the same.
    """
    _, place, counts = np.unique(_known(labels), return_inverse=True, return_counts=True)
    return np.asarray(hits, np.float64) * len(place) / (len(counts) * counts[place])


def by_depth(ranks: np.ndarray, true_paths: Sequence[str]) -> pd.DataFrame:
    """Return the figures by the depth of the true path: rows `1`, `2`, `3`, `4+`; see `by_frequency`."""
    depths = np.array([len(split_path(path)) for path in _known(true_paths)])
    return _by_group(ranks, true_paths, depths, DEPTHS).rename_axis("depth")


def by_frequency(ranks: np.ndarray, true_paths: Sequence[str], training_paths: Sequence[str]) -> pd.DataFrame:
    """Return the figures by how often the true path occurs in training: rows `unseen`, `1-2`, `3-9`, `10-29`, `30+`.

    ranks: [N]. true_paths: N. training_paths: the true path of every training product. Columns: `n` (products), Acc@k,
    MRR, and `macro R@1`. A group without products has no row. Raises `CourseError` for a product without a true path;
    leave it out.
    """
    seen = Counter(training_paths)
    counts = np.array([seen[path] for path in _known(true_paths)])
    return _by_group(ranks, true_paths, counts, FREQUENCIES).rename_axis("in training")


def _by_group(
    ranks: np.ndarray, true_paths: Sequence[str], numbers: np.ndarray, groups: dict[str, int]
) -> pd.DataFrame:
    """Return `n`, figures and macro recall of each group of products. groups: the first number of each, rising."""
    ranks, paths = np.asarray(ranks, np.float64), np.asarray(true_paths, dtype=object)
    if len(ranks) != len(paths):
        raise CourseError(f"groups: {len(ranks)} ranks for {len(paths)} true paths; give one to each product.")
    names, rows = list(groups), {}
    group = np.searchsorted(list(groups.values()), numbers, side="right") - 1
    for place in np.unique(group):
        inside = group == place
        figures = ranking_figures(ranks[inside])
        recall = macro_recall_at_1(ranks[inside] == 1, paths[inside])
        rows[names[place]] = {"n": int(inside.sum())} | figures | {MACRO_RECALL: recall}
    return pd.DataFrame.from_dict(rows, orient="index")


def _known(true_paths: Sequence[str] | np.ndarray) -> np.ndarray:
    paths = np.asarray(true_paths, dtype=object)
    if not len(paths) or pd.isna(paths).any():
        raise CourseError("true paths: needs products, each with a true path; leave out those that have none.")
    return paths
