"""Compare what pooled, incomplete judgements say about systems with what the full truth says.

Nobody can judge every product for every query. The usual remedy is pooling (Spärck Jones & van Rijsbergen 1975): let
several systems answer, merge the tops of their lists, and judge that pool. A product that no system found stays
unjudged and commonly counts as not relevant. That is fair to the systems that made the pool, and unfair to a later one
that finds good products they all missed (Zobel 1998, "How reliable are the results of large-scale information retrieval
experiments?").

A generated shop knows the truth, so this error can be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.errors import CourseError
from common.evaluation import evaluate, query_id_list, rankings

if TYPE_CHECKING:
    from common.search import Hits

METRIC = "nDCG@10"
VIEWS = ("truth", "pooled", "judged_only")
"""Ways to judge a system: the full truth; the pool, with unjudged products counted as not relevant; the pool, with
unjudged products taken out of the ranking."""


def pool(
    runs: Mapping[str, Hits],
    query_ids: Sequence[str] | pd.DataFrame,
    truth: pd.DataFrame,
    *,
    budget: int = 25,
    seed: int = 0,
) -> pd.DataFrame:
    """Judge the pool of these systems by the truth, and return its judgements: `query_id`, `product_id`, `grade`.

    For each query the first products of all systems are judged, then the second ones, and so on until `budget` products
    are. If the last round does not fit, its products are drawn at random, so that no system is favoured.

    runs: by system, its hits, row i for query i.
    query_ids: the ids, or the table of queries of one split, as in `evaluate`.
    truth: complete grades. A pair that is not in it has grade 0 and is part of the result, because it was judged.
    """
    query_ids = _checked_ids(runs, query_ids)
    if budget < 1:
        raise CourseError(f"pool: budget is {budget}; at least one product a query must be judged.")
    rng = np.random.default_rng(seed)
    ranked = [rankings(hits, budget) for hits in runs.values()]
    chosen = [_first_products([rows[i] for rows in ranked], budget, rng) for i in range(len(query_ids))]
    pooled = pd.DataFrame(
        [
            (query_id, product_id)
            for query_id, products in zip(query_ids, chosen, strict=True)
            for product_id in products
        ],
        columns=["query_id", "product_id"],
    )
    pooled = pooled.merge(truth[["query_id", "product_id", "grade"]], how="left", on=["query_id", "product_id"])
    return pooled.assign(grade=pooled["grade"].fillna(0).astype("int64"))


def compare_judgements(
    runs: Mapping[str, Hits],
    query_ids: Sequence[str] | pd.DataFrame,
    truth: pd.DataFrame,
    pooled: pd.DataFrame,
) -> pd.DataFrame:
    """Measure each system in the three `VIEWS`; return one row for each, best by the truth first.

    Columns: `system`; the mean `METRIC` by `truth`, `pooled`, `judged_only`; `Judged@10` in the pool; and the place (1
    is best, equal values share one) that each view gives the system: `rank_truth`, `rank_pooled`, `rank_judged_only`.
    `kendall_tau` of two value columns says how well two views agree on the order.
    """
    query_ids = _checked_ids(runs, query_ids)
    rows = []
    for system, hits in runs.items():
        means = {
            "truth": evaluate(hits, query_ids, truth, metrics=[METRIC]),
            "pooled": evaluate(hits, query_ids, pooled, metrics=[METRIC, "Judged@10"]),
            "judged_only": evaluate(hits, query_ids, pooled, metrics=[METRIC], judged_only=True),
        }
        values = {view: means[view][METRIC].mean() for view in VIEWS}
        rows.append({"system": system, **values, "Judged@10": means["pooled"]["Judged@10"].mean()})
    table = pd.DataFrame(rows)
    for view in VIEWS:
        table[f"rank_{view}"] = _places(table[view])
    return table.sort_values(["rank_truth", "system"], ignore_index=True)


def leave_one_out(
    runs: Mapping[str, Hits],
    query_ids: Sequence[str] | pd.DataFrame,
    truth: pd.DataFrame,
    *,
    budget: int = 25,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure each system as if it had come too late for the pool; return one row for each, best by the truth first.

    For each system the pool is made once by all systems and once by all others. Columns: `system`; `METRIC` by
    the `truth`, in the pool of all (`in_pool`), in the pool of the others (`left_out`), and there with unjudged
    products taken out (`left_out_judged_only`); `Judged@10` when left out; and its place among all systems by each of
    the first three: `rank_truth`, `rank_in_pool`, `rank_left_out`.
    """
    if len(runs) < 2:
        raise CourseError("leave_one_out: needs two systems or more, so that one is left to make the pool.")
    everyone = pool(runs, query_ids, truth, budget=budget, seed=seed)
    shared = compare_judgements(runs, query_ids, truth, everyone)
    rows = []
    for together in shared.to_dict("records"):
        system = together["system"]
        others = pool({n: h for n, h in runs.items() if n != system}, query_ids, truth, budget=budget, seed=seed)
        alone = compare_judgements(runs, query_ids, truth, others).set_index("system").loc[system]
        rows.append(
            {
                "system": system,
                "truth": together["truth"],
                "in_pool": together["pooled"],
                "left_out": alone["pooled"],
                "left_out_judged_only": alone["judged_only"],
                "Judged@10": alone["Judged@10"],
                "rank_truth": together["rank_truth"],
                "rank_in_pool": together["rank_pooled"],
                "rank_left_out": int(alone["rank_pooled"]),
            }
        )
    return pd.DataFrame(rows)


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the agreement of two orders of the same systems: 1 same order, 0 no relation, -1 reverse (Kendall 1938).

    It is the share of pairs of systems on which both agree which is better, minus the share on which they disagree; a
    pair that is equal in either counts for neither (tau-a).
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise CourseError(
            f"kendall_tau: needs two lists of the same two or more systems, not shapes {a.shape}, {b.shape}."
        )
    agreements = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in combinations(range(len(a)), 2)]
    return float(np.mean(agreements))


def _first_products(lists: list[list[str]], budget: int, rng: np.random.Generator) -> list[str]:
    """Return the products of one query's pool, in the order in which they entered it."""
    chosen: dict[str, None] = {}
    for depth in range(max(map(len, lists))):
        # Sorted before it is shuffled: the pool must not depend on the order in which the systems are named.
        fresh = sorted({ranking[depth] for ranking in lists if depth < len(ranking)} - chosen.keys())
        rng.shuffle(fresh)
        chosen.update(dict.fromkeys(fresh[: budget - len(chosen)]))
        if len(chosen) == budget:
            break
    return list(chosen)


def _places(values: pd.Series) -> pd.Series:
    # Rounded, because systems that are equal up to the last digits of a sum share a place.
    return values.round(9).rank(ascending=False, method="min").astype("int64")


def _checked_ids(runs: Mapping[str, Hits], query_ids: Sequence[str] | pd.DataFrame) -> list[str]:
    """Return the query ids as a list, after checking that every system has one row of hits for each."""
    names = query_id_list(query_ids)
    if not runs:
        raise CourseError("pooling: there is no system; give at least one name and its hits.")
    for system, hits in runs.items():
        if len(hits.ids) != len(names):
            raise CourseError(f"pooling: system {system!r} has {len(hits.ids)} rows of hits for {len(names)} queries.")
    return names
