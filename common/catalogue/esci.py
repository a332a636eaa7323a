"""Read ESCI, Amazon's Shopping Queries data set: real queries, products and labels in three languages.

Source: Reddy et al., "Shopping Queries Dataset: A Large-Scale ESCI Benchmark for Improving Product Search" (2022),
amazon-science/esci-data. A product is identified by its id *and* its locale: one id has other texts in each.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from common.catalogue.catalogue import Catalogue
from common.catalogue.cells import is_among
from common.catalogue.columns import require_columns
from common.catalogue.contract import GRADE_OF_LABEL
from common.catalogue.download import ESCI, public_files
from common.catalogue.splits import split_queries
from common.catalogue.text import strip_markup
from common.errors import CourseError
from common.settings import data_home

LOCALES = ("us", "es", "jp")
VALIDATION_FRACTION = 0.1

EXAMPLE_COLUMNS = ("query", "query_id", "product_id", "product_locale", "esci_label", "small_version", "split")
PRODUCT_COLUMNS = (
    "product_id",
    "product_title",
    "product_description",
    "product_bullet_point",
    "product_brand",
    "product_color",
    "product_locale",
)
FEED_FIELDS = {
    "id": "product_id",
    "title": "product_title",
    "description": "product_description",
    "bullets": "product_bullet_point",
    "brand": "product_brand",
    "color": "product_color",
    "locale": "product_locale",
}
"""Fields of a search engine's feed (one JSON object per line, ``put`` and ``fields``), the form of some samples."""


def find_files(*, locale: str, small_version: bool, folder: str) -> dict[str, Path]:
    """Return the examples and the products: in `folder` (of the data home, or anywhere) any two files with their
    columns."""
    home = data_home()
    place = (home or Path()) / folder
    if folder == ESCI.folder and (home is None or not place.is_dir()):
        examples, products = public_files(ESCI).values()
        return {"examples": examples, "products": products}
    if not place.is_dir():
        raise CourseError(f"esci: there is no folder {place}; give a folder, or a name below COURSE_DATA_HOME")
    parquet = {path: pq.read_schema(path).names for path in sorted(place.glob("*.parquet"))}
    examples = [path for path, names in parquet.items() if "esci_label" in names]
    products = [path for path, names in parquet.items() if "product_title" in names]
    products += [path for path in sorted(place.iterdir()) if path.name.endswith((".jsonl", ".jsonl.zst"))]
    if not examples or not products:
        what = "examples file (Parquet with esci_label)" if not examples else "products file (Parquet or .jsonl feed)"
        raise CourseError(f"{place}: no {what}; put {', '.join(f.path for f in ESCI.files)} there, from {ESCI.page}")
    return {"examples": examples[0], "products": products[0]}


def build_catalogue(
    folder_out: Path, *, locale: str = "us", small_version: bool = True, folder: str = ESCI.folder
) -> Catalogue:
    """Build the catalogue of a `locale` (us, es, jp or all); products are ``<id>_<locale>``.

    `small_version`: the queries of the ranking task and the products judged for them; otherwise the large version with
    every product of the locale.

    Bullet points come before the description, both in `description`. The file's splits are kept; a tenth of the
    training queries, by hash of their words, is the validation split. Words that occur in the training and in the test
    split count as test; the contract's check sets the other query aside.
    """
    if locale not in (*LOCALES, "all"):
        raise CourseError(f"esci: unknown locale {locale!r}; choose one of {', '.join(LOCALES)} or all")
    files = find_files(locale=locale, small_version=small_version, folder=folder)
    examples = _read_examples(files["examples"], locale, small_version)
    products = _read_products(files["products"], locale)
    if small_version:
        products = products[is_among(products["product_id"], examples["product_id"].unique())]
    queries = examples.drop_duplicates("query_id")[["query_id", "query", "split"]]
    carved = split_queries(queries, {"train": 1 - VALIDATION_FRACTION, "val": VALIDATION_FRACTION})
    queries = queries.assign(split=queries["split"].mask(queries["split"] == "train", carved))
    grades = examples["label"].map(GRADE_OF_LABEL).astype(object).fillna(examples["label"])
    return Catalogue.from_tables(
        "esci",
        products=products.reset_index(drop=True),
        queries=queries,
        judgements=examples.assign(grade=grades)[["query_id", "product_id", "grade", "label"]],
        files={
            "products": str(files["products"]),
            "queries": str(files["examples"]),
            "judgements": str(files["examples"]),
        },
    )


def _read_examples(path: Path, locale: str, small_version: bool) -> pd.DataFrame:
    require_columns(pq.read_schema(path).names, (*EXAMPLE_COLUMNS, "large_version"), path)
    wanted = ds.field("small_version" if small_version else "large_version") == 1
    if locale != "all":
        wanted &= ds.field("product_locale") == locale
    frame = pq.read_table(path, columns=[*EXAMPLE_COLUMNS, "large_version"], filters=wanted).to_pandas()
    if frame.empty:
        version = "small" if small_version else "large"
        raise CourseError(f"{path}: no rows of locale {locale!r} in the {version} version; choose another")
    return pd.DataFrame(
        {
            "query_id": frame["query_id"].astype("str"),
            "query": frame["query"],
            "split": frame["split"],
            "product_id": frame["product_id"] + "_" + frame["product_locale"],
            "label": frame["esci_label"],
        }
    )


def _read_products(path: Path, locale: str) -> pd.DataFrame:
    if path.suffix == ".parquet":
        require_columns(pq.read_schema(path).names, PRODUCT_COLUMNS, path)
        wanted = None if locale == "all" else ds.field("product_locale") == locale
        frame = pq.read_table(path, columns=list(PRODUCT_COLUMNS), filters=wanted).to_pandas()
    else:
        frame = pd.DataFrame(_read_feed(path, "us" if locale == "all" else locale), columns=list(PRODUCT_COLUMNS))
        frame = frame.astype("str")
    if frame.empty:
        raise CourseError(f"{path}: no products of locale {locale!r}; choose another")
    texts = zip(frame["product_bullet_point"].fillna(""), frame["product_description"].fillna(""), strict=True)
    return pd.DataFrame(
        {
            "product_id": frame["product_id"] + "_" + frame["product_locale"],
            "title": frame["product_title"],
            "description": pd.Series([strip_markup(" ".join(parts)) for parts in texts], frame.index, dtype="str"),
            "brand": frame["product_brand"],
            "colour": frame["product_color"],
            "locale": frame["product_locale"],
        }
    )


def _read_feed(path: Path, locale: str) -> Iterator[dict[str, Any]]:
    """Yield the products of a feed; one without a locale has the one asked for."""
    codec = "zstd" if path.suffix == ".zst" else None
    with pa.input_stream(str(path), compression=codec) as stream:
        for number, line in enumerate(io.TextIOWrapper(stream, encoding="utf-8"), start=1):
            try:
                fields = json.loads(line)["fields"]
                product = {column: fields.get(name) for name, column in FEED_FIELDS.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CourseError(f"{path}: line {number} is not an object with 'fields' ({error!r})") from None
            yield product | {"product_locale": product["product_locale"] or locale}
