"""The new index against sentence-transformers and a search by hand, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from chapter01_baseline.reindex import load_indices
from chapter02_two_tower.reindex import PairedEncoder, ReindexConfig, load_towers, load_towers_of, main
from chapter02_two_tower.train import tower_folders
from common.artifacts import Artifacts
from common.catalogue import Catalogue, product_text
from common.errors import CourseError, MissingArtifact
from common.index import DenseSearcher

pytestmark = pytest.mark.slow

LONG = "red garden chair with a soft cushion for reading outdoors in the shade of an old tree"


@pytest.fixture(scope="module")
def towers(shop):
    catalogue, _ = shop
    return main(ReindexConfig(catalogue=str(catalogue.folder), hnsw_m=8))


def naive(folder, texts):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts, show_progress_bar=False)


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lengths", [(8, 24), (24, 8)])
def test_each_tower_makes_the_vectors_of_its_own_folder(save_towers, tmp_path, shared, lengths):
    save_towers(tmp_path / "model", 0, shared=shared, query_length=lengths[0], product_length=lengths[1])
    texts = [LONG, "usb cable", LONG[20:]]
    found = load_towers_of(tmp_path / "model")
    queries, products = found.encode(texts).vectors, found.encode_products(texts).vectors
    assert cosines(queries, naive(tmp_path / "model" / "query", texts)).min() > 0.999
    assert cosines(products, naive(tmp_path / "model" / "product", texts)).min() > 0.999
    assert (found.query.max_length, found.product.max_length) == lengths
    # What tells the towers apart, and would show if one stood in for the other: how much of a text they read.
    assert not np.allclose(queries[0], products[0], atol=1e-3)


def test_search_is_the_nearest_products_by_hand(shop, towers):
    catalogue, artifacts = shop
    folder = tower_folders(artifacts)["best"]
    products = naive(folder / "product", product_text(catalogue.products))
    assert cosines(towers.embeddings.vectors, products).min() > 0.995
    queries = ["rug", LONG]
    scores = towers.dense.encoder.encode(queries).vectors @ towers.embeddings.vectors.T
    hits = towers.dense.search(queries, 10)
    np.testing.assert_allclose(hits.scores, -np.sort(-scores, axis=1)[:, :10], atol=1e-5)
    ids = catalogue.products["product_id"].to_numpy()
    assert hits.ids[1, 0] == ids[scores[1].argmax()]
    assert (towers.hnsw.search(queries, 1).ids == hits.ids[:, :1]).all()
    assert (towers.hnsw.index.kind, towers.hnsw.index.parameters["M"]) == ("hnsw", 8)


def test_chapter_1_keeps_its_index(shop, towers):
    catalogue, artifacts = shop
    indices = load_indices(artifacts, catalogue)
    assert indices.embeddings.vectors.shape == (450, 32) and towers.embeddings.vectors.shape == (450, 12)
    swapped = towers.as_indices(indices)
    assert swapped.keyword is indices.keyword and swapped.dense is towers.dense
    with pytest.raises(CourseError, match="holds embeddings of"):
        DenseSearcher(towers.encoder, indices.dense.index)
    with pytest.raises(CourseError, match="holds embeddings of"):
        DenseSearcher(towers.product_encoder, towers.dense.index)


def test_the_other_models_are_indexed_and_are_not_the_best_one(towers):
    assert set(towers.others) == {"stage1", "control"}
    ids = {searcher.encoder.encoder_id for searcher in (towers.dense, *towers.others.values())}
    assert len(ids) == 3
    for searcher in towers.others.values():
        assert searcher.index.kind == "flat" and len(searcher.index) == 450
        assert not np.allclose(searcher.index.vectors, towers.dense.index.vectors, atol=1e-2)


def test_it_is_built_once_and_again_after_another_training(shop, pretend_training, tmp_path):
    small = Catalogue.from_tables("small", products=shop[0].products.head(40)).save(tmp_path / "small")
    artifacts, config = Artifacts.for_catalogue(small), ReindexConfig(catalogue=str(small.folder))
    pretend_training(artifacts, ["best", "stage1"])
    first = main(config)
    assert main(config).run.name == first.run.name and set(first.others) == {"stage1"}
    pretend_training(artifacts, ["best"], seed=1)
    with pytest.raises(CourseError, match=r"other towers.*\n.*python -m chapter02_two_tower\.reindex"):
        load_towers(artifacts, small)
    again = main(config)
    assert again.run.name != first.run.name and again.others == {}, "what was not trained is not searched"
    assert again.encoder.encoder_id != first.encoder.encoder_id


def test_without_a_training_the_error_names_the_command(shop, tmp_path):
    catalogue, _ = shop
    with pytest.raises(MissingArtifact, match=r"python -m chapter02_two_tower\.reindex"):
        load_towers(Artifacts.for_catalogue(catalogue, root=tmp_path), catalogue)


def test_without_towers_reindex_asks_for_training(artifacts_root, shop):
    catalogue, _ = shop
    with pytest.raises(MissingArtifact, match=r"python -m chapter02_two_tower\.train"):
        main(ReindexConfig(catalogue=str(catalogue.folder)))


def test_towers_of_different_dimensions_are_no_pair():
    query, product = (SimpleNamespace(dimension=d, encoder_id=f"of {d}") for d in (12, 6))
    with pytest.raises(CourseError, match=r"12 dimensions.*6"):
        PairedEncoder(query, product)
    assert PairedEncoder(query, query).encoder_id != PairedEncoder(product, product).encoder_id
