"""Read WANDS, Wayfair's furniture search: 480 queries, 42,994 products, 233,448 judgements.

Source: Chen et al., "WANDS: Dataset for Product Search Relevance Assessment", ECIR 2022, wayfair/WANDS.

The three labels become grades: **Exact is 3, Partial is 1, Irrelevant is 0**. A Partial product is of the right kind
and lacks something that the shopper asked for, which resembles ESCI's substitute (grade 2). But most judged pairs are
Partial: at grade 2 they would all count as relevant, and for any system Recall@10 would stay near zero and Precision@10
near one. So only Exact products are relevant; nDCG still rewards a Partial one above an Irrelevant one. `label` stays
empty: the letters E, S, C, I are ESCI's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.download import WANDS, public_files
from common.catalogue.readers import ReadTable, quarantine_rows, read_table
from common.catalogue.splits import split_queries
from common.catalogue.text import strip_markup
from common.category_path import join_path

GRADES = {"Exact": 3, "Partial": 1, "Irrelevant": 0}

COLUMNS = {
    "query.csv": ("query_id", "query"),
    "product.csv": (
        "product_id",
        "product_name",
        "product_class",
        "category hierarchy",
        "product_description",
        "product_features",
    ),
    "label.csv": ("query_id", "product_id", "label"),
}


def find_files() -> dict[str, Path]:
    """Return the three tab-separated files (which end in .csv)."""
    return public_files(WANDS)


def build_catalogue(folder: Path) -> Catalogue:
    """Build the catalogue: category "A / B / C" becomes "A > B > C", the features become attributes. The source has no
    splits: queries are split 60 / 15 / 25 by hash of their words."""
    files = find_files()
    queries, products, labels = (_read(name, files[name]) for name in COLUMNS)
    frame = products.frame
    features = [
        _features(text, kind) for text, kind in zip(frame["product_features"], frame["product_class"], strict=True)
    ]
    grades = labels.frame["label"].map(GRADES).astype(object).fillna(labels.frame["label"])
    return Catalogue.from_tables(
        "wands",
        products=pd.DataFrame(
            {
                "product_id": frame["product_id"],
                "title": frame["product_name"],
                "description": frame["product_description"].map(strip_markup, na_action="ignore"),
                "colour": [f.get("color") for f in features],
                "material": [f.get("material") for f in features],
                "category_path": frame["category hierarchy"].map(_category_path, na_action="ignore"),
                "attributes": [json.dumps(f, ensure_ascii=False) if f else None for f in features],
                "locale": "en",
            },
            dtype=object,
        ),
        queries=queries.frame[["query_id", "query"]].assign(split=split_queries(queries.frame.fillna({"query": ""}))),
        judgements=labels.frame[["query_id", "product_id"]].assign(grade=grades),
        files={
            "products": str(files["product.csv"]),
            "queries": str(files["query.csv"]),
            "judgements": str(files["label.csv"]),
        },
        quarantine=pd.concat([queries.aside, products.aside, labels.aside, quarantine_rows([])], ignore_index=True),
    )


def _read(name: str, path: Path) -> ReadTable:
    table = {"query.csv": "queries", "product.csv": "products", "label.csv": "judgements"}[name]
    read = read_table(path, table, delimiter="\t")
    require_columns(read.frame.columns, COLUMNS[name], path)
    return read


def _category_path(hierarchy: str) -> str:
    return join_path(part.strip() for part in hierarchy.split("/") if part.strip())


def _features(text: str | None, product_class: str | None) -> dict[str, str]:
    """Turn ``"color : white|color : grey|legs:4"`` into ``{"color": "white, grey", "legs": "4"}``, with the product's
    class."""
    features: dict[str, list[str]] = {"class": [product_class]} if product_class else {}
    for feature in (text or "").split("|"):
        name, separator, value = (part.strip() for part in feature.partition(":"))
        if separator and name and value and value not in features.setdefault(name, []):
            features[name].append(value)
    return {name: ", ".join(values) for name, values in features.items() if values}
