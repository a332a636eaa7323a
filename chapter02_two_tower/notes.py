"""Turn other names and uses in product texts into queries: "Also known as tiffin.", "Made for packed lunches."

Such a note is a query beside its answer. It is cut out of the product's text: a tower that could still read it there
would learn to match words, which it can already, and not that a tiffin is a lunch box (the inverse cloze task, Lee et
al. 2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering").
"""

from __future__ import annotations

import re
from collections.abc import Collection

import pandas as pd

from chapter02_two_tower.query_words import query_key
from common.catalogue import normalise_query, product_text

OPENINGS = (
    "also known as", "also called", "made for", "designed for", "ideal for", "perfect for", "suitable for",
    "great for", "compatible with",
)  # fmt: skip
"""Openings of sentences that give another name or a use of a product."""

LONGEST = 8  # words; nobody types a longer note as a query

_SENTENCE = re.compile(r"[^.!?;]+[.!?;]?")
_OPENING = re.compile(rf"^\s*(?:{'|'.join(OPENINGS)})\s+(?:an?\s+|the\s+|your\s+)?(.+?)[.!?;]?\s*$", re.IGNORECASE)


def note_pairs(products: pd.DataFrame, *, forbidden: Collection[str] = ()) -> pd.DataFrame:
    """Return a row for each note in the products' descriptions: `query_id, query, product_id, text_id, product_text`.

    query: the words of the note; equal queries share a query_id. product_text: the product's text without the sentence;
    it has an id of its own, text_id. forbidden: queries whose words (`query_key`) no note may have: those that a system
    is judged by.
    """
    excluded = {query_key(query) for query in forbidden}
    found = [
        (query, product_id, cut)
        for product_id, description in zip(products["product_id"], products["description"], strict=True)
        if isinstance(description, str)
        for query, cut in _notes(description)
        if query_key(query) not in excluded
    ]
    table = pd.DataFrame(found, columns=["query", "product_id", "description"], dtype="str")
    wordings = table["query"].map(normalise_query)
    table["query_id"] = "note-" + table.groupby(wordings, sort=False).ngroup().astype("str").str.zfill(5)
    table["text_id"] = table["product_id"] + "~" + table.groupby("product_id").cumcount().astype("str")
    cut = products.drop(columns="description").merge(table[["product_id", "description"]], on="product_id", how="right")
    table["product_text"] = pd.Series(product_text(cut), table.index, dtype="str")
    table = table[table["product_text"] != ""]  # the note was all of the text
    return table[["query_id", "query", "product_id", "text_id", "product_text"]].reset_index(drop=True)


def _notes(description: str) -> list[tuple[str, str]]:
    """Return the notes of a description, each with the rest of the description."""
    notes = []
    for sentence in _SENTENCE.finditer(description):
        match = _OPENING.match(sentence.group())
        if match and len(match.group(1).split()) <= LONGEST:
            rest = f"{description[: sentence.start()].strip()} {description[sentence.end() :].strip()}".strip()
            notes.append((match.group(1), rest))
    return notes
