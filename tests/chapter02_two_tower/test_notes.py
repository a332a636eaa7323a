"""Notes in product texts: what counts as one, and that it is cut out of what is read beside it."""

from __future__ import annotations

import pandas as pd

from chapter02_two_tower.notes import note_pairs
from common.catalogue.text import TEXT_FIELDS

PRODUCTS = pd.DataFrame(
    {
        "product_id": ["p1", "p2", "p3", "p4"],
        "title": ["Lunch box", "Steel box", "Rug", "Lamp"],
        "description": [
            "A box. Also known as tiffin. Made for packed lunches.",
            "Also known as a tiffin",
            "Soft. Made for whatever you may ever think of putting it to use for.",
            None,
        ],
    }
).reindex(columns=["product_id", *TEXT_FIELDS])


def test_a_note_is_a_query_and_is_cut_out_of_the_text():
    found = note_pairs(PRODUCTS)
    assert found[["query", "product_id", "product_text"]].to_numpy().tolist() == [
        ["tiffin", "p1", "Lunch box. A box. Made for packed lunches."],
        ["packed lunches", "p1", "Lunch box. A box. Also known as tiffin."],
        ["tiffin", "p2", "Steel box"],
    ]
    assert found["query_id"].iloc[0] == found["query_id"].iloc[2] != found["query_id"].iloc[1]
    assert found["text_id"].tolist() == ["p1~0", "p1~1", "p2~0"]


def test_no_query_that_a_system_is_judged_by_is_learned_from_a_note():
    assert note_pairs(PRODUCTS, forbidden=["Tiffins"])["query"].tolist() == ["packed lunches"]


def test_a_shop_without_notes_has_none():
    assert note_pairs(PRODUCTS[2:]).empty and list(note_pairs(PRODUCTS[:0]).columns) == list(note_pairs(PRODUCTS))
