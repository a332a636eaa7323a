"""Hits, their order, and the checks that all searchers share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CourseError
from common.search import Hits, check_k, check_request, empty_hits, hits_from_rows, hits_from_scores, rank_ids

FEW_SCORES = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 0.5000001, 2.0])  # few values, so that ties are the rule
ROWS = st.lists(
    st.tuples(st.text("abz", min_size=1, max_size=3), FEW_SCORES), max_size=12, unique_by=lambda pair: pair[0]
)


def naive(pairs, k):
    """The contract in one line: score descending, then product id ascending, cut to k."""
    pairs = [(product_id, np.float32(score)) for product_id, score in pairs if score > -np.inf]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]


@settings(deadline=None)
@given(st.lists(ROWS, max_size=3), st.integers(1, 15))
def test_rows_are_in_the_order_of_the_contract(rows, k):
    hits = hits_from_rows([([i for i, _ in row], [s for _, s in row]) for row in rows], k)
    assert hits.ids.shape == (len(rows), k) == hits.scores.shape
    assert hits.scores.dtype == np.float32
    for at, row in enumerate(rows):
        expected = naive(row, k)
        assert hits.row(at) == [(product_id, float(score)) for product_id, score in expected]
        assert all(i is None for i in hits.ids[at, len(expected) :])
        assert (hits.scores[at, len(expected) :] == -np.inf).all()


@settings(deadline=None)
@given(ROWS, st.integers(1, 15), st.randoms())
def test_scores_and_rows_agree_whatever_the_input_order(row, k, random):
    shuffled = random.sample(row, len(row))
    ids, scores = [i for i, _ in shuffled], np.array([[s for _, s in shuffled]], dtype=np.float32).reshape(1, -1)
    dense = hits_from_scores(scores, ids, k)
    sparse = hits_from_rows([([i for i, _ in row], [s for _, s in row])], k)
    assert dense.row(0) == sparse.row(0)
    assert hits_from_scores(scores, ids, k, id_ranks=rank_ids(ids)).row(0) == dense.row(0)


def test_scores_that_are_equal_as_float32_count_as_equal():
    hits = hits_from_rows([(["b", "a"], [1.0 + 1e-12, 1.0])], 2)
    assert hits.ids[0].tolist() == ["a", "b"]


def test_nan_scores_are_refused():
    with pytest.raises(CourseError, match="NaN"):
        hits_from_rows([(["a"], [float("nan")])], 1)
    with pytest.raises(CourseError, match="NaN"):
        hits_from_scores(np.array([[np.nan]]), ["a"], 1)


def test_shapes_must_fit():
    with pytest.raises(CourseError, match="must both be"):
        Hits(np.empty((1, 2), object), np.empty((1, 3), np.float32))
    with pytest.raises(CourseError, match="do not fit"):
        hits_from_scores(np.zeros((1, 3)), ["a"], 1)
    assert len(empty_hits(2, 3)) == 2
    assert empty_hits(2, 3).k == 3
    assert empty_hits(0, 3).ids.shape == (0, 3)


@pytest.mark.parametrize("k", [0, -1, 1.0, "3", None, True, np.True_, np.float32(2)])
def test_k_must_be_a_whole_number(k):
    with pytest.raises(CourseError, match="k must be a whole number"):
        check_k(k)


def test_numpy_whole_numbers_are_whole_numbers():
    assert type(check_k(np.int32(3))) is int


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("one text", 1), "not one text"),
        ((["a", None], 1), "query 1 is NoneType"),
        ((["a"], 1, "p1"), "allowed must be a collection"),
        ((["a"], 1, None, []), "exclude has 0 entries for 1 queries"),
        ((["a"], 1, None, ["p1"]), "each entry of exclude"),
    ],
)
def test_senseless_arguments_are_named(arguments, message):
    with pytest.raises(CourseError, match=message):
        check_request(*arguments)


def test_arguments_come_in_one_form():
    request = check_request(("a", "b"), np.int64(2), ["p", "p"], [("q",), set()])
    assert request == (["a", "b"], 2, frozenset({"p"}), [frozenset({"q"}), frozenset()])
    assert check_request([1.5], 1, texts=False).queries == [1.5]
    assert check_request([], 1, allowed=[]).allowed == frozenset()
