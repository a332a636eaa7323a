from __future__ import annotations

import pandas as pd
import pytest

from common.catalogue import load_catalogue
from common.catalogue.readers import read_table
from common.errors import CourseError


def write(tmp_path, name: str, content: bytes | str):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_keeps_text_as_it_is_and_numbers_rows_by_line(tmp_path, delimiter):
    text = '\ufeffid,title\n007,"a, ""b""\nc"\n8,NaN\n\n9,None of it\n'
    path = write(tmp_path, "t.csv", text.replace("id,title", f"id{delimiter}title").replace('7,"', f'7{delimiter}"')
                 .replace("8,", f"8{delimiter}").replace("9,", f"9{delimiter}"))  # fmt: skip
    frame = read_table(path, "products").frame
    assert frame["id"].tolist() == ["007", "8", "9"]
    assert frame["title"].tolist() == ['a, "b"\nc', None, "None of it"]
    assert frame.index.tolist() == [3, 4, 6]


def test_bytes_that_are_not_utf8_set_their_row_aside(tmp_path):
    path = write(tmp_path, "my.csv", b"product_id,title\n1,mug\n2,caf\xe9\n3,cup\n")
    catalogue = load_catalogue("your_own", products=str(path))
    assert catalogue.products["product_id"].tolist() == ["1", "3"]
    row = catalogue.quarantine.iloc[0]
    assert (row["row"], row["id"], row["column"]) == (3, "2", "title")
    assert "UTF-8" in row["reason"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "no such file"),
        ("empty.csv", "", "empty"),
        ("header.csv", "product_id,title\n", "no usable row"),
        ("latin.csv", b"caf\xe9,title\n1,2\n", "line 1.*UTF-8"),
        ("utf16.csv", "product_id,title\n1,mug\n".encode("utf-16"), "UTF-16.*UTF-8"),
        ("book.xlsx", b"PK\x03\x04 zip", "cannot read '.xlsx'.*csv"),
        ("book.csv", b"PK\x03\x04 zip", "spreadsheet"),
        ("bad.parquet", b"PAR1 nothing", "not a readable Parquet"),
        ("bad.jsonl", "[1]\nnope\n", "no line is a JSON object.*line 1"),
        ("all_bad.csv", b"product_id,title\n1,caf\xe9\n2,th\xe9\n", "none of the 2 rows.*UTF-8"),
        ("column.csv", "product_id,titel\n1,mug\n", "column 'title' is missing"),
        ("ids.csv", "product_id,title\n1,mug\n1,cup\n", r"not unique: 1 ids.*\(1\).*own product_id"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it_and_the_fix(tmp_path, name, content, words):
    path = tmp_path / name if content is None else write(tmp_path, name, content)
    with pytest.raises(CourseError, match=words) as error:
        load_catalogue("your_own", products=str(path))
    assert name in str(error.value)


def test_rows_with_too_many_cells_and_lines_that_are_no_json_are_set_aside(tmp_path):
    read = read_table(write(tmp_path, "t.csv", "id,title\n1,a,b\n2\n3,c\n"), "products")
    assert read.frame.values.tolist() == [["2", None], ["3", "c"]]
    assert read.aside[["row", "id"]].values.tolist() == [[2, "1"]]
    assert "quotes" in read.aside["reason"][0]
    lines = '{"id": 1, "title": "a"}\n{"id": 2\n\n[3]\n{"id": 4, "more": {"x": [1]}}\n'
    read = read_table(write(tmp_path, "t.jsonl", lines), "products")
    assert read.frame.index.tolist() == [1, 5]
    assert read.frame["id"].tolist() == [1, 4]
    assert read.aside["row"].tolist() == [2, 4]


def test_a_title_of_ten_megabytes_is_set_aside(tmp_path):
    path = write(tmp_path, "my.csv", "product_id,title\n1,mug\n2," + "x" * 10_000_000 + "\n")
    catalogue = load_catalogue("your_own", products=str(path))
    assert catalogue.products["product_id"].tolist() == ["1"]
    assert catalogue.quarantine["reason"].tolist() == ["longer than 10,000 characters"]


def test_nan_titles_emoji_and_right_to_left_text(tmp_path):
    titles = ["🫖 teapot", "שולחן", "كوب أزرق"]
    rows = "".join(f"{i},{title}\n" for i, title in enumerate(titles))
    catalogue = load_catalogue("your_own", products=str(write(tmp_path, "my.csv", f"product_id,title\n{rows}9,nan\n")))
    assert catalogue.products["title"].tolist() == titles
    assert catalogue.quarantine[["id", "column"]].values.tolist() == [["9", "title"]]


def test_parquet_and_json_lines_give_the_same_catalogue_as_csv(tmp_path):
    frame = pd.DataFrame({"product_id": ["1", "2"], "title": ["mug", "cup"], "price": [1.5, 2.0]})
    frame.to_parquet(tmp_path / "my.parquet")
    frame.to_json(tmp_path / "my.jsonl", orient="records", lines=True)
    frame.to_csv(tmp_path / "my.csv", index=False)
    digests = {load_catalogue("your_own", products=str(path)).digest for path in sorted(tmp_path.glob("my.*"))}
    assert len(digests) == 1
