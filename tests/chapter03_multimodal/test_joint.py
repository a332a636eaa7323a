"""Joint vectors: one inner product is the weighted sum of two cosines, and one index two searches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter03_multimodal.joint import JointEncoder, joint_towers, pictures_of_all, side_by_side
from common.embedding_cache import text_key
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex, DenseSearcher

IDS = [f"p{number}" for number in range(9)]
SHOWN = ["p7", "p0", "p3", "p4", "p8", "p1"]


def unit(rows, dimension, seed):
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class FromWords:
    """An encoder whose vector hangs on the words alone."""

    def __init__(self, dimension, encoder_id):
        self.dimension, self.encoder_id = dimension, encoder_id

    def encode(self, texts, *, desc=None):
        seeds = [[self.dimension, *text_key(text)] for text in texts]
        return Embeddings(np.concatenate([unit(1, self.dimension, seed) for seed in seeds]), self.encoder_id)


TOWERS = SimpleNamespace(
    catalogue=SimpleNamespace(products=pd.DataFrame({"product_id": IDS})),
    encoder=FromWords(5, "towers"),
    embeddings=Embeddings(unit(9, 5, 0), "towers"),
)
PICTURES = SimpleNamespace(
    encoder=FromWords(3, "clip"), product_ids=SHOWN, embeddings=Embeddings(unit(6, 3, 1), "clip")
)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.integers(1, 4), st.integers(1, 6), st.integers(0, 1000))
def test_the_inner_product_is_the_weighted_sum_of_both_cosines(share, queries, products, seed):
    asked = unit(queries, 5, seed), unit(queries, 3, seed + 1)
    shown = unit(products, 5, seed + 2), unit(products, 3, seed + 3)
    found = side_by_side(*asked, share) @ side_by_side(*shown, share).T
    for query in range(queries):
        for product in range(products):
            cosines = [float(np.dot(a[query], b[product])) for a, b in zip(asked, shown, strict=True)]
            assert found[query, product] == pytest.approx((1 - share) * cosines[0] + share * cosines[1], abs=1e-5)
    joint = side_by_side(*asked, share)
    assert joint.dtype == np.float32 and joint.shape == (queries, 8)
    np.testing.assert_allclose(np.linalg.norm(joint, axis=1), 1, atol=1e-5)


def test_at_its_limits_one_of_both_is_not_heard():
    texts, pictures = unit(3, 5, 0), unit(3, 3, 1)
    alone = side_by_side(texts, pictures, 0.0)
    assert np.array_equal(alone[:, :5], texts) and not alone[:, 5:].any()
    alone = side_by_side(texts, pictures, 1.0)
    assert np.array_equal(alone[:, 5:], pictures) and not alone[:, :5].any()


def test_a_query_is_asked_of_both_encoders():
    encoder = JointEncoder(TOWERS.encoder, PICTURES.encoder, 0.25)
    texts = ["red rug", "lamp"]
    found = encoder.encode(texts)
    both = (one.encode(texts).vectors for one in (TOWERS.encoder, PICTURES.encoder))
    assert np.array_equal(found.vectors, side_by_side(*both, 0.25))
    assert found.encoder_id == encoder.encoder_id and found.vectors.shape == (2, encoder.dimension)


def test_the_id_names_both_encoders_and_the_share():
    pairs = [
        (TOWERS.encoder, PICTURES.encoder, 0.25),
        (TOWERS.encoder, PICTURES.encoder, 0.5),
        (FromWords(5, "other towers"), PICTURES.encoder, 0.25),
        (TOWERS.encoder, FromWords(3, "other clip"), 0.25),
    ]
    assert len({JointEncoder(*pair).encoder_id for pair in pairs}) == 4
    assert JointEncoder(*pairs[0]).encoder_id == JointEncoder(*pairs[0]).encoder_id


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(CourseError, match=r"share is .*between 0 and 1"):
        JointEncoder(TOWERS.encoder, PICTURES.encoder, share)


def test_a_product_without_a_picture_gets_the_mean_of_all():
    found = pictures_of_all(IDS, PICTURES)
    assert found.shape == (9, 3) and found.dtype == np.float32
    for product_id, vector in zip(IDS, found, strict=True):
        if product_id in SHOWN:
            assert np.array_equal(vector, PICTURES.embeddings.vectors[SHOWN.index(product_id)])
        else:
            np.testing.assert_allclose(vector, PICTURES.embeddings.vectors.mean(axis=0), atol=1e-6)
    # Whatever is asked, it is neither before nor behind those that have one, on average.
    query = unit(1, 3, 9)[0]
    without = [row for row, product_id in enumerate(IDS) if product_id not in SHOWN]
    with_one = [row for row in range(9) if row not in without]
    np.testing.assert_allclose(found[without] @ query, (found[with_one] @ query).mean(), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_one_index_ranks_as_two_searches_whose_scores_are_added(share):
    encoder, embeddings = joint_towers(TOWERS, PICTURES, share)
    assert embeddings.encoder_id == encoder.encoder_id
    hits = DenseSearcher(encoder, DenseIndex.build(embeddings, IDS)).search(["red rug", "lamp"], 9)
    for row, text in enumerate(["red rug", "lamp"]):
        words, sight = (one.encode([text]).vectors[0] for one in (TOWERS.encoder, PICTURES.encoder))
        scores = (1 - share) * TOWERS.embeddings.vectors @ words + share * pictures_of_all(IDS, PICTURES) @ sight
        assert [score for _, score in hits.row(row)] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)
        assert all(
            scores[IDS.index(product_id)] == pytest.approx(score, abs=1e-5) for product_id, score in hits.row(row)
        )


def test_an_index_of_another_share_refuses_the_queries():
    _, embeddings = joint_towers(TOWERS, PICTURES, 0.3)
    with pytest.raises(CourseError, match="holds embeddings of"):
        DenseSearcher(JointEncoder(TOWERS.encoder, PICTURES.encoder, 0.35), DenseIndex.build(embeddings, IDS))
