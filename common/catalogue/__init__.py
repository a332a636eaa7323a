"""The catalogue contract and its sources: `load_catalogue("pocket_shop")` and all others give the same tables."""

from __future__ import annotations

from common.catalogue.catalogue import Catalogue
from common.catalogue.contract import GRADE_OF_LABEL, RELEVANT_GRADE, SPLITS, TABLES
from common.catalogue.load import SOURCES, load_catalogue
from common.catalogue.text import normalise_query, product_text

__all__ = [
    "GRADE_OF_LABEL",
    "RELEVANT_GRADE",
    "SOURCES",
    "SPLITS",
    "TABLES",
    "Catalogue",
    "load_catalogue",
    "normalise_query",
    "product_text",
]
