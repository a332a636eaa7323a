"""Ranks against sorting by hand, hierarchical figures against sets of ancestors, groups against counting, limits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter04_catalogue_reranker.ranking_metrics import (
    by_depth,
    by_frequency,
    hierarchical,
    hierarchical_figures,
    macro_recall_at_1,
    per_product,
    rank_in_lists,
    rank_of_truth,
    ranking_figures,
)
from common.category_path import split_path
from common.errors import CourseError
from common.statistics import compare, summarise

seeds = st.integers(0, 1000)
paths = st.lists(st.sampled_from("ABC"), min_size=1, max_size=5).map(" > ".join)
LONG = " > ".join(f"level {number}" for number in range(1, 13))


# the place of the true path


def lists(rows, columns, seed):
    """Scores of few values, so that many are equal; what is listed; the true column, now and then -1."""
    rng = np.random.default_rng(seed)
    listed, true = rng.random((rows, columns)) < 0.6, rng.integers(0, columns, rows)
    listed[np.arange(rows), true] = True
    return rng.integers(-2, 3, (rows, columns)) / 4, listed, np.where(rng.random(rows) < 0.2, -1, true)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), seeds)
def test_the_rank_is_the_place_in_a_sort_with_wrong_ones_first_among_equals(rows, columns, seed):
    scores, listed, truth = lists(rows, columns, seed)
    ranks = rank_of_truth(scores, listed, truth)
    assert ranks.dtype == np.float64
    for row, true in enumerate(truth):
        order = sorted(np.flatnonzero(listed[row]), key=lambda at, row=row, true=true: (-scores[row, at], at == true))
        assert ranks[row] == (1 + order.index(true) if true >= 0 else np.inf)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_order_of_the_columns_and_the_score_of_padding_do_not_matter(seed):
    scores, listed, truth = lists(5, 7, seed)
    expected, order = rank_of_truth(scores, listed, truth), np.random.default_rng(seed).permutation(7)
    moved = np.where(truth >= 0, np.argsort(order)[np.maximum(truth, 0)], -1)
    assert np.array_equal(rank_of_truth(scores[:, order], listed[:, order], moved), expected)
    for padding in (1e9, np.inf, np.nan):
        assert np.array_equal(rank_of_truth(np.where(listed, scores, padding), listed, truth), expected)


@pytest.mark.parametrize("noise", [0, 1e-9])
def test_a_model_that_scores_all_alike_earns_nothing(noise):
    scores = 0.5 + noise * np.random.default_rng(0).normal(size=(20, 9))
    ranks = rank_of_truth(scores, np.ones((20, 9), bool), np.arange(20) % 9)
    assert (ranks == 9).all() and ranking_figures(ranks)["Acc@5"] == 0


def test_one_candidate_is_first_and_large_scores_have_places_too():
    one = rank_of_truth(np.array([[-3.0, 0], [0, 5]]), np.array([[True, False]] * 2), np.array([0, -1]))
    assert one.tolist() == [1, np.inf]
    assert rank_of_truth(np.array([[1e12, 2e12, 3e12]]), np.ones((1, 3), bool), np.array([1])).tolist() == [2]


def test_figures_are_means_and_a_missing_truth_counts_nothing():
    ranks = np.array([1, 2, 4, 6, np.inf])
    assert ranking_figures(ranks) == pytest.approx(
        {"Acc@1": 0.2, "Acc@3": 0.4, "Acc@5": 0.6, "MRR": (1 + 1 / 2 + 1 / 4 + 1 / 6) / 5}
    )
    assert set(ranking_figures(np.ones(7)).values()) == {1.0}
    assert set(ranking_figures(np.full(7, np.inf)).values()) == {0.0}


def test_figures_of_chance_among_nine():
    rng = np.random.default_rng(0)
    ranks = rank_of_truth(rng.normal(size=(20_000, 9)), np.ones((20_000, 9), bool), rng.integers(0, 9, 20_000))
    expected = {"Acc@1": 1 / 9, "Acc@3": 3 / 9, "Acc@5": 5 / 9, "MRR": np.mean(1 / np.arange(1, 10))}
    assert ranking_figures(ranks) == pytest.approx(expected, abs=0.015)


def test_the_table_is_what_the_statistics_take():
    good, bad = per_product(np.ones(40)), per_product(np.full(40, 2.0))
    board = summarise(good, rounds=20)
    assert board["metric"].tolist() == ["Acc@1", "Acc@3", "Acc@5", "MRR"] and (board["value"] == 1).all()
    found = compare(good, bad, "Acc@1", rounds=200)
    assert found.difference == 1 and found.p < 0.05


def test_ranked_lists_and_scored_lists_agree():
    scores, listed = np.random.default_rng(0).normal(size=(8, 6)), np.ones((8, 6), bool)
    truth = np.array([0, 1, 2, 3, 4, 5, -1, 0])
    ranked = [[f"path {at}" for at in np.argsort(-row)] for row in scores]
    true = [f"path {at}" if at >= 0 else None for at in truth]
    assert np.array_equal(rank_in_lists(ranked, true), rank_of_truth(scores, listed, truth))


def test_a_ranked_list_may_be_short_but_names_no_path_twice():
    padded = np.array([["A", "B", None, None], ["A", None, None, None], [None] * 4], dtype=object)
    assert rank_in_lists(padded, ["B", "B", None]).tolist() == [2, np.inf, np.inf]
    with pytest.raises(CourseError, match="product 1 has the path 'B' twice"):
        rank_in_lists([["A"], ["C", "B", "B", "A"]], ["A", "A"])


YES = np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("scores", "listed", "truth", "message"),
    [
        (np.zeros((2, 3)), YES[:, :2], [0, 0], r"listed \(2, 2\)"),
        (np.zeros((2, 3)), YES, [0], r"truth \(1,\)"),
        (np.zeros((0, 3)), YES[:0], [], "of one product"),
        (np.array([[0, 0, 0], [0, 0, np.nan]]), YES, [0, 0], "not all scores are finite"),
        (np.zeros((2, 3)), YES, [0, 3], "column is not there"),
        (np.zeros((2, 3)), np.array([[True, False, True]] * 2), [0, 1], "marked as padding"),
    ],
)
def test_candidate_lists_that_do_not_fit_are_refused(scores, listed, truth, message):
    with pytest.raises(CourseError, match=message):
        rank_of_truth(scores, listed, np.array(truth, dtype=int))


@pytest.mark.parametrize("ranks", [[], [1, 0], [np.nan], [[1, 2]]])
def test_what_is_no_rank_is_refused(ranks):
    with pytest.raises(CourseError, match="one rank from 1 on"):
        per_product(np.array(ranks, dtype=float))


# how near the first path is


def ancestors(path):
    """The path and all prefixes of it, as a set."""
    parts = path.split(" > ")
    return {tuple(parts[:depth]) for depth in range(1, len(parts) + 1)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(paths, st.lists(paths, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_hierarchical_figures_are_those_of_sets_of_ancestors(products):
    table = hierarchical([said for said, _ in products], [right for _, right in products])
    totals = np.zeros(3)
    for (said, accepted), row in zip(products, table.itertuples(), strict=True):
        found = []
        for right in accepted:
            shared, mine, theirs = len(ancestors(said) & ancestors(right)), len(ancestors(said)), len(ancestors(right))
            precision, recall = shared / mine, shared / theirs
            f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
            found.append((f1, precision, recall, shared, mine, theirs))
        best = max(found, key=lambda each: round(each[0], 9))
        assert (row.F1, row.precision, row.recall) == pytest.approx(best[:3])
        totals += best[3:]
    figures = hierarchical_figures(table)
    precision, recall = totals[0] / totals[1], totals[0] / totals[2]
    assert (figures["precision micro"], figures["recall micro"]) == pytest.approx((precision, recall))
    harmonic = 2 * precision * recall / (precision + recall) if totals[0] else 0.0
    assert figures["F1 micro"] == pytest.approx(harmonic)
    assert figures["F1 macro"] == pytest.approx(table["F1"].mean())


def test_hierarchical_figures_by_hand():
    """One mug taken for a cup, and one for a toy: 2 of 3 levels, and 0 of 1 against 3."""
    mug = "Home > Kitchen > Mugs"
    table = hierarchical(["Home > Kitchen > Cups", "Toys"], [[mug], [mug]])
    assert table["F1"].tolist() == pytest.approx([2 / 3, 0])
    figures = hierarchical_figures(table)
    assert (figures["precision macro"], figures["recall macro"]) == pytest.approx((1 / 3, 1 / 3))
    assert (figures["precision micro"], figures["recall micro"]) == pytest.approx((2 / 4, 2 / 6))
    assert figures["F1 micro"] == pytest.approx(4 / 10)


def test_equal_names_under_other_parents_differ():
    table = hierarchical(["Men > Shoes > Boots", "Shoes"], [["Women > Shoes > Boots"], ["Men > Shoes"]])
    assert (table[["precision", "recall", "F1"]] == 0).all(axis=None)


def test_too_short_a_path_is_precise_and_too_long_a_one_finds_all():
    table = hierarchical(["A > B", "A > B > C > D"], [["A > B > C > D"], ["A > B"]])
    assert table["precision"].tolist() == [1, 0.5] and table["recall"].tolist() == [0.5, 1]


@pytest.mark.parametrize("path", ["A", LONG])
def test_hierarchical_limits(path):
    assert len(split_path(path)) in (1, 12)
    assert set(hierarchical_figures(hierarchical([path] * 3, [[path]] * 3)).values()) == {1.0}
    assert set(hierarchical_figures(hierarchical(["Z"] * 3, [[path]] * 3)).values()) == {0.0}


def test_the_twelfth_level_counts_a_twelfth():
    other = LONG.replace("level 12", "another")
    assert hierarchical([other], [[LONG]])["F1"].tolist() == pytest.approx([11 / 12])


def test_lenient_takes_the_best_of_what_is_listed_and_an_exact_hit_is_one():
    said, listed = "A > B > C", ["Z", "A > B > C > D", "A > B", "A > B > C"]
    assert hierarchical([said], [listed])["F1"].tolist() == [1]
    assert hierarchical([said], [listed[:3]])["F1"].tolist() == pytest.approx([6 / 7])
    assert hierarchical([said], [listed[:1]])["F1"].tolist() == [0]


@pytest.mark.parametrize(("said", "right"), [([], []), (["A"], [[]]), (["A"], ["A"])])
def test_products_without_a_right_path_are_refused(said, right):
    with pytest.raises(CourseError, match="a list of right paths"):
        hierarchical(said, right)


# which paths are found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ABCD")), min_size=1, max_size=20))
def test_macro_recall_is_that_of_counting(products):
    hits, labels = zip(*products, strict=True)
    shares = [np.mean([hit for hit, label in products if label == one]) for one in set(labels)]
    assert macro_recall_at_1(np.array(hits), labels) == pytest.approx(np.mean(shares))


def test_a_frequent_path_is_worth_no_more_than_a_rare_one():
    hits, labels = np.array([1] * 99 + [0]), ["common"] * 99 + ["rare"]
    assert hits.mean() == 0.99 and macro_recall_at_1(hits, labels) == 0.5


def test_by_depth():
    true = ["A", "B", "A > B", "A > B > C > D", LONG]
    table = by_depth(np.array([1, 2, 1, np.inf, 1]), true)
    assert table.index.name == "depth" and table.index.tolist() == ["1", "2", "4+"]
    assert table["n"].tolist() == [2, 1, 2] and table["Acc@1"].tolist() == [0.5, 1, 0.5]
    assert table["MRR"].tolist() == [0.75, 1, 0.5] and table["Acc@3"].tolist() == [1, 1, 0.5]


def test_by_frequency():
    training = ["A"] * 2 + ["B"] * 3 + ["C"] * 9 + ["D"] * 10 + ["E"] * 29 + ["F"] * 30 + ["G"]
    true = ["G", "A", "A", "B", "C", "D", "E", "F", "new", "newer"]
    ranks = np.array([2, 1, 1, 1, 2, 1, 1, 1, np.inf, 1])
    table = by_frequency(ranks, true, training)
    assert table.index.tolist() == ["unseen", "1-2", "3-9", "10-29", "30+"]
    assert table["n"].tolist() == [2, 3, 2, 2, 1] and table["n"].sum() == len(true)
    assert table["Acc@1"].tolist() == pytest.approx([0.5, 2 / 3, 0.5, 1, 1])
    assert table["macro R@1"].tolist() == pytest.approx([0.5, 0.5, 0.5, 1, 1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(paths, st.integers(1, 6)), min_size=1, max_size=12), st.lists(paths, max_size=40))
def test_groups_hold_every_product_once_and_add_up_to_the_whole(products, training):
    true, ranks = [path for path, _ in products], np.array([rank for _, rank in products], dtype=float)
    whole = ranking_figures(ranks)
    for table in (by_depth(ranks, true), by_frequency(ranks, true, training)):
        assert table["n"].sum() == len(products)
        for name, value in whole.items():
            assert np.average(table[name], weights=table["n"]) == pytest.approx(value)
    # A path lies in one group, so the macro recalls add up over paths.
    sizes = pd.Series(true).groupby([min(len(split_path(path)), 4) for path in true]).nunique().to_numpy()
    depths = by_depth(ranks, true)
    assert np.average(depths["macro R@1"], weights=sizes) == pytest.approx(macro_recall_at_1(ranks == 1, true))


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(CourseError, match="2 ranks for 1 true paths"):
        by_depth(np.ones(2), ["A"])
    for true in ([], ["A", None], ["A", np.nan]):
        for figure in (by_depth, macro_recall_at_1, lambda hits, labels: by_frequency(hits, labels, ["A"])):
            with pytest.raises(CourseError, match="each with a true path"):
                figure(np.ones(len(true)), true)
