"""LambdaMART on pairs of queries and products: what it learns from, how it is fitted, and how it is validated.

Trees are added one by one, each moving products up or down in the lists of their queries; a swap counts by what it
would change in nDCG. Source: Burges, "From RankNet to LambdaRank to LambdaMART: An Overview" (2010); LightGBM's
implementation (Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", 2017).

**Starting score.** The trees do not begin from nothing: they correct `start_weight` times the score of a system that
is already good. What it does well need not be learnt again from a few thousand judgements (without it: 0.71).

**Judgements with holes.** A candidate that nobody judged is not known to be irrelevant. Left out altogether, the ranker
never meets what no pool ever showed it, and ranks such products high (nDCG@10 on the pocket shop's validation queries:
0.67). All taken as grade 0, it learns to avoid good products (0.74, at three times the cost). A share of them, and only
of those that the start ranks low, is the better guess (0.75).
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
    """trees: at most so many; the best number is chosen on validation, in steps of `stage`. leaves: of a tree, at most.
    start_weight: what the starting score, between 0 and 1, is multiplied with."""

    trees: int = 200
    stage: int = 20
    learning_rate: float = 0.08
    leaves: int = 15
    least_data: int = 50
    start_weight: float = 5.0
    gains: str = "linear"
    threads: int = 2
    seed: int = 0

    def parameters(self) -> dict[str, object]:
        """In LightGBM's words; equal seeds give equal trees on any number of threads."""
        return {
            "objective": "lambdarank",
            "label_gain": [GAINS[self.gains][grade] for grade in sorted(GAINS[self.gains])],
            "lambdarank_truncation_level": 2 * CUTOFF,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.least_data,
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


def grades_of(table: PairTable, query_ids: Sequence[str], product_ids: Sequence[str], judgements: pd.DataFrame):
    """The grade of each pair of `table`, float64 [M]; NaN where `judgements` has none.

    query_ids: of the queries whose positions `table.row` holds. product_ids: in the catalogue's order.
    """
    rows = pd.Index(query_ids).get_indexer(judgements["query_id"])
    products = pd.Index(product_ids).get_indexer(judgements["product_id"])
    known = (rows >= 0) & (products >= 0)
    keys = rows[known] * len(product_ids) + products[known]
    grades = pd.Series(judgements["grade"].to_numpy(dtype=np.float64)[known], index=keys)
    return grades.reindex(table.row * len(product_ids) + table.product).to_numpy()


def learn_from(
    table: PairTable, grades: np.ndarray, start: np.ndarray, *, share: float, below: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs to learn from (positions, ascending) and their grades, int64.

    All judged ones, and of those that nobody judged (NaN in `grades`) and that `start` ranks below the first `below`
    of their query, a random `share` as grade 0. Raises CourseError if no judged pair is relevant.
    """
    judged = np.isfinite(grades)
    if not (grades[judged] > 0).any():
        raise CourseError("learned ranker: no candidate of a training query was judged relevant; judge more products.")
    drawn = np.random.default_rng(seed).random(len(grades)) < share
    positions = np.flatnonzero(judged | (drawn & (ranks(table.row, start, table.product) > below)))
    return positions, np.nan_to_num(grades[positions]).astype(np.int64)


def ranks(row: np.ndarray, scores: np.ndarray, tie_break: np.ndarray) -> np.ndarray:
    """The rank (from 1) of each pair [M] in the list of its query, by score descending, then `tie_break` ascending."""
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
    """Scores [S, M] after every `stage` trees."""
    steps, columns = range(0, settings.trees, settings.stage), values.to_numpy()
    parts = [
        booster.predict(columns, start_iteration=at, num_iteration=settings.stage, num_threads=settings.threads)
        for at in steps
    ]
    return settings.start_weight * start + np.cumsum(parts, axis=0)


class Validation:
    """nDCG@10 of scores for the pairs of a table, query by query; what `common.evaluation` says, but fast enough for
    every stage of every setting.

    gain: of each pair [M]. tie_break: [M], the smaller first. ideal: the ideal DCG@10 of each query [Q], from all
    products that it is relevant to, candidates or not.
    """

    def __init__(self, row: np.ndarray, tie_break: np.ndarray, gain: np.ndarray, ideal: np.ndarray) -> None:
        self.row, self.tie_break, self.gain, self.ideal = row, tie_break, gain, ideal

    @classmethod
    def of(
        cls, table: PairTable, query_ids: Sequence[str], product_ids: Sequence[str], truth: pd.DataFrame, gains: str
    ) -> Validation:
        """By the grades of `truth`; what stands there with no grade counts as grade 0."""
        worth = np.array([GAINS[gains][grade] for grade in sorted(GAINS[gains])], dtype=np.float64)
        grades = grades_of(table, query_ids, product_ids, truth)
        gain = worth[np.nan_to_num(grades).astype(np.int64)]
        order = np.argsort(np.argsort(np.asarray(product_ids, dtype=object)))
        best = {
            query_id: np.sort(worth[rows.to_numpy(dtype=np.int64)])[::-1][:CUTOFF]
            for query_id, rows in truth.groupby("query_id")["grade"]
        }
        ideal = [
            float(best.get(query_id, np.zeros(0)) @ discounts(len(best.get(query_id, ())))) for query_id in query_ids
        ]
        return cls(table.row, order[table.product], gain, np.array(ideal))

    def ndcg(self, scores: np.ndarray) -> np.ndarray:
        """nDCG@10 of each query [Q]; 0 for one with nothing relevant."""
        place = ranks(self.row, scores.astype(np.float32), self.tie_break)
        first = place <= CUTOFF
        gained = np.zeros(len(self.ideal))
        np.add.at(gained, self.row[first], self.gain[first] / np.log2(place[first] + 1))
        return np.divide(gained, self.ideal, out=np.zeros_like(gained), where=self.ideal > 0)


def discounts(count: int) -> np.ndarray:
    """1 / log2(rank + 1) of the first ranks."""
    return 1 / np.log2(np.arange(count) + 2)


def chosen_without(per_query: np.ndarray, seed: int) -> np.ndarray:
    """What each query [Q] would have got from a choice that never saw it.

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
