"""A small shop with photos, and what prepare_data makes of it, in an artifacts folder that only these tests see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chapter04_catalogue_reranker import prepare_data
from common import encoders
from common.catalogue import Catalogue, load_catalogue
from common.devices import choose_placement
from tests.chapter02_two_tower.toy import tiny_encoder


@pytest.fixture(scope="package")
def reranker_root(tmp_path_factory) -> Path:
    """COURSE_ARTIFACTS of every test of this package that does not set its own."""
    return tmp_path_factory.mktemp("chapter04")


@contextmanager
def _settings_of_this_package(root: Path) -> Iterator[None]:
    """Artifacts in `root`, and tiny encoders in torch: to convert them for OpenVINO takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(root))
        patch.setattr(encoders, "choose_placement", lambda engine="auto": choose_placement("torch"))
        yield


@pytest.fixture(scope="module", autouse=True)
def _while_these_tests_run(reranker_root) -> Iterator[None]:
    """By module: without an __init__.py, what has the scope of a package stays in force for the tests of all others.
    For the same reason no fixture of that scope may yield inside these settings."""
    with _settings_of_this_package(reranker_root):
        yield


@pytest.fixture(scope="package")
def tiny_text_encoder(tmp_path_factory) -> Path:
    """A folder that `SentenceTransformer(folder)` loads: random weights, 32 dimensions."""
    return Path(tiny_encoder(tmp_path_factory.mktemp("tiny_text")))


@pytest.fixture(scope="package")
def reranker_shop(reranker_root) -> Catalogue:
    """A pocket shop of 460 products with photos of 64 pixels, candidates for each, and a few queries."""
    with _settings_of_this_package(reranker_root):
        return load_catalogue("pocket_shop", size=460, queries_per_kind=5, outfits=20, photo_size=64)


@pytest.fixture(scope="package")
def reranker_data(reranker_root, reranker_shop, tiny_text_encoder) -> prepare_data.RerankerData:
    """`prepare_data` of it, training lists made longer by siblings and look-alikes."""
    config = prepare_data.PrepareDataConfig(catalogue=str(reranker_shop.folder), encoder=str(tiny_text_encoder))
    with _settings_of_this_package(reranker_root):
        return prepare_data.main(config)
