"""The lesson on holes, on lists so short that the right answer can be seen."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapter01_baseline.pooling import _places, compare_judgements, kendall_tau, leave_one_out, pool
from common.errors import CourseError
from common.evaluation import evaluate
from common.search import Hits, hits_from_rows

QUERIES = [f"q{i}" for i in range(4)]
GOOD = [f"good{i}" for i in range(10)]
TRUTH = pd.DataFrame(
    [(query, product, 3) for query in QUERIES for product in GOOD], columns=["query_id", "product_id", "grade"]
)
LISTS = {
    # Two systems of one kind find the same four good products; the newcomer finds all ten, those four last.
    "keyword": [*GOOD[:4], *(f"junk{i}" for i in range(6))],
    "keyword with typos": ["junk0", *GOOD[1:4], *(f"junk{i}" for i in range(1, 7))],
    "newcomer": [*GOOD[4:], *GOOD[:4]],
}


def same_list_for_every_query(products: list[str]) -> Hits:
    return hits_from_rows([(products, -np.arange(len(products)))] * len(QUERIES), 10)


RUNS = {system: same_list_for_every_query(products) for system, products in LISTS.items()}
POOL_MAKERS = {system: RUNS[system] for system in ("keyword", "keyword with typos")}


def test_pooled_judgements_put_the_best_system_last_when_it_did_not_make_the_pool():
    table = compare_judgements(RUNS, QUERIES, TRUTH, pool(POOL_MAKERS, QUERIES, TRUTH)).set_index("system")
    assert table.index[0] == "newcomer" and table.loc["newcomer", "truth"] == pytest.approx(1.0)
    assert table["rank_truth"].tolist() == [1, 2, 3]
    assert table.loc["newcomer", "rank_pooled"] == 3
    assert table.loc["newcomer", "rank_judged_only"] == 1, "on what was judged its order is perfect"
    assert table["Judged@10"].to_dict() == pytest.approx({"newcomer": 0.4, "keyword": 1.0, "keyword with typos": 1.0})
    assert kendall_tau(table["truth"], table["pooled"]) == pytest.approx(-1 / 3)
    assert kendall_tau(table["truth"], table["truth"]) == 1.0


def test_left_out_of_the_pool_a_system_loses_and_only_then():
    table = leave_one_out(RUNS, QUERIES, TRUTH).set_index("system")
    assert table.loc["newcomer", ["rank_truth", "rank_in_pool", "rank_left_out"]].tolist() == [1, 1, 3]
    assert table.loc["newcomer", "left_out"] < 0.5 < table.loc["newcomer", "in_pool"] == pytest.approx(1.0)
    assert table.loc["newcomer", "left_out_judged_only"] == pytest.approx(1.0)
    # The twin contributes what the left-out system would have: nothing is lost but one junk product, which is worth
    # nothing.
    twin = table.loc["keyword with typos"]
    assert twin["left_out"] == pytest.approx(twin["in_pool"]) and twin["Judged@10"] == pytest.approx(0.9)


def test_the_pool_is_round_robin_over_ranks_with_true_grades():
    pooled = pool(RUNS, QUERIES, TRUTH, budget=5)
    assert list(pooled.columns) == ["query_id", "product_id", "grade"]
    assert pooled["query_id"].value_counts().to_dict() == dict.fromkeys(QUERIES, 5)
    for _, rows in pooled.groupby("query_id"):
        products = rows["product_id"].tolist()
        assert set(products[:3]) == {"good0", "junk0", "good4"}, "first places"
        assert set(products[3:]) == {"good1", "good5"}, "second places"
        assert rows.set_index("product_id")["grade"].to_dict() == {p: 3 * p.startswith("good") for p in products}


def test_a_round_that_does_not_fit_is_cut_by_chance_not_by_the_order_of_the_systems():
    first = [pool(RUNS, QUERIES, TRUTH, budget=1, seed=seed)["product_id"].tolist() for seed in range(30)]
    counts = pd.Series(np.concatenate(first)).value_counts()
    assert set(counts.index) == {"good0", "junk0", "good4"} and counts.min() > 20
    backwards = dict(reversed(RUNS.items()))
    for seed in range(3):
        pd.testing.assert_frame_equal(
            pool(RUNS, QUERIES, TRUTH, budget=7, seed=seed), pool(backwards, QUERIES, TRUTH, budget=7, seed=seed)
        )


def test_a_system_whose_every_hit_was_judged_is_judged_as_by_the_truth():
    pooled = pool(POOL_MAKERS, QUERIES, TRUTH, budget=1000)
    assert not pooled.duplicated(["query_id", "product_id"]).any()
    for hits in POOL_MAKERS.values():
        by_truth = evaluate(hits, QUERIES, TRUTH, metrics=["P@10", "MRR"])
        by_pool = evaluate(hits, QUERIES, pooled, metrics=["P@10", "MRR"])
        pd.testing.assert_frame_equal(by_truth, by_pool)
        assert evaluate(hits, QUERIES, pooled, metrics=["Judged@10"]).eq(1).all(axis=None)


def test_short_and_empty_lists_pool_what_there_is():
    none = hits_from_rows([([], [])] * len(QUERIES), 3)
    pooled = pool({"none": none, "keyword": RUNS["keyword"]}, QUERIES, TRUTH, budget=50)
    assert pooled.groupby("query_id")["product_id"].apply(list).tolist() == [LISTS["keyword"]] * len(QUERIES)
    assert pool({"none": none}, QUERIES, TRUTH).empty


def test_systems_that_are_equal_share_a_place():
    twice = {"a": RUNS["keyword"], "b": RUNS["keyword"], "c": RUNS["keyword with typos"]}
    table = compare_judgements(twice, QUERIES, TRUTH, pool(twice, QUERIES, TRUTH))
    assert table["rank_truth"].tolist() == [1, 1, 3] and table["rank_pooled"].tolist() == [1, 1, 3]
    assert _places(pd.Series([0.3, 0.2 + 0.1, 0.5])).tolist() == [2, 2, 1], "equal but for the last digit of a sum"


@given(st.permutations(range(6)))
def test_kendall_tau_equals_the_formula_for_inversions(order):
    """Against 0, 1, 2, … each inversion of the other order is one disagreement: 1 - 4 inversions / n (n - 1)."""
    inversions = sum(order[i] > order[j] for i in range(6) for j in range(i + 1, 6))
    assert kendall_tau(range(6), order) == pytest.approx(1 - 4 * inversions / 30)


def test_a_table_of_queries_of_one_split_will_do_and_a_mix_will_not():
    table = pd.DataFrame({"query_id": QUERIES, "split": "test"})
    pooled = pool(RUNS, table, TRUTH)
    pd.testing.assert_frame_equal(pooled, pool(RUNS, QUERIES, TRUTH))
    pd.testing.assert_frame_equal(
        compare_judgements(RUNS, table, TRUTH, pooled), compare_judgements(RUNS, QUERIES, TRUTH, pooled)
    )
    with pytest.raises(CourseError, match="exactly one split"):
        leave_one_out(RUNS, table.assign(split=["test", "test", "val", "val"]), TRUTH)


def test_kendall_tau_limits():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1.0
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall_tau([1, 2], [5, 5]) == 0.0
    for a, b in (([1], [1]), ([1, 2], [1, 2, 3])):
        with pytest.raises(CourseError, match="two lists"):
            kendall_tau(a, b)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pool({}, QUERIES, TRUTH), "no system"),
        (lambda: pool(RUNS, QUERIES[:2], TRUTH), "4 rows of hits for 2 queries"),
        (lambda: pool(RUNS, QUERIES, TRUTH, budget=0), "budget is 0"),
        (lambda: leave_one_out({"one": RUNS["keyword"]}, QUERIES, TRUTH), "two systems"),
        (lambda: compare_judgements(RUNS, QUERIES, TRUTH, TRUTH[:10]), "have no row"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(CourseError, match=words):
        call()
