from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from common.catalogue import abo, load_catalogue
from common.errors import CourseError


def tagged(**values: str) -> list[dict[str, str]]:
    return [{"language_tag": language, "value": value} for language, value in values.items()]


LISTINGS = [
    {
        "item_id": "B01",
        "item_name": tagged(de_DE="Roter Stuhl", en_GB="Red chair"),
        "brand": tagged(de_DE="Eiche", en_GB="Oak & Co"),
        "bullet_point": tagged(en_GB="Solid <b>oak</b>", de_DE="Massiv"),
        "product_type": [{"value": "DINING_CHAIR"}],
        "node": [{"node_id": 1, "node_name": "/Categories/Furniture/Chairs"}, {"node_id": 2, "node_name": "/Else"}],
        "color": tagged(en_GB="Red"),
        "material": tagged(en_GB="Oak"),
        "main_image_id": "m1",
        "other_image_id": ["m9"],
    },
    {"item_id": "B02", "item_name": tagged(en_US="Red chair, pair"), "main_image_id": "m1"},
    {
        "item_id": "B03",
        "item_name": tagged(fr_FR="Lampe"),
        "main_image_id": "m2",
        "node": [{"node_name": "/Categories"}],
    },
    {"item_id": "B03", "item_name": tagged(en_US="Lamp"), "main_image_id": "m3"},
    {"item_id": "B04", "item_name": tagged(en_US="Without a photo")},
    {"item_id": "B05", "item_name": tagged(en_US="Photo that nobody lists"), "main_image_id": "m8"},
    {"item_id": "B06", "item_name": tagged(ja_JP="机"), "main_image_id": "m4"},
]


@pytest.fixture
def abo_home(tmp_path, monkeypatch) -> Path:
    """A data home with generated listings and pictures in the public layout."""
    home = tmp_path / "home"
    folder = home / "abo"
    (folder / "listings" / "metadata").mkdir(parents=True)
    (folder / "images" / "metadata").mkdir(parents=True)
    for number, listings in enumerate((LISTINGS[:3], LISTINGS[3:])):
        lines = [json.dumps(listing, ensure_ascii=False) for listing in listings] + ["{}"] * (number == 1)
        with gzip.open(folder / "listings" / "metadata" / f"listings_{number}.json.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(lines))
    rows = ["image_id,height,width,path"]
    for number in (1, 2, 3, 4, 9):
        path = folder / "images" / "small" / f"0{number}" / f"m{number}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(path)
        rows.append(f"m{number},8,8,0{number}/m{number}.jpg")
    with gzip.open(folder / "images" / "metadata" / "images.csv.gz", "wt") as file:
        file.write("\n".join(rows))
    monkeypatch.setenv("COURSE_DATA_HOME", str(home))
    return home


def test_a_listing_becomes_a_product_with_its_english_words(abo_home):
    catalogue = load_catalogue("abo", selection="all")
    chair = catalogue.products.set_index("product_id").loc["B01"]
    assert chair[["title", "brand", "colour", "material", "locale", "description"]].tolist() == [
        "Red chair",
        "Oak & Co",
        "Red",
        "Oak",
        "en_GB",
        "Solid oak",
    ]
    assert chair["category_path"] == "Furniture > Chairs"
    assert json.loads(chair["attributes"]) == {"type": "dining chair"}
    assert catalogue.image_path("B01") == abo_home / "abo/images/small/01/m1.jpg"
    assert catalogue.images["product_id"].is_unique  # the main picture only


def test_listings_of_one_item_or_one_photo_are_one_group(abo_home):
    products = load_catalogue("abo", selection="all").products.set_index("product_id")
    assert products.loc["B03", "title"] == "Lamp" and products.loc["B03-2", "title"] == "Lampe"
    assert products.loc["B01", "group_id"] == products.loc["B02", "group_id"]
    assert products.loc["B03", "group_id"] == products.loc["B03-2", "group_id"]
    assert products["group_id"].nunique() == 5
    assert pd.isna(products.loc["B03-2", "category_path"])  # the root alone says nothing
    assert products.groupby("group_id")["split"].nunique().eq(1).all()


def test_a_chain_of_items_and_photos_is_one_group():
    listings = pd.DataFrame({"item_id": [*"ABBCD"], "main_image_id": ["1", "1", "2", "2", None]}, dtype=object)
    assert abo._groups(listings).tolist() == ["A"] * 4 + ["D"]


def test_mini_takes_pictured_english_items_by_their_hash(abo_home, monkeypatch):
    every = load_catalogue("abo").products["product_id"]
    assert set(every) == {"B01", "B02", "B03", "B03-2", "B06"}
    monkeypatch.setattr(abo, "MINI_ITEMS", 2)
    two = abo.build_catalogue(abo_home).products["product_id"].str.slice(0, 3).unique().tolist()
    assert sorted(two) == sorted(sorted(["B01", "B02", "B03"], key=abo.selection_key)[:2])
    monkeypatch.setattr(abo, "MINI_ITEMS", 3)
    assert "B06" not in set(abo.build_catalogue(abo_home).products["product_id"])  # English titles come first
    assert abo.selection_key("B01") == "8975f66bf28eed73"  # published: the same on every machine


def test_what_is_no_listing_is_set_aside(abo_home):
    catalogue = load_catalogue("abo", selection="all")
    assert catalogue.quarantine["reason"].str.contains(r"listings_1\.json\.gz, line 5: not a listing").tolist() == [
        True
    ]


def test_missing_and_damaged_files(abo_home, monkeypatch, tmp_path):
    with pytest.raises(CourseError, match="unknown selection 'maxi'; choose one of mini, all, text"):
        load_catalogue("abo", selection="maxi")
    listings = abo_home / "abo/listings/metadata/listings_1.json.gz"
    listings.write_bytes(listings.read_bytes()[:40])
    with pytest.raises(CourseError, match=r"listings_1\.json\.gz: damaged"):
        load_catalogue("abo")
    (abo_home / "abo/images/metadata/images.csv.gz").unlink()
    with pytest.raises(CourseError, match=r'missing images/metadata/images\.csv\.gz.*berkeley.*selection="text"'):
        load_catalogue("abo")


def test_the_text_tables_load_and_no_photo_stands_in_both_splits(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "abo-mini").mkdir(parents=True)
    columns = ["item_id", "main_image_id", "title", "brand", "product_type", "node_path", "text"]
    text = "title: A | brand: Acme | node_path: /Kategorien/Schuhe | color: Sea Green | material: wool"
    train = [
        ["A", "m1", "A", "Acme", "SHOES", "/Kategorien/Schuhe", text],
        ["A", "m2", "A2", None, "RUG", "/Rugs", "x"],
    ]
    val = [["B", "m2", "B", "Acme", "RUG", "/Rugs", "color: x"], ["C", "m3", "C", "Acme", "RUG", "/Rugs", "y"]]
    for split, rows in (("train", train), ("val", val)):
        extra = pd.DataFrame(rows, columns=columns).assign(image_path="a.jpg", category_l1="Rugs")
        extra.to_parquet(home / "abo-mini" / f"{split}.parquet")
    monkeypatch.setenv("COURSE_DATA_HOME", str(home))
    catalogue = load_catalogue("abo", selection="text")
    products = catalogue.products.set_index("product_id")
    assert products.index.tolist() == ["A", "A-2", "B", "C"]
    assert products["split"].tolist() == ["train", "train", "train", "val"]  # B has a training photo
    assert products.loc["A", ["category_path", "colour", "material"]].tolist() == ["Schuhe", "Sea Green", "wool"]
    assert products["colour"].isna().tolist() == [False, True, True, True]
    assert catalogue.images.empty
    (home / "abo-mini/val.parquet").unlink()
    with pytest.raises(CourseError, match=r"abo-mini: missing val\.parquet"):
        load_catalogue("abo", selection="text")
