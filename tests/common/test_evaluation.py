"""The metrics against plain-Python twins written from the formulas, and against their limits."""

from __future__ import annotations

from math import log2

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CourseError
from common.evaluation import GAINS, METRICS, check_one_split, evaluate, rankings
from common.search import Hits
from course.benchmarks import evaluation as benchmark

PRODUCTS = [f"p{i}" for i in range(12)]
SMALL_METRICS = tuple(f"{name}@{k}" for name in ("nDCG", "R", "P") for k in (1, 3, 10))
SMALL_METRICS += ("MRR", "MAP", "Judged@3", "Judged@10")


def naive(
    ranking: list[str], grades: dict[str, int], gains: dict[int, float], judged_only: bool = False
) -> dict[str, float]:
    """Every metric of one query, from its formula. ranking: distinct ids, best first."""
    full = ranking
    if judged_only:
        ranking = [product for product in ranking if product in grades]
    relevant = {product for product, grade in grades.items() if grade >= 2}
    values = {}
    for k in (1, 3, 10):
        dcg = sum(gains[grades.get(p, 0)] / log2(rank + 1) for rank, p in enumerate(ranking[:k], start=1))
        best = sorted((gains[grade] for grade in grades.values()), reverse=True)[:k]
        ideal = sum(gain / log2(rank + 1) for rank, gain in enumerate(best, start=1))
        values[f"nDCG@{k}"] = dcg / ideal if ideal else 0.0
        found = sum(p in relevant for p in ranking[:k])
        values[f"R@{k}"] = found / len(relevant) if relevant else 0.0
        values[f"P@{k}"] = found / k
        values[f"Judged@{k}"] = sum(p in grades for p in full[:k]) / min(k, len(full)) if full else 0.0
    ranks = [rank for rank, p in enumerate(ranking, start=1) if p in relevant]
    values["MRR"] = 1 / ranks[0] if ranks else 0.0
    values["MAP"] = sum(i / rank for i, rank in enumerate(ranks, start=1)) / len(relevant) if relevant else 0.0
    return values


def naive_ranking(row: list[tuple[str, float]]) -> list[str]:
    ordered = sorted(row, key=lambda hit: (-hit[1], hit[0]))
    distinct: list[str] = []
    for product, _ in ordered:
        if product not in distinct:
            distinct.append(product)
    return distinct


def make_hits(rows: list[list[tuple[str, float]]], k: int | None = None) -> Hits:
    """Hits in exactly the order given: unlike a searcher's they may have ties, duplicates and rows out of order."""
    k = k or max([1, *map(len, rows)])
    ids = np.full((len(rows), k), None, dtype=object)
    scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
    for i, row in enumerate(rows):
        for j, (product, score) in enumerate(row):
            ids[i, j], scores[i, j] = product, score
    return Hits(ids, scores)


def ranked_hits(*orders: list[str]) -> Hits:
    return make_hits([[(product, float(-rank)) for rank, product in enumerate(order)] for order in orders])


def make_judgements(by_query: dict[str, dict[str, int]]) -> pd.DataFrame:
    rows = [(query, product, grade) for query, grades in by_query.items() for product, grade in grades.items()]
    return pd.DataFrame(rows, columns=["query_id", "product_id", "grade"])


GRADES = st.dictionaries(st.sampled_from(PRODUCTS), st.integers(0, 3), min_size=1)
# Few distinct scores, so that ties are common; products may repeat.
ROWS = st.lists(st.tuples(st.sampled_from(PRODUCTS), st.integers(0, 4).map(float)), max_size=14)
CASES = st.lists(st.tuples(ROWS, GRADES), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(CASES, st.sampled_from(sorted(GAINS)), st.booleans())
def test_equal_to_the_formulas(cases, gains, judged_only):
    names = [f"q{i}" for i in range(len(cases))]
    judgements = make_judgements(dict(zip(names, (grades for _, grades in cases), strict=True)))
    options = {"metrics": SMALL_METRICS, "gains": gains, "judged_only": judged_only}
    got = evaluate(make_hits([row for row, _ in cases]), names, judgements, **options)
    assert list(got.columns) == list(SMALL_METRICS) and list(got.index) == names and got.index.name == "query_id"
    for name, (row, grades) in zip(names, cases, strict=True):
        want = naive(naive_ranking(row), grades, GAINS[gains], judged_only)
        assert got.loc[name].to_dict() == pytest.approx({metric: want[metric] for metric in SMALL_METRICS}, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(ROWS, GRADES, st.sampled_from(["nDCG@1", "nDCG@3", "R@3", "P@1", "Judged@3"]), st.booleans())
def test_which_other_metrics_are_asked_for_does_not_matter(row, grades, metric, judged_only):
    hits, judgements = make_hits([row]), make_judgements({"q": grades})
    alone = evaluate(hits, ["q"], judgements, metrics=["R@1", metric], judged_only=judged_only)
    together = evaluate(hits, ["q"], judgements, metrics=SMALL_METRICS, judged_only=judged_only)
    assert alone[metric].item() == together[metric].item()


def test_the_condensed_list_reaches_below_the_cutoff():
    hits, judgements = ranked_hits(["x", "y", "z", "good"]), make_judgements({"q": {"good": 3}})
    assert evaluate(hits, ["q"], judgements, metrics=["R@1"], judged_only=True).loc["q", "R@1"] == 1.0


@settings(deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3), st.one_of(st.none(), st.integers(1, 9)))
def test_rankings_equal_a_plain_sort(rows, depth):
    assert rankings(make_hits(rows), depth) == [naive_ranking(row)[:depth] for row in rows]


@settings(max_examples=60, deadline=None)
@given(CASES, st.randoms(use_true_random=False))
def test_order_of_hits_queries_and_judgements_does_not_matter(cases, random):
    names = [f"q{i}" for i in range(len(cases))]
    judgements = make_judgements(dict(zip(names, (grades for _, grades in cases), strict=True)))
    first = evaluate(make_hits([row for row, _ in cases]), names, judgements)
    order = list(range(len(cases)))
    random.shuffle(order)
    rows = [random.sample(cases[i][0], len(cases[i][0])) for i in order]
    shuffled = judgements.sample(frac=1, random_state=random.randint(0, 99))
    again = evaluate(make_hits(rows), [names[i] for i in order], shuffled)
    pd.testing.assert_frame_equal(first, again.loc[names], check_exact=True)


@settings(max_examples=40, deadline=None)
@given(ROWS, GRADES, st.sampled_from([0.125, 4.0, 1024.0]), st.integers(-8, 8))
def test_scale_of_scores_does_not_matter(row, grades, factor, shift):
    judgements = make_judgements({"q": grades})
    moved = [(product, factor * score + shift) for product, score in row]
    pd.testing.assert_frame_equal(
        evaluate(make_hits([row]), ["q"], judgements), evaluate(make_hits([moved]), ["q"], judgements), check_exact=True
    )


@settings(max_examples=80, deadline=None)
@given(st.permutations(PRODUCTS), GRADES, st.integers(0, 11), st.integers(0, 11), st.sampled_from(sorted(GAINS)))
def test_moving_a_better_product_up_never_lowers_a_metric(order, grades, i, j, gains):
    upper, lower = min(i, j), max(i, j)
    if grades.get(order[lower], 0) < grades.get(order[upper], 0):
        upper, lower = lower, upper
    swapped = list(order)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    better_is_now_higher = lower > upper
    before, after = ranked_hits(order), ranked_hits(swapped)
    judgements, metrics = make_judgements({"q": grades}), ["nDCG@3", "nDCG@10", "R@3", "P@3", "MRR", "MAP"]
    was, became = (evaluate(hits, ["q"], judgements, metrics=metrics, gains=gains) for hits in (before, after))
    change = became - was
    assert ((change if better_is_now_higher else -change) >= -1e-12).all(axis=None)


@pytest.mark.parametrize("gains", sorted(GAINS))
def test_perfect_run_scores_one_and_worst_run_zero(gains):
    grades = {"p0": 3, "p1": 3, "p2": 2, "p3": 1, "p4": 0}
    judgements, options = make_judgements({"q": grades}), {"gains": gains}
    options["metrics"] = ("nDCG@10", "R@5", "P@1", "MRR", "MAP")
    perfect = evaluate(ranked_hits(["p0", "p1", "p2", "p3", "p4"]), ["q"], judgements, **options)
    assert perfect.loc["q"].to_dict() == pytest.approx(dict.fromkeys(perfect.columns, 1.0), abs=1e-12)
    assert (evaluate(ranked_hits(["p4", "x", "y"]), ["q"], judgements, **options) == 0.0).all(axis=None)


def test_ideal_is_built_from_all_judged_products_not_from_the_retrieved_ones():
    judgements = make_judgements({"q": {"p0": 3, "p1": 3, "p2": 1}})
    got = evaluate(ranked_hits(["p2"]), ["q"], judgements, metrics=["nDCG@10"])
    assert got.loc["q", "nDCG@10"] == pytest.approx(1 / (3 + 3 / log2(3) + 1 / log2(4)))


def test_map_divides_by_all_relevant_products_and_counts_queries_without_a_hit():
    judgements = make_judgements({"found": {"p0": 3, "p1": 2, "p2": 2, "p3": 1}, "empty": {"p0": 3}})
    got = evaluate(ranked_hits(["p0"], []), ["found", "empty"], judgements)
    assert got["MAP"].to_dict() == pytest.approx({"found": 1 / 3, "empty": 0.0})
    assert (got.loc["empty"] == 0.0).all() and got["MAP"].mean() == pytest.approx(1 / 6)


def test_a_run_without_any_hit_scores_zero():
    judgements = make_judgements({"a": {"p": 3}, "b": {"p": 3}})
    assert (evaluate(make_hits([[], []]), ["a", "b"], judgements) == 0.0).all(axis=None)


def test_a_query_without_relevant_products_scores_zero():
    judgements = make_judgements({"none": {"p0": 1, "p1": 0}, "some": {"p0": 2}})
    got = evaluate(ranked_hits(["p0"], ["p0"]), ["none", "some"], judgements)
    assert got.loc["none", ["R@1", "P@10", "MRR", "MAP"]].eq(0).all()
    assert got.loc["none", ["nDCG@10", "Judged@10"]].eq(1).all(), "grade 1 has a gain, and the hit is judged"


def test_esci_gains_are_not_swapped():
    """Exact 1, Substitute 0.1, Complement 0.01, Irrelevant 0: swapping S and C, as public code did, is a different
    figure."""
    assert {grade: gain / 100 for grade, gain in GAINS["esci"].items()} == {3: 1.0, 2: 0.1, 1: 0.01, 0: 0.0}
    judgements = make_judgements({"q": {"E": 3, "S": 2, "C": 1, "I": 0}})
    ideal = 1 + 0.1 / log2(3) + 0.01 / log2(4)
    for first, gain in {"E": 1, "S": 0.1, "C": 0.01, "I": 0}.items():
        got = evaluate(ranked_hits([first]), ["q"], judgements, metrics=["nDCG@10", "MRR"], gains="esci").loc["q"]
        assert got["nDCG@10"] == pytest.approx(gain / ideal, abs=1e-12)
        assert got["MRR"] == float(first in "ES"), "relevant is grade 2 and more, whatever the gains"


def test_ties_go_to_the_smaller_id_and_a_repeated_product_counts_once_at_its_best_rank():
    hits = make_hits([[("b", 1.0), ("a", 1.0), ("c", 2.0), ("b", 3.0)], [("z", 1.0)]])
    assert rankings(hits) == [["b", "c", "a"], ["z"]]
    judgements = make_judgements({"q": {"b": 3}, "r": {"z": 3}})
    assert evaluate(hits, ["q", "r"], judgements, metrics=["R@10", "MAP", "P@10"]).loc["q"].tolist() == [1.0, 1.0, 0.1]


def test_padding_in_the_middle_and_hits_of_minus_infinity_are_no_hits():
    ids = np.array([[None, "a", "b", "c"]], dtype=object)
    assert rankings(Hits(ids, np.array([[-np.inf, 1.0, -np.inf, 2.0]], dtype=np.float32))) == [["c", "a"]]


def test_judged_only_condenses_the_ranking_but_judged_at_k_describes_the_full_one():
    judgements = make_judgements({"q": {"a": 3, "b": 0}})
    hits = ranked_hits(["x", "y", "a", "b"])
    plain = evaluate(hits, ["q"], judgements, metrics=["MRR", "Judged@2", "Judged@10"]).loc["q"]
    condensed = evaluate(hits, ["q"], judgements, metrics=["MRR", "Judged@2", "Judged@10"], judged_only=True).loc["q"]
    assert plain.tolist() == pytest.approx([1 / 3, 0.0, 0.5])
    assert condensed.tolist() == pytest.approx([1.0, 0.0, 0.5])


def test_other_queries_judgements_are_ignored_and_the_default_metrics_are_all_there():
    judgements = make_judgements({"q": {"a": 3}, "other": {"a": 0}})
    got = evaluate(ranked_hits(["a"]), ["q"], judgements)
    assert tuple(got.columns) == METRICS and got.shape == (1, len(METRICS))


def test_queries_of_one_split_only():
    queries = pd.DataFrame({"query_id": ["q", "r"], "split": ["test", "test"]})
    judgements, hits = make_judgements({"q": {"a": 3}, "r": {"a": 3}}), ranked_hits(["a"], ["b"])
    assert check_one_split(queries) == "test"
    assert evaluate(hits, queries, judgements, metrics=["MRR"])["MRR"].to_dict() == {"q": 1.0, "r": 0.0}
    for splits in (["test", "val"], ["test", None], [None, None]):
        mixed = queries.assign(split=splits)
        with pytest.raises(CourseError, match="exactly one split"):
            evaluate(hits, mixed, judgements)
    with pytest.raises(CourseError, match="split"):
        check_one_split(queries.drop(columns="split"))
    with pytest.raises(CourseError, match="exactly one split"):
        check_one_split(queries[:0])


GOOD = make_judgements({"q": {"a": 3, "b": 0}})


@pytest.mark.parametrize(
    ("judgements", "words"),
    [
        (GOOD.drop(columns="grade"), "column grade is missing"),
        (GOOD.assign(grade=[3, 4]), "0, 1, 2 or 3"),
        (GOOD.assign(grade=[3, -1]), "0, 1, 2 or 3"),
        (GOOD.assign(grade=[3, 1.5]), "0, 1, 2 or 3"),
        (GOOD.assign(grade=[3, None]), "0, 1, 2 or 3"),
        (GOOD.assign(grade=["E", "I"]), "not numeric"),
        (pd.concat([GOOD, GOOD[:1].assign(grade=1)]), "more than once"),
        (GOOD.assign(query_id="other"), "have no row"),
        (GOOD.assign(product_id=[1, 2]), "product_id: ids must be texts"),
        (GOOD.assign(product_id=["a", None]), "product_id: ids must be texts"),
        (GOOD[:0], "have no row"),
    ],
)
def test_bad_judgements_are_refused(judgements, words):
    with pytest.raises(CourseError, match=words):
        evaluate(ranked_hits(["a"]), ["q"], judgements)


@pytest.mark.parametrize(
    ("hits", "query_ids", "options", "words"),
    [
        (ranked_hits(["a"], ["a"]), ["q", "q"], {}, "more than once"),
        (ranked_hits(["a"]), ["q", "r"], {}, "1 rows for 2 query ids"),
        (make_hits([], k=1), [], {}, "no query"),
        (ranked_hits(["a"]), [7], {}, "query_ids: ids must be texts"),
        (make_hits([[("a", 1.0), ("b", np.nan)]]), ["q"], {}, "row 0 has a score that is not a number"),
        (make_hits([[(1, 1.0)]]), ["q"], {}, "product ids: ids must be texts"),
        (ranked_hits(["a"]), ["q"], {"gains": "exponential"}, "'exponential' is unknown"),
        *(
            (ranked_hits(["a"]), ["q"], {"metrics": [name]}, "is unknown")
            for name in ("nDCG", "R@0", "RR", "MRR@10", "P@-1", "ndcg@10")
        ),
    ],
)
def test_bad_hits_and_options_are_refused(hits, query_ids, options, words):
    with pytest.raises(CourseError, match=words):
        evaluate(hits, query_ids, GOOD, **options)


@pytest.mark.slow
def test_22000_queries_cost_no_more_than_bare_ir_measures():
    for row in benchmark.main(rounds=3):
        assert row["difference"] < 1e-9
        assert row["ratio"] >= 1 / 1.3, f"{row['name']}: {row['ratio']} times the queries a second of ir_measures"
