"""The product photos: repeatable, in the right colour, patterned when asked, whole files or none."""

from __future__ import annotations

import time
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import CourseError
from common.pocket_shop import painter, photos
from common.pocket_shop.photos import PATTERNS, PhotoFacts, draw_catalogue, draw_photo, sketch_product
from common.pocket_shop.vocabulary import COLOURS, leaves

MUG = PhotoFacts("mug", "blue", "white", "porcelain")
# Clear hues: grey, beige and the metals are shades of their neighbours once light falls on them.
HUES = ("red", "yellow", "green", "blue", "turquoise", "purple", "pink", "black", "white")


def cut_out(facts: PhotoFacts, seed: int = 3, size: int = 96) -> np.ndarray:
    return painter.cut_out(sketch_product(facts, seed), size)[0]


def typical_colour(facts: PhotoFacts, seed: int) -> np.ndarray:
    """Median colour of the product, where it is opaque."""
    layer = cut_out(facts, seed)
    return np.median(layer[:3][:, layer[3] > 0.6] / layer[3][layer[3] > 0.6], axis=1)


def test_the_same_arguments_give_the_same_bytes():
    patterned = PhotoFacts("cushion", "red", "white", "linen", "floral")
    for facts in (MUG, patterned):
        assert draw_photo(facts, seed=11).tobytes() == draw_photo(facts, seed=11).tobytes()
    assert draw_photo(MUG, seed=11).tobytes() != draw_photo(MUG, seed=12).tobytes()


@pytest.mark.parametrize("size", [32, 65, 256])
def test_a_photo_has_the_size_asked_for(size: int):
    photo = draw_photo(MUG, seed=1, size=size)
    assert photo.shape == (size, size, 3)
    assert photo.dtype == np.uint8


def test_every_leaf_category_has_a_shape_and_no_shape_is_left_over():
    assert set(photos.shapes()) == {leaf.key for leaf in leaves()}


@pytest.mark.parametrize("leaf", leaves(), ids=lambda leaf: leaf.key)
def test_every_leaf_draws_cleanly_and_fits_the_picture(leaf):
    for seed, (material, pattern) in enumerate(
        zip(leaf.materials, ("plain", "striped", "stars", "checked"), strict=False)
    ):
        facts = PhotoFacts(leaf.key, "green", "white", material, pattern)
        with warnings.catch_warnings(), np.errstate(invalid="raise", divide="raise"):
            warnings.simplefilter("error")
            layer = cut_out(facts, seed, 64)
            photo = draw_photo(facts, seed=seed, size=64)
        assert np.isfinite(layer).all()
        assert 0.03 < layer[3].mean() < 0.8, "too small or too large for the picture"
        edge = np.concatenate([layer[3, 0], layer[3, -1], layer[3, :, 0], layer[3, :, -1]])
        assert edge.mean() < 0.06, "cut off by the picture's edge"
        assert photo.std() > 8


def test_the_typical_colour_is_nearest_to_the_colour_asked_for():
    """Each product is compared with itself in every other colour, drawn with other seeds."""
    cases = [("mug", "porcelain"), ("sofa", "velvet"), ("t_shirt", "cotton"), ("suitcase", "plastic"), ("rug", "wool")]
    cases += [("teddy", "polyester"), ("backpack", "canvas"), ("wardrobe", "oak"), ("saucepan", "copper")]
    wrong = []
    for leaf, material in cases:
        reference = {
            hue: np.mean([typical_colour(PhotoFacts(leaf, hue, "white", material), seed) for seed in range(4)], axis=0)
            for hue in HUES
        }
        for hue in HUES:
            seen = typical_colour(PhotoFacts(leaf, hue, "white", material), seed=99)
            nearest = min(HUES, key=lambda other: np.linalg.norm(reference[other] - seen))
            if nearest != hue:
                wrong.append((leaf, hue, nearest))
    assert not wrong


def test_the_colour_asked_for_is_the_colour_painted():
    """The palette itself is met, not only told apart: flat enough products come close to the vocabulary's RGB."""
    for hue in HUES:
        seen = np.mean(
            [typical_colour(PhotoFacts("t_shirt", hue, "white", "cotton"), seed) for seed in range(4)], axis=0
        )
        wanted = {name: np.array(colour.rgb) / 255 for name, colour in COLOURS.items() if name in HUES}
        assert min(wanted, key=lambda name: np.linalg.norm(wanted[name] - seen)) == hue


@pytest.mark.parametrize("pattern", PATTERNS[1:])
@pytest.mark.parametrize(("leaf", "material"), [("mug", "porcelain"), ("dress", "cotton"), ("rug", "cotton")])
def test_a_pattern_shows_in_the_accent_colour_on_part_of_the_product(leaf: str, material: str, pattern: str):
    plain = cut_out(PhotoFacts(leaf, "blue", "yellow", material))
    patterned = cut_out(PhotoFacts(leaf, "blue", "yellow", material, pattern))
    np.testing.assert_array_equal(plain[3], patterned[3])
    product = plain[3] > 0.9
    yellow = (patterned[0] - patterned[2] > 0.1)[product].mean()
    assert (plain[0] - plain[2] > 0.1)[product].mean() < 0.01
    assert 0.06 < yellow < 0.7


def test_patterns_differ_from_each_other():
    drawn = [cut_out(PhotoFacts("rug", "white", "red", "cotton", pattern)) for pattern in PATTERNS]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one - other).mean() > 0.01


def test_materials_differ_from_each_other():
    materials = ("porcelain", "stoneware", "glass", "steel", "oak", "rattan", "wool", "velvet")
    drawn = [cut_out(PhotoFacts("vase", "blue", "white", material)) for material in materials]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert np.abs(one - other).mean() > 0.002


def test_glass_lets_the_background_through_and_porcelain_does_not():
    middle = (slice(45, 55), slice(45, 55))
    assert cut_out(PhotoFacts("bowl", "blue", "white", "glass"))[3][middle].max() < 0.95
    assert cut_out(PhotoFacts("bowl", "blue", "white", "porcelain"))[3][middle].min() > 0.99


def test_cropping_to_the_parts_changes_nothing(monkeypatch):
    """The naive twin lights every part over the whole picture."""
    cases = [
        MUG,
        PhotoFacts("bicycle", "red", "white", "steel"),
        PhotoFacts("sofa", "green", "white", "wool", "dotted"),
    ]
    fast = [draw_photo(facts, seed=5, size=128) for facts in cases]
    monkeypatch.setattr(painter._Pose, "crop", lambda self, bounds, margin: (slice(0, 128), slice(0, 128)))
    for photo, facts in zip(fast, cases, strict=True):
        difference = np.abs(photo.astype(int) - draw_photo(facts, seed=5, size=128))
        # Curves of many edges are sampled on every second pixel, whose parity follows the crop.
        assert difference.mean() < 0.4
        assert (difference > 24).mean() < 0.004


def test_a_photo_is_quick():
    draw_photo(MUG, seed=0)  # textures are drawn once
    start = time.process_time()
    for seed in range(20):
        draw_photo(MUG, seed=seed)
    assert (time.process_time() - start) / 20 < 0.1


def test_a_catalogue_is_the_single_photos_encoded(tmp_path: Path):
    facts = [PhotoFacts("mug", hue, "white", "enamel", "striped") for hue in HUES[:4]]
    paths = [tmp_path / "deep" / f"{i}.jpg" for i in range(4)]
    draw_catalogue(facts, range(4), paths, size=64)
    for seed, (fact, path) in enumerate(zip(facts, paths, strict=True)):
        buffer = BytesIO()
        Image.fromarray(draw_photo(fact, seed=seed, size=64)).save(buffer, "JPEG", quality=photos.JPEG_QUALITY)
        assert path.read_bytes() == buffer.getvalue()
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [path.name for path in paths]


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path):
    facts = [PhotoFacts("bowl", HUES[i % 9], "white", "glass") for i in range(photos.POOL_FROM)]
    for workers in (1, 2):
        paths = [tmp_path / str(workers) / f"{i}.jpg" for i in range(len(facts))]
        draw_catalogue(facts, range(len(facts)), paths, size=32, workers=workers)
    for i in range(len(facts)):
        assert (tmp_path / "1" / f"{i}.jpg").read_bytes() == (tmp_path / "2" / f"{i}.jpg").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch):
    path = tmp_path / "mug.jpg"
    path.write_bytes(b"old")

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(photos.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        draw_catalogue([MUG], [1], [path], size=32)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mug.jpg"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leaf": "spaceship"}, "leaf 'spaceship'"),
        ({"colour": "mauve"}, "colour 'mauve'"),
        ({"accent": "mauve"}, "accent 'mauve'"),
        ({"material": "kryptonite"}, "material 'kryptonite'"),
        ({"pattern": "paisley"}, "pattern 'paisley'"),
    ],
)
def test_an_unknown_fact_is_named_with_the_choices(change: dict[str, str], message: str):
    facts = PhotoFacts(**{**vars(MUG), **change})
    with pytest.raises(CourseError, match=f"{message}.*choose one of"):
        draw_photo(facts, seed=0)


def test_lists_of_different_lengths_and_tiny_sizes_are_refused(tmp_path: Path):
    with pytest.raises(CourseError, match="2 facts, 1 seeds and 1 paths"):
        draw_catalogue([MUG, MUG], [1], [tmp_path / "a.jpg"])
    with pytest.raises(CourseError, match="size 16"):
        draw_photo(MUG, seed=0, size=16)
