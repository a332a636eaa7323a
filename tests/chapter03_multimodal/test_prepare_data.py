from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chapter03_multimodal.duplicates import hash_pictures, near_pairs
from chapter03_multimodal.prepare_data import (
    MultimodalData,
    PrepareDataConfig,
    given_or_drawn_splits,
    load_multimodal_data,
    main,
    multimodal_text,
    print_summary,
    split_picture,
)
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError, MissingArtifact


@pytest.fixture(scope="module")
def leaking_shop(photo_shop, tmp_path_factory) -> Catalogue:
    """The small shop, but eight products of val and test show photos of eight training products, saved again."""
    folder = tmp_path_factory.mktemp("leaking")
    products = photo_shop.products.set_index("product_id")
    split = photo_shop.images["product_id"].map(products["split"])
    images = photo_shop.images.assign(path=[str(Path(photo_shop.folder, path)) for path in photo_shop.images["path"]])
    sources = images.index[split == "train"][:8]
    victims = images.index[split != "train"][:8]
    for source, victim in zip(sources, victims, strict=True):
        images.loc[victim, "path"] = str(folder / f"{victim}.jpg")
        Image.open(images.loc[source, "path"]).convert("RGB").save(images.loc[victim, "path"], quality=60)
    given = photo_shop.tables | {"images": images}
    return Catalogue.from_tables("leaking", **given, verify_images=False).save(folder / "saved")


@pytest.fixture(scope="module")
def data(leaking_shop) -> MultimodalData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(leaking_shop.folder.parent / "artifacts"))
        return main(PrepareDataConfig(catalogue=str(leaking_shop.folder)))


def test_the_shop_as_it_is_drawn_has_no_pictures_in_two_splits(photo_shop):
    pictures = [Path(photo_shop.folder, path) for path in photo_shop.images["path"]]
    assert near_pairs(hash_pictures(pictures)).empty


def test_one_row_a_picture(data, leaking_shop):
    assert data.pairs.columns.tolist() == ["product_id", "path", "text", "group_id", "category_path", "split"]
    assert data.pairs["path"].tolist() == leaking_shop.images["path"].tolist()
    products = leaking_shop.products.set_index("product_id").loc[data.pairs["product_id"]]
    assert data.pairs["text"].tolist() == multimodal_text(products)
    assert data.pairs["text"].str.len().gt(0).all()


def test_the_planted_copies_are_found_and_moved(data, leaking_shop):
    assert len(data.duplicates) == 8
    assert set(data.duplicates["a_split"]) == {"train"} and not set(data.duplicates["b_split"]) & {"train"}
    was = leaking_shop.products.set_index("product_id")["split"]
    moved = data.moved.set_index("product_id")
    assert set(data.duplicates["b_id"]) <= set(moved.index)
    assert moved["from_split"].tolist() == was[moved.index].tolist()
    assert moved["to_split"].eq("train").all()
    now = data.pairs.drop_duplicates("product_id").set_index("product_id")["split"]
    unmoved = now[~now.index.isin(moved.index)]
    assert unmoved.tolist() == was[unmoved.index].tolist()


def test_after_the_audit_no_near_pair_crosses_and_no_group_is_cut(data):
    pairs = near_pairs(hash_pictures(data.pairs["path"].tolist()))
    split = data.pairs["split"].to_numpy()
    assert len(pairs) >= 8
    assert (split[pairs["a"]] == split[pairs["b"]]).all()
    assert data.pairs.groupby("group_id")["split"].nunique().eq(1).all()
    assert set(split) == {"train", "val", "test"}


def test_the_step_is_done_once_and_read_again(data, leaking_shop, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(leaking_shop.folder.parent / "artifacts"))
    config = PrepareDataConfig(catalogue=str(leaking_shop.folder))
    again = main(config)
    assert again.run.name == data.run.name
    for name in ("pairs", "duplicates", "moved"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(data, name))
    none = main(replace(config, threshold=0))
    assert none.run.name != data.run.name and len(none.duplicates) < len(data.duplicates)


def test_the_step_says_what_it_did(leaking_shop, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path))
    print_summary(PrepareDataConfig(catalogue=str(leaking_shop.folder)))
    assert "8 pairs looked alike across splits (0 of them exact copies)" in capsys.readouterr().out


def test_missing_steps_and_pictures_are_errors(leaking_shop, photo_shop, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    with pytest.raises(MissingArtifact, match=r"python -m chapter03_multimodal\.prepare_data"):
        load_multimodal_data(Artifacts.for_catalogue(leaking_shop), leaking_shop)
    words = Catalogue.from_tables("words", products=photo_shop.products).save(tmp_path / "words")
    with pytest.raises(CourseError, match="words: no pictures"):
        main(PrepareDataConfig(catalogue=str(words.folder)))


def test_pictures_that_have_gone_since_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.delenv("COURSE_QUIET", raising=False)
    rng = np.random.default_rng(0)
    for name in "ab":
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(tmp_path / f"{name}.png")
    products = pd.DataFrame({"product_id": ["a", "b"], "title": ["A", "B"]})
    images = pd.DataFrame({"product_id": ["a", "b"], "path": [str(tmp_path / "a.png"), str(tmp_path / "b.png")]})
    shop = Catalogue.from_tables("two", products=products, images=images).save(tmp_path / "saved")
    (tmp_path / "a.png").unlink()
    assert main(PrepareDataConfig(catalogue=str(shop.folder))).pairs["product_id"].tolist() == ["b"]
    assert "1 pictures left out" in capsys.readouterr().err
    (tmp_path / "b.png").unlink()
    with pytest.raises(CourseError, match="none of the pictures"):
        main(PrepareDataConfig(catalogue=str(shop.folder), threshold=5))


def text_of(**cells: str | None) -> str:
    columns = ("title", "brand", "attributes", "category_path", "colour", "material", "description")
    return multimodal_text(pd.DataFrame([{name: cells.get(name) for name in columns}], dtype="str"))[0]


def test_a_text_says_what_can_be_seen_in_a_fixed_order():
    text = text_of(
        title="Grendal chair",
        brand="Oak & Co",
        attributes='{"type": "dining chair", "legs": 4}',
        category_path="Home > Seating",
        colour="Red",
        material="Oak",
        description="Ships in a week.",
    )
    assert text == "Grendal chair. Oak & Co. dining chair. Home, Seating. Red. Oak"


@pytest.mark.parametrize(
    "cells, expected",
    [
        ({"title": "Acme chair", "brand": "ACME", "category_path": "Home > Chair"}, "Acme chair. Home"),
        ({"title": "Acme", "brand": "Acme"}, "Acme"),
        ({"title": "Acmes chair", "brand": "Acme"}, "Acmes chair. Acme"),  # a part of a word is another word
        ({"title": "Sea", "attributes": '{"type": "green"}', "colour": "Sea Green"}, "Sea. green. Sea Green"),
        ({"title": "Lamp", "attributes": '{"type": ["a"]}', "colour": " "}, "Lamp"),
        ({"category_path": "Fruit > Pear > Fruit"}, "Fruit, Pear"),
        ({}, ""),
    ],
)
def test_nothing_is_said_twice_and_what_is_missing_is_not_said(cells, expected):
    assert text_of(**cells) == expected


def test_splits_are_the_products_own_else_the_groups_else_drawn():
    products = pd.DataFrame(
        {
            "product_id": ["a", "b", "c", "d"],
            "group_id": ["g", "g", None, None],
            "split": ["test", None, "val", None],
        },
        dtype="str",
    )
    splits = given_or_drawn_splits(products).tolist()
    assert splits[:3] == ["test", "test", "val"] and splits[3] in ("train", "val", "test")
    many = pd.DataFrame({"product_id": [f"p{n}" for n in range(400)], "group_id": None, "split": None}, dtype="str")
    drawn = given_or_drawn_splits(many).value_counts()
    assert 280 < drawn["train"] < 360 and drawn["val"] > 15 and drawn["test"] > 15


def test_the_picture_of_the_splits_adds_up(data):
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    axes = split_picture(data, Figure().subplots())
    there, came, left = ([bar.get_height() for bar in bars] for bars in axes.containers)
    counts = data.pairs["split"].value_counts()
    assert [x + y for x, y in zip(there, came, strict=True)] == [counts[split] for split in ("train", "val", "test")]
    with_picture = data.moved["product_id"].isin(data.pairs["product_id"]).sum()
    assert came == [with_picture, 0, 0]
    assert sum(left) == with_picture and left[0] == 0
