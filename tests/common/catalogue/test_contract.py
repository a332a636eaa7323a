from __future__ import annotations

from uuid import uuid4

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.catalogue import TABLES, Catalogue
from common.errors import CourseError


def reasons(catalogue: Catalogue) -> dict[tuple[str, int], tuple[str, str]]:
    return {(r.table, r.row): (r.column, r.reason) for r in catalogue.quarantine.itertuples()}


def test_clean_tables_pass_whole(tables):
    catalogue = Catalogue.from_tables("test", **tables)
    assert catalogue.quarantine.empty
    for name, table in tables.items():
        assert len(getattr(catalogue, name)) == len(table), name
    assert list(catalogue.products.columns) == TABLES["products"].column_names
    assert catalogue.products["title"].tolist() == tables["products"]["title"].tolist()
    assert catalogue.products["description"].isna().all()
    assert str(catalogue.judgements["grade"].dtype) == "int64"
    assert str(catalogue.category_candidates["is_true"].dtype) == "bool"


def test_each_bad_row_is_set_aside_with_its_reason(tables):
    products = pd.DataFrame(
        {
            "product_id": ["ok", None, "blank", "long", "cheap", "dear", "json", "list", "ok", "split"],
            "title": ["ok", "no id", " \t ", "x" * 10_001, "t", "t", "t", "t", "ok", "t"],
            "price": [1, 1, 1, 1, -1, "12 EUR", 1, 1, 1, 1],
            "attributes": [None, None, None, None, None, None, "{", "[1]", None, None],
            "split": [None] * 9 + ["training"],
        }
    )
    catalogue = Catalogue.from_tables("test", products=products)
    assert catalogue.products["product_id"].tolist() == ["ok"]
    assert reasons(catalogue) == {
        ("products", 1): ("product_id", "no value"),
        ("products", 2): ("title", "no title and no usable image"),
        ("products", 3): ("title", "longer than 10,000 characters"),
        ("products", 4): ("price", "'-1' is less than 0"),
        ("products", 5): ("price", "'12 EUR' is not a number"),
        ("products", 6): ("attributes", "'{' is not a JSON object of names and values"),
        ("products", 7): ("attributes", "'[1]' is not a JSON object of names and values"),
        ("products", 8): ("product_id", "repeats an earlier row"),
        ("products", 9): ("split", "'training' is none of train, val, test"),
    }
    assert catalogue.quarantine["id"].tolist()[3] == "cheap"


def test_rows_that_refer_to_nothing_or_contradict_are_set_aside(tables):
    tables["judgements"] = pd.DataFrame(
        {
            "query_id": ["q1", "q1", "nope", "q1", "q1", "q1", "q2"],
            "product_id": ["p1", "nope", "p1", "p2", "p2", "p1", "p3"],
            "grade": [3, 3, 3, 4, 2.5, 2, 1],
            "label": ["E", None, None, None, None, None, "E"],
        }
    )
    tables["pairs"] = pd.DataFrame({"a_id": ["p1", "p1", "p1"], "b_id": ["p3", "p1", "nope"]})
    catalogue = Catalogue.from_tables("test", **tables)
    assert len(catalogue.judgements) == 1
    assert catalogue.pairs["label"].tolist() == [1]
    found = reasons(catalogue)
    assert found["judgements", 1] == ("product_id", "'nope' is not in the table products, or was set aside there")
    assert found["judgements", 2] == ("query_id", "'nope' is not in the table queries, or was set aside there")
    assert found["judgements", 3] == ("grade", "'4' is more than 3")
    assert found["judgements", 4] == ("grade", "'2.5' is not a whole number")
    assert found["judgements", 5] == ("query_id", "contradicts an earlier row of the same query_id and product_id")
    assert found["judgements", 6] == ("label", "'E' does not mean the row's grade")
    assert found["pairs", 1] == ("b_id", "pairs a product with itself")
    assert found["pairs", 2][0] == "b_id"


def test_what_refers_to_a_quarantined_product_goes_with_it(tables):
    tables["products"].loc[0, "price"] = -1
    tables["captions"] = tables["pairs"] = tables["category_candidates"] = None
    catalogue = Catalogue.from_tables("test", **tables)
    assert set(catalogue.judgements["product_id"]) == {"p2", "p3"}
    assert catalogue.truth["product_id"].tolist() == ["p2"]
    assert catalogue.quarantine["table"].tolist() == ["products", "judgements", "truth"]


def test_the_same_words_never_stand_in_two_splits(tables):
    tables["queries"] = pd.DataFrame(
        {
            "query_id": ["q1", "q2", "q3"],
            "query": ["red mug", "Red  MUG", "ｒｅｄ mug"],
            "split": ["train", "test", "val"],
        }
    )
    tables["judgements"] = tables["truth"] = None
    catalogue = Catalogue.from_tables("test", **tables)
    assert catalogue.queries["query_id"].tolist() == ["q2"]
    assert set(catalogue.quarantine["row"]) == {0, 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t["products"].rename(columns={"product_id": "produkt_id"}),
            ("'product_id'", "produkt_id", "shop.csv"),
        ),
        (lambda t: t["products"].drop(columns="title"), ("'title'", "no images", "shop.csv")),
        (lambda t: t["products"].rename(columns={"brand": "brnad"}), ("'brnad'", "'brand'", "shop.csv")),
        (lambda t: t["products"].iloc[:0], ("no products", "shop.csv")),
        (lambda t: t["products"].assign(product_id="same"), ("not unique", "same", "product_id", "shop.csv")),
        (lambda t: t["products"].assign(price="?"), ("none of the 3 rows", "'price'", "shop.csv")),
        (lambda t: t["products"].assign(split=["train", "test", "test"]), ("'split'", "'g1'", "shop.csv")),
    ],
)
def test_a_broken_table_is_an_error_that_names_file_column_and_fix(tables, change, words):
    with pytest.raises(CourseError) as error:
        Catalogue.from_tables("test", products=change(tables), files={"products": "shop.csv"})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_missing_column_of_another_table_names_it(tables):
    tables["judgements"] = tables["judgements"].rename(columns={"grade": "grades"})
    with pytest.raises(CourseError, match=r"j\.csv: column 'grades' is not part.*'grade'"):
        Catalogue.from_tables("test", **tables, files={"judgements": "j.csv"})
    tables["judgements"] = tables["judgements"].drop(columns="grades")
    with pytest.raises(CourseError, match=r"j\.csv: column 'grade' is missing"):
        Catalogue.from_tables("test", **tables, files={"judgements": "j.csv"})


def test_ids_that_became_floats_or_integers_are_the_same_ids():
    products = pd.DataFrame({"product_id": [7.0, 8.0], "title": ["a", "b"]})
    queries = pd.DataFrame({"query_id": [1], "query": ["a"]})
    judgements = pd.DataFrame({"query_id": [1], "product_id": ["7"], "grade": ["3"]})
    catalogue = Catalogue.from_tables("test", products=products, queries=queries, judgements=judgements)
    assert catalogue.judgements[["product_id", "grade"]].values.tolist() == [["7", 3]]


def test_text_that_is_not_unicode_is_set_aside_and_the_rest_kept_byte_exact():
    good = "👩🏽‍🚀 café — \u200fعربي\u200e 日本語"
    titles = pd.Series(["a \ud800 b", b"caf\xe9", good, "nul \x00 and bell \x07 in it"], dtype=object)
    catalogue = Catalogue.from_tables("test", products=pd.DataFrame({"product_id": list("abcd"), "title": titles}))
    assert catalogue.products["title"].tolist() == [good, "nul   and bell   in it"]
    assert set(catalogue.quarantine["reason"]) == {"not valid text: its bytes are not UTF-8"}


def test_parquet_text_with_invalid_bytes_is_set_aside():
    import pyarrow as pa

    raw = pa.array([b"fine", b"caf\xe9"], pa.binary()).cast(pa.large_binary())
    invalid = pa.Array.from_buffers(pa.large_string(), 2, raw.buffers())
    titles = pd.Series(pd.array(pa.chunked_array([invalid]), dtype="str"))
    catalogue = Catalogue.from_tables("test", products=pd.DataFrame({"product_id": ["a", "b"], "title": titles}))
    assert catalogue.products["title"].tolist() == ["fine"]
    assert len(catalogue.quarantine) == 1


def test_split_queries_and_unknown_split(tables):
    catalogue = Catalogue.from_tables("test", **tables)
    assert catalogue.split_queries("test")["query_id"].tolist() == ["q2"]
    assert catalogue.split_queries("val").empty
    with pytest.raises(CourseError, match="unknown split"):
        catalogue.split_queries("dev")


def test_digest_sees_every_cell_and_order_but_not_the_quarantine(tables):
    base = Catalogue.from_tables("test", **tables).digest
    assert Catalogue.from_tables("test", **tables).digest == base
    worse = tables | {"judgements": pd.concat([tables["judgements"], tables["judgements"].iloc[:1]], ignore_index=True)}
    assert Catalogue.from_tables("test", **worse).digest == base
    seen = {base}
    for name, table in tables.items():
        if len(table) > 1:
            seen.add(Catalogue.from_tables("test", **(tables | {name: table.iloc[::-1].reset_index(drop=True)})).digest)
    seen.add(Catalogue.from_tables("test", **(tables | {"captions": None})).digest)
    renamed = tables["products"].assign(brand=["Acm", "e", "Oak & Co"])
    seen.add(Catalogue.from_tables("test", **(tables | {"products": renamed})).digest)
    assert len(seen) == 8


messy_text = st.one_of(st.none(), st.text(max_size=20), st.sampled_from(["", " ", "a", "b", "\ud800", "<b>", "10"]))
rows = st.lists(
    st.fixed_dictionaries(
        {
            "product_id": st.sampled_from(["a", "b", "c", "d", "e", None]),
            "title": messy_text,
            "price": st.one_of(st.none(), st.floats(), st.text(max_size=3)),
            "attributes": st.one_of(st.none(), st.text(max_size=5), st.just('{"a": [1, null]}'), st.just({"k": "v"})),
        }
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row["product_id"],
)
judged = st.lists(
    st.fixed_dictionaries(
        {
            "query_id": st.sampled_from(["q", "r", "unknown"]),
            "product_id": st.sampled_from(["a", "b", "keep", "unknown"]),
            "grade": st.sampled_from([0, 1, 2, 3, 4, -1, 0.5, None, "3", "x"]),
        }
    ),
    max_size=8,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, judged=judged)
def test_every_row_is_kept_or_set_aside_and_validation_is_idempotent(rows, judged, tmp_path):
    rows = [*rows, {"product_id": "keep", "title": "always good", "price": 1.0, "attributes": None}]
    judged = [*judged, {"query_id": "s", "product_id": "keep", "grade": 3}]
    frames = {
        "products": pd.DataFrame(rows, dtype=object),
        "queries": pd.DataFrame({"query_id": ["q", "r", "s"], "query": ["x", "y", "z"]}),
        "judgements": pd.DataFrame(judged, dtype=object),
    }
    once = Catalogue.from_tables("test", **frames)
    for name, frame in frames.items():
        aside = once.quarantine[once.quarantine["table"] == name]
        assert len(getattr(once, name)) + len(aside) == len(frame)
        assert aside["row"].is_unique
    twice = Catalogue.from_tables("test", **once.tables)
    assert twice.quarantine.empty
    assert twice.digest == once.digest
    for name, table in once.tables.items():
        pd.testing.assert_frame_equal(getattr(twice, name), table)
    loaded = once.save(tmp_path / uuid4().hex)
    for name, table in (once.tables | {"quarantine": once.quarantine}).items():
        pd.testing.assert_frame_equal(getattr(loaded, name), table)
