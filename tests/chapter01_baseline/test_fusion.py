"""Fusion: against the formulas written out, at the limits of the weight, and with products missing from one ranking."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from chapter01_baseline.fusion import FusedSearcher, choose_weight, convex_fusion, reciprocal_rank_fusion
from common.errors import CourseError
from common.search import Hits, empty_hits, hits_from_rows


def random_hits(rng, n_queries=6, k=12, n_products=30) -> Hits:
    rows = []
    for _ in range(n_queries):
        size = int(rng.integers(0, k + 1))
        rows.append(([f"p{i:02d}" for i in rng.permutation(n_products)[:size]], rng.normal(size=size).round(1)))
    return hits_from_rows(rows, k)


def naive_order(totals):
    return sorted(totals, key=lambda i: (-np.float32(totals[i]), i))


def test_reciprocal_rank_fusion_is_its_formula():
    rng = np.random.default_rng(0)
    rankings = [random_hits(rng) for _ in range(3)]
    fused = reciprocal_rank_fusion(rankings, 7, constant=10)
    for row in range(6):
        totals = {}
        for ranking in rankings:
            ids = [i for i in ranking.ids[row] if i is not None]
            totals = {i: totals.get(i, 0) + (1 / (11 + ids.index(i)) if i in ids else 0) for i in {*totals, *ids}}
        expected = naive_order(totals)[:7]
        assert [i for i, _ in fused.row(row)] == expected
        assert [s for _, s in fused.row(row)] == pytest.approx([totals[i] for i in expected], rel=1e-6)


def test_reciprocal_rank_fusion_of_one_ranking_keeps_its_order():
    hits = random_hits(np.random.default_rng(1))
    assert (reciprocal_rank_fusion([hits], hits.k).ids == hits.ids).all()


@pytest.mark.parametrize("k", [9, 40])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_convex_fusion_is_its_formula(weight, k):
    rng = np.random.default_rng(2)
    rankings = [random_hits(rng), random_hits(rng)]
    rankings[0].ids[2], rankings[0].scores[2] = None, -np.inf
    fused = convex_fusion(rankings, k, weight=weight)
    assert fused.k == k
    for row in range(6):
        totals = {}
        for ranking, share in zip(rankings, (1 - weight, weight), strict=True):
            scores = {i: float(s) for i, s in zip(ranking.ids[row], ranking.scores[row], strict=True) if i is not None}
            if scores and share > 0:
                low, high = min(scores.values()), max(scores.values())
                for i, score in scores.items():
                    part = (score - low) / (high - low) if high > low else 1.0
                    totals[i] = totals.get(i, 0.0) + share * part
        expected = naive_order(totals)[:k]
        assert [i for i, _ in fused.row(row)] == expected
        assert [s for _, s in fused.row(row)] == pytest.approx([totals[i] for i in expected], abs=1e-6)


def test_weight_0_and_1_are_one_ranking_alone():
    first = hits_from_rows([(["a", "b"], [9.0, 3.0]), ([], [])], 3)
    second = hits_from_rows([(["c", "a"], [0.9, 0.1]), (["d"], [0.5])], 3)
    nothing = [None] * 5
    assert convex_fusion([first, second], 5, weight=0).ids.tolist() == [["a", "b", None, None, None], nothing]
    alone = convex_fusion([first, second], 5, weight=1)
    assert alone.ids.tolist() == [["c", "a", None, None, None], ["d", *nothing[1:]]]
    assert alone.scores[0, :2].tolist() == [1.0, 0.0]


def test_a_product_missing_from_one_ranking_counts_as_its_worst():
    first = hits_from_rows([(["a", "b", "x"], [10.0, 7.5, 5.0])], 3)
    second = hits_from_rows([(["c", "b", "y"], [0.8, 0.6, 0.4])], 3)
    scores = dict(convex_fusion([first, second], 5, weight=0.5).row(0))
    assert scores == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.5, "x": 0.0, "y": 0.0})
    assert reciprocal_rank_fusion([first, second], 3).ids[0, 0] == "b"


def test_one_empty_ranking_leaves_the_other():
    hits = random_hits(np.random.default_rng(4), n_queries=2)
    for fused in (
        reciprocal_rank_fusion([empty_hits(2, 12), hits], 12),
        convex_fusion([empty_hits(2, 5), hits], 12, weight=0.4),
    ):
        assert (fused.ids == hits.ids).all()


class FixedSearcher:
    """Returns the same scores for every query, and records how deep it was asked."""

    def __init__(self, scores):
        self.scores, self.asked = scores, []

    def search(self, queries, k, *, allowed=None, exclude=None):
        self.asked.append(k)
        rows = []
        for row, _ in enumerate(queries):
            kept = [
                i
                for i in self.scores
                if (allowed is None or i in allowed) and (exclude is None or i not in exclude[row])
            ]
            rows.append((kept, [self.scores[i] for i in kept]))
        return hits_from_rows(rows, k)


@pytest.mark.parametrize("method", ["rrf", "convex"])
def test_fused_searcher_fuses_deep_answers_and_passes_filters_on(method):
    first, second = FixedSearcher({"a": 3.0, "b": 2.0, "c": 1.0}), FixedSearcher({"c": 0.9, "d": 0.5, "a": 0.1})
    fused = FusedSearcher([first, second], method, weight=0.4, depth=50)
    hits = fused.search(["x", "y"], 2)
    assert first.asked == [50] and second.asked == [50]
    whole = [first.search(["x", "y"], 50), second.search(["x", "y"], 50)]
    expected = reciprocal_rank_fusion(whole, 2) if method == "rrf" else convex_fusion(whole, 2, weight=0.4)
    assert (hits.ids == expected.ids).all() and (hits.scores == expected.scores).all()
    filtered = fused.search(["x", "y"], 4, allowed={"a", "b", "d"}, exclude=[{"a"}, set()])
    assert set(filtered.ids[0]) == {"b", "d", None} and set(filtered.ids[1]) == {"a", "b", "d", None}
    fused.search(["x"], 80)
    assert second.asked[-1] == 80


def test_choose_weight_finds_the_better_searcher():
    judgements = pd.DataFrame({"query_id": ["q", "r"], "product_id": ["good", "good"], "grade": [3, 3]})
    good = hits_from_rows([(["good", "bad"], [1.0, 0.2])] * 2, 2)
    bad = hits_from_rows([(["bad", "good"], [1.0, 0.2])] * 2, 2)
    weight, curve = choose_weight([bad, good], ["q", "r"], judgements)
    assert list(curve.columns) == ["weight", "nDCG@10"]
    assert weight == 0.55  # every weight above 0.5 is right; the nearest to 0.5 is taken
    assert curve.set_index("weight").loc[weight, "nDCG@10"] == 1.0 and curve["nDCG@10"].min() < 1.0
    assert choose_weight([good, bad], ["q", "r"], judgements)[0] == 0.45


def test_bad_input_is_named():
    hits = random_hits(np.random.default_rng(5))
    with pytest.raises(CourseError, match="weight"):
        convex_fusion([hits, hits], 3, weight=1.5)
    with pytest.raises(CourseError, match="takes two rankings, not 1"):
        convex_fusion([hits], 3, weight=0.5)
    with pytest.raises(CourseError, match="same queries"):
        reciprocal_rank_fusion([hits, empty_hits(2, 3)], 3)
    with pytest.raises(CourseError, match="unknown method"):
        FusedSearcher([], "sum")
    searcher = FixedSearcher({"a": 1.0})
    with pytest.raises(CourseError, match="convex fusion takes two searchers, not 3"):
        FusedSearcher([searcher] * 3, "convex")
    assert FusedSearcher([searcher] * 3, "rrf").search(["x"], 1).ids.tolist() == [["a"]]
