"""The architecture of the full profile, SigLIP2 ViT-B/16-256 and BGE base, in its real size with random weights."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from chapter04_catalogue_reranker.model import Architecture, CatalogueReranker

pytestmark = pytest.mark.slow
FIXTURES = runpy.run_path(str(Path(__file__).with_name("towers_fixtures.py")))
TEXTS = ["Title: oak chair / Description: for the garden", "Title: lamp"]
PATHS = ["Home > Garden > Chairs", "Home > Lighting > Lamps", ""]


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    text, vision = FIXTURES["bge_base"](folder), FIXTURES["siglip2_base"](folder)
    return Architecture(text=text, vision=vision, text_pooling="cls")


@pytest.fixture(scope="module")
def model(architecture):
    return CatalogueReranker.build(architecture, seed=0)


@pytest.fixture(scope="module")
def pixels(model):
    colours = np.random.default_rng(0).integers(0, 255, (2, 3, 3, 3), dtype=np.uint8)
    return torch.stack([model.vision_tower.preprocess(Image.fromarray(c).resize((300, 200))) for c in colours])


def vectors(model, pixels):
    both = torch.ones(2, dtype=torch.bool)
    texts = model.text_features(model.text_tower.tokenise(TEXTS, model.architecture.product_length))
    paths = model.text_features(model.text_tower.tokenise(PATHS, model.architecture.category_length))
    return model.embed_products(texts, model.image_features(pixels), both, both).fused, model.embed_categories(paths)


def test_the_towers_are_those_of_the_full_profile(model, pixels):
    assert (model.text_tower.width, model.vision_tower.width, model.text_tower.longest) == (768, 768, 512)
    assert pixels.shape == (2, 3, 256, 256)
    assert model.text_tower.new == model.vision_tower.new == ()
    matrices = [name for name in model.own_state() if "lora_" in name]
    assert sum(name.startswith("text_tower") for name in matrices) == 12 * 6 * 2
    assert sum(name.startswith("vision_tower") for name in matrices) == 12 * 4 * 2


def test_a_step_of_stage_2_a_save_and_a_load(model, pixels, tmp_path):
    model.train_parts(2)
    model.train()
    optimizer = torch.optim.AdamW(model.parameter_groups(0.01), lr=1e-3)
    before = {name: value.clone() for name, value in model.own_state().items()}
    for _ in range(2):  # at first B is 0, and A has no gradient
        products, categories = vectors(model, pixels)
        torch.nn.functional.cross_entropy(model.scale * products @ categories.T, torch.tensor([0, 1])).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.own_state()
    still = {name for name in after if torch.equal(before[name], after[name])}
    assert still == {name for name in after if name.startswith("text_tower")}
    model.eval().save(tmp_path / "model")
    assert sum(path.stat().st_size for path in (tmp_path / "model").iterdir()) < 50e6
    loaded = CatalogueReranker.load(tmp_path / "model")
    with torch.no_grad():
        for found, expected in zip(vectors(loaded, pixels), vectors(model, pixels), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
