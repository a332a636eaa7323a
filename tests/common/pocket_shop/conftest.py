from __future__ import annotations

import pytest

from common.catalogue import Catalogue
from common.pocket_shop.shop import build_catalogue


@pytest.fixture(scope="session")
def shop(tmp_path_factory) -> Catalogue:
    """The default shop, but without photos: what the words, queries and grades look like at full size."""
    folder = tmp_path_factory.mktemp("shop")
    catalogue = build_catalogue(folder, photos=False)
    return catalogue


@pytest.fixture(scope="session")
def small_shop(tmp_path_factory) -> Catalogue:
    """A small shop with (small) photos and everything that comes with them."""
    folder = tmp_path_factory.mktemp("small_shop")
    return build_catalogue(folder, size=500, queries_per_kind=4, outfits=60, photo_size=32, seed=7)
