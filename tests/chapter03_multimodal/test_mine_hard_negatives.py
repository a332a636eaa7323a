"""Visual neighbours against a search by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter03_multimodal.mine_hard_negatives import SAME, visual_neighbours
from common.errors import CourseError


def shop(rows, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = pd.DataFrame({column: rng.integers(0, rows, rows).astype(str) for column in SAME})
    return vectors.astype(np.float32), pairs


def naive(vectors, pairs, keep, top):
    pools = []
    for row in range(len(pairs)):
        nearest = sorted(range(len(pairs)), key=lambda other: -float(vectors[row] @ vectors[other]))[:top]
        others = [other for other in nearest if not any(pairs[c][other] == pairs[c][row] for c in SAME)]
        pools.append((others + [-1] * keep)[:keep])
    return pools


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 15), st.integers(1, 6), st.integers(1, 20), st.integers(0, 1000))
def test_they_are_the_nearest_of_another_group_file_and_text(rows, keep, top, seed):
    vectors, pairs = shop(rows, seed)
    pools, mined = visual_neighbours(vectors, pairs, keep=keep, top=top)
    assert pools.dtype == np.int64 and pools.tolist() == naive(vectors, pairs, keep, top)
    assert len(mined.scores["kept"]) == (pools >= 0).sum()


@pytest.mark.parametrize("column", SAME)
def test_each_of_the_three_makes_a_pair_the_same(column):
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8]], dtype=np.float32)
    pairs = pd.DataFrame({name: list("abc") for name in SAME})
    assert visual_neighbours(vectors, pairs, keep=1)[0].ravel().tolist() == [1, 0, 0]
    pairs.loc[1, column] = "a"
    assert visual_neighbours(vectors, pairs, keep=1)[0].ravel().tolist() == [2, 2, 0]


def test_vectors_that_are_not_finite_are_refused():
    vectors, pairs = shop(4, 0)
    with pytest.raises(CourseError, match="not finite"):
        visual_neighbours(vectors * np.nan, pairs)
