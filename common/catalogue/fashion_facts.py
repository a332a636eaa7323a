"""Turn the products of fashion_products into facts that a wish can be checked against: type, colour, brand and so on.

**The brand is the beginning of the title.** Most titles name it before they say who the product is for. So the words
before the first word for men, women or children make a brand if at least `BRAND_TITLES` titles begin so; a longer one
that begins with a shorter brand is only a line of that brand. A product has the longest brand that its title begins
with.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from common.catalogue.text import normalise_query

FACTS = ("type", "colour", "gender", "usage", "season", "brand")
BRAND_TITLES = 5
BRAND_WORDS = 4

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
    brands = _find_brands(words)
    starts = ([" ".join(one[:count]) for count in range(BRAND_WORDS, 0, -1)] for one in words)
    return [next((start for start in starts_of if start in brands), None) for starts_of in starts]


def words_of(title: object) -> list[str]:
    """Return the words of a title in small letters; none if it is missing."""
    return normalise_query(title).split() if isinstance(title, str) else []


def _find_brands(words: list[list[str]]) -> set[str]:
    found: Counter[str] = Counter()
    for title in words:
        at = next((n for n, word in enumerate(title[: BRAND_WORDS + 1]) if word in PERSON_WORDS), 0)
        if at:
            found[" ".join(title[:at])] += 1
    often = {brand for brand, count in found.items() if count >= BRAND_TITLES}
    return {brand for brand in often if not any(brand.startswith(f"{other} ") for other in often)}
