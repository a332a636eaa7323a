"""Clean and normalise texts, and make the one text of a product that encoders and BM25 read."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Sequence

import pandas as pd

TEXT_FIELDS = ("title", "brand", "colour", "material", "category_path", "description", "attributes")

_MARKUP = re.compile(r"<[a-zA-Z/!][^<>]{0,500}>")
_SPACE = re.compile(r"\s+")
_SENTENCE_ENDS = (".", "!", "?", ":", ";", "。", "！", "？")


def clean_text(text: str) -> str:
    """Return `text` in Unicode NFC, without control characters and without white space at either end.

    Tabs and line ends stay (as ``\\t`` and ``\\n``). Format characters stay too: emoji are built with zero-width
    joiners and right-to-left text with direction marks.
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.isprintable():
        text = "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else " " for c in text)
    return text.strip("\ufeff").strip()


def strip_markup(text: str) -> str:
    """Return `text` with HTML tags replaced by a space, entities by their characters, and white space collapsed."""
    return _SPACE.sub(" ", html.unescape(_MARKUP.sub(" ", text))).strip()


def normalise_query(query: str) -> str:
    """Return the form in which equal queries are equal: compatibility characters and case folded, single spaces."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", query).casefold()).strip()


def render_attributes(attributes: str) -> str:
    """Return a JSON object of attributes as words: ``{"screen": "IPS", "hdmi": true}`` becomes ``screen: IPS, hdmi``. A
    true flag becomes its name, a false one nothing: "waterproof: false" would be read as waterproof."""
    parts = []
    for name, value in json.loads(attributes).items():
        if value is True:
            parts.append(name)
        elif value not in (None, False, "", [], {}):
            parts.append(f"{name}: {_render_value(value)}")
    return ", ".join(parts)


def _render_value(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return ", ".join(_render_value(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_render_value(item)}" for name, item in value.items())
    return str(value)


def product_text(products: pd.DataFrame, fields: Sequence[str] = TEXT_FIELDS) -> list[str]:
    """Return the text of each product that encoders and BM25 read: its `fields` in this order, one sentence each.

    Missing fields are left out; `attributes` is rendered as ``name: value``. One string per row of `products`, ``""``
    for a product that has none of the fields (one that is known by its picture only).
    """
    unknown = [field for field in fields if field not in products.columns]
    if unknown:
        raise KeyError(f"product_text: no column {unknown[0]!r} in the products; there are {list(products.columns)}")
    columns = []
    for field in fields:
        values = products[field].astype(object).where(products[field].notna(), "").tolist()
        columns.append([render_attributes(v) if v else "" for v in values] if field == "attributes" else values)
    return [_sentences(parts) for parts in zip(*columns, strict=True)]


def _sentences(parts: Sequence[str]) -> str:
    filled = [str(part) for part in parts if part]
    ended = [part if part.endswith(_SENTENCE_ENDS) else part + "." for part in filled[:-1]]
    return " ".join(ended + filled[-1:])
