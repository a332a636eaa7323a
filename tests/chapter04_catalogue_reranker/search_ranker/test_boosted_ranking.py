"""Check training pairs, trees and validation against slow reference code."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapter04_catalogue_reranker.search_ranker.boosted_ranking import (
    Boosting,
    Validation,
    fit,
    grades_of,
    out_of_fold,
    ranks,
    staged_scores,
    training_pairs,
)
from chapter04_catalogue_reranker.search_ranker.query_features import PairTable
from common.errors import CourseError
from common.evaluation import evaluate
from common.search import empty_hits, hits_from_rows

QUERIES = ["q0", "q1", "q2"]
PRODUCTS = ["c", "a", "d", "b"]
PAIRS = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 2)]


def pairs(keys=PAIRS) -> PairTable:
    row, product = (np.array(part, dtype=np.int64) for part in zip(*keys, strict=True))
    return PairTable(row, product, pd.DataFrame({"x": product.astype(np.float32)}), {"x": "g"}, {}, empty_hits(3, 1))


TRUTH = pd.DataFrame(
    [("q0", "c", 3), ("q0", "d", 2), ("q1", "a", 1), ("q1", "b", 3), ("q1", "x", 3), ("other", "a", 3), ("q2", "d", 0)],
    columns=["query_id", "product_id", "grade"],
)


def test_grades_are_those_of_the_pair_and_missing_elsewhere():
    grades = grades_of(pairs(), QUERIES, PRODUCTS, TRUTH)
    known = {(query, product): grade for query, product, grade in TRUTH.itertuples(index=False)}
    expected = [known.get((QUERIES[row], PRODUCTS[product]), np.nan) for row, product in PAIRS]
    np.testing.assert_array_equal(grades, expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.5]), st.integers(0, 5)), max_size=20))
def test_ranks_within_a_query_break_ties_upwards(rows):
    rows = sorted(rows, key=lambda one: one[0])
    row, score, tie = (np.array([one[part] for one in rows]) for part in range(3))
    found = ranks(row, score, tie)
    for query in {*row.tolist()}:
        mine = [at for at in range(len(rows)) if row[at] == query]
        ordered = sorted(mine, key=lambda at: (-score[at], tie[at]))
        assert [(score[at], tie[at]) for at in sorted(mine, key=lambda at: found[at])] == [
            (score[at], tie[at]) for at in ordered
        ]
        assert sorted(found[mine].tolist()) == [*range(1, len(mine) + 1)]


@pytest.mark.parametrize("gains", ["linear", "esci"])
def test_ndcg_is_that_of_the_evaluation(gains):
    rng = np.random.default_rng(0)
    ids = [f"p{at:02d}" for at in rng.permutation(30)]
    keys = [(row, product) for row in range(3) for product in sorted(rng.permutation(30)[:20].tolist())]
    truth = pd.DataFrame(
        [(query, product, int(rng.integers(0, 4))) for query in QUERIES for product in ids if rng.random() < 0.6],
        columns=["query_id", "product_id", "grade"],
    )
    validation = Validation.of(pairs(keys), QUERIES, ids, truth, gains)
    for scores in (rng.random(len(keys)), rng.integers(0, 3, len(keys)).astype(float)):
        listed = [[(ids[p], s) for (r, p), s in zip(keys, scores, strict=True) if r == row] for row in range(3)]
        hits = hits_from_rows([tuple(zip(*one, strict=True)) for one in listed], 20)
        expected = evaluate(hits, QUERIES, truth, metrics=["nDCG@10"], gains=gains)["nDCG@10"]
        np.testing.assert_allclose(validation.ndcg(scores), expected, rtol=1e-6)


def test_the_ideal_order_scores_1_and_what_no_candidate_list_holds_is_missed():
    validation = Validation.of(pairs(), QUERIES, PRODUCTS, TRUTH, "linear")
    perfect = validation.ndcg(validation.gain)
    assert perfect[0] == pytest.approx(3 / (3 + 2 / np.log2(3))), "d is no candidate of q0"
    assert 0 < perfect[1] < 1, "x is in no list"
    assert perfect[2] == 0, "nothing is relevant"
    whole = TRUTH[TRUTH["product_id"] != "x"].query("query_id != 'q0' or product_id != 'd'")
    full = Validation.of(pairs(), QUERIES, PRODUCTS, whole, "linear")
    np.testing.assert_allclose(full.ndcg(full.gain), [1, 1, 0])


def test_training_pairs_are_the_judged_and_some_unjudged_of_low_rank():
    rng = np.random.default_rng(1)
    table = pairs([(row, product) for row in range(3) for product in range(4)])
    grades = np.where(rng.random(12) < 0.4, 3.0, np.nan)
    start = rng.random(12)
    positions, learnt = training_pairs(table, grades, start, share=1.0, below=2, seed=0)
    low = ranks(table.row, start, table.product) > 2
    assert positions.tolist() == [at for at in range(12) if np.isfinite(grades[at]) or low[at]]
    assert learnt.tolist() == [3 if np.isfinite(grades[at]) else 0 for at in positions]
    assert training_pairs(table, grades, start, share=0.0, below=0, seed=0)[0].tolist() == [
        *np.flatnonzero(grades == 3)
    ]
    some = training_pairs(table, grades, start, share=0.5, below=0, seed=0)
    assert len(some[0]) < 12 and all(
        (one == two).all()
        for one, two in zip(some, training_pairs(table, grades, start, share=0.5, below=0, seed=0), strict=True)
    )


def test_without_a_relevant_candidate_there_is_nothing_to_learn():
    with pytest.raises(CourseError, match="judge more"):
        training_pairs(pairs(), np.zeros(len(PAIRS)), np.zeros(len(PAIRS)), share=1, below=0, seed=0)


def learnable(queries: int = 40):
    """Return pairs whose column x decides the grade; the start is random."""
    rng = np.random.default_rng(2)
    row = np.repeat(np.arange(queries), 12)
    x, noise = rng.random(len(row)), rng.random(len(row))
    values = pd.DataFrame({"x": x, "noise": noise}, dtype=np.float32)
    return values, np.digitize(x, [0.4, 0.7, 0.9]), row, rng.random(len(row))


def test_trees_learn_the_column_that_matters_on_any_number_of_threads():
    values, grades, row, start = learnable()
    small = {"trees": 20, "stage": 5, "min_data_in_leaf": 5, "start_weight": 0.5}
    one, two = (fit(values, grades, row, start, Boosting(threads=n, **small)) for n in (1, 2))
    np.testing.assert_array_equal(one.predict(values), two.predict(values))
    x, noise = one.feature_importance("gain")
    assert x > 5 * noise
    scores = staged_scores(one, values, start, Boosting(**small))
    assert scores.shape == (4, len(row))
    np.testing.assert_allclose(scores[-1], 0.5 * start + one.predict(values), rtol=1e-6)
    np.testing.assert_allclose(scores[0], 0.5 * start + one.predict(values, num_iteration=5), rtol=1e-6)
    order = np.arange(len(row))
    validation = Validation(row, order, grades, _ideal(grades, row))
    reached = [validation.ndcg(score).mean() for score in (start, *scores)]
    assert reached[-1] > 0.95 > reached[0]


def _ideal(grades, row):
    every = [np.sort(grades[row == query])[::-1][:10] for query in range(row.max() + 1)]
    return np.array([sum(g / np.log2(at + 2) for at, g in enumerate(best)) for best in every])


def test_a_choice_made_out_of_fold_never_sees_the_query():
    rng = np.random.default_rng(4)
    figures = rng.random((6, 23))
    found = out_of_fold(figures, seed=0)
    folds = np.random.default_rng(0).permutation(23) % 5
    for query in range(23):
        outside = [at for at in range(23) if folds[at] != folds[query]]
        assert found[query] == figures[np.argmax([row[outside].mean() for row in figures]), query]
    np.testing.assert_array_equal(out_of_fold(figures[:, :1], seed=0), figures[0, :1])
    sure = np.vstack([figures[0], figures[0] + 1])
    np.testing.assert_array_equal(out_of_fold(sure, seed=0), figures[0] + 1)
