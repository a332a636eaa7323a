from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from chapter03_multimodal.duplicates import PictureHashes, audit, hash_pictures, move_together, near_pairs
from common.catalogue.contract import SPLITS
from common.errors import CourseError


def scene(seed: int, colour: str = "red", size: int = 128) -> Image.Image:
    """A drawing of ten shapes in one colour on white; another seed draws other shapes."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    for at in range(10):
        x, y, w, h = (rng.integers([0, 0, 12, 12], [96, 96, 48, 48]) * size / 128).tolist()
        (draw.ellipse if at % 2 else draw.rectangle)((x, y, x + w, y + h), fill=colour, outline="black")
    return image


def saved(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def random_hashes(seed: int, count: int, bits: int = 6) -> PictureHashes:
    """Hashes that differ in few bits and colours that differ a little, so that the bounds are met and missed."""
    rng = np.random.default_rng(seed)
    return PictureHashes(
        pixels=rng.integers(0, 3, count).astype("U32"),
        hashes=rng.integers(0, 2**bits, (count, 4), dtype=np.uint64),
        colours=rng.integers(0, 60, (count, 48)).astype(np.int16),
        rows=np.arange(count),
        unusable={},
    )


def naive_pairs(pictures: PictureHashes, threshold: int, tolerance: int) -> list[tuple[int, int, int, bool]]:
    found = []
    for a in range(len(pictures.hashes)):
        for b in range(a + 1, len(pictures.hashes)):
            words = zip(pictures.hashes[a].tolist(), pictures.hashes[b].tolist(), strict=True)
            distance = sum((x ^ y).bit_count() for x, y in words)
            cells = np.abs(pictures.colours[a].astype(float) - pictures.colours[b]).reshape(16, 3).mean(axis=1)
            if distance <= threshold and cells.max() <= tolerance:
                found.append((a, b, distance, pictures.pixels[a] == pictures.pixels[b]))
    return found


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
def test_pairs_in_blocks_are_the_pairs_one_by_one(monkeypatch, block):
    monkeypatch.setattr("chapter03_multimodal.duplicates._BLOCK_PAIRS", block)
    pictures = random_hashes(3, 40)
    expected = naive_pairs(pictures, 9, 45)
    assert 20 < len(expected) < 700
    assert list(near_pairs(pictures, 9, 45).itertuples(index=False, name=None)) == expected


def test_no_pictures_have_no_pairs():
    assert near_pairs(hash_pictures([])).columns.tolist() == ["a", "b", "distance", "exact"]
    assert near_pairs(hash_pictures([scene(0)])).empty


@pytest.mark.parametrize("bounds", [(-1, 30), (128, 30), (20, -1), (20, 256)])
def test_bounds_out_of_range_are_refused(bounds):
    with pytest.raises(CourseError, match="choose 0 to"):
        near_pairs(random_hashes(0, 3), *bounds)


@pytest.mark.parametrize("seed", range(3))
def test_a_picture_is_near_its_copies_and_not_near_other_things(seed):
    original = scene(seed)
    copies = [saved(original, 40), original.resize((70, 70)), original.crop((1, 1, 127, 127)), original.copy()]
    others = [scene(seed + 10), scene(seed, "blue"), Image.new("RGB", (128, 128), "white")]
    pairs = near_pairs(hash_pictures([original, *copies, *others]))
    of_original = pairs[pairs["a"] == 0]
    assert of_original["b"].tolist() == [1, 2, 3, 4]
    assert of_original["exact"].tolist() == [False, False, False, True]
    assert set(pairs["b"]) <= {1, 2, 3, 4}


def test_colour_tells_versions_of_one_shape_apart():
    versions = hash_pictures([scene(1, "red"), scene(1, "blue")])
    assert len(near_pairs(versions, colour_tolerance=255)) == 1  # to the grey hash they are one picture
    assert near_pairs(versions).empty


def test_pictures_that_cannot_be_read_are_left_out_with_their_reason(tmp_path):
    scene(0).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    found = hash_pictures([tmp_path / "gone.png", tmp_path / "good.png", tmp_path / "bad.png"])
    assert found.rows.tolist() == [1] and len(found.hashes) == 1
    assert "no such image file" in found.unusable[0] and "not an image" in found.unusable[2]


def products(*rows: tuple[str, str | None, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["product_id", "group_id", "split"], dtype="str")


def test_what_belongs_together_goes_to_the_earliest_split_whole():
    table = products(
        ("a", "g1", "train"),
        ("b", "g2", "val"),
        ("c", "g2", "val"),
        ("d", None, "test"),
        ("e", None, "test"),
        ("f", None, "val"),
        ("g", None, "test"),
    )
    # a-b crosses; c comes along as b's variant and d as c's double; e-f meet in val; g has no double.
    moved = move_together(table, np.array([0, 2, 4]), np.array([1, 3, 5]))
    assert moved.tolist() == ["train", "train", "train", "train", "val", "val", "test"]


@st.composite
def shops(draw) -> tuple[pd.DataFrame, list[tuple[int, int]]]:
    groups = draw(st.lists(st.integers(0, 6), min_size=1, max_size=12))
    split_of = draw(st.lists(st.sampled_from(SPLITS), min_size=7, max_size=7))
    table = products(*((f"p{at}", f"g{group}", split_of[group]) for at, group in enumerate(groups)))
    ends = st.integers(0, len(groups) - 1)
    return table, draw(st.lists(st.tuples(ends, ends), max_size=8))


@settings(max_examples=60, deadline=None)
@given(shops())
def test_after_the_moves_no_pair_crosses_no_group_is_cut_and_nothing_moves_again(shop):
    table, edges = shop
    a, b = (np.array([edge[side] for edge in edges], dtype=np.int64) for side in (0, 1))
    now = move_together(table, a, b)
    assert (now.to_numpy()[a] == now.to_numpy()[b]).all()
    assert now.groupby(table["group_id"]).nunique().eq(1).all()
    assert (now.map(SPLITS.index) <= table["split"].map(SPLITS.index)).all()  # train never loses, test never gains
    assert now.tolist() == naive_moves(table, edges)
    assert move_together(table.assign(split=now), a, b).equals(now)


def naive_moves(table: pd.DataFrame, edges: list[tuple[int, int]]) -> list[str]:
    """Let every product take the earlier split of a neighbour until nothing changes."""
    ranks = [SPLITS.index(split) for split in table["split"]]
    groups = table["group_id"].tolist()
    edges = edges + [(x, y) for x in range(len(groups)) for y in range(x) if groups[x] == groups[y]]
    while True:
        before = list(ranks)
        for x, y in edges:
            ranks[x] = ranks[y] = min(ranks[x], ranks[y])
        if ranks == before:
            return [SPLITS[rank] for rank in ranks]


@pytest.fixture
def leaking(tmp_path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six products: the test photo of t1 is train's p1 saved again, v1's is t2's to the pixel, w is alone."""
    table = products(
        ("p1", "g1", "train"),
        ("t1", "g2", "test"),
        ("t1-blue", "g2", "test"),
        ("v1", None, "val"),
        ("t2", None, "test"),
        ("w", None, "test"),
    )
    pictures = {"p1": scene(1), "t1": saved(scene(1), 60), "t1-blue": scene(1, "blue"), "v1": scene(2), "t2": scene(2)}
    for name, picture in (pictures | {"w": scene(3)}).items():
        picture.save(tmp_path / f"{name}.png")
    ids = ["t2", "t1", "t1-blue", "v1", "p1", "w"]
    return table, pd.DataFrame({"product_id": ids, "path": [f"{name}.png" for name in ids]}, dtype="str")


def test_an_audit_reports_pairs_and_moves(leaking, tmp_path):
    found = audit(*leaking, folder=tmp_path)
    exact, near = found.duplicates.to_dict("records")
    shared = {"a_path": "v1.png", "b_path": "t2.png", "a_id": "v1", "b_id": "t2", "a_split": "val", "b_split": "test"}
    assert exact == {**shared, "distance": 0, "exact": True}
    assert (near["a_id"], near["b_id"], near["a_split"], near["b_split"]) == ("p1", "t1", "train", "test")
    assert not near["exact"] and near["distance"] <= 10
    moved = found.moved.set_index("product_id")
    assert moved["to_split"].to_dict() == {"t1": "train", "t1-blue": "train", "t2": "val"}
    assert set(moved["from_split"]) == {"test"}
    assert found.splits.tolist() == ["train", "train", "train", "val", "val", "test"]


def test_an_audit_of_the_audited_finds_nothing(leaking, tmp_path):
    table, images = leaking
    again = audit(table.assign(split=audit(table, images, folder=tmp_path).splits), images, folder=tmp_path)
    assert again.duplicates.empty and again.moved.empty
    assert again.duplicates.columns.tolist() == audit(table, images, folder=tmp_path).duplicates.columns.tolist()


def test_an_audit_needs_splits(leaking, tmp_path):
    table, images = leaking
    with pytest.raises(CourseError, match="every product in a split"):
        audit(table.assign(split=None), images, folder=tmp_path)
