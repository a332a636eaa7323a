from __future__ import annotations

import pytest

from common.catalogue import load_catalogue, product_text
from common.catalogue.your_own import file_words
from common.errors import CourseError


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("ID,Name,Color,Stock\n1,Mug,red,3\n2,Cup,blue,4\n3,Table,,1\n")
    return path


def test_other_column_names_are_understood_and_said(shop, capsys):
    catalogue = load_catalogue("your_own", products=str(shop))
    assert catalogue.products[["product_id", "title", "colour"]].iloc[0].tolist() == ["1", "Mug", "red"]
    said = capsys.readouterr().err
    assert "'Name' as 'title'" in said and "not used: Stock" in said
    assert catalogue.queries.empty and catalogue.judgements.empty and catalogue.images.empty


def test_queries_and_judgements_by_words_or_id(shop, tmp_path):
    (tmp_path / "q.csv").write_text("query\nred mug\nblue cup\n")
    (tmp_path / "j.csv").write_text("query,product_id,label\nRed  Mug,1,e\nred mug,2,C\nblue cup,2,X\nother,1,E\n")
    files = {"products": str(shop), "queries": str(tmp_path / "q.csv"), "judgements": str(tmp_path / "j.csv")}
    catalogue = load_catalogue("your_own", **files)
    assert catalogue.queries[["query_id", "query", "split"]].values.tolist() == [
        ["q0001", "red mug", "test"],
        ["q0002", "blue cup", "test"],
    ]
    assert catalogue.judgements[["query_id", "product_id", "grade", "label"]].values.tolist() == [
        ["q0001", "1", 3, "E"],
        ["q0001", "2", 1, "C"],
    ]
    assert catalogue.quarantine["row"].tolist() == [4, 5]
    (tmp_path / "j.csv").write_text("query,product_id,rating\nred mug,1,3\n")
    alone = load_catalogue("your_own", products=str(shop), judgements=str(tmp_path / "j.csv"))
    assert alone.queries["query"].tolist() == ["red mug"]
    assert alone.judgements["grade"].tolist() == [3]


def test_enough_queries_are_split_and_given_splits_are_kept(shop, tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("query\n" + "".join(f"query {i}\n" for i in range(200)))
    counts = load_catalogue("your_own", products=str(shop), queries=str(path)).queries["split"].value_counts()
    assert 95 <= counts["train"] <= 145 and 15 <= counts["val"] <= 45 and 30 <= counts["test"] <= 70
    path.write_text("query,split\na,train\nb,val\n")
    assert load_catalogue("your_own", products=str(shop), queries=str(path)).queries["split"].tolist() == [
        "train",
        "val",
    ]


def test_pairs(shop, tmp_path):
    (tmp_path / "p.csv").write_text("a_id,b_id,label\n1,2,1\n1,3,0\n1,9,1\n")
    catalogue = load_catalogue("your_own", products=str(shop), pairs=str(tmp_path / "p.csv"))
    assert catalogue.pairs[["a_id", "b_id", "label"]].values.tolist() == [["1", "2", 1], ["1", "3", 0]]
    assert len(catalogue.quarantine) == 1


def test_pictures_named_by_product_id(shop, draw, tmp_path, capsys):
    for name in ("1.jpg", "1_2.jpg", "2.png", "other.png", "readme.txt"):
        draw(f"pictures/{name}") if not name.endswith("txt") else (tmp_path / "pictures" / name).write_text("")
    catalogue = load_catalogue("your_own", products=str(shop), images=str(tmp_path / "pictures"))
    assert [p.rsplit("/")[-1] for p in catalogue.images["path"]] == ["1.jpg", "1_2.jpg", "2.png"]
    assert catalogue.images["position"].tolist() == [0, 1, 0]
    assert catalogue.image_path("2") == tmp_path / "pictures" / "2.png"
    assert "other.png" in capsys.readouterr().err


def test_pictures_alone_from_a_table_or_a_folder(draw, tmp_path):
    draw("pictures/red_mug-01.jpg")
    draw("pictures/IMG_0142.jpg")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no")
    table = tmp_path / "my.csv"
    table.write_text("product_id,path\na,pictures/red_mug-01.jpg\na,pictures/IMG_0142.jpg\nb,pictures/broken.jpg\n")
    catalogue = load_catalogue("your_own", products=str(table))
    assert catalogue.products["product_id"].tolist() == ["a"]
    assert product_text(catalogue.products) == ["red mug"]
    assert catalogue.images["position"].tolist() == [0, 1]
    assert set(catalogue.quarantine["table"]) == {"images", "products"}
    folder = load_catalogue("your_own", images=str(tmp_path / "pictures"))
    assert folder.products["product_id"].tolist() == ["IMG_0142", "red_mug-01"]
    assert product_text(folder.products) == ["", "red mug"]


def test_a_picture_replaced_under_its_name_is_another_catalogue(shop, draw, tmp_path):
    draw("pictures/1.png", (255, 0, 0))
    first = load_catalogue("your_own", products=str(shop), images=str(tmp_path / "pictures"))
    draw("pictures/1.png", (0, 255, 0), (33, 24))
    second = load_catalogue("your_own", products=str(shop), images=str(tmp_path / "pictures"))
    assert first.digest != second.digest


def test_the_image_column_starts_at_the_folder_of_images(draw, tmp_path):
    picture = draw("pictures/deep/x.png")
    table = tmp_path / "my.jsonl"
    table.write_text('{"sku": 1, "name": "Mug", "image": "deep/x.png"}\n{"sku": 2, "name": "Cup"}\n')
    catalogue = load_catalogue("your_own", products=str(table), images=str(tmp_path / "pictures"))
    assert catalogue.image_path("1") == picture
    assert catalogue.image_path("2") is None


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "products file, a folder"),
        ({"products": "none.csv"}, "none.csv: there is no such file"),
        ({"images": "nowhere"}, "nowhere: there is no such folder"),
        ({"images": "empty"}, "no pictures here"),
        ({"products": "my.csv", "judgements": "ids.csv"}, "no queries file.*'query'|'query' is missing"),
        ({"products": "my.csv", "judgements": "ungraded.csv"}, "ungraded.csv: column 'grade' is missing"),
        ({"products": "my.csv", "queries": "ids.csv"}, "ids.csv: column 'query' is missing.*query_id"),
        ({"products": "my.csv", "pairs": "ids.csv"}, "ids.csv: column 'a_id' is missing"),
    ],
)
def test_wrong_files_are_named(shop, tmp_path, files, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "ids.csv").write_text("query_id,product_id,grade\nq1,1,3\n")
    (tmp_path / "ungraded.csv").write_text("query,product_id\nmug,1\n")
    with pytest.raises(CourseError, match=words):
        load_catalogue("your_own", **{name: str(tmp_path / file) for name, file in files.items()})


def test_file_words():
    assert file_words("a/b/red_mug-01.jpg") == "red mug"
    assert file_words("IMG_0142.jpg") is None
    assert file_words("טבלה_עץ 2.png") == "טבלה עץ"
