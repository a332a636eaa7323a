"""Encoding many products against the model itself, one product at a time, and with every kind of bad picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from chapter02_two_tower import model as two_tower
from chapter03_multimodal.training_pictures import Pictures
from chapter04_catalogue_reranker import encode
from chapter04_catalogue_reranker.encode import (
    FrozenTowers,
    encode_categories,
    encode_products,
)
from chapter04_catalogue_reranker.model import CatalogueReranker
from common.devices import Placement
from common.errors import CourseError
from tests.chapter04_catalogue_reranker.towers_fixtures import shake, small, tiny_text, tiny_vision

TEXTS = [
    "Title: red chair",
    "",
    "  ",
    "Title: lamp / Description: it gives light and stands on oak",
    "Title: red chair",
]
PATHS = ["Living room > Chairs", "Lamps", "A > B > C > D > E > F > G > H > I > J > K > L"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    towers = tiny_text(folder), tiny_vision("vit", folder)
    model = CatalogueReranker.build(small(*towers), seed=0)
    shake(weight for name, weight in model.named_parameters() if name in model.own_state())
    model.train_parts(1)
    return model


@pytest.fixture
def in_float32(monkeypatch):
    for module in (encode, two_tower):
        monkeypatch.setattr(module, "choose_placement", lambda engine: Placement("cpu", engine, "float32", "test"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return paths


def one_by_one(model, texts, images):
    """The vectors of good products by the model's own methods; text and image, fused."""
    rows = []
    model.eval()
    with torch.no_grad():
        for text, image in zip(texts, images, strict=True):
            tokens = model.text_tower.tokenise([text], model.architecture.product_length)
            side = model.vision_tower.preprocessing.side
            pixels = torch.zeros(1, 3, side, side)
            if image is not None:
                pixels = model.vision_tower.preprocess(Image.open(image))[None]
            has_text, has_image = (torch.tensor([bool(there)]) for there in (text.strip(), image))
            vectors = model.fuse(model.text_features(tokens), model.image_features(pixels), has_text, has_image)
            rows.append(torch.stack([vectors.fused[0], vectors.text[0], vectors.image[0]]).numpy())
    model.train()
    return np.stack(rows, axis=1)


@pytest.mark.usefixtures("in_float32")
def test_products_are_encoded_as_the_model_embeds_them_one_by_one(model, photos, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", {"cpu": 2})
    monkeypatch.setattr(encode, "ROWS_A_PROJECTION", 2)
    images = [photos[0], photos[1], None, None, photos[4]]
    state = torch.get_rng_state()
    found = encode_products(model, TEXTS, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.text_tower.training
    expected = one_by_one(model, TEXTS, images)
    for array, naive in zip((found.fused, found.text, found.image), expected, strict=True):
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, naive, atol=2e-6)
    assert found.has_text.tolist() == [True, False, False, True, True]
    assert found.has_image.tolist() == [True, True, False, False, True]
    assert found.unusable == {}
    assert len(found) == 5
    np.testing.assert_allclose(np.linalg.norm(found.fused, axis=1), 1, atol=1e-5)


@pytest.mark.usefixtures("in_float32")
def test_bad_pictures_are_reasons_and_count_as_missing(model, photos, tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "half.png").write_bytes(photos[0].read_bytes()[:600])
    Image.new("RGB", (2000, 2)).save(tmp_path / "line.png")
    bad = [tmp_path / name for name in ("absent.jpg", "empty.jpg", "text.jpg", "half.png", "line.png")]
    images = [photos[0], *bad, None, bad[0]]
    texts = ["Title: lamp"] * len(images)
    found = encode_products(model, texts, images)
    assert found.has_image.tolist() == [True] + [False] * 7
    assert sorted(found.unusable) == [1, 2, 3, 4, 5, 7]
    assert "no such image" in found.unusable[1]
    assert "times as long as wide" in found.unusable[5]
    without = encode_products(model, texts[:1], [None])
    np.testing.assert_allclose(found.fused[1:], without.fused.repeat(7, axis=0), atol=1e-6)
    assert (found.fused[1:] == found.text[1:]).all()
    assert not found.image[1:].any()
    assert not np.allclose(found.fused[0], without.fused[0], atol=1e-3)


@pytest.mark.usefixtures("in_float32")
def test_categories_are_texts_of_their_own_length(model):
    found = encode_categories(model, [*PATHS, "", PATHS[0]])
    with torch.no_grad():
        tokens = model.text_tower.tokenise([*PATHS, "", PATHS[0]], model.architecture.category_length)
        expected = model.embed_categories(model.eval().text_features(tokens)).numpy()
    model.train()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert (found[0] == found[-1]).all()


@pytest.mark.usefixtures("in_float32")
def test_equal_files_are_read_once(model, photos, monkeypatch):
    read = []
    square = Pictures._square
    monkeypatch.setattr(Pictures, "_square", lambda self, row: read.append(self.paths[row]) or square(self, row))
    found = FrozenTowers(model).image_features([photos[0], str(photos[0]), None, photos[1], photos[0]])
    assert sorted(read) == sorted(photos[:2])
    assert (found.features[[1, 4]] == found.features[0]).all()
    assert found.has_image.tolist() == [True, True, False, True, True]
    assert not found.features[2].any()


def test_half_precision_where_it_is_native_says_nearly_the_same(model, photos, monkeypatch):
    found = {}
    for precision in ("float32", "bfloat16"):
        for module in (encode, two_tower):
            monkeypatch.setattr(module, "choose_placement", lambda _, p=precision: Placement("cpu", "torch", p, "test"))
        found[precision] = encode_products(model, TEXTS, photos)
    cosines = (found["float32"].fused * found["bfloat16"].fused).sum(axis=1)
    assert cosines.min() > 0.999
    assert not np.array_equal(found["float32"].fused, found["bfloat16"].fused)
    assert found["bfloat16"].fused.dtype == np.float32


@pytest.mark.usefixtures("in_float32")
def test_features_are_those_before_the_projection(model):
    found = FrozenTowers(model).text_features(TEXTS, 6)
    with torch.no_grad():
        expected = model.eval().text_features(model.text_tower.tokenise(TEXTS, 6)).numpy()
    model.train()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert found.shape == (5, model.text_tower.width)


def test_nothing_gives_nothing(model):
    products, categories = encode_products(model, [], []), encode_categories(model, [])
    assert products.fused.shape == products.image.shape == categories.shape == (0, 16)
    assert products.has_image.shape == products.has_text.shape == (0,)
    assert FrozenTowers(model).image_features([None]).features.shape == (1, model.vision_tower.width)


def test_as_many_texts_as_images(model):
    with pytest.raises(CourseError, match="2 texts and 1 images"):
        encode_products(model, ["a", "b"], [None])


def test_vectors_that_are_no_numbers_are_an_error(model, photos):
    weight = model.gate.bias
    before = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(CourseError, match="not numbers"):
            encode_products(model, ["a"], photos[:1])
    finally:
        weight.data.copy_(before)


@pytest.mark.usefixtures("in_float32")
def test_frozen_towers_encode_again_and_again_what_the_model_was(model, photos):
    towers, images = FrozenTowers(model), [photos[0], photos[1], None, None, photos[4]]
    expected = encode_products(model, TEXTS, images), encode_categories(model, PATHS)
    for _ in range(2):
        found = encode_products(towers, TEXTS, images), encode_categories(towers, PATHS)
        np.testing.assert_array_equal(found[0].fused, expected[0].fused)
        np.testing.assert_array_equal(found[1], expected[1])
    before = towers.text_features(TEXTS, 6)
    with torch.no_grad():
        for weight in model.text_tower.parameters():
            weight.mul_(1.5)
    assert not np.allclose(FrozenTowers(model).text_features(TEXTS, 6), before, atol=1e-3)
    np.testing.assert_array_equal(towers.text_features(TEXTS, 6), before)
