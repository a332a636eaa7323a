"""The image-embedding benchmark reports what it says, and both sides do the same work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chapter03_multimodal.clip import load_clip
from common.errors import CourseError
from course.bench import FIELDS
from course.benchmarks import image_embedding


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for number, path in enumerate(paths):
        grid = np.random.default_rng(number).integers(0, 255, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(grid).resize((40, 30)).save(path)
    return paths


def test_a_row_has_the_pair_and_their_agreement(photos, tiny_clip):
    (row,) = image_embedding.main(photos, model=str(tiny_clip))
    assert set(FIELDS) <= set(row)
    assert row["name"] == "image-embedding" and row["our_value"] > 0 < row["peer_value"] and row["ratio"] > 0
    assert 0.999 <= row["cosine"] <= 1.00001
    assert "12 photos given" in row["note"]


def test_the_plain_loop_goes_over_all_photos_in_order(photos, tiny_clip, monkeypatch):
    clip = load_clip(tiny_clip)
    whole = image_embedding.plain_loop(clip, photos)
    monkeypatch.setattr(image_embedding, "BATCH", 5)
    np.testing.assert_allclose(image_embedding.plain_loop(clip, photos), whole, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(image_embedding.plain_loop(clip, photos[::-1]), whole[::-1], atol=1e-5)
    assert np.abs(whole[:-1] - whole[1:]).max(axis=1).min() > 1e-3


def test_too_few_or_unusable_photos_are_refused(photos, tiny_clip):
    with pytest.raises(CourseError, match="9 photos are too few"):
        image_embedding.main(photos[:9], model=str(tiny_clip))
    photos[4].write_bytes(b"")
    with pytest.raises(CourseError, match=r"4\.png: the image file is empty"):
        image_embedding.main(photos, model=str(tiny_clip))


def test_the_photos_are_real_ones_if_there_are_any(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path))
    folder = tmp_path / "grocery-store" / "dataset" / "train"
    folder.mkdir(parents=True)
    for number in range(8):
        (folder / f"{number}.jpg").touch()
    monkeypatch.setattr(image_embedding, "PHOTOS", 5)
    paths, source = image_embedding._photos()
    assert source == "photos of grocery-store" and len(set(paths)) == 5
    better = tmp_path / "magento-luma" / "pub" / "media" / "catalog" / "product"
    better.mkdir(parents=True)
    (better / "a.jpg").touch()
    assert image_embedding._photos() == ([better / "a.jpg"], "photos of magento-luma")
