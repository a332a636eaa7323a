"""LambdaMART on query-product pairs: choose training pairs, fit trees, validate.

Trees are added one by one. Each moves products up or down in the lists of their queries, where a swap counts by how
much it would change nDCG. Source: Burges, "From RankNet to LambdaRank to LambdaMART: An Overview" (2010); LightGBM's
implementation (Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", 2017).

**Starting score.** The trees do not start from nothing: they correct `start_weight` times the score of a system that is
already good. Its strengths need not be learnt again from a few thousand judgements (nDCG@10 without it: 0.71).

**Incomplete judgements.** An unjudged candidate is not known to be irrelevant. If all are left out, the ranker never
sees the kind of product that no pool contained, and ranks such products high (nDCG@10 on the pocket shop's validation
queries: 0.67). If all count as grade 0, it learns to avoid good products (0.74, at three times the cost). To count as
grade 0 a share of those alone that the start ranks low works best (0.75).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.search_ranker.query_features import PairTable
from common.errors import CourseError
from common.evaluation import GAINS

if TYPE_CHECKING:
    from lightgbm import Booster

CUTOFF = 10
FOLDS = 5


@dataclass(frozen=True)
class Boosting:
    """Set how the trees are fitted.

    trees: number of trees; fewer are kept if validation says so, a multiple of `stage`. leaves: of a tree, at most.
    min_data_in_leaf: pairs. start_weight: factor of the starting score, which lies between 0 and 1.
    """

    trees: int = 200
    stage: int = 20
    learning_rate: float = 0.08
    leaves: int = 15
    min_data_in_leaf: int = 50
    start_weight: float = 5.0
    gains: str = "linear"
    threads: int = 2
    seed: int = 0

    def parameters(self) -> dict[str, object]:
        """Return LightGBM's parameters; equal seeds give equal trees on any number of threads."""
        return {
            "objective": "lambdarank",
            "label_gain": _gains(self.gains),
            "lambdarank_truncation_level": 2 * CUTOFF,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.min_data_in_leaf,
            "learning_rate": self.learning_rate,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.8,
            "bagging_freq": 1,
            "lambda_l2": 5.0,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": self.threads,
            "seed": self.seed,
            "verbosity": -1,
        }


def grades_of(
    table: PairTable, query_ids: Sequence[str], product_ids: Sequence[str], judgements: pd.DataFrame
) -> np.ndarray:
    """Return the grade of each pair of `table`, float64 [M]; NaN where `judgements` has none.

    query_ids: of the queries that `table.row` counts. product_ids: in the catalogue's order.
    """
    rows = pd.Index(query_ids).get_indexer(judgements["query_id"])
    products = pd.Index(product_ids).get_indexer(judgements["product_id"])
    known = (rows >= 0) & (products >= 0)
    keys = rows[known] * len(product_ids) + products[known]
    grades = pd.Series(judgements["grade"].to_numpy(dtype=np.float64)[known], index=keys)
    return grades.reindex(table.row * len(product_ids) + table.product).to_numpy()


def training_pairs(
    table: PairTable, grades: np.ndarray, start: np.ndarray, *, share: float, below: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the pairs to learn from, ascending, and their grades, int64.

    These are all judged pairs, and as grade 0 a random `share` of the unjudged ones (NaN in `grades`) that `start`
    ranks below the first `below` of their query. Raises CourseError if no judged pair is relevant.
    """
    judged = np.isfinite(grades)
    if not (grades[judged] > 0).any():
        raise CourseError("learned ranker: no candidate of a training query was judged relevant; judge more products.")
    drawn = np.random.default_rng(seed).random(len(grades)) < share
    positions = np.flatnonzero(judged | (drawn & (ranks(table.row, start, table.product) > below)))
    return positions, np.nan_to_num(grades[positions]).astype(np.int64)


def ranks(row: np.ndarray, scores: np.ndarray, tie_break: np.ndarray) -> np.ndarray:
    """Return the rank (from 1) of each pair [M] within its query, by score descending, then `tie_break` ascending."""
    order = np.lexsort((tie_break, -scores, row))
    ordered = row[order]
    begins = np.searchsorted(ordered, ordered)
    found = np.empty(len(row), dtype=np.int64)
    found[order] = np.arange(len(row)) - begins + 1
    return found


def fit(values: pd.DataFrame, grades: np.ndarray, row: np.ndarray, start: np.ndarray, settings: Boosting) -> Booster:
    """Fit trees on pairs [M], those of a query next to each other. start: [M], not yet weighted."""
    import lightgbm

    sizes = np.unique(row, return_counts=True)[1]
    # By position: LightGBM takes no comma in a column's name.
    data = lightgbm.Dataset(values.to_numpy(), grades, group=sizes, init_score=settings.start_weight * start)
    return lightgbm.train(settings.parameters(), data, settings.trees)


def staged_scores(booster: Booster, values: pd.DataFrame, start: np.ndarray, settings: Boosting) -> np.ndarray:
    """Return the scores after every `stage` trees, [S, M]."""
    columns, stage = values.to_numpy(), settings.stage
    parts = [
        booster.predict(columns, start_iteration=first, num_iteration=stage, num_threads=settings.threads)
        for first in range(0, settings.trees, stage)
    ]
    return settings.start_weight * start + np.cumsum(parts, axis=0)


@dataclass(frozen=True)
class Validation:
    """Compute nDCG@10 of the pairs of a table: the figures of `common.evaluation`, but fast enough for every stage of
    every setting.

    row, tie_break, gain: of each pair [M]; the smaller `tie_break` comes first. ideal: the ideal DCG@10 of each query
    [Q], over all products relevant to it, candidates or not.
    """

    row: np.ndarray
    tie_break: np.ndarray
    gain: np.ndarray
    ideal: np.ndarray

    @classmethod
    def of(
        cls, table: PairTable, query_ids: Sequence[str], product_ids: Sequence[str], truth: pd.DataFrame, gains: str
    ) -> Validation:
        """Return the validation by the grades of `truth`; a pair without a grade counts as grade 0."""
        worth = np.array(_gains(gains), dtype=np.float64)
        gain = worth[np.nan_to_num(grades_of(table, query_ids, product_ids, truth)).astype(np.int64)]
        order = np.argsort(np.argsort(np.asarray(product_ids, dtype=object)))
        ideals = {}
        for query_id, grades in truth.groupby("query_id")["grade"]:
            best = np.sort(worth[grades.to_numpy(dtype=np.int64)])[::-1][:CUTOFF]
            ideals[query_id] = float(best @ (1 / np.log2(np.arange(len(best)) + 2)))
        ideal = np.array([ideals.get(query_id, 0.0) for query_id in query_ids])
        return cls(table.row, order[table.product], gain, ideal)

    def ndcg(self, scores: np.ndarray) -> np.ndarray:
        """Return nDCG@10 of each query [Q]; 0 for one with nothing relevant."""
        rank = ranks(self.row, scores.astype(np.float32), self.tie_break)
        first = rank <= CUTOFF
        gained = np.zeros(len(self.ideal))
        np.add.at(gained, self.row[first], self.gain[first] / np.log2(rank[first] + 1))
        return np.divide(gained, self.ideal, out=np.zeros_like(gained), where=self.ideal > 0)


def out_of_fold(per_query: np.ndarray, seed: int) -> np.ndarray:
    """Return each query's nDCG [Q] under a choice that was made without it.

    per_query: nDCG of every choice [C, Q]. The queries are dealt into five folds; a fold gets the choice that is best
    on the other four. With fewer than two queries there is nothing to choose on, and the first choice is taken.
    """
    count = per_query.shape[1]
    if count < 2:
        return per_query[0]
    folds = np.random.default_rng(seed).permutation(count) % min(FOLDS, count)
    found = np.empty(count)
    for fold in np.unique(folds):
        inside = folds == fold
        found[inside] = per_query[per_query[:, ~inside].mean(axis=1).argmax(), inside]
    return found


def _gains(name: str) -> list[int]:
    """Return the gain of each grade, from grade 0 on."""
    return [gain for _, gain in sorted(GAINS[name].items())]
