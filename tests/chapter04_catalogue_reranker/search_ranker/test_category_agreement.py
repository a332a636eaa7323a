"""Check category distributions from an export against softmax computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from chapter04_catalogue_reranker.search_ranker import category_agreement
from chapter04_catalogue_reranker.search_ranker.category_agreement import (
    catalogue_rows,
    category_distributions,
    entropy,
    probabilities,
    top_mass,
)
from common.catalogue import Catalogue
from common.errors import CourseError

PATHS = ["Home > Lamps", "Home > Rugs", "Shoes > Boots"]
VECTORS = np.eye(3, 4, dtype=np.float32)


@pytest.fixture
def shop():
    products = pd.DataFrame({"product_id": ["a", "b", "c", "d"], "title": ["lamp", "rug", "boot", "thing"]})
    paths = [None, "Home > Rugs", None, "Garden > Unknown"]
    return Catalogue.from_tables("small", products=products.assign(category_path=paths))


@pytest.fixture
def export(monkeypatch):
    """Stand in for an export of products c and a, in this order; queries are encoded by their length."""
    fused = np.array([[0, 0, 1, 0], [0.6, 0.8, 0, 0]], dtype=np.float32)
    made = SimpleNamespace(
        run=SimpleNamespace(manifest={"config": {"split": "all"}}),
        products=pd.DataFrame({"product_id": ["c", "a"]}),
        categories=pd.DataFrame({"category_path": PATHS}),
        fused=SimpleNamespace(vectors=fused),
        category_vectors=SimpleNamespace(vectors=VECTORS),
        load_model=lambda: SimpleNamespace(scale=torch.tensor(4.0)),
    )
    monkeypatch.setattr(category_agreement, "load_export", lambda artifacts: made)

    def encode(model, texts, images):
        assert images == [None] * len(texts)
        rows = [VECTORS[len(text) % 3] if text else np.zeros(4, dtype=np.float32) for text in texts]
        return SimpleNamespace(text=np.array(rows, dtype=np.float32).reshape(len(texts), 4))

    monkeypatch.setattr(category_agreement, "encode_products", encode)
    return made


def test_each_row_is_a_softmax_of_scaled_cosines(shop, export):
    asked, theirs, paths = category_distributions(None, shop, ["a lamp", ""])
    assert paths == PATHS
    cosines = VECTORS[len("Title: a lamp") % 3] @ VECTORS.T
    np.testing.assert_allclose(asked[0], np.exp(4 * cosines) / np.exp(4 * cosines).sum(), rtol=1e-5)
    np.testing.assert_allclose(asked[1], 1 / 3, rtol=1e-6)
    one = np.exp(4 * np.array([0.6, 0.8, 0.0]))
    np.testing.assert_allclose(theirs[0], one / one.sum(), rtol=1e-5)
    np.testing.assert_allclose([*asked.sum(axis=1), *theirs.sum(axis=1)], 1, rtol=1e-5)


def test_a_category_of_the_catalogue_is_certain_and_an_unknown_one_is_uniform(shop, export):
    theirs = category_distributions(None, shop, [])[1]
    np.testing.assert_array_equal(theirs[1], [0, 1, 0])
    np.testing.assert_allclose(theirs[3], 1 / 3, rtol=1e-6)


def test_an_export_of_one_split_is_refused(shop, export):
    export.run.manifest["config"]["split"] = "train"
    with pytest.raises(CourseError, match=r"python -m chapter04_catalogue_reranker\.reindex"):
        category_distributions(None, shop, ["lamp"])


def test_a_product_of_another_catalogue_is_an_error(shop):
    assert catalogue_rows(shop, ["d", "a"]).tolist() == [3, 0] and catalogue_rows(shop, []).shape == (0,)
    with pytest.raises(CourseError, match="'z' is not in the catalogue"):
        catalogue_rows(shop, ["a", "z"])


def test_entropy_and_the_first_few():
    probs = np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(entropy(probs)[:2], [0, np.log(4)], atol=1e-9)
    np.testing.assert_allclose(top_mass(probs, 2)[2], [0, 0, 0.3, 0.4])
    np.testing.assert_allclose(top_mass(probs, 9), probs)
    assert probabilities(np.zeros((2, 5)), 10.0).dtype == np.float32
