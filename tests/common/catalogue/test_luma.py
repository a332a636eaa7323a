from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from common.catalogue import load_catalogue, luma
from common.errors import CourseError

TEES = "Default Category/Promotions/Tees,Default Category/Men/Tops/Tees,Default Category"
CLOTHES = [
    [
        "T1-S-Red",
        "simple",
        TEES,
        "Run Tee-S-Red",
        "/t/1/red.jpg",
        "",
        "has_options=0,size=S,color=Red",
        "",
        "<p>Dry.",
        "20",
    ],
    [
        "T1-S-Tan",
        "simple",
        TEES,
        "Run Tee-S-Tan",
        "/t/1/tan.jpg",
        "",
        "has_options=0,size=S,color=Tan",
        "",
        "<p>Dry.",
        "20",
    ],
    [
        "T1",
        "configurable",
        TEES,
        "Run Tee",
        "/t/1/red.jpg",
        "/t/1/back.jpg,/t/1/side.jpg,/t/1/red.jpg",
        "has_options=1,material=Lycra&reg;|Wool,climate=Hot|Cool,eco_collection=Yes,performance_fabric=No,sale=Yes",
        "sku=T1-S-Red,size=S,color=Red|sku=T1-S-Tan,size=S,color=Tan",
        "<p>Dry &amp; light.</p>",
        "20",
    ],
]
GEAR = ["category", "name", "sku", "price", "description", "material", "size", "color", "gender", "attribute_set"]
BALLS = [
    ["Gear\nFitness", "Ball 55 cm", "B1", "9", "<p>Round</p>", "Plastic", "55 cm", "Pink", "Men\nWomen", "Ball"],
    ["Gear\nFitness", "Ball 65 cm", "B2", "9", "<p>Round</p>", "Plastic", "65 cm", "Pink", "Men\nWomen", "Ball"],
    ["Gear\nBags\nCollections\nEco", "Day Bag", "D1", "30", "<p>Roomy</p>", "Nylon\nCanvas", "", "", "", "Bag"],
]


def write(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


@pytest.fixture
def luma_home(tmp_path, monkeypatch) -> Path:
    """A data home with a made-up shop in the layout of the sample data."""
    folder = tmp_path / "home" / "magento-luma"
    modules = folder / "app/code/Magento"
    write(modules / "ConfigurableSampleData/fixtures/products.csv", list(luma.CLOTHES_COLUMNS), CLOTHES)
    write(modules / "CatalogSampleData/fixtures/SimpleProduct/products_gear.csv", GEAR, BALLS)
    set_columns = [*GEAR, "associated_sku"]
    set_row = ["Gear\nFitness", "Two balls", "B_Group", "", "<p>Both</p>", "", "", "", "", "Gear", "B1,B2"]
    write(modules / "GroupedProductSampleData/fixtures/grouped.csv", set_columns, [set_row])
    images = [["B1", "/b/ball.jpg"], ["B2", "/b/ball.jpg"], ["D1", "/b/bag.jpg"], ["X9", "/b/bag.jpg"]]
    write(modules / "CatalogSampleData/fixtures/SimpleProduct/images_gear.csv", ["sku", "image"], images)
    write(modules / "CatalogSampleData/fixtures/categories.csv", ["name", "path"], [["Gear", ""]])
    links = {"related": [["T1", "D1\nB1"]], "crosssell": [["T1", "B1\nGIFT\nT1"]], "upsell": [["B1", "B2"]]}
    for module in ("CatalogSampleData", "ProductLinksSampleData"):  # which repeat each other
        for kind, rows in links.items():
            write(modules / module / f"fixtures/Links/{kind}.csv", ["sku", "linked_sku"], rows)
    for number, name in enumerate(("t/1/red", "t/1/tan", "t/1/back", "t/1/side", "b/ball", "b/bag")):
        path = folder / luma.MEDIA / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (30 * number, 90, 90)).save(path)
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "home"))
    return folder


def test_a_variant_has_its_own_colour_and_the_rest_of_its_garment(luma_home):
    products = load_catalogue("luma").products.set_index("product_id")
    variant, garment = products.loc["T1-S-Red"], products.loc["T1"]
    assert variant[["title", "colour", "material", "price"]].tolist() == ["Run Tee-S-Red", "Red", "Lycra®, Wool", 20.0]
    assert variant["category_path"] == "Men > Tops > Tees"
    facts = {"climate": "Hot, Cool", "eco collection": True, "performance fabric": False}
    assert json.loads(garment["attributes"]) == facts and pd.isna(garment["colour"])
    assert json.loads(variant["attributes"]) == {**facts, "size": "S"}
    assert garment["description"] == "Dry & light."


def test_gear_stands_before_its_promotions(luma_home):
    products = load_catalogue("luma").products.set_index("product_id")
    assert products.loc["D1", ["category_path", "material", "title"]].tolist() == [
        "Gear > Bags",
        "Nylon, Canvas",
        "Day Bag",
    ]
    assert json.loads(products.loc["B1", "attributes"]) == {"size": "55 cm", "gender": "Men, Women"}


def test_variants_sizes_and_sets_are_groups_and_no_group_is_cut(luma_home):
    products = load_catalogue("luma").products
    groups = products.groupby("group_id")["product_id"].apply(sorted).tolist()
    assert sorted(groups) == [["B1", "B2", "B_Group"], ["D1"], ["T1", "T1-S-Red", "T1-S-Tan"]]
    assert products.groupby("group_id")["split"].nunique().eq(1).all()


def test_pictures_are_in_the_shops_order_each_once(luma_home):
    catalogue = load_catalogue("luma")
    names = catalogue.images.assign(name=catalogue.images["path"].map(lambda path: Path(path).stem))
    assert names[names["product_id"] == "T1"].sort_values("position")["name"].tolist() == ["red", "back", "side"]
    assert catalogue.image_path("T1-S-Tan") == luma_home / luma.MEDIA / "t/1/tan.jpg"
    assert set(names["product_id"]) == {"T1", "T1-S-Red", "T1-S-Tan", "B1", "B2", "D1"}


def test_links_are_pairs_and_substitutes_only_if_asked_for(luma_home):
    catalogue = load_catalogue("luma")
    pairs = catalogue.pairs[["a_id", "b_id", "outfit_id", "label"]].values.tolist()
    assert sorted(pairs) == [
        ["T1", "B1", "crosssell/T1", 1],
        ["T1", "B1", "related/T1", 1],
        ["T1", "D1", "related/T1", 1],
    ]
    assert set(catalogue.quarantine["reason"]) == {
        "'GIFT' is not in the table products, or was set aside there",
        "pairs a product with itself",
    }
    everything = load_catalogue("luma", links=luma.LINKS).pairs
    assert ["B1", "B2", "upsell/B1"] in everything[["a_id", "b_id", "outfit_id"]].values.tolist()


def test_a_pair_is_in_the_later_split_of_its_ends():
    products = pd.DataFrame({"product_id": ["a", "b", "c"], "split": ["train", "val", "test"]})
    links = pd.DataFrame({"sku": ["a", "b", "a", "a"], "linked_sku": ["b", "c", "c", "a"], "kind": "related"})
    assert luma._pairs(links, products)["split"].tolist() == ["val", "test", "test", "train"]


def test_what_is_missing_is_said(luma_home):
    with pytest.raises(CourseError, match=r"unknown links \['sold with'\]; choose some of related, crosssell, upsell"):
        load_catalogue("luma", links=("sold with",))
    products = luma_home / "app/code/Magento/ConfigurableSampleData/fixtures/products.csv"
    products.write_text(products.read_text().replace("base_image", "picture"))
    with pytest.raises(CourseError, match=r"products\.csv: column 'base_image' is missing"):
        load_catalogue("luma")
    products.unlink()
    with pytest.raises(
        CourseError, match=r"missing app/code/Magento/.*products\.csv; get it from .*magento2-sample-data"
    ):
        load_catalogue("luma")
