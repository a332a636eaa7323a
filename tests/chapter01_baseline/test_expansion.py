"""Query expansion: both feedbacks against their formulas, and "no feedback" as a limit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from chapter01_baseline.expansion import RM3Searcher, RocchioSearcher, choose_feedback
from chapter01_baseline.keyword import KeywordSearcher
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex, DenseSearcher

TEXTS = {
    "p1": "red sofa couch velvet",
    "p2": "sofa couch three seats",
    "p3": "couch leather brown",
    "p4": "floor lamp brass",
    "p5": "desk lamp led",
    "p6": "settee velvet couch",
    "p7": "oak table",
    "p8": "",
}
IDS = list(TEXTS)


class FakeEncoder:
    """A fixed random vector for every text."""

    encoder_id = "fake"

    def encode(self, texts, *, desc=None):
        rows = [np.random.default_rng([ord(c) for c in text] or [0]).normal(size=8) for text in texts]
        vectors = np.array(rows, dtype=np.float32).reshape(len(texts), 8)
        return Embeddings(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), self.encoder_id)


@pytest.fixture
def dense():
    encoder = FakeEncoder()
    embeddings = encoder.encode([f"product {i}" for i in range(40)])
    ids = [f"p{i:02d}" for i in range(40)]
    return DenseSearcher(encoder, DenseIndex.build(embeddings, ids, "flat")), embeddings, ids


def test_rocchio_is_its_formula(dense):
    searcher, embeddings, ids = dense
    hits = RocchioSearcher(searcher, embeddings, ids, beta=0.5, n_feedback=3).search(["red lamp", "sofa"], 10)
    for row, query in enumerate(["red lamp", "sofa"]):
        vector = searcher.encoder.encode([query]).vectors[0]
        order = np.argsort(-(embeddings.vectors @ vector))
        moved = vector + 0.5 * embeddings.vectors[order[:3]].mean(0)
        scores = embeddings.vectors @ (moved / np.linalg.norm(moved))
        expected = np.argsort(-scores)[:10]
        assert hits.ids[row].tolist() == [ids[i] for i in expected]
        np.testing.assert_allclose(hits.scores[row], scores[expected], atol=1e-5)


def test_rocchio_without_feedback_is_the_dense_searcher(dense):
    searcher, embeddings, ids = dense
    queries = ["red lamp", "", "sofa"]
    plain, moved = searcher.search(queries, 7), RocchioSearcher(searcher, embeddings, ids, beta=0).search(queries, 7)
    assert (plain.ids == moved.ids).all()
    np.testing.assert_allclose(plain.scores, moved.scores, atol=1e-6)


def test_rocchio_takes_no_feedback_from_products_that_are_filtered_out(dense):
    searcher, embeddings, ids = dense
    rocchio = RocchioSearcher(searcher, embeddings, ids, beta=2.0, n_feedback=2)
    allowed, exclude = set(ids[:20]), [{"p03", "p04"}]
    left = [i for i in ids[:20] if i not in exclude[0]]
    kept = Embeddings(embeddings.vectors[[ids.index(i) for i in left]], "fake")
    small = DenseSearcher(searcher.encoder, DenseIndex.build(kept, left, "flat"))
    hits = rocchio.search(["lamp"], 30, allowed=allowed, exclude=exclude)
    expected = RocchioSearcher(small, kept, left, beta=2.0, n_feedback=2).search(["lamp"], 30)
    assert (hits.ids == expected.ids).all()
    assert rocchio.search(["lamp"], 3, allowed=[]).row(0) == []


def test_rocchio_refuses_vectors_of_another_encoder(dense):
    searcher, embeddings, ids = dense
    with pytest.raises(CourseError, match="encoder"):
        RocchioSearcher(searcher, Embeddings(embeddings.vectors, "other"), ids)
    with pytest.raises(CourseError, match="39 product ids"):
        RocchioSearcher(searcher, embeddings, ids[1:])


@pytest.fixture
def keyword():
    return KeywordSearcher(IDS, list(TEXTS.values()))


def test_relevance_model_is_its_formula(keyword):
    rm3 = RM3Searcher(keyword, TEXTS, n_terms=100, common_share=1.0)
    model = rm3.relevance_model([("p1", 3.0), ("p3", 1.0)])
    expected = Counter()
    for product_id, share in (("p1", 0.75), ("p3", 0.25)):
        tokens = TEXTS[product_id].split()
        for token in tokens:
            expected[token] += share / len(tokens)
    assert model == pytest.approx(dict(expected))
    assert sum(model.values()) == pytest.approx(1)
    assert list(RM3Searcher(keyword, TEXTS, n_terms=2, common_share=1.0).relevance_model([("p1", 1.0)])) == [
        "couch",
        "red",
    ]
    assert "couch" not in RM3Searcher(keyword, TEXTS, common_share=0.3).relevance_model([("p1", 1.0)])


def test_rm3_finds_what_the_query_words_miss(keyword):
    assert "p6" not in keyword.search(["sofa"], 8).ids[0]
    hits = RM3Searcher(keyword, TEXTS, weight=0.5, n_feedback=2, common_share=1.0).search(["sofa"], 8)
    assert set(hits.ids[0][:2]) == {"p1", "p2"} and "p6" in hits.ids[0]


def test_rm3_scores_are_the_weighted_sum_of_one_word_searches(keyword):
    rm3 = RM3Searcher(keyword, TEXTS, weight=0.4, n_feedback=3, common_share=1.0)
    weights = rm3.expand("sofa lamp", keyword.search(["sofa lamp"], 3).row(0))
    assert sum(weights.values()) == pytest.approx(1)
    totals = Counter()
    for token, weight in weights.items():
        for product_id, score in keyword.search([token], 8).row(0):
            totals[product_id] += weight * score
    assert dict(rm3.search(["sofa lamp"], 8).row(0)) == pytest.approx(dict(totals), abs=1e-5)


def test_rm3_without_feedback_ranks_like_bm25(keyword):
    queries = ["sofa lamp", "", "unknown", "velvet couch couch"]
    hits = RM3Searcher(keyword, TEXTS, weight=0.0).search(queries, 8)
    assert (hits.ids == keyword.search(queries, 8).ids).all()
    with pytest.raises(CourseError, match="weight"):
        RM3Searcher(keyword, TEXTS, weight=2)


def test_rm3_obeys_filters(keyword):
    rm3 = RM3Searcher(keyword, TEXTS, weight=0.5, common_share=1.0)
    hits = rm3.search(["sofa", "couch"], 8, allowed={"p2", "p3", "p6"}, exclude=[{"p3"}, {"p2"}])
    assert set(hits.ids[0]) <= {"p2", "p6", None} and set(hits.ids[1]) == {"p3", "p6", None}


def test_choose_feedback_takes_the_best_and_prefers_none(keyword):
    judgements = pd.DataFrame({"query_id": ["q"] * 3, "product_id": ["p1", "p2", "p6"], "grade": 3})

    def build(**settings):
        return RM3Searcher(keyword, TEXTS, n_feedback=2, common_share=1.0, **settings)

    grid = [{"weight": 0.0}, {"weight": 0.5}, {"weight": 0.6}]
    best, table = choose_feedback(build, grid, ["sofa"], ["q"], judgements, depth=8)
    assert best["weight"] in (0.5, 0.6) and list(table.columns) == ["weight", "nDCG@10"] and len(table) == 3
    judgements = judgements[judgements["product_id"] == "p1"]
    same, _ = choose_feedback(build, [{"weight": 0.0}, {"weight": 0.1}], ["red"], ["q"], judgements, depth=8)
    assert same == {"weight": 0.0}
    with pytest.raises(CourseError, match="grid is empty"):
        choose_feedback(build, [], ["sofa"], ["q"], judgements, depth=8)
