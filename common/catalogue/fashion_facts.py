"""Turn the products of fashion_products into facts that a wish can be checked against: type, colour, brand and so on.

**The brand is the beginning of the title.** Most titles name it before they say who the product is for. So the words
before the first word for men, women or children make a brand if at least `BRAND_TITLES` titles begin so; a longer one
that begins with a shorter brand is only a line of that brand. A product has the longest brand that its title begins
with. Spaces and signs do not count ("Mill Co." is "millco"), and a brand goes by its most frequent spelling; names that
differ by more are in `SAME_BRAND`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from common.catalogue.text import normalise_query

FACTS = ("type", "colour", "gender", "usage", "season", "brand")
BRAND_TITLES = 5
BRAND_WORDS = 4

SAME_BRAND = {"ucb": "unitedcolorsofbenetton", "ginijony": "giniandjony"}
"""Other names of a brand; all in small letters and digits only."""

# fmt: off
PERSON_WORDS = frozenset((
    "men", "women", "boys", "girls", "unisex", "kids", "men's", "women's", "boy's", "girl's", "kid's", "mens", "womens",
    "man", "woman", "boy", "girl", "kid",
))
# fmt: on


def fashion_facts(products: pd.DataFrame) -> pd.DataFrame:
    """Return `product_id` and `FACTS` for each row of `products` (same index), None where a fact is not known."""
    attributes = [json.loads(cell) if isinstance(cell, str) else {} for cell in products["attributes"]]
    facts = {name: [row.get(name) for row in attributes] for name in ("type", "gender", "usage", "season")}
    colours = products["colour"].astype(object).where(products["colour"].notna(), None)
    table = {"product_id": products["product_id"], **facts, "colour": colours, "brand": brands_of(products["title"])}
    return pd.DataFrame(table, index=products.index, dtype=object)[["product_id", *FACTS]]


def brands_of(titles: Iterable[object]) -> list[str | None]:
    """Return the brand of each title in small letters, None for a title without one (see the module)."""
    words = [words_of(title) for title in titles]
    names = _find_brands(words)
    return [next((names[key] for key in _keys(one) if key in names), None) for one in words]


def words_of(title: object) -> list[str]:
    """Return the words of a title in small letters; none if it is missing."""
    return normalise_query(title).split() if isinstance(title, str) else []


def _find_brands(words: list[list[str]]) -> dict[str, str]:
    """Return the brands: key and most frequent spelling."""
    found: Counter[tuple[str, ...]] = Counter()
    for title in words:
        at = next((n for n, word in enumerate(title[: BRAND_WORDS + 1]) if word in PERSON_WORDS), 0)
        found[tuple(title[:at])] += 1
    spellings: dict[str, tuple[str, ...]] = {}
    counts: Counter[str] = Counter()
    for start, count in found.most_common():
        spellings.setdefault(_key(start), start)
        counts[_key(start)] += count
    often = {key for key, count in counts.items() if key and count >= BRAND_TITLES}
    return {key: " ".join(spellings[key]) for key in often if often.isdisjoint(_keys(spellings[key][:-1]))}


def _keys(words: Sequence[str]) -> list[str]:
    """Return the keys of all that may be the brand at the beginning of `words`, the longest first."""
    return [_key(words[:count]) for count in range(min(BRAND_WORDS, len(words)), 0, -1)]


def _key(words: Sequence[str]) -> str:
    """Return what all spellings and names of a brand have in common."""
    letters = "".join(filter(str.isalnum, "".join(words)))
    return SAME_BRAND.get(letters, letters)
