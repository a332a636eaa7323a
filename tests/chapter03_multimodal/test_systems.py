"""What the chapter offers, against fusion by hand."""

from __future__ import annotations

import numpy as np
import pytest

from chapter01_baseline.fusion import convex_fusion
from chapter01_baseline.reindex import load_indices
from chapter02_two_tower import systems as chapter02
from chapter03_multimodal.choose import PICTURE_DEPTH, load_joint_towers, load_picture_choices
from chapter03_multimodal.reindex import load_pictures
from chapter03_multimodal.systems import BEST, CLIP, NAMES, SCORES, systems
from common.artifacts import Artifacts
from common.errors import MissingArtifact
from common.search import Searcher

QUERIES = ["red rug", "desk lamp", "water bottle"]


@pytest.fixture(scope="module")
def found(thread):
    catalogue, artifacts = thread
    return systems(artifacts, catalogue)


def test_each_has_a_name_that_no_other_chapter_uses(found):
    ours = [CLIP, *NAMES.values(), BEST]
    assert list(found) == ours == list(SCORES) and not {*ours} & {*chapter02.NAMES.values()}
    assert all(isinstance(searcher, Searcher) for searcher in found.values())


def test_clip_alone_finds_pictures_only(thread, found):
    pictures = load_pictures(thread[1])
    hits = found[CLIP].search(QUERIES, 450)
    assert (hits.ids == pictures.by_text.search(QUERIES, 450).ids).all()
    assert {product_id for product_id, _ in hits.row(0)} == {*pictures.product_ids}


def test_the_joint_vectors_find_every_product(thread, found):
    catalogue, artifacts = thread
    hits = found["text + image"].search(QUERIES, 450)
    assert (hits.ids == load_joint_towers(artifacts, catalogue).dense.search(QUERIES, 450).ids).all()
    assert {product_id for product_id, _ in hits.row(0)} == {*catalogue.products["product_id"]}


def test_fusion_is_of_words_and_joint_vectors_as_chosen(thread, found):
    catalogue, artifacts = thread
    choices = load_picture_choices(artifacts).rest
    words = load_indices(artifacts, catalogue).keyword.search(QUERIES, 200)
    vectors = found["text + image"].search(QUERIES, 200)
    by_hand = convex_fusion([words, vectors], 10, weight=choices.fusion_weight)
    fused = found["text + image + BM25"].search(QUERIES, 10)
    assert (fused.ids == by_hand.ids).all()
    np.testing.assert_allclose(fused.scores, by_hand.scores)


def test_the_best_adds_the_pictures_scores_to_chapter_2s_best(thread, found):
    catalogue, artifacts = thread
    texts = chapter02.systems(artifacts, catalogue)["two towers + BM25 + feedback"].search(QUERIES, PICTURE_DEPTH)
    pictures = found[CLIP].search(QUERIES, PICTURE_DEPTH)
    by_hand = convex_fusion([texts, pictures], 10, weight=load_picture_choices(artifacts).picture_weight)
    hits = found[BEST].search(QUERIES, 10)
    assert (hits.ids == by_hand.ids).all()
    np.testing.assert_allclose(hits.scores, by_hand.scores)


def test_without_an_index_the_error_names_the_command(thread, tmp_path):
    with pytest.raises(MissingArtifact, match=r"python -m chapter01_baseline\.reindex"):
        systems(Artifacts.for_catalogue(thread[0], root=tmp_path), thread[0])
