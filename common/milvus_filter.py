"""Write conditions in Milvus' filter language. Every value is quoted: no text can become part of the condition."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable

from common.category_path import SEPARATOR
from common.errors import CourseError

AFTER = SEPARATOR[:-1] + chr(ord(SEPARATOR[-1]) + 1)
"""The first text that sorts after all that begin with the separator."""


def product_filter(category: str | None = None, price_min: float | None = None, price_max: float | None = None) -> str:
    """Return a condition on category and price, "" if nothing is asked for; see `MilvusIndex.only`.

    "Below this level" is a range of texts, from "A > B > " to just before "A > B >!" ("!" follows the space), and not a
    LIKE: a category may hold % and _, and servers differ in how these are escaped.
    """
    conditions = []
    if category is not None:
        path = f"category_path == {quoted(category)}"
        below = f"category_path >= {quoted(category + SEPARATOR)} and category_path < {quoted(category + AFTER)}"
        conditions.append(f"({path} or ({below}))")
    for bound, sign in ((price_min, ">="), (price_max, "<=")):
        if bound is not None:
            conditions.append(f"price {sign} {checked_price(bound)!r}")
    return " and ".join(conditions)


def both(one: str, other: str) -> str:
    """Return the condition that both hold; "" is no condition."""
    return f"({one}) and ({other})" if one and other else one or other


def one_of(ids: Iterable[str]) -> str:
    """Return the condition that a product is one of these."""
    return f"product_id in [{', '.join(map(quoted, ids))}]"


def checked_price(price: float) -> float:
    """Return a price as a float. Raises CourseError unless it is a finite number."""
    if isinstance(price, bool) or not isinstance(price, numbers.Real) or not math.isfinite(price):
        raise CourseError(f"price {price!r} is no finite number; give one, or None where there is none.")
    return float(price)


def quoted(text: str) -> str:
    """Return a text as a literal of Milvus' filter language, which nothing in the text can end. Raises CourseError for
    half a surrogate pair, which no UTF-8 text can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CourseError(f"{text!r} holds half a surrogate pair; it cannot be filtered by.") from error
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return f'"{text}"'
