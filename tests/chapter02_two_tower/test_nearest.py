"""The shortlist in half precision finds what a full sort in float32 finds, also where its bound proves nothing."""

from __future__ import annotations

import numpy as np
import pytest

from chapter02_two_tower import nearest as module
from chapter02_two_tower.nearest import nearest


def naive(queries, products, top):
    scores = queries.astype(np.float64) @ products.T.astype(np.float64)
    found = np.array([np.lexsort((np.arange(len(products)), -row))[:top] for row in scores])
    return found, np.take_along_axis(scores, found, 1)


def unit(rng, rows, size):
    vectors = rng.standard_normal((rows, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def shortlists(monkeypatch):
    """Shortlists on every machine; counts the queries that had to be searched again."""
    monkeypatch.setattr(module, "native_bfloat16", lambda: "in this test")
    again = []

    def counted(queries, products, top):
        again.append(len(queries))
        return in_float32(queries, products, top)

    in_float32 = module.in_float32
    monkeypatch.setattr(module, "in_float32", counted)
    return again


@pytest.mark.parametrize(("spread", "unproved"), [(0.02, 40), (0.3, 1), (3.0, 0)])
def test_a_shortlist_loses_nothing(shortlists, spread, unproved):
    """At the smallest spread the best products are nearer to each other than bfloat16 can tell."""
    rng = np.random.default_rng(0)
    queries = unit(rng, 40, 48)
    products = unit(rng, 1, 48) + spread * unit(rng, 3000, 48)
    found, scores = nearest(queries, products, 10)
    expected, exact = naive(queries, products, 10)
    np.testing.assert_allclose(scores, exact, atol=2e-6)
    own = np.einsum("qd,qtd->qt", queries, products[found])
    np.testing.assert_allclose(own, scores, atol=2e-6)
    differing = found != expected  # allowed only where rounding cannot tell two products apart
    assert np.abs(own - exact)[differing].max(initial=0) < 2e-6 and differing.mean() < 0.02
    assert sum(shortlists) == pytest.approx(unproved, abs=3 * (unproved == 1))


def test_ties_rank_by_row_in_a_shortlist_and_across_its_end(shortlists):
    """Small whole numbers: every score is exact in bfloat16 too, and many are equal."""
    rng = np.random.default_rng(1)
    queries = rng.integers(-2, 3, (30, 6)).astype(np.float32)
    products = rng.integers(-2, 3, (900, 6)).astype(np.float32)
    found, scores = nearest(queries, products, 15)
    expected, exact = naive(queries, products, 15)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(scores, exact)
    assert sum(shortlists) > 0, "no list ended in a tie"


def test_equal_products_within_a_shortlist_rank_by_row(shortlists):
    rng = np.random.default_rng(2)
    queries, products = unit(rng, 20, 32), unit(rng, 400, 32)
    products = np.concatenate([products, products])[rng.permutation(800)]
    found, scores = nearest(queries, products, 20)
    expected, _ = naive(queries, products, 20)
    np.testing.assert_array_equal(found, expected)
    assert (scores[:, ::2] == scores[:, 1::2]).all()


def test_the_ceiling_is_above_every_product_off_the_list():
    rng = np.random.default_rng(3)
    queries, products = unit(rng, 50, 24), unit(rng, 2000, 24) * rng.uniform(0.2, 5, (2000, 1)).astype(np.float32)
    import torch

    search = module._Shortlist(products, 30)
    exact = torch.from_numpy(queries)
    rough, columns = (exact.bfloat16() @ search.rounded.T).topk(30, dim=1)
    ceiling = search._ceiling(exact, exact.bfloat16(), rough[:, -1].float()).numpy()
    scores = queries @ products.T
    np.put_along_axis(scores, columns.numpy(), -np.inf, axis=1)
    assert (scores.max(axis=1) <= ceiling).all()
    assert (ceiling - scores.max(axis=1)).mean() < 0.1, "the bound is so loose that it says nothing"


@pytest.mark.parametrize("native", [None, "amx_bf16"])
def test_small_catalogues_and_plain_machines_go_without(monkeypatch, native):
    monkeypatch.setattr(module, "native_bfloat16", lambda: native)
    monkeypatch.setattr(module, "_Shortlist", None)  # to call it would raise
    rng = np.random.default_rng(4)
    queries, products = unit(rng, 5, 16), unit(rng, 79 if native else 500, 16)
    np.testing.assert_array_equal(nearest(queries, products, 10)[0], naive(queries, products, 10)[0])
