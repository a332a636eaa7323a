"""The architecture of the full profile, SigLIP2 ViT-B/16-256 and BGE base, in its real size with random weights: its
shape, one step, a training in three stages that is interrupted, and the export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from chapter04_catalogue_reranker import reindex, train
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.model import Architecture, CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import RerankerData
from chapter04_catalogue_reranker.train import HEADLINE, train_stages
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from chapter04_catalogue_reranker.training_setup import TrainingSetup
from common.checkpoints import read_state
from common.encoders import Embeddings
from common.index import DenseIndex
from common.training import CHECKPOINTS, parameter_groups
from common.training_log import read_log
from tests.chapter04_catalogue_reranker.towers_fixtures import bge_base, siglip2_base

pytestmark = pytest.mark.slow
TEXTS = ["Title: oak chair / Description: for the garden", "Title: lamp"]
PATHS = ["Home > Garden > Chairs", "Home > Lighting > Lamps", ""]
MODELS = ("checkpoint_0", "checkpoint_1", "checkpoint_2", "best")


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("towers")
    return {"text": bge_base(folder), "vision": siglip2_base(folder)}


@pytest.fixture(scope="module")
def model(towers):
    return CatalogueReranker.build(Architecture(**towers, text_pooling="cls"), seed=0)


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
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01, no_decay="lora_"), lr=1e-3)
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


# training and export


@pytest.fixture(scope="module")
def config(towers) -> TrainConfig:
    """The full profile's, but short: in each stage a batch of four products and one of three."""
    short = {"epochs": (1, 1, 1), "batch_size": 4, "product_length": 64, "category_length": 24, "checkpoint_every": 1}
    return resolved(TrainConfig(profile="full", **towers, **short))


@pytest.fixture(scope="module")
def few(reranker_data) -> RerankerData:
    """Seven products to train with, one of them without a text and one without a picture, and two to validate with."""
    products = reranker_data.products
    products = products[products["true_path"].notna() & products["text"].ne("") & products["image"].notna()]
    parts = [products[products["split"] == split].head(n) for split, n in (("train", 7), ("val", 2))]
    chosen = pd.concat(parts, ignore_index=True)
    chosen.loc[0, "text"], chosen.loc[1, "image"] = "", None
    return replace(reranker_data, products=chosen)


@pytest.fixture(scope="module")
def _every_stage_gains() -> Iterator[None]:
    """Towers that know nothing gain by chance, and a stage that gains nothing leaves the model of the one before."""
    figures = TrainingSetup.validation_figures

    def rising(self: TrainingSetup) -> dict[str, float]:
        changed = (value.any() for name, value in self.model.own_state().items() if "lora_B" in name)
        return figures(self) | {HEADLINE: float(sum(map(int, changed)))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingSetup, "validation_figures", rising)
        yield


@pytest.fixture(scope="module")
def trained(config, few, _every_stage_gains, tmp_path_factory) -> SimpleNamespace:
    """After a training that nothing interrupted."""
    work = tmp_path_factory.mktemp("whole")
    return SimpleNamespace(work=work, inputs=train_stages(config, few, work).inputs)


def saved(work: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All that a work folder holds in tensors: each stage's model, the best, and the last checkpoint with moments,
    queue and random state."""
    return {str(file.relative_to(work)): load_file(file) for file in sorted(work.rglob("*.safetensors"))}


def log_of(work: Path) -> pd.DataFrame:
    return read_log(work / train.LOG).drop(columns="seconds")


def encoded(model: CatalogueReranker, data: RerankerData, order: slice = slice(None)):
    products = data.products.iloc[order]
    files = [image and Path(data.catalogue.folder, image) for image in products["image"]]
    return encode_products(model, products["text"].tolist(), files)


def test_each_stage_trains_its_part_of_the_real_towers(trained):
    first, second, third = (load_file(trained.work / f"checkpoint_{n}" / "reranker.safetensors") for n in range(3))
    for before, after, tower in ((first, second, "text_tower"), (second, third, "vision_tower")):
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        assert {name for name in changed if "lora_" in name} == {name for name in after if name.startswith(tower)}
        assert changed >= {name for name in after if name.startswith(("text_projection", "image_projection", "gate"))}
    batches = log_of(trained.work).dropna(subset="listwise")
    assert batches[["stage", "products"]].to_numpy().tolist() == [[stage, n] for stage in range(3) for n in (4, 3)]
    assert (batches[["listwise", "contrastive", "gradient_norm"]] > 0).all(axis=None)


def test_interrupted_in_stage_2_it_goes_on_to_the_same_bits(trained, config, few, tmp_path, monkeypatch):
    taken, losses, limit = [], TrainingSetup.losses, [5]

    def counted(self, batch, pixels):
        if len(taken) == limit[0]:
            raise KeyboardInterrupt
        taken.append(batch.rows.tolist())
        return losses(self, batch, pixels)

    monkeypatch.setattr(TrainingSetup, "losses", counted)
    with pytest.raises(KeyboardInterrupt):
        train_stages(config, few, tmp_path)
    state = read_state(tmp_path / "stage_2" / CHECKPOINTS)
    assert (state["step"], state["queued"]) == (1, 4)
    assert not (tmp_path / "checkpoint_2").exists()

    limit[0] = 6
    train_stages(config, few, tmp_path)
    assert sorted(taken[4] + taken[5]) == list(range(7)), "the batch that was still to come, and no other"
    expected, found = saved(trained.work), saved(tmp_path)
    of_stages = 3 * len(("epoch_1", "best", CHECKPOINTS))
    assert expected.keys() == found.keys() and len(found) == of_stages + len(MODELS)
    for file, tensors in expected.items():
        assert tensors.keys() == found[file].keys()
        assert not [name for name, tensor in tensors.items() if not torch.equal(tensor, found[file][name])], file
    pd.testing.assert_frame_equal(log_of(tmp_path), log_of(trained.work), check_exact=True)


@pytest.mark.parametrize("name", MODELS)
def test_its_models_load(trained, name):
    own = CatalogueReranker.load(trained.work / name).own_state()
    stored = load_file(trained.work / name / "reranker.safetensors")
    assert own.keys() == stored.keys() and all(torch.equal(own[key], value) for key, value in stored.items())


def test_the_best_model_gives_the_vectors_that_training_ended_with(trained, few):
    best = CatalogueReranker.load(trained.work / "best")
    products, paths = trained.inputs.vectors(np.arange(len(few.products)))
    np.testing.assert_allclose(encoded(best, few).fused, products, atol=1e-6, rtol=0)
    np.testing.assert_allclose(encode_categories(best, few.paths), paths, atol=1e-6, rtol=0)


def test_the_export_holds_the_vectors_of_each_product(trained, few, tmp_path):
    best = CatalogueReranker.load(trained.work / "best")
    reindex.write_export(tmp_path, best, few, few.products, reindex.encoder_id_of(best))
    back = slice(None, None, -1)
    made = encoded(best, few, back)
    vectors = {name: np.load(tmp_path / f"product_emb_{name}.npy") for name in reindex.MODALITIES}
    for name, exported in vectors.items():
        assert exported.shape == (9, 512) and exported.dtype == np.float32
        np.testing.assert_allclose(exported[back], getattr(made, name), atol=1e-3)  # half precision, in another order
    between = vectors["fused"] @ vectors["fused"].T
    assert between[~np.eye(9, dtype=bool)].max() < 0.99, "else any order of the rows would pass"
    categories = np.load(tmp_path / reindex.CATEGORY_VECTORS)
    np.testing.assert_allclose(categories, encode_categories(best, few.paths), atol=1e-6, rtol=0)

    products = pd.read_parquet(tmp_path / reindex.PRODUCTS)
    assert products["product_id"].tolist() == few.products["product_id"].tolist()
    assert np.flatnonzero(~products["has_text"]).tolist() == [0]
    assert np.flatnonzero(~products["has_image"]).tolist() == [1]
    assert not vectors["text"][0].any() and not vectors["image"][1].any()
    likeliest = (vectors["fused"] @ categories.T).argmax(axis=1)
    assert products["predicted_path"].tolist() == [few.paths[at] for at in likeliest]
    index = DenseIndex.load(tmp_path / reindex.PRODUCT_INDEX)
    hits = index.search_vectors(Embeddings(vectors["fused"], reindex.encoder_id_of(best)), 1)
    assert hits.ids[:, 0].tolist() == products["product_id"].tolist()
