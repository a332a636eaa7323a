"""Compare queries by their words, in any order and number."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import reduce

import numpy as np
import pandas as pd

from common.catalogue import normalise_query, product_text

WORD = re.compile(r"[^\W_]+(?:[-'.+&][^\W_]+)*")
_MEASURE = re.compile(
    r"(?<![\w.])(\d{1,4}(?:\.\d{1,2})?)\s?"
    r"(\"|''|inch(?:es)?\b|cm\b|mm\b|m\b|ft\b|gb\b|tb\b|mb\b|kg\b|g\b|ml\b|l\b|w\b|v\b|mah\b|mp\b|hz\b|ghz\b|dpi\b|ports?\b|pin\b)",
    re.IGNORECASE,
)
CONNECTORS = frozenset(["for", "with", "and", "of", "in", "to", "on", "a", "the"])


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text, in lower case."""
    return tuple(WORD.findall(normalise_query(text)))


def query_key(query: str) -> tuple[str, ...]:
    """Return the words of a query, without plural endings, in alphabetical order: equal for wordings of one query."""
    return tuple(sorted(_singular(word) for word in WORD.findall(normalise_query(query))))


def products_with_words(products: pd.DataFrame, queries: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return for each query the ids of the products whose text has all of its words.

    Nobody judged them, but most of them fit, so they should not be negatives of the query. Plural endings and words
    like "for" do not count. A query with an unknown word has an empty set.
    """
    ids = products["product_id"].to_numpy(dtype=object)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(product_text(products)):
        measures = " ".join(word for measure in measures_of(text) for word in measure)
        for word in set(query_key(f"{text} {measures}")):
            places[word].append(at)
    arrays = {word: np.array(found) for word, found in places.items()}
    nothing = np.zeros(0, dtype=np.int64)
    answer: dict[str, frozenset[str]] = {}
    for query in queries:
        words = [word for word in query_key(query) if word not in CONNECTORS]
        found = sorted((arrays.get(word, nothing) for word in words), key=len)
        both = reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), found) if found else nothing
        answer[query] = frozenset(ids[both])
    return answer


def measures_of(text: str) -> list[tuple[str, ...]]:
    """Return the measures in a text as number and unit, such as ("27", "inch")."""
    inch = {'"': "inch", "''": "inch", "inches": "inch"}
    return [
        (n.removesuffix(".0"), inch.get(unit.lower(), unit.lower())) for n, unit in _MEASURE.findall(text.casefold())
    ]


def other_number(word: str) -> str:
    """Return the plural of a singular, the singular of a plural, and any other word as it is."""
    if not (word.isascii() and word.isalpha() and len(word) > 2):
        return word
    if _singular(word) != word and len(word) > 4:  # a lens is no plural, nor is CMOS
        return _singular(word)
    if word.endswith("s"):
        return word
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("x", "ch", "sh")) else "s")


def _singular(word: str) -> str:
    if len(word) < 4 or not word.isascii() or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("xes", "ches", "shes", "sses")) else word[:-1]
