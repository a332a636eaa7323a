"""Filter the products that may be found by category, brand, colour and price."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.category_path import SEPARATOR


@dataclass(frozen=True)
class Filters:
    """Conditions on the products that may be found; None does not filter.

    category: a path or its first levels ("Garden" includes "Garden > Tools"). brand, colour: equal, ignoring case.
    price_min, price_max: inclusive; a product without a price meets neither.
    """

    category: str | None = None
    brand: str | None = None
    colour: str | None = None
    price_min: float | None = None
    price_max: float | None = None

    @property
    def given(self) -> bool:
        """Tell whether anything is filtered."""
        return self != Filters()


def allowed_ids(products: pd.DataFrame, filters: Filters) -> frozenset[str] | None:
    """Return the products that pass the filters; None if nothing is filtered."""
    if not filters.given:
        return None
    keep = np.full(len(products), True)
    if filters.category is not None:
        paths = products["category_path"].fillna("") + SEPARATOR
        keep &= paths.str.startswith(filters.category + SEPARATOR).to_numpy(dtype=bool)
    for name in ("brand", "colour"):
        wanted = getattr(filters, name)
        if wanted is not None:
            keep &= (products[name].str.casefold() == wanted.casefold()).fillna(False).to_numpy(dtype=bool)
    price = products["price"].to_numpy(dtype=np.float64, na_value=np.nan)
    if filters.price_min is not None:
        keep &= price >= filters.price_min
    if filters.price_max is not None:
        keep &= price <= filters.price_max
    return frozenset(products.loc[keep, "product_id"])


def why_fewer(found: int, k: int, filters: Filters, allowed: int) -> str:
    """Say why there are fewer than k products; `allowed` of them pass the filters."""
    if filters.given and not allowed:
        return "No product fits the filters; take one of them away."
    if filters.given:
        return f"Only {found} of {k} were found: {allowed} products fit the filters."
    return f"Only {found} of {k} were found." if found else "Nothing was found."
