"""A small text-only shop with its indices and choices, built once: what the steps of the chapter need to run."""

from __future__ import annotations

import pytest

from chapter01_baseline import choose, reindex
from common.artifacts import Artifacts
from common.catalogue import load_catalogue


@pytest.fixture(scope="package")
def built(tmp_path_factory):
    """(catalogue, artifacts, folder of the catalogue) after reindex and choose."""
    folder = tmp_path_factory.mktemp("chapter01")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(folder))
        shop = load_catalogue("pocket_shop", size=450, queries_per_kind=5, photos=False)
        reindex.main(reindex.ReindexConfig(catalogue=str(shop.folder), max_length=32))
        choose.main(choose.ChooseConfig(catalogue=str(shop.folder)))
        yield shop, Artifacts.for_catalogue(shop)
