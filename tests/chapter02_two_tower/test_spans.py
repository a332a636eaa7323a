"""Queries made from a catalogue: what they may contain, what they must not, and that they look like queries."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter02_two_tower.query_words import products_with_words, query_key
from chapter02_two_tower.spans import catalogue_pairs
from common.catalogue import Catalogue
from common.errors import CourseError

BRANDS = ["Acme", "Bolt", "Corvid", "Dune", "Elm"]
THINGS = ["label printer", "photo paper", "toner cartridge", "network switch", "usb cable"]


def catalogue(rows):
    return Catalogue.from_tables("test", products=pd.DataFrame(rows)).products


def electronics(n=100):
    """Titles as shops of electronics write them: brand, model, kind, capitals for the details."""
    return catalogue(
        [
            {
                "product_id": f"p{at:03d}",
                "brand": BRANDS[at % 5],
                "title": f'{BRANDS[at % 5]} ZX{at} {THINGS[at // 5 % 5]} Thermal Black {at % 9 + 1}{at % 3}"',
                "colour": "Black",
                "description": "A sturdy companion for small offices, ready to go",
                "attributes": json.dumps({"printing method": "Thermal", "compatibility": "Windows", "weight": 12.0}),
            }
            for at in range(n)
        ]
    )


@pytest.fixture(scope="module")
def shop():
    return electronics()


@pytest.fixture(scope="module")
def pairs(shop):
    return catalogue_pairs(shop, count=400, seed=0)


def test_the_same_seed_gives_the_same_distinct_pairs(shop, pairs):
    assert list(pairs.columns) == ["query", "product_id"] and len(pairs) == 400
    assert not pairs.duplicated().any() and set(pairs["product_id"]) <= set(shop["product_id"])
    pd.testing.assert_frame_equal(pairs, catalogue_pairs(shop, count=400, seed=0))
    assert not pairs.equals(catalogue_pairs(shop, count=400, seed=1))


def test_queries_are_short_lower_case_words_of_their_product(shop, pairs):
    titles = shop.set_index("product_id")
    assert (pairs["query"] == pairs["query"].str.lower()).all()
    assert pairs["query"].str.split().str.len().between(1, 8).all()
    assert pairs["query"].str.split().str.len().median() <= 3
    for query, product_id in pairs.itertuples(index=False):
        row = titles.loc[product_id]
        said = query_key(f"{row['title']} {row['description']} {row['attributes']} inch for")
        assert set(query_key(query)) <= set(said), query


def test_the_kind_of_thing_comes_before_details_and_colours(pairs):
    alone = pairs["query"].value_counts()
    kinds = {word for thing in THINGS for word in query_key(thing)}
    named = pairs["query"].map(lambda query: bool(kinds & set(query_key(query))))
    assert named.mean() > 0.7
    assert "black" not in alone.index and alone.reindex(["thermal"], fill_value=0).item() < 0.03 * len(pairs)
    assert pairs["query"].str.contains("inch").any() and pairs["query"].str.contains("acme").any()


def test_no_forbidden_query_comes_out_in_any_order_number_or_case(shop, pairs):
    common = pairs["query"].value_counts().index[:20].tolist()
    forbidden = [query.upper().replace(" ", "  ") for query in common] + ["printers LABEL"]
    made = catalogue_pairs(shop, count=400, seed=0, forbidden=forbidden)
    excluded = {query_key(query) for query in forbidden}
    assert excluded & set(pairs["query"].map(query_key)), "the rule would otherwise be tested on nothing"
    assert not excluded & set(made["query"].map(query_key))


def test_a_large_family_does_not_make_most_of_the_pairs():
    rows = [{"product_id": f"a{n}", "brand": "Acme", "title": f"Acme {n} toner cartridge"} for n in range(400)]
    rows += [
        {"product_id": f"b{n}", "brand": BRANDS[n % 5], "title": f"{BRANDS[n % 5]} {thing}"}
        for n, thing in enumerate(["desk lamp", "wall clock", "tea kettle", "paper tray"] * 5)
    ]
    made = catalogue_pairs(catalogue(rows), count=150, seed=0)
    share = made["product_id"].str.startswith("a").mean()
    assert share < 0.75, "400 of 420 products are of one brand and kind, their share by number is 0.95"


def test_a_catalogue_that_runs_out_gives_what_it_has():
    made = catalogue_pairs(catalogue([{"product_id": "p", "title": "Lamp"}]), count=50, seed=0)
    assert 1 <= len(made) < 50 and set(made["query"]) <= {"lamp", "lamps"}


@pytest.mark.parametrize(
    "row",
    [
        {"title": "12345 XK-99"},
        {"title": "電池 アルカリ"},
        {"title": None, "category_path": "Home > Garden > Rakes", "image": 1},
        {"title": "the of and"},
        {"title": "Größe über alles: Wandleuchte"},
    ],
)
def test_odd_titles_give_queries_or_a_clear_error(row):
    products = pd.DataFrame([{"product_id": "p", "description": None, "attributes": None, **row}])
    try:
        made = catalogue_pairs(products, count=5, seed=0)
    except CourseError as error:
        assert "titles" in str(error) and row["title"] in ("12345 XK-99", "the of and")
    else:
        assert made["query"].str.strip().ne("").all() and len(made)


def test_a_count_below_one_is_an_error(shop):
    with pytest.raises(CourseError, match="at least one"):
        catalogue_pairs(shop, count=0, seed=0)


WORDS = st.sampled_from(["cable", "cables", "usb", "for", "lamps", "lamp", "boxes", "box", "27", "inch", "été"])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=5), min_size=1, max_size=8), st.lists(WORDS, max_size=4))
def test_products_with_all_the_words_are_those_a_scan_finds(titles, words):
    products = catalogue([{"product_id": f"p{at}", "title": " ".join(title)} for at, title in enumerate(titles)])
    query = " ".join(words)
    wanted = {word for word in query_key(query) if word != "for"}
    scanned = {f"p{at}" for at, title in enumerate(titles) if wanted and wanted <= set(query_key(" ".join(title)))}
    assert products_with_words(products, [query]) == {query: frozenset(scanned)}


def test_inches_are_found_under_both_ways_to_write_them():
    products = catalogue([{"product_id": "a", "title": 'Monitor 27"'}, {"product_id": "b", "title": 'Monitor 24"'}])
    assert products_with_words(products, ["27 inch monitor"])["27 inch monitor"] == {"a"}
