"""Embedding statistics against plain loops, and at their limits."""

from __future__ import annotations

from itertools import combinations
from math import exp, log

import numpy as np
import pytest

from common.embedding_statistics import embedding_statistics
from common.errors import CourseError


def unit(rows, dimension=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_they_are_what_their_definitions_say():
    queries, positives, products = unit(5, seed=1), unit(5, seed=2), unit(20)
    pairs = list(combinations(products.astype(float), 2))
    found = embedding_statistics(queries, positives, products)
    assert found["mean_cosine"] == pytest.approx(sum(x @ y for x, y in pairs) / len(pairs), abs=1e-5)
    assert found["uniformity"] == pytest.approx(
        log(sum(exp(-2 * ((x - y) ** 2).sum()) for x, y in pairs) / len(pairs)), abs=1e-5
    )
    assert found["alignment"] == pytest.approx(
        sum(((q - p) ** 2).sum() for q, p in zip(queries, positives, strict=True)) / 5, abs=1e-5
    )


def test_a_collapsed_space_and_perfect_pairs_show():
    point = np.repeat(unit(1), 30, axis=0)
    found = embedding_statistics(point[:3], point[:3], point)
    assert found["mean_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["uniformity"] == pytest.approx(0, abs=1e-5) and found["alignment"] == 0
    spread = embedding_statistics(point[:3], point[:3], unit(30))
    assert spread["uniformity"] < -1 and abs(spread["mean_cosine"]) < 0.2


def test_a_sample_stands_for_the_whole():
    products = unit(3_000)
    whole = embedding_statistics(products[:9], products[:9], products, sample=3_000)
    assert embedding_statistics(products[:9], products[:9], products, sample=800)["uniformity"] == pytest.approx(
        whole["uniformity"], abs=0.02
    )


@pytest.mark.parametrize("queries, positives, products", [(0, 0, 5), (2, 2, 1), (2, 3, 5)])
def test_too_little_to_describe_is_an_error(queries, positives, products):
    with pytest.raises(CourseError, match="needs two products"):
        embedding_statistics(unit(queries), unit(positives), unit(products))
