from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.catalogue import normalise_query, product_text
from common.catalogue.splits import split_by_group, split_queries
from common.catalogue.text import clean_text, strip_markup
from common.errors import CourseError


def products(groups: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame(
        {"product_id": [f"p{i}" for i in range(len(groups))], "group_id": pd.Series(groups, dtype="str")}
    )


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=30), st.integers(-5, 5))
def test_no_split_cuts_through_a_group(groups, seed):
    frame = products(groups).assign(split=lambda f: split_by_group(f, seed=seed))
    assert (frame.dropna(subset="group_id").groupby("group_id")["split"].nunique() == 1).all()
    assert frame["split"].isin(["train", "val", "test"]).all()


def test_adding_products_moves_no_other():
    some = products([None] * 300)
    more = products([None] * 500)
    before, after = split_by_group(some, seed=3), split_by_group(more.iloc[::-1], seed=3)
    assert (before == after.loc[before.index]).all()
    assert (split_by_group(some, seed=4) != before).any()


def test_fractions_are_kept_on_average_and_checked():
    shares = split_by_group(products([None] * 4_000), {"train": 0.5, "val": 0.0, "test": 0.5}).value_counts(
        normalize=True
    )
    assert abs(shares["train"] - 0.5) < 0.04  # five standard errors
    assert "val" not in shares
    for wrong in ({"train": 0.5, "test": 0.4}, {"train": 0.5, "dev": 0.5}, {"train": 1.5, "test": -0.5}):
        with pytest.raises(CourseError, match="sum to 1"):
            split_by_group(products([None]), wrong)


def test_the_same_words_are_in_the_same_split():
    wordings = [f"{word} {i}" for i in range(200) for word in ("Red  Mug", "red mug", "ＲＥＤ mug ")]
    queries = pd.DataFrame({"query": wordings})
    splits = split_queries(queries)
    assert (splits.groupby(queries["query"].map(normalise_query)).nunique() == 1).all()
    assert set(splits) == {"train", "val", "test"}


def test_product_text_leaves_out_what_is_missing_and_renders_attributes():
    frame = pd.DataFrame(
        {
            "title": ["Mug", None, "Is it a lamp?"],
            "brand": ["Acme", "Acme", None],
            "attributes": [
                '{"volume": 300.0, "safe": true, "glass": false, "in": ["red", "blue"], "x": null}',
                None,
                "{}",
            ],
        }
    )
    assert product_text(frame, ["title", "brand", "attributes"]) == [
        "Mug. Acme. volume: 300, safe, in: red, blue",
        "Acme",
        "Is it a lamp?",
    ]
    assert product_text(frame, ["brand"]) == ["Acme", "Acme", ""]
    with pytest.raises(KeyError, match="colour"):
        product_text(frame, ["colour"])


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_clean_text_is_idempotent_and_keeps_what_is_visible(text):
    clean = clean_text(text)
    assert clean_text(clean) == clean
    assert not any(ord(c) < 32 and c not in "\n\t" for c in clean)


@pytest.mark.parametrize("text", ["👩🏽‍🚀", "👨‍👩‍👧", "🏳️‍🌈", "עברית \u200fABC\u200e", "العربية", "日本語", "e\u0301"])
def test_clean_text_changes_nothing_but_the_normal_form(text):
    import unicodedata

    assert clean_text(text) == unicodedata.normalize("NFC", text)


def test_strip_markup():
    assert strip_markup("Core<br />2 &amp; <b>more</b>, 3 < 4 > 2") == "Core 2 & more , 3 < 4 > 2"
