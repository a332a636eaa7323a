"""Candidate lists as arrays, batches of them, and what the frozen towers' kept features must equal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter04_catalogue_reranker.batches import Candidates, epoch_batches
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.inputs import FROZEN, Inputs
from chapter04_catalogue_reranker.model import CatalogueReranker
from common.errors import CourseError
from tests.chapter04_catalogue_reranker.towers_fixtures import shake, small, tiny_text, tiny_vision

PATHS = [f"A > {name}" for name in "abcdefg"]


def table(lists, true=()):
    """lists: product id to its paths in their order; true: (product id, path)."""
    rows = [
        {"product_id": name, "category_path": path, "is_true": (name, path) in true, "position": at}
        for name, paths in lists.items()
        for at, path in enumerate(paths)
    ]
    return pd.DataFrame(rows)


def test_lists_of_any_length_stand_in_one_array():
    found = Candidates.of(
        table({"p": PATHS[:3], "q": PATHS[4:5]}, [("p", PATHS[1])]).sample(frac=1, random_state=0), ["q", "p"], PATHS
    )
    assert found.listed.tolist() == [[True, False, False], [True, True, True]]
    assert found.paths[found.listed].tolist() == [4, 0, 1, 2]
    assert found.truth.tolist() == [-1, 1] and found.labels().tolist() == [-1, 1]


def test_what_is_no_list_is_refused():
    lists = table({"p": PATHS[:2]})
    with pytest.raises(CourseError, match="'q' has no candidate"):
        Candidates.of(lists, ["p", "q"], PATHS)
    with pytest.raises(CourseError, match="none of the known paths"):
        Candidates.of(lists, ["p"], PATHS[:1])


def test_scores_are_the_cosines_of_each_product_with_its_own_candidates():
    rng = np.random.default_rng(0)
    products, paths = rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    found = Candidates.of(table({"p": PATHS[2:5], "q": PATHS[:1]}), ["p", "q"], PATHS)
    scores = found.scores(products, paths)
    naive = [[products[0] @ paths[at] for at in (2, 3, 4)], [products[1] @ paths[0], 0, 0]]
    np.testing.assert_allclose(scores, naive, rtol=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 23), st.integers(2, 9), st.integers(0, 3))
def test_an_epoch_shows_every_product_once_with_its_own_list(count, size, seed):
    rng = np.random.default_rng(seed)
    names = [f"p{number}" for number in range(count)]
    lists = {name: [PATHS[at] for at in rng.permutation(7)[: rng.integers(1, 8)]] for name in names}
    everything = Candidates.of(table(lists, [(name, paths[-1]) for name, paths in lists.items()]), names, PATHS)
    batches = epoch_batches(everything, np.arange(count), size, rng)
    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(range(count))
    assert all(size <= len(batch.rows) <= size + 1 for batch in batches[:-1])
    assert len(batches) == 1 or len(batches[-1].rows) > 1
    for batch in batches:
        assert batch.listed.any(axis=0).all()  # no column of padding alone
        for at, row in enumerate(batch.rows):
            shown = batch.columns[batch.candidates[at][batch.listed[at]]]
            assert [PATHS[number] for number in shown] == lists[names[row]]
            assert batch.columns[batch.candidates[at, batch.truth[at]]] == batch.labels[at]
            assert PATHS[batch.labels[at]] == lists[names[row]][-1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    made = CatalogueReranker.build(small(tiny_text(folder), tiny_vision("vit", folder)), seed=0)
    shake(weight for name, weight in made.named_parameters() if name in made.own_state())
    return made.eval()


@pytest.fixture(scope="module")
def seen(model, reranker_data, tmp_path_factory):
    """Inputs of a dozen products: one has no text, one no picture, and the picture of one cannot be read."""
    products = reranker_data.products[reranker_data.products["image"].notna()].head(12).reset_index(drop=True)
    folder = Path(reranker_data.catalogue.folder)
    bad = tmp_path_factory.mktemp("bad") / "cut.jpg"
    bad.write_bytes((folder / products["image"][2]).read_bytes()[:200])
    products.loc[0, "text"] = ""
    products.loc[1, "image"] = None
    products.loc[2, "image"] = str(bad)
    return Inputs(model, products, PATHS, folder)


@pytest.mark.parametrize("stage", sorted(FROZEN))
def test_kept_features_are_those_of_the_running_towers(seen, model, stage):
    rows = np.array([0, 2, 1, 5, 9])
    seen.keep(stage)
    pixels = seen.pixels(rows)
    assert (pixels is None) == ("image" in FROZEN[stage])
    with torch.no_grad():
        text, image, path = seen.text(rows), seen.image(rows, pixels), seen.path(np.array([3, 0]))
        texts = [seen.texts[row] for row in rows]
        tower = model.text_tower
        torch.testing.assert_close(text, tower(tower.tokenise(texts, 24)), atol=2e-2, rtol=0)  # bf16 where native
        torch.testing.assert_close(path, tower(tower.tokenise([PATHS[3], PATHS[0]], 12)), atol=2e-2, rtol=0)
        fused = model.fuse(text, image, seen.has_text[rows], seen.has_image[rows]).fused
    assert seen.has_image[rows].tolist() == [True, False, False, True, True]
    assert seen.has_text[rows].tolist() == [False, True, True, True, True]
    vectors, paths = seen.vectors(rows)
    np.testing.assert_allclose(vectors, fused.numpy(), atol=3e-2)
    whole = encode_products(model, texts, [seen.files[row] for row in rows])
    np.testing.assert_allclose(vectors, whole.fused, atol=1e-5)
    np.testing.assert_allclose(paths, encode_categories(model, PATHS), atol=1e-5)


@pytest.mark.parametrize("stage", sorted(FROZEN))
def test_a_share_of_no_rows_has_a_gradient_of_zeros(seen, model, stage):
    """Of fewer rows than processes some have none; what they gather must still lead back to the projections."""
    none = np.array([], dtype=np.int64)
    seen.keep(stage)
    text, image, path = seen.text(none), seen.image(none, seen.pixels(none)), seen.path(none)
    products = model.embed_products(text, image, seen.has_text[none], seen.has_image[none]).fused
    categories = model.embed_categories(path)
    assert products.shape == categories.shape == (0, model.architecture.dimension)
    gradients = torch.autograd.grad(
        products.sum() + categories.sum(), [model.gate.bias, *model.text_projection.parameters()]
    )
    assert not any(gradient.any() for gradient in gradients)


def test_a_model_of_pictures_reads_no_product_text(seen, model, monkeypatch):
    seen.keep(1)
    assert seen.text(np.array([3])).abs().sum() > 0
    monkeypatch.setattr(model, "architecture", small(*_names(model), inputs="image"))
    assert seen.text(np.array([3])).abs().sum() == 0 and seen.path(np.array([3])).abs().sum() > 0


def test_a_model_of_texts_looks_at_no_picture(model, reranker_data, monkeypatch):
    monkeypatch.setattr(model, "architecture", small(*_names(model), inputs="text"))
    inputs = Inputs(model, reranker_data.products.head(5), PATHS, Path("nowhere"))
    inputs.keep(0)
    assert inputs.files == [None] * 5 and not inputs.has_image.any()


def _names(model):
    return model.architecture.text, model.architecture.vision
