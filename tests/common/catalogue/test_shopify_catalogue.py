"""The adapter of Shopify's product catalogue on rows of our own writing in the public schema."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.catalogue import load_catalogue
from common.catalogue.images import open_image
from common.catalogue.shopify_catalogue import COLUMNS, candidate_rows, listed_paths
from common.errors import CourseError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def schema(potential: pa.DataType) -> pa.Schema:
    kinds = dict.fromkeys(COLUMNS, pa.string())
    kinds |= {"product_image": IMAGE, "potential_product_categories": potential}
    kinds["ground_truth_is_secondhand"] = pa.bool_()
    return pa.schema(list(kinds.items()))


def picture(colour: str, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), colour).save(buffer, kind)
    return buffer.getvalue()


def product(title, true, potential, **changes):
    row = {
        "product_title": title,
        "product_description": f"<p>{title} &amp; more</p>",
        "product_image": {"bytes": picture("red"), "path": "0.jpg"},
        "ground_truth_category": true,
        "potential_product_categories": potential,
        "ground_truth_brand": "Acme",
        "ground_truth_is_secondhand": False,
    }
    return row | changes


MUGS, CUPS, JARS = "Kitchen, Dining > Mugs", "Kitchen, Dining > Cups", "Kitchen, Dining > Jars"
TRAIN = [
    product("Red mug", MUGS, [CUPS, MUGS, JARS]),
    product("Tea cup", CUPS, [MUGS, MUGS, " ", JARS], ground_truth_is_secondhand=True),
    product("Blue jar", JARS, [JARS], product_image={"bytes": picture("blue", "PNG"), "path": None}),
    product("RED  MUG ", MUGS, [MUGS, CUPS]),
    product("Odd thing", None, [MUGS, CUPS], product_image=None),
    product("Torn", MUGS, [MUGS, CUPS], product_image={"bytes": picture("red")[:200], "path": "1.jpg"}),
    product("Steel jar", JARS, None, ground_truth_brand=None),
]
TEST = [product("Steel jar", JARS, [CUPS, JARS]), product("Tea Cup", CUPS, [CUPS, MUGS])]


def write(folder: Path, split: str, rows: list[dict], name: str = "data/{}-00000-of-00001.parquet") -> None:
    path = folder / name.format(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    lists = not any(isinstance(row["potential_product_categories"], str) for row in rows)
    kind = pa.list_(pa.string()) if lists else pa.string()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(kind)), path)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "shopify_catalogue"


@pytest.fixture
def catalogue(home):
    write(home, "train", TRAIN)
    write(home, "test", TEST)
    return load_catalogue("shopify_catalogue")


def candidates(catalogue, product_id):
    rows = catalogue.category_candidates[catalogue.category_candidates["product_id"] == product_id]
    return rows[["category_path", "is_true", "position"]].values.tolist()


def test_a_row_is_a_product_with_its_candidates(catalogue):
    mug = catalogue.products.set_index("product_id").loc["train-000000"]
    assert mug[["title", "description", "brand", "category_path"]].tolist() == [
        "Red mug",
        "Red mug & more",
        "Acme",
        MUGS,
    ]
    assert json.loads(mug["attributes"]) == {"secondhand": False}
    assert candidates(catalogue, "train-000000") == [[CUPS, False, 0], [MUGS, True, 1], [JARS, False, 2]]


def test_a_true_path_that_is_not_listed_is_put_at_the_end_and_no_path_is_there_twice(catalogue):
    # "Steel jar" of test lists its own; of train it is a leak. "Odd thing" has no true path: nothing of its list is.
    assert candidates(catalogue, "test-000000") == [[CUPS, False, 0], [JARS, True, 1]]
    assert candidates(catalogue, "train-000004") == [[MUGS, False, 0], [CUPS, False, 1]]
    assert [row["category_path"] for row in candidate_rows("p", CUPS, [MUGS, JARS])] == [MUGS, JARS, CUPS]
    assert candidate_rows("p", None, []) == []


def test_long_lists_lose_their_last_wrong_paths_and_never_the_true_one():
    wrong = [f"Path {number}" for number in range(12)]
    rows = candidate_rows("p", "True", [*wrong[:10], "True", *wrong[10:]])
    assert [row["category_path"] for row in rows] == [*wrong[:8], "True"]
    assert [row["position"] for row in rows] == [*range(8), 10]
    assert sum(row["is_true"] for row in rows) == 1
    assert [row["category_path"] for row in candidate_rows("p", None, wrong)] == wrong[:9]


@pytest.mark.parametrize(
    "cell",
    [
        [MUGS, CUPS, MUGS],
        json.dumps([MUGS, CUPS]),
        str([MUGS, CUPS]),
        f"{MUGS}\n {CUPS} \n\n{CUPS}",
        [MUGS, None, "", CUPS],
    ],
)
def test_lists_come_as_lists_as_json_and_as_lines(cell):
    assert listed_paths(cell) == [MUGS, CUPS]  # both with a comma in them


@pytest.mark.parametrize("cell, expected", [(None, []), ("", []), ([], []), (MUGS, [MUGS]), ("[a", ["[a"])])
def test_what_is_no_list_is_one_path_or_none(cell, expected):
    assert listed_paths(cell) == expected


def test_lists_that_are_text_in_the_file(home):
    write(home, "train", [product("Red mug", MUGS, json.dumps([CUPS, MUGS]))])
    write(home, "test", [product("Jar", JARS, f"{CUPS}\n{JARS}")])
    catalogue = load_catalogue("shopify_catalogue")
    assert candidates(catalogue, "train-000000") == [[CUPS, False, 0], [MUGS, True, 1]]
    assert candidates(catalogue, "test-000000") == [[CUPS, False, 0], [JARS, True, 1]]


def test_pictures_are_written_into_the_catalogues_folder(catalogue):
    paths = catalogue.images.set_index("product_id")["path"]
    assert paths["train-000000"] == "images/train-000000.jpg" and paths["train-000002"] == "images/train-000002.png"
    blue = open_image(catalogue.image_path("train-000002"))
    assert blue.size == (24, 16) and blue.getpixel((3, 3)) == (0, 0, 255)
    assert "train-000004" not in paths.index  # has none
    assert "train-000005" not in paths.index and "damaged" in " ".join(catalogue.quarantine["reason"])
    assert {"train-000004", "train-000005"} <= set(catalogue.products["product_id"])


def test_same_title_and_brand_are_one_group_and_no_group_of_test_is_trained_on(catalogue):
    products = catalogue.products.set_index("product_id")
    assert products.loc["train-000003", "group_id"] == products.loc["train-000000", "group_id"]
    assert products.loc["train-000003", "split"] == products.loc["train-000000", "split"]
    assert "train-000001" not in products.index  # "Tea cup" by Acme is in test
    assert products.loc["train-000006", "group_id"] == "train-000006"  # the jar of test is by Acme, this one by nobody
    leak = catalogue.quarantine[catalogue.quarantine["table"] == "products"]
    assert leak[["row", "id", "column"]].values.tolist() == [[1, "train-000001", "title"]]
    assert products.loc[["test-000000", "test-000001"], "split"].tolist() == ["test", "test"]
    assert "train-000001" not in set(catalogue.category_candidates["product_id"])


def test_a_tenth_of_the_training_groups_becomes_validation(home):
    twins = [product(f"Mug {number // 2}", MUGS, [MUGS, CUPS], product_image=None) for number in range(800)]
    write(home, "train", twins[:500], "train/0000.parquet")
    write(home, "train", twins[500:], "train/0001.parquet")
    write(home, "test", TEST, "test/0000.parquet")
    products = load_catalogue("shopify_catalogue").products
    assert products["product_id"].iloc[799] == "train-000799"
    assert products.groupby("group_id")["split"].nunique().eq(1).all()
    assert products.groupby("group_id").size().value_counts().to_dict() == {2: 400, 1: 2}
    assert 40 < products["split"].eq("val").sum() < 130 and products["split"].eq("test").sum() == 2


def test_faults_are_named(home):
    write(home, "train", TRAIN)
    with pytest.raises(CourseError, match=r"no Parquet file of test; put the files .*Shopify/product-catalogue"):
        load_catalogue("shopify_catalogue")
    write(home, "test", TEST)
    path = home / "data/test-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["title", *COLUMNS[1:]]), path)
    with pytest.raises(CourseError, match="column 'product_title' is missing"):
        load_catalogue("shopify_catalogue")
    path.write_bytes(b"PAR1 no")
    with pytest.raises(CourseError, match=r"test-00000-of-00001\.parquet: not a readable Parquet file"):
        load_catalogue("shopify_catalogue")


def test_without_files_and_without_a_hub_it_says_what_to_put_where(monkeypatch):
    import datasets

    def offline(name):
        raise ConnectionError(f"no route to {name}")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        CourseError, match=r"ConnectionError.*train-….parquet.*shopify_catalogue below .*COURSE_DATA_HOME"
    ):
        load_catalogue("shopify_catalogue")


def test_what_the_hub_gives_is_kept_with_its_pictures(monkeypatch):
    import datasets

    published = schema(pa.list_(pa.string()))
    info = datasets.DatasetInfo(
        features=datasets.Features(datasets.Features.from_arrow_schema(published) | {"product_image": datasets.Image()})
    )
    hub = {
        split: datasets.Dataset(pa.Table.from_pylist(rows, schema=published), info=info)
        for split, rows in (("train", TRAIN[:3]), ("test", TEST))
    }
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or hub)
    catalogue = load_catalogue("shopify_catalogue")
    assert len(catalogue.images) == 4 and open_image(catalogue.image_path("train-000002")).size == (24, 16)
    assert load_catalogue("shopify_catalogue").digest == catalogue.digest
    assert asked == ["Shopify/product-catalogue"]
