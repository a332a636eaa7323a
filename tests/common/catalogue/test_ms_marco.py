"""The MS MARCO adapter on rows of our own writing in the public schema."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.catalogue import load_catalogue
from common.errors import CourseError

SCHEMA = pa.schema(
    [
        ("answers", pa.list_(pa.string())),
        (
            "passages",
            pa.struct(
                [
                    ("is_selected", pa.list_(pa.int32())),
                    ("passage_text", pa.list_(pa.string())),
                    ("url", pa.list_(pa.string())),
                ]
            ),
        ),
        ("query", pa.string()),
        ("query_id", pa.int32()),
        ("query_type", pa.string()),
    ]
)


def question(number, query, passages):
    """passages: text -> 1 if it was selected."""
    record = {
        "is_selected": list(passages.values()),
        "passage_text": list(passages),
        "url": ["https://example.org"] * len(passages),
    }
    kind = "numeric" if query.startswith("how") else "description"
    return {"answers": ["x"], "passages": record, "query": query, "query_id": number, "query_type": kind}


ROWS = {
    "train": [
        question(1, "how hot is tea", {"Tea is brewed near boiling.": 1, "Coffee is roasted.": 0, "  ": 0}),
        question(2, "what is roasting", {"Coffee is roasted.": 1, "Bread is baked.": 1}),
        question(3, "why is bread brown", {"Bread is baked.": 0}),
    ],
    "validation": [question(4, "what is tea", {"Tea is a leaf.": 1, "Tea is brewed near boiling.": 0})],
    "test": [question(5, "how hot is tea", {"Tea is hot.": 1})],
}


def write(folder, rows=ROWS, name="v1.1/{}-00000-of-00001.parquet"):
    for split, questions in rows.items():
        path = folder / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(questions, schema=SCHEMA), path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "ms_marco"


@pytest.mark.parametrize("name", ["v1.1/{}-00000-of-00001.parquet", "ms_marco-{}.parquet", "{}/0000.parquet"])
def test_passages_are_products_and_only_selected_ones_are_judged(home, name):
    write(home, name=name)
    catalogue = load_catalogue("ms_marco")
    titles = catalogue.products.set_index("product_id")["title"]
    assert sorted(titles) == [
        "Bread is baked.",
        "Coffee is roasted.",
        "Tea is a leaf.",
        "Tea is brewed near boiling.",
        "Tea is hot.",
    ]
    judged = catalogue.judgements.assign(title=catalogue.judgements["product_id"].map(titles))
    pairs = set(zip(judged["query_id"], judged["title"], strict=True))
    # Question 5 has the words of question 1, in the test split: question 1 must not be trained on.
    assert pairs == {
        ("2", "Coffee is roasted."),
        ("2", "Bread is baked."),
        ("4", "Tea is a leaf."),
        ("5", "Tea is hot."),
    }
    assert set(judged["grade"]) == {3} and set(judged["label"]) == {"E"}
    assert catalogue.queries.set_index("query_id")["split"].to_dict() == {
        "2": "train",
        "3": "train",
        "4": "val",
        "5": "test",
    }
    assert set(catalogue.queries["kind"]) == {"numeric", "description"}
    assert set(catalogue.quarantine["table"]) <= {"queries", "judgements"}


def test_an_id_depends_on_the_text_alone(home):
    write(home)
    before = load_catalogue("ms_marco").products.set_index("title")["product_id"]
    write(home, {split: rows[::-1] for split, rows in ROWS.items()})
    after = load_catalogue("ms_marco").products.set_index("title")["product_id"]
    assert before.to_dict() == after.to_dict()


def test_fewer_questions_when_asked(home):
    write(home)
    few = load_catalogue("ms_marco", queries_per_split=2)
    assert "3" not in set(few.queries["query_id"])
    assert len(load_catalogue("ms_marco", profile="full").queries) == 4
    with pytest.raises(CourseError, match="at least 1"):
        load_catalogue("ms_marco", queries_per_split=0)


def test_v1_1_is_read_where_both_versions_lie(home):
    write(home, name="v2.1/{}-00000-of-00001.parquet", rows={"train": ROWS["test"]})
    write(home)
    assert len(load_catalogue("ms_marco").products) == 5
    pq.write_table(pq.read_table(home / "v1.1/test-00000-of-00001.parquet"), home / "v1.1/test-2.parquet")
    with pytest.raises(CourseError, match="both of test"):
        load_catalogue("ms_marco")


def test_faults_are_named(home):
    write(home, {"train": ROWS["train"]})
    with pytest.raises(CourseError, match=r"no Parquet file of validation, test; put .*microsoft/ms_marco"):
        load_catalogue("ms_marco")
    write(home)
    path = home / "v1.1/train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table.rename_columns(["answers", "passages", "question", "query_id", "query_type"]), path)
    with pytest.raises(CourseError, match=r"column 'query' is missing.*question"):
        load_catalogue("ms_marco")
    uneven = question(9, "q", {"a": 1, "b": 0})
    uneven["passages"]["is_selected"] = [1]
    write(home, {"train": [uneven]})
    with pytest.raises(CourseError, match="more passages than marks"):
        load_catalogue("ms_marco")
    path.write_bytes(b"PAR1 no")
    with pytest.raises(CourseError, match="not a readable Parquet file"):
        load_catalogue("ms_marco")


def test_without_files_it_is_downloaded_once_or_says_what_to_put_where(monkeypatch):
    import datasets

    asked = []

    def stand_in(*name):
        asked.append(name)
        if len(asked) == 1:
            raise ConnectionError("no route to host")
        return {split: datasets.Dataset(pa.Table.from_pylist(rows, schema=SCHEMA)) for split, rows in ROWS.items()}

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    with pytest.raises(CourseError, match=r"ConnectionError.*train-….parquet.*COURSE_DATA_HOME"):
        load_catalogue("ms_marco")
    first = load_catalogue("ms_marco")
    assert asked == [("microsoft/ms_marco", "v1.1")] * 2 and len(first.products) == 5
    assert load_catalogue("ms_marco").digest == first.digest and len(asked) == 2
    assert isinstance(first.judgements, pd.DataFrame)
