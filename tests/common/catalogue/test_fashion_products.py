from __future__ import annotations

import json
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest

from common.catalogue import fashion_facts, fashion_products, load_catalogue
from common.catalogue.fashion_facts import brands_of
from common.catalogue.fashion_files import fashion_files, read_fashion
from common.catalogue.fashion_products import load_intents, sizes_by_split, title_shares
from common.errors import CourseError
from tests.common.catalogue import toy_fashion
from tests.common.catalogue.toy_fashion import write_fashion


@pytest.fixture
def shop(tmp_path):
    return str(write_fashion(tmp_path / "shop"))


def load(data, **parameters):
    return load_catalogue("fashion_products", data=str(data), **{"queries": 0, **parameters})


def test_a_row_becomes_a_product(shop):
    products = load(shop).products.set_index("product_id")
    first = products.loc["1000"]
    assert first["title"] == "Larkfield Men Black T-shirt Model 0"
    assert first["colour"] == "Black" and first["category_path"] == "Apparel > Topwear > Tshirts"
    facts = {"type": "Tshirts", "gender": "Men", "season": "Summer", "year": "2024", "usage": "Casual"}
    assert json.loads(first["attributes"]) == facts
    assert products["brand"].isna().all()


def test_na_is_a_missing_value_and_paths_stay_as_they_are(shop):
    products = load(shop).products.set_index("product_id")
    assert pd.isna(products.loc["14", "colour"])
    assert {"usage", "season"}.isdisjoint(json.loads(products.loc["14", "attributes"]))
    assert pd.isna(products.loc["16", "title"]) and pd.isna(products.loc["17", "title"])
    assert products.loc["15", "category_path"] == "Accessories > Belts > Tshirts"


def test_a_comma_too_many_belongs_to_the_title_and_other_bad_lines_are_set_aside(tmp_path):
    lines = (
        "21,Men,Apparel,Topwear,Tshirts,Red,Summer,2024,Casual,Tovik Men Tee, Red, and Long",
        "22,Men,Apparel",
        "../23,Men,Apparel,Topwear,Tshirts,Red,Summer,2024,Casual,Tovik Men Escape",
    )
    catalogue = load(write_fashion(tmp_path / "shop", lines=lines))
    products = catalogue.products.set_index("product_id")
    assert products.loc["21", "title"] == "Tovik Men Tee, Red, and Long"
    assert "22" not in products.index
    reasons = dict(zip(catalogue.quarantine["id"], catalogue.quarantine["reason"], strict=True))
    assert reasons["22"] == "styles.csv: 3 cells under 10 columns"
    assert reasons["../23"] == "the id is not a whole number"


@pytest.mark.parametrize("layout", ["folder", "zip", "below", "parquet"])
def test_every_layout_gives_the_same_products_and_pictures(tmp_path, shop, layout):
    expected = load(shop)
    catalogue = load(write_fashion(tmp_path / layout, layout))
    pd.testing.assert_frame_equal(
        catalogue.products.drop(columns="attributes"), expected.products.drop(columns="attributes")
    )
    for product_id, content in toy_fashion.pictures().items():
        path = catalogue.image_path(product_id)
        if product_id == "14":
            assert path is None
        else:
            assert path.read_bytes() == content
    assert catalogue.image_path("15") is None  # a product without a picture stays
    aside = catalogue.quarantine[catalogue.quarantine["table"] == "images"]
    assert aside["id"].str.contains("14").all() and len(aside) == 1
    assert "14" in set(catalogue.products["product_id"])


def test_quotes_that_do_not_end_are_an_error(tmp_path):
    line = '21,Men,Apparel,Topwear,Tshirts,Red,Summer,2024,Casual,"' + "x" * 200_000
    with pytest.raises(CourseError, match="correct its quotes"):
        load(write_fashion(tmp_path / "shop", lines=(line,)))


@pytest.mark.parametrize("kind", ["Tshirts", "Briefs"])
def test_a_small_folder_without_pictures_becomes_a_catalogue_without_queries(tmp_path, kind):
    lines = (f"{number},Men,Apparel,Topwear,{kind},Red,Summer,2024,Casual,Tovik Men {number}" for number in (1, 2))
    (tmp_path / "images").mkdir()
    (tmp_path / "styles.csv").write_text("\n".join([",".join(toy_fashion.HEADER), *lines]))
    catalogue = load(tmp_path, queries=7)
    assert len(catalogue.products) == 2 and catalogue.images.empty and catalogue.queries.empty


def test_a_repeated_id_is_set_aside_and_a_letter_that_is_no_text_is_replaced(tmp_path):
    home = write_fashion(tmp_path / "shop", lines=(",".join(toy_fashion.odd_rows()[0]),))
    with (home / "styles.csv").open("ab") as file:
        file.write(b"21,Men,Apparel,Topwear,Tshirts,Red,Summer,2024,Casual,Tovik Men Caf\xe9 Tee\n")
    catalogue = load(home, queries=7)
    titles = catalogue.products.set_index("product_id")["title"]
    assert titles["11"] == "Tovik Men  Red T-shirt" and titles["21"] == "Tovik Men Caf\ufffd Tee"
    assert not catalogue.truth.duplicated(["query_id", "product_id"]).any() and len(catalogue.queries) == 7


def test_the_year_of_the_hub_is_whole_again(tmp_path):
    products = load(write_fashion(tmp_path / "hub", "parquet")).products.set_index("product_id")
    assert json.loads(products.loc["1000", "attributes"])["year"] == "2024"
    assert "year" not in json.loads(products.loc["13", "attributes"])


def test_only_what_cannot_be_read_is_called_damaged(tmp_path, monkeypatch):
    home = write_fashion(tmp_path / "hub", "parquet")
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", Mock(side_effect=OSError("No space left")))
        with pytest.raises(OSError, match=r"^No space left$"):
            read_fashion(fashion_files(home), tmp_path)
    (home / "data" / "train-00001-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(CourseError, match=r"00001.*not a readable Parquet file"):
        load(home)


def test_a_picture_damaged_in_the_zip_is_set_aside(tmp_path):
    home = write_fashion(tmp_path / "shop", "zip")
    content = toy_fashion.pictures()["11"]
    archive = (home / "images.zip").read_bytes()
    at = archive.index(content) + 60
    (home / "images.zip").write_bytes(archive[:at] + b"XXXX" + archive[at + 4 :])
    with zipfile.ZipFile(home / "images.zip") as broken:
        assert broken.testzip() == "images/11.jpg"
    catalogue = load(home)
    assert catalogue.image_path("11") is None and "11" in set(catalogue.products["product_id"])
    assert catalogue.quarantine["reason"].str.startswith("damaged in the archive").any()


def test_same_title_or_same_picture_is_one_group_in_one_split(shop):
    products = load(shop).products.set_index("product_id")
    assert products.loc[["11", "12", "13"], "group_id"].tolist() == ["11"] * 3  # 12 joins 11 by title, 13 by picture
    assert products.loc[["16", "17"], "group_id"].nunique() == 2  # no title is no common title
    assert products["group_id"].value_counts().max() == 3
    assert (products.groupby("group_id")["split"].nunique() == 1).all()
    assert products["split"].nunique() == 3


def test_a_brand_begins_many_titles_before_the_word_for_a_person():
    titles = ["Larkfield Men Shirt"] * 5 + ["Larkfield Line Women Shirt"] * 6 + ["Benn & Ash Kids Cap"] * 5
    titles += ["Rare Men Shirt", "Larkfield Belt", "Larkfielder Men Belt", None]
    brands = brands_of(titles)
    assert brands[:16] == ["larkfield"] * 11 + ["benn & ash"] * 5
    assert brands[16:] == [None, "larkfield", None, None]


def test_a_brand_has_more_than_one_spelling_and_goes_by_the_most_frequent(monkeypatch):
    monkeypatch.setitem(fashion_facts.SAME_BRAND, "tm", "tovikmill")
    titles = ["Tovik Mill Men Cap"] * 5 + ["Tovik-Mill. Women Cap"] * 3 + ["TM Kids Cap"] * 4 + ["T.M. Belt"]
    assert brands_of([*titles, *["TovikMill Black Men Cap"] * 5, "Tovik Men Cap"]) == ["tovik mill"] * 18 + [None]


def test_title_shares_and_sizes_are_counted(shop):
    catalogue = load(shop)
    shares = title_shares(catalogue.products)
    assert shares["empty"] == pytest.approx(2 / len(catalogue.products))
    # Of the odd products, "Dark", "Odd Place" and no title (twice) do not say the colour.
    assert shares["without colour"] == pytest.approx(4 / (len(catalogue.products) - 1))
    sizes = sizes_by_split(catalogue)
    assert sizes["products"].sum() == len(catalogue.products) and sizes["queries"].sum() == 0


def test_no_queries_asked_for_are_none_drawn(shop, monkeypatch):
    monkeypatch.delattr(fashion_products, "draw_fashion_queries")
    catalogue = load(shop, queries=0)
    assert len(catalogue.products) and catalogue.queries.empty and catalogue.truth.empty and catalogue.judgements.empty
    with pytest.raises(CourseError, match="only fashion_products with queries"):
        load_intents(catalogue)


def test_a_folder_without_the_data_set_says_what_to_put_there(tmp_path, monkeypatch):
    with pytest.raises(CourseError, match="is no folder"):
        load(tmp_path / "absent")
    with pytest.raises(CourseError, match=r"neither styles\.csv nor a Parquet file"):
        load(tmp_path)
    (tmp_path / "styles.csv").write_text("id\n")
    with pytest.raises(CourseError, match="neither images/ nor"):
        load(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(CourseError, match="'gender' is missing"):
        load(tmp_path)
    with pytest.raises(CourseError, match=r"missing styles\.csv; get it from https://www\.kaggle\.com"):
        load_catalogue("fashion_products")


def test_without_a_data_home_the_downloads_are_read(tmp_path, monkeypatch):
    monkeypatch.delenv("COURSE_DATA_HOME", raising=False)
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    write_fashion(tmp_path / "artifacts" / "downloads" / "fashion-products", "zip")
    assert len(load_catalogue("fashion_products", queries=0).products) == len(toy_fashion.regular_rows()) + 7


def test_the_data_home_is_the_default(tmp_path, monkeypatch):
    write_fashion(tmp_path / "fashion-products", "zip")
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path))
    assert len(load_catalogue("fashion_products", queries=0).products) == len(toy_fashion.regular_rows()) + 7
