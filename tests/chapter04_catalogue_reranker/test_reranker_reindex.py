"""The export against embedding each product alone and brute force, and what it refuses when the model has changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import tyro

from chapter04_catalogue_reranker import prepare_data, reindex
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.reindex import ReindexConfig, encoder_id_of, load_export, main, rank_all_categories
from chapter04_catalogue_reranker.train import model_folders
from common import devices
from common.artifacts import Artifacts
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.index import DenseIndex
from tests.chapter04_catalogue_reranker import small_export as small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _in_float32() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "native_bfloat16", lambda: None)
        yield


@pytest.fixture(scope="module")
def architecture(tiny_text_encoder, tmp_path_factory):
    return small.tiny_architecture(tiny_text_encoder, tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture(scope="module")
def prepared(reranker_shop, tmp_path_factory) -> prepare_data.RerankerData:
    folder = tmp_path_factory.mktemp("small")
    catalogue = small.small_shop(reranker_shop, folder)
    data = prepare_data.main(prepare_data.PrepareDataConfig(catalogue=str(catalogue.folder), widen=0))
    small.destroy(folder)
    return data


@pytest.fixture(scope="module")
def artifacts(prepared, architecture) -> Artifacts:
    artifacts = Artifacts.for_catalogue(prepared.catalogue)
    small.pretend_training(artifacts, architecture)
    return artifacts


@pytest.fixture(scope="module")
def config(prepared) -> ReindexConfig:
    return ReindexConfig(catalogue=str(prepared.catalogue.folder))


@pytest.fixture(scope="module")
def export(artifacts, config):
    return main(config)


@pytest.fixture
def own_artifacts(prepared, architecture, tmp_path, monkeypatch) -> Artifacts:
    """A copy of the prepared data and another training, in a folder of the test's own."""
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    artifacts = Artifacts.for_catalogue(prepared.catalogue)
    shutil.copytree(prepared.run.path.parent, artifacts.folder / reindex.CHAPTER / "prepare_data")
    small.pretend_training(artifacts, architecture)
    return artifacts


# what is written


def test_vectors_are_those_of_each_product_alone(prepared, artifacts, export):
    model = CatalogueReranker.load(model_folders(artifacts)["best"])
    home = prepared.catalogue.folder
    for row in (small.TEXTLESS, small.BARE, small.BROKEN, 20, 47):
        product = prepared.products.iloc[row]
        alone = encode_products(model, [product["text"]], [product["image"] and home / product["image"]])
        for modality in ("fused", "text", "image"):
            exported = getattr(export, modality).vectors[row]
            np.testing.assert_allclose(exported, getattr(alone, modality)[0], atol=1e-5)
    for row in (0, 7, len(prepared.paths) - 1):
        alone = encode_categories(model, [prepared.paths[row]])
        np.testing.assert_allclose(export.category_vectors.vectors[row], alone[0], atol=1e-5)
    between = export.fused.vectors @ export.fused.vectors.T
    assert np.median(between[~np.eye(len(between), dtype=bool)]) < 0.999, "else any order of the rows would pass"


def test_a_missing_modality_is_a_row_of_zeros_and_is_said(prepared, export):
    products = export.products
    assert products["product_id"].tolist() == prepared.products["product_id"].tolist() and len(products) == 48
    lacks_text, lacks_image = {small.TEXTLESS}, {small.BARE, small.BROKEN}
    assert set(np.flatnonzero(~products["has_text"])) == lacks_text
    assert set(np.flatnonzero(~products["has_image"])) == lacks_image
    for vectors, lacking in ((export.text, lacks_text), (export.image, lacks_image), (export.fused, set())):
        assert vectors.vectors.dtype == np.float32 and vectors.vectors.shape == (48, 16)
        lengths = np.linalg.norm(vectors.vectors, axis=1)
        np.testing.assert_allclose(lengths, [row not in lacking for row in range(48)], atol=1e-5)
    np.testing.assert_array_equal(export.fused.vectors[small.TEXTLESS], export.image.vectors[small.TEXTLESS])
    np.testing.assert_array_equal(export.fused.vectors[small.BROKEN], export.text.vectors[small.BROKEN])
    assert products["image"].notna()[small.BROKEN] and not products["image"].notna()[small.BARE]


def test_metadata_say_what_the_catalogue_says(prepared, export):
    told = prepared.catalogue.products.set_index("product_id").loc[export.products["product_id"]]
    assert export.products["title"].fillna("").tolist() == told["title"].fillna("").tolist()
    listed = prepared.products["true_path"]
    for row, path in enumerate(export.products["category_path"]):
        assert path == (told["category_path"].iloc[row] if row == small.UNKNOWN else listed[row])
    assert listed[small.UNKNOWN] is None and told["category_path"].isna().any(), (
        "either may know what the other does not"
    )
    assert export.products["split"].tolist() == prepared.products["split"].tolist()
    assert set(export.products["split"]) == {"train", "val", "test"}


def test_categories_are_all_of_them_with_their_training_products(prepared, export):
    table = export.categories
    assert table["category_path"].tolist() == prepared.paths and len(set(prepared.paths)) == len(prepared.paths)
    train = export.products[export.products["split"] == "train"]
    for row in table.itertuples():
        assert row.n_train == (train["category_path"] == row.category_path).sum()
        assert row.in_train == (row.n_train > 0) and row.level == row.category_path.count(">") + 1
    assert table["in_train"].any() and not table["in_train"].all()


def test_predictions_are_the_softmax_over_all_paths(artifacts, export):
    scale = float(CatalogueReranker.load(model_folders(artifacts)["best"]).scale.detach())
    logits = scale * torch.from_numpy(export.fused.vectors @ export.category_vectors.vectors.T)
    probabilities = logits.softmax(dim=1).numpy()
    paths = export.categories["category_path"].to_numpy()
    assert export.products["predicted_path"].tolist() == paths[probabilities.argmax(axis=1)].tolist()
    np.testing.assert_allclose(export.products["predicted_score"], probabilities.max(axis=1), rtol=1e-4)
    assert export.products["predicted_path"].nunique() > 1


def test_likeliest_does_not_depend_on_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, categories = (rng.normal(size=(n, 8)).astype(np.float32) for n in (20, 5))
    rows, probabilities = reindex.likeliest(vectors, categories, 30.0)
    monkeypatch.setattr(reindex, "ROWS_A_BLOCK", 7)
    again, also = reindex.likeliest(vectors, categories, 30.0)
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_allclose(probabilities, also, rtol=1e-5)
    assert reindex.likeliest(vectors[:3], categories[:1], 30.0)[1].tolist() == [1, 1, 1]
    assert [len(part) for part in reindex.likeliest(vectors[:0], categories, 1.0)] == [0, 0]


# the indices


def test_all_categories_are_ranked_as_by_brute_force(export):
    asked = export.fused
    scores, paths = asked.vectors @ export.category_vectors.vectors.T, export.categories["category_path"].tolist()
    for k in (1, 5, len(paths), len(paths) + 9):
        found, cosines = rank_all_categories(export, asked, k)
        assert found.shape == cosines.shape == (48, min(k, len(paths)))
        for row in range(len(asked)):
            best = sorted(range(len(paths)), key=lambda at, row=row: (-scores[row, at], paths[at]))[:k]
            np.testing.assert_allclose(cosines[row], scores[row, best], atol=1e-5)
            near = np.abs(np.diff(scores[row, best])) < 1e-5  # which of them comes first is rounding
            assert near.any() or found[row].tolist() == [paths[at] for at in best]


def test_equal_categories_are_in_the_order_of_their_paths(export):
    vectors = np.eye(16, dtype=np.float32)[[0, 0, 1]]
    index = DenseIndex.build(Embeddings(vectors, export.encoder_id), ["b", "a", "c"])
    tied = SimpleNamespace(category_index=index)
    assert rank_all_categories(tied, Embeddings(vectors[:1], export.encoder_id), 3)[0].tolist() == [["a", "b", "c"]]


def test_vectors_of_another_model_are_refused(export):
    foreign = Embeddings(export.fused.vectors[:1], "reranker-16-0000000000000000")
    with pytest.raises(CourseError, match="not of 'reranker-16-0000000000000000'"):
        rank_all_categories(export, foreign, 3)
    with pytest.raises(CourseError, match="holds embeddings of"):
        export.product_index.search_vectors(foreign, 3)
    with pytest.raises(CourseError, match="k must be"):
        rank_all_categories(export, export.fused, 0)


def test_the_product_index_holds_the_fused_vectors(export):
    row_of = {product_id: row for row, product_id in enumerate(export.products["product_id"])}
    rows = [row_of[product_id] for product_id in export.product_index.ids]
    np.testing.assert_array_equal(export.product_index.vectors, export.fused.vectors[rows])
    assert sorted(rows) == list(range(48))


# checkpoints and splits


def test_a_split_has_its_products_and_all_categories(own_artifacts, config, export):
    for split in ("train", "test"):
        part = main(ReindexConfig(split=split, catalogue=config.catalogue))
        rows = np.flatnonzero(export.products["split"] == split)
        assert part.products["product_id"].tolist() == export.products["product_id"].iloc[rows].tolist()
        np.testing.assert_allclose(part.fused.vectors, export.fused.vectors[rows], atol=1e-5)
        pd.testing.assert_frame_equal(part.categories, export.categories)
    assert set(part.products["split"]) == {"test"} and part.encoder_id == export.encoder_id


def test_an_empty_split_is_refused(own_artifacts, config, monkeypatch):
    load = reindex.load_reranker_data

    def without_val(*values):
        data = load(*values)
        return replace(data, products=data.products[data.products["split"] != "val"])

    monkeypatch.setattr(reindex, "load_reranker_data", without_val)
    with pytest.raises(CourseError, match="the split val has no products"):
        main(ReindexConfig(split="val", catalogue=config.catalogue))


def test_it_is_made_once_and_again_after_another_training(own_artifacts, config, architecture):
    first = main(config)
    assert main(config).run.name == first.run.name == load_export(own_artifacts).run.name
    assert first.run.manifest["config"]["encoder_id"] == first.encoder_id == encoder_id_of(first.load_model())
    small.pretend_training(own_artifacts, architecture, seed=1)
    with pytest.raises(CourseError, match=r"trained again.*\n.*python -m chapter04_catalogue_reranker\.reindex"):
        load_export(own_artifacts)
    again = main(config)
    assert again.run.name != first.run.name and again.encoder_id != first.encoder_id
    assert not np.allclose(again.fused.vectors, first.fused.vectors, atol=1e-2)


def test_a_checkpoint_is_a_name_or_a_folder(own_artifacts, config, export, tmp_path, architecture):
    named = main(ReindexConfig("stage_1", catalogue=config.catalogue))
    assert named.encoder_id != export.encoder_id
    copy = shutil.copytree(model_folders(own_artifacts)["stage_1"], tmp_path / "mine")
    given = main(ReindexConfig(str(copy), catalogue=config.catalogue))
    assert given.encoder_id == named.encoder_id and given.run.name != named.run.name
    assert "train" not in given.run.manifest["inputs"], "another training does not make it stale"
    shutil.rmtree(copy)
    small.tiny_model(architecture, seed=7).save(copy)
    with pytest.raises(CourseError, match=rf"other weights.*\n.*reindex {copy}"):
        load_export(own_artifacts).load_model()
    assert main(ReindexConfig(str(copy), catalogue=config.catalogue)).encoder_id != given.encoder_id


def test_what_is_no_checkpoint_is_said(own_artifacts, config, tmp_path):
    (tmp_path / "empty").mkdir()
    for checkpoint, message in (
        ("stage_7", "no trained model 'stage_7'; there are: best, stage_1"),
        (str(tmp_path / "nowhere"), "there is no folder .*nowhere"),
        (str(tmp_path / "empty"), r"empty/reranker\.json"),
    ):
        with pytest.raises(CourseError, match=message):
            main(ReindexConfig(checkpoint, catalogue=config.catalogue))


def test_the_encoder_id_stands_for_the_weights(architecture):
    one, same, other = (small.tiny_model(architecture, seed) for seed in (0, 0, 1))
    assert encoder_id_of(one) == encoder_id_of(same) != encoder_id_of(other)
    with torch.no_grad():
        same.gate.bias[3] += 1e-3
    assert encoder_id_of(one) != encoder_id_of(same)
    assert encoder_id_of(one).startswith("reranker-16-")


def test_what_is_missing_is_said_with_the_command_that_makes_it(prepared, config, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    artifacts = Artifacts.for_catalogue(prepared.catalogue)
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.prepare_data"):
        main(config)
    shutil.copytree(prepared.run.path.parent, artifacts.folder / reindex.CHAPTER / "prepare_data")
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.train"):
        main(config)
    with pytest.raises(MissingArtifact, match=r"python -m chapter04_catalogue_reranker\.reindex"):
        load_export(artifacts)


def test_the_command_line():
    assert tyro.cli(ReindexConfig, args=[]) == ReindexConfig("best", "all")
    assert tyro.cli(ReindexConfig, args=["stage_1", "--split", "test"]) == ReindexConfig("stage_1", "test")
