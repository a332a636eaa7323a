from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from common.catalogue import load_catalogue
from common.errors import CourseError

CLASSES = [
    ("Green-Apple", 0, "Apple", 0, "Fruit/Apple/Green-Apple"),
    ("Red-Apple", 1, "Apple", 0, "Fruit/Apple/Red-Apple"),
    ("Leek", 2, "Leek", 1, "Vegetables/Leek"),
]
HEADER = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
HEADER += "Iconic Image Path (str),Product Description Path (str)"


@pytest.fixture
def grocery_home(tmp_path, monkeypatch) -> Path:
    """A data home with drawn photos and made-up descriptions in the data set's layout."""
    folder = tmp_path / "home" / "grocery-store" / "dataset"
    lines, lists = [HEADER], {"train": [], "val": []}
    for name, fine, coarse_name, coarse, place in CLASSES:
        iconic = f"iconic-images-and-descriptions/{place}/{name}"
        lines.append(f"{name},{fine},{coarse_name},{coarse},/{iconic}_Iconic.jpg,/{iconic}_Description.txt")
        _draw(folder / f"{iconic}_Iconic.jpg", fine)
        (folder / f"{iconic}_Description.txt").write_text(f"A {name}\nof the best kind.\n")
        for split, count in (("train", 3), ("val", 1 if fine else 0)):
            for number in range(1, count + 1):
                path = f"{split}/{place}/{name}_{number:03d}.jpg"
                _draw(folder / path, 10 * fine + number)
                lists[split].append(f"{path}, {fine}, {coarse}")
    (folder / "classes.csv").write_text("\n".join(lines) + "\n")
    for split, rows in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "home"))
    return folder


def _draw(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 100, 50)).save(path)


def test_each_class_is_a_product_with_picture_and_description(grocery_home):
    catalogue = load_catalogue("grocery_store")
    iconic = catalogue.products[catalogue.products["product_id"].str.startswith("iconic/")]
    assert iconic["title"].tolist() == ["Green Apple", "Red Apple", "Leek"]
    assert iconic["category_path"].tolist() == [
        "Fruit > Apple > Green Apple",
        "Fruit > Apple > Red Apple",
        "Vegetables > Leek",
    ]
    assert iconic["description"].tolist()[0] == "A Green-Apple of the best kind."
    assert iconic["split"].eq("train").all()
    expected = grocery_home / "iconic-images-and-descriptions/Vegetables/Leek/Leek_Iconic.jpg"
    assert catalogue.image_path("iconic/Leek") == expected


def test_each_photo_is_a_product_in_the_split_of_its_list(grocery_home):
    catalogue = load_catalogue("grocery_store")
    photos = catalogue.products[~catalogue.products["product_id"].str.startswith("iconic/")]
    assert photos["split"].value_counts().to_dict() == {"train": 9, "val": 2}
    assert photos["description"].isna().all() and catalogue.products["group_id"].isna().all()
    photo = photos.set_index("product_id").loc["val/Red-Apple_001"]
    facts = {"kind": "photo", "fine class": "Red-Apple", "coarse class": "Apple"}
    assert json.loads(photo["attributes"]) == facts and photo["title"] == "Red Apple"
    assert len(catalogue.images) == len(catalogue.products)
    assert catalogue.quarantine.empty


def test_coarse_and_fine_classes_are_levels_of_the_path(grocery_home):
    products = load_catalogue("grocery_store").products
    facts = pd.DataFrame([json.loads(cell) for cell in products["attributes"]])
    levels = products["category_path"].str.split(" > ")
    assert levels.str[1].tolist() == facts["coarse class"].tolist()
    assert levels.str[-1].tolist() == facts["fine class"].str.replace("-", " ").tolist()


def test_a_test_list_is_read_where_there_is_one(grocery_home):
    _draw(grocery_home / "test/Leek_001.jpg", 3)
    (grocery_home / "test.txt").write_text("test/Leek_001.jpg, 2, 1\n")
    products = load_catalogue("grocery_store").products.set_index("product_id")
    assert products.loc["test/Leek_001", "split"] == "test"


def test_lines_and_pictures_that_break_the_contract_are_set_aside(grocery_home):
    with (grocery_home / "val.txt").open("a") as file:
        file.write("val/a.jpg, 7, 0\nval/b.jpg, 1, 1\nval/c.jpg\nval/Vegetables/gone.jpg, 2, 1\n\n")
    catalogue = load_catalogue("grocery_store")
    reasons = catalogue.quarantine.groupby("table")["reason"].apply(list).to_dict()
    assert [reason.split(": ")[0] for reason in reasons["products"][:3]] == [f"val.txt, line {n}" for n in (3, 4, 5)]
    assert reasons["images"] == ["there is no such image file"]
    assert "val/gone" in set(catalogue.products["product_id"])  # it still has its name


def test_missing_files_and_columns(grocery_home):
    path = grocery_home / "classes.csv"
    whole = path.read_text()
    path.write_text(whole.replace("Coarse Class ID", "Coarse ID"))
    with pytest.raises(CourseError, match=r"classes\.csv: column 'Coarse Class ID \(int\)' is missing.*Coarse ID"):
        load_catalogue("grocery_store")
    path.write_text(whole.replace("Leek,2,Leek,1", "Leek,2,,1"))
    with pytest.raises(CourseError, match=r"classes\.csv: line 4 is not complete"):
        load_catalogue("grocery_store")
    path.unlink()
    with pytest.raises(CourseError, match=r"missing dataset/classes\.csv; get it from .*GroceryStoreDataset"):
        load_catalogue("grocery_store")
