"""Other names and uses that stand in product texts: "Also known as tiffin.", "Made for packed lunches."

Such a note is a query that somebody has written down beside its answer. To learn from it the note is cut out of the
product's text: a tower that could still read it there would learn to match words, which it can, and not that a lunch
box is meant (the inverse cloze task, Lee et al. 2019, "Latent Retrieval for Weakly Supervised Open Domain Question
Answering").
"""

from __future__ import annotations

import re
from collections.abc import Collection

import pandas as pd

from chapter02_two_tower.spans import query_key
from common.catalogue import normalise_query, product_text

OPENINGS = (
    "also known as", "also called", "made for", "designed for", "ideal for", "perfect for", "suitable for",
    "great for", "compatible with",
)  # fmt: skip
"""How sentences begin that say what else a thing is called, or what it is good for."""

LONGEST = 8  # words; a longer note is a sentence, nothing that anybody types

_SENTENCE = re.compile(r"[^.!?;]+[.!?;]?")
_OPENING = re.compile(rf"^\s*(?:{'|'.join(OPENINGS)})\s+(?:an?\s+|the\s+|your\s+)?(.+?)[.!?;]?\s*$", re.IGNORECASE)


def note_pairs(products: pd.DataFrame, *, forbidden: Collection[str] = ()) -> pd.DataFrame:
    """Return `query_id, query, product_id, text_id, product_text`, a row a note; none for a catalogue without notes.

    query: the words of the note. product_text: what is read of the product without the sentence, a text of its own,
    hence text_id. Equal queries share a query_id. forbidden: queries whose words (`query_key`) no note may have: those
    that a system is judged by.
    """
    shut = {query_key(query) for query in forbidden}
    found = [
        (query, product_id, cut)
        for product_id, description in zip(products["product_id"], products["description"], strict=True)
        if isinstance(description, str)
        for query, cut in _notes(description)
        if query_key(query) not in shut
    ]
    table = pd.DataFrame(found, columns=["query", "product_id", "description"], dtype="str")
    wordings = table["query"].map(normalise_query)
    table["query_id"] = "note-" + table.groupby(wordings, sort=False).ngroup().astype("str").str.zfill(5)
    table["text_id"] = table["product_id"] + "~" + table.groupby("product_id").cumcount().astype("str")
    cut = products.drop(columns="description").merge(table[["product_id", "description"]], on="product_id", how="right")
    table["product_text"] = pd.Series(product_text(cut), table.index, dtype="str")
    table = table[table["product_text"] != ""]  # a product of which the note was all
    return table[["query_id", "query", "product_id", "text_id", "product_text"]].reset_index(drop=True)


def _notes(description: str) -> list[tuple[str, str]]:
    """The notes of a description, each with the description that is left without it."""
    notes = []
    for sentence in _SENTENCE.finditer(description):
        match = _OPENING.match(sentence.group())
        if match and len(match.group(1).split()) <= LONGEST:
            rest = f"{description[: sentence.start()].strip()} {description[sentence.end() :].strip()}".strip()
            notes.append((match.group(1), rest))
    return notes
