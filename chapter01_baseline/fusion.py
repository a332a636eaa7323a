"""Fuse several rankings into one, because keyword and vector search fail on different queries.

Reciprocal rank fusion looks at ranks only and has nothing to tune: use it when there are no judgements. Convex fusion
also uses how far apart the scores are. With a weight chosen on validation queries it is the better of the two, and a
few dozen queries suffice to choose it (Bruch, Gai, Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval",
2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from common.errors import CourseError
from common.evaluation import evaluate
from common.search import Hits, Searcher, check_k, check_request, hits_from_rows

METHODS = ("rrf", "convex")
CONVEX_WEIGHTS = tuple(np.linspace(0, 1, 21).round(2).tolist())


def reciprocal_rank_fusion(rankings: Sequence[Hits], k: int, constant: float = 60) -> Hits:
    """Score each product by the sum over rankings of 1 / (constant + rank), with 0 for a ranking that lacks it.

    Ranks count from 1. rankings: Hits of the same Q queries, of any depth. With a larger constant the first ranks
    matter less. Source: Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual rank
    learning methods" (SIGIR 2009), whose constant is 60. Raises CourseError if the rankings differ in their number of
    queries.
    """
    k, rows = check_k(k), []
    for query in range(_n_queries(rankings)):
        totals: dict[str, float] = defaultdict(float)
        for ranking in rankings:
            for rank, (product_id, _) in enumerate(ranking.row(query), start=1):
                totals[product_id] += 1 / (constant + rank)
        rows.append((list(totals), list(totals.values())))
    return hits_from_rows(rows, k)


def convex_fusion(rankings: Sequence[Hits], k: int, *, weight: float) -> Hits:
    """Score each product by (1 - weight) * the first ranking's normalised score + weight * the second's.

    rankings: two Hits of the same Q queries. weight: 0 is the first ranking alone, 1 the second alone; the products and
    queries that only the other ranking has then get no hits.
    Each query's scores are scaled to [0, 1], from the worst to the best that was retrieved (min-max in Bruch et al.).
    A product missing from one ranking counts 0 there, as the worst does: its score was below all that were retrieved.
    Raises CourseError unless there are two rankings of the same queries and weight is between 0 and 1.
    """
    if len(rankings) != 2:
        raise CourseError(f"convex fusion: takes two rankings, not {len(rankings)}; reciprocal rank fusion takes any.")
    if not 0 <= weight <= 1:
        raise CourseError(f"convex fusion: weight must be between 0 and 1, not {weight!r}.")
    k, rows = check_k(k), []
    counting = [(ranking, share) for ranking, share in zip(rankings, (1 - weight, weight), strict=True) if share]
    for query in range(_n_queries(rankings)):
        totals: dict[str, float] = defaultdict(float)
        for ranking, share in counting:
            for product_id, score in _normalised(ranking.row(query)):
                totals[product_id] += share * score
        rows.append((list(totals), list(totals.values())))
    return hits_from_rows(rows, k)


def _normalised(row: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Scale a row's scores to [0, 1]; all become 1 if they are equal."""
    if not row:
        return []
    low, high = row[-1][1], row[0][1]
    return [(product_id, (score - low) / (high - low) if high > low else 1.0) for product_id, score in row]


def _n_queries(rankings: Sequence[Hits]) -> int:
    lengths = {len(ranking) for ranking in rankings}
    if len(lengths) != 1:
        raise CourseError(f"fusion: the rankings must be of the same queries; they have {sorted(lengths)} rows.")
    return lengths.pop()


class FusedSearcher:
    """Ask several searchers and fuse their answers; itself a `common.search.Searcher`.

    searchers: two for "convex", keyword search first. method: "rrf" or "convex". weight: of the second (convex only).
    depth: how many hits of each searcher enter the fusion (at least k are asked for). Raises CourseError for an unknown
    method, and if convex fusion is given another number of searchers than two.
    """

    def __init__(
        self,
        searchers: Sequence[Searcher],
        method: str = "rrf",
        *,
        weight: float = 0.5,
        depth: int = 200,
    ) -> None:
        if method not in METHODS:
            raise CourseError(f"fusion: unknown method {method!r}; there are {', '.join(METHODS)}.")
        if method == "convex" and len(searchers) != 2:
            raise CourseError(f"fusion: convex fusion takes two searchers, not {len(searchers)}; method rrf takes any.")
        self.searchers, self.method, self.depth = list(searchers), method, check_k(depth)
        self.weight = weight

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products of each query; see `common.search.Searcher`."""
        request = check_request(queries, k, allowed, exclude)
        depth = max(self.depth, request.k)
        rankings = [
            searcher.search(request.queries, depth, allowed=request.allowed, exclude=request.exclude)
            for searcher in self.searchers
        ]
        if self.method == "rrf":
            return reciprocal_rank_fusion(rankings, request.k)
        return convex_fusion(rankings, request.k, weight=self.weight)


def choose_weight(
    rankings: Sequence[Hits],
    query_ids: Sequence[str],
    judgements: pd.DataFrame,
    *,
    gains: str = "linear",
) -> tuple[float, pd.DataFrame]:
    """Return the weight of convex fusion with the best mean nDCG@10 on validation queries, and the whole curve.

    rankings: the two searchers' Hits for the validation queries `query_ids`, in that order, at the depth of the fusion.
    The curve's columns are weight and nDCG@10. Of equally good weights the one nearest 0.5 is taken, which ignores
    neither searcher.
    """
    points = []
    for weight in CONVEX_WEIGHTS:
        fused = convex_fusion(rankings, 10, weight=weight)
        scores = evaluate(fused, query_ids, judgements, metrics=["nDCG@10"], gains=gains)
        points.append((weight, scores["nDCG@10"].mean()))
    curve = pd.DataFrame(points, columns=["weight", "nDCG@10"])
    best = curve[curve["nDCG@10"] >= curve["nDCG@10"].max() - 1e-9]
    return float(best.loc[(best["weight"] - 0.5).abs().idxmin(), "weight"]), curve
