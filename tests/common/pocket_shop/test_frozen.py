"""The shop is frozen: every chapter's figures are figures on these very tables and photos.

A change of the generator that alters them needs a higher `VERSION`, new digests here, and every chapter measured anew.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.pocket_shop import shop as module
from common.pocket_shop.shop import VERSION, build_catalogue

pytestmark = pytest.mark.slow

PHOTOS = 491
MEAN_COLOUR = (136.92, 131.46, 123.86)
BRIGHTNESS = (132.5, 133.8, 113.3, 107.5, 99.2, 168.5, 126.0, 93.1)
"""Of the small shop's photos: how many, their mean colour, and the mean of eight of them (0 black, 255 white)."""


def test_the_tables_are_those_of_this_version(tmp_path, monkeypatch):
    # The tables name the photos but do not depend on them; drawing 4,500 takes half a minute.
    monkeypatch.setattr(module, "draw_catalogue", lambda *_, **__: None)
    assert (VERSION, build_catalogue(tmp_path).digest) == (1, "dc58b6b92395745d")


def test_the_photos_are_those_of_this_version(small_shop):
    # Not their bytes: JPEG files of one drawing differ by a level between families of processors.
    photos = [np.asarray(Image.open(small_shop.folder / path).convert("RGB")) for path in small_shop.images["path"]]
    pixels = np.stack(photos).astype(float)
    assert len(pixels) == PHOTOS
    assert pixels.mean(axis=(0, 1, 2)) == pytest.approx(MEAN_COLOUR, abs=0.5)
    assert pixels.mean(axis=(1, 2, 3))[:: len(pixels) // 8][:8] == pytest.approx(BRIGHTNESS, abs=1.0)
