"""Mining against its naive twin (loops and a full sort), and against sentence-transformers on the same vectors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter02_two_tower import mining
from chapter02_two_tower.mining import RULES, best_products, mine
from common.errors import CourseError


def naive(
    queries,
    products,
    product_ids,
    query_ids,
    relevant,
    positives,
    *,
    top,
    keep,
    absolute_margin,
    relative_margin,
    margin_from,
):
    """Apply each rule to one query and one candidate at a time."""
    rows, skipped = [], dict.fromkeys(RULES, 0)
    for query, query_id in zip(queries, query_ids, strict=True):
        scores = [np.float32(sum(a * b for a, b in zip(query, product, strict=True))) for product in products]
        ranked = sorted(range(len(products)), key=lambda at, scores=scores: (-scores[at], at))[:top]
        goals = [scores[product_ids.index(p)] for p in positives[query_id] if p in product_ids]
        goal = (min if margin_from == "lowest" else max)(goals, default=None)
        left = []
        for place, at in enumerate(ranked):
            if product_ids[at] in {*relevant.get(query_id, ()), *positives[query_id]}:
                skipped["relevant"] += 1
            elif absolute_margin is not None and scores[at] + np.float32(absolute_margin) > goal:
                skipped["absolute_margin"] += 1
            elif relative_margin is not None and scores[at] > goal - abs(goal) * np.float32(relative_margin):
                skipped["relative_margin"] += 1
            else:
                left.append((place, at))
        skipped["beyond_keep"] += len(left[keep:])
        rows += [(query_id, product_ids[at], float(scores[at]), place + 1) for place, at in left[:keep]]
    return rows, skipped


# Vectors of small whole numbers: their products are exact, so equal scores are equal in both ways of counting, and
# there are many of them.
NUMBERS = st.integers(-2, 2)


@st.composite
def cases(draw):
    n_queries, n_products, size = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    queries, products = draw(_matrix(n_queries, size)), draw(_matrix(n_products, size))
    product_ids, query_ids = [f"p{at}" for at in range(n_products)], [f"q{at}" for at in range(n_queries)]
    some = st.lists(st.sampled_from([*product_ids, "elsewhere"]), max_size=5)
    certain = st.sampled_from(product_ids)
    margin = st.sampled_from([None, 0.0, 0.25, 0.5])
    return {
        "queries": queries,
        "products": products,
        "product_ids": product_ids,
        "query_ids": query_ids,
        "relevant": {query: draw(some) for query in query_ids if draw(st.booleans())},
        "positives": {query: [draw(certain), *draw(some)] for query in query_ids},
        "top": draw(st.integers(1, 14)),
        "keep": draw(st.integers(1, 6)),
        "absolute_margin": draw(margin),
        "relative_margin": draw(margin),
        "margin_from": draw(st.sampled_from(["lowest", "highest"])),
    }


def _matrix(rows, columns):
    row = st.lists(NUMBERS, min_size=columns, max_size=columns)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda m: np.array(m, dtype=np.float32))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_mining_is_its_naive_twin(case):
    mined = mine(**case)
    rows, skipped = naive(**case)
    assert list(mined.negatives.itertuples(index=False, name=None)) == rows
    assert dict(zip(mined.skipped["rule"], mined.skipped["count"], strict=True)) == skipped
    looked_at = len(case["query_ids"]) * min(case["top"], len(case["product_ids"]))
    assert len(rows) + sum(skipped.values()) == looked_at
    assert len(mined.scores["kept"]) == len(rows)
    assert all(len(mined.scores[rule]) == count for rule, count in skipped.items())


@settings(max_examples=60, deadline=None)
@given(cases())
def test_what_is_relevant_never_comes_out(case):
    mined = mine(**case)
    for row in mined.negatives.itertuples():
        assert row.product_id not in {*case["relevant"].get(row.query_id, ()), *case["positives"][row.query_id]}
    assert mined.negatives.groupby("query_id").size().le(case["keep"]).all()


def some_vectors(n_queries=60, n_products=400, size=16, seed=0):
    """Queries near their positives: unit vectors, one to three positives a query."""
    rng = np.random.default_rng(seed)
    products = rng.standard_normal((n_products, size)).astype(np.float32)
    products /= np.linalg.norm(products, axis=1, keepdims=True)
    positives, queries = {}, []
    for at in range(n_queries):
        chosen = rng.choice(n_products, rng.integers(1, 4), replace=False)
        positives[f"q{at}"] = [f"p{one}" for one in chosen]
        queries.append(products[chosen].mean(axis=0) + 0.1 * rng.standard_normal(size))
    queries = np.array(queries, dtype=np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries, products, [f"p{at}" for at in range(n_products)], [*positives], positives


def test_blocks_of_queries_change_nothing(monkeypatch):
    queries, products, product_ids, query_ids, positives = some_vectors()
    whole = mine(queries, products, product_ids, query_ids, {}, positives)
    monkeypatch.setattr(mining, "SCORES_AT_ONCE", 7 * len(products))
    parts = mine(queries, products, product_ids, query_ids, {}, positives)
    pd.testing.assert_frame_equal(whole.negatives, parts.negatives)
    assert len(whole.negatives) > 100


@pytest.mark.parametrize("margins", [{}, {"relative_margin": 0.3}, {"absolute_margin": 0.2}], ids=str)
def test_the_negatives_are_those_of_sentence_transformers(margins):
    import torch
    from datasets import Dataset
    from sentence_transformers import util

    queries, products, product_ids, query_ids, positives = some_vectors()
    vectors = dict(zip([*query_ids, *product_ids], [*queries, *products], strict=True))

    class FixedModel:
        device = torch.device("cpu")
        similarity, similarity_pairwise = staticmethod(util.cos_sim), staticmethod(util.pairwise_cos_sim)

        def encode_query(self, texts, **_):
            return np.stack([vectors[text] for text in texts])

        encode_document = encode_query

    pairs = [(query, product) for query in query_ids for product in positives[query]]
    theirs = util.mine_hard_negatives(
        Dataset.from_dict({"query": [q for q, _ in pairs], "product": [p for _, p in pairs]}),
        FixedModel(),
        corpus=product_ids,
        range_max=50 - max(map(len, positives.values())),
        num_negatives=10,
        sampling_strategy="top",
        output_format="labeled-pair",
        verbose=False,
        **margins,
    )
    expected = {(row["query"], row["product"]) for row in theirs if row["label"] == 0}
    settings_ = {"absolute_margin": None, "relative_margin": None, "margin_from": "lowest"} | margins
    mined = mine(queries, products, product_ids, query_ids, {}, positives, top=50, keep=10, **settings_)
    assert set(zip(mined.negatives["query_id"], mined.negatives["product_id"], strict=True)) == expected
    assert len(expected) == len(mined.negatives) > 100


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_the_best_products_are_those_of_a_full_sort_with_ties_by_row(monkeypatch, at_once):
    """Small whole numbers: every score is exact, and many are equal, across the end of the list too."""
    monkeypatch.setattr(mining, "SCORES_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    queries, products = (rng.integers(-2, 3, (rows, 6)).astype(np.float32) for rows in (30, 900))
    found, best = best_products(queries, products, 15)
    scores = queries @ products.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :15]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(best, np.take_along_axis(scores, expected, 1))
    last = best[:, -1:]
    assert ((scores == last).sum(1) > (best == last).sum(1)).any(), "no list ended in a tie"


def test_bad_input_is_named():
    queries, products, product_ids, query_ids, positives = some_vectors(5, 20)
    good = [queries, products, product_ids, query_ids, {}, positives]
    broken = queries.copy()
    broken[2, 1] = np.nan
    for place, value, message in (
        (0, broken, "query vector is not finite"),
        (0, queries[:3], "5 query ids for vectors"),
        (1, products[:, :4], "16 dimensions, products 4"),
        (2, ["p0"] * 20, "19 product ids are repeated"),
        (5, positives | {"q3": ["elsewhere"]}, "1 queries have no positive.*'q3'"),
    ):
        with pytest.raises(CourseError, match=message):
            mine(*good[:place], value, *good[place + 1 :])
    for wrong in ({"keep": 0}, {"top": 0}, {"margin_from": "mean"}):
        with pytest.raises(CourseError, match=next(iter(wrong))):
            mine(*good, **wrong)
    without = mine(*good[:5], {}, relative_margin=None)
    assert len(without.negatives) == 5 * 15, "without a margin no positive is needed"
