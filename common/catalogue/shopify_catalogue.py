"""Read Shopify's product catalogue: about 49,000 real products with a picture, a true category and wrong candidates.

Source: Shopify/product-catalogue on the hub. Titles, descriptions and photos are the merchants' own. Each product comes
with the category paths that were considered for it and the one that it has, of a taxonomy of 10,000 paths.

The candidates of a product are the published ones in their order, at most `CANDIDATES` with the true path among them: a
path that is listed twice counts once, a true path that is not listed is put at the end, and of a longer list the last
wrong ones are left out. A product without a true path keeps its list, and none of it is true.

Products of the same title and brand are one group. The test split is the published one; 10% of the training groups are
the validation split. A training product whose group is in test as well is set aside: it would leak the answer.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.hub import HubSource, hub_files
from common.catalogue.readers import quarantine_rows
from common.catalogue.splits import carve_validation
from common.catalogue.text import clean_text, normalise_query, strip_markup
from common.errors import CourseError
from common.progress import progress

HUB = HubSource("Shopify/product-catalogue", "shopify_catalogue", splits=("train", "test"))
COLUMNS = (
    "product_title", "product_description", "product_image", "ground_truth_category", "potential_product_categories",
    "ground_truth_brand", "ground_truth_is_secondhand",
)  # fmt: skip
CANDIDATES = 9
VAL_SHARE = 0.1
ROWS_AT_ONCE = 256
"""Rows in memory at once; each holds a picture."""

LEAKS = "its title and brand stand in the test split as well"
_SUFFIX_OF_SIGNATURE = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif"}


def find_files() -> dict[str, Path | list[Path]]:
    """Return the Parquet files of train and of test (see `hub_files`)."""
    return dict(hub_files(HUB))


def build_catalogue(folder: Path) -> Catalogue:
    """Build the catalogue, see the module. Pictures are written to ``<folder>/images`` as they were published."""
    files = find_files()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = [record for split, paths in files.items() for record in _records(split, paths, folder)]
    products = pd.DataFrame([record["product"] for record in records], dtype=object)
    products["group_id"] = _groups(products)
    kept, aside = _without_leaks(products)
    known = set(kept["product_id"])
    records = [record for record in records if record["product"]["product_id"] in known]
    images = pd.DataFrame([record["image"] for record in records if record["image"]], columns=["product_id", "path"])
    candidates = pd.DataFrame([row for record in records for row in record["candidates"]])
    names = ", ".join(str(paths[0].parent) for paths in files.values())
    return Catalogue.from_tables(
        "shopify_catalogue",
        products=kept.assign(split=carve_validation(kept, kept["split"], VAL_SHARE)),
        images=images if len(images) else None,
        category_candidates=candidates if len(candidates) else None,
        folder=folder,
        files={"products": names, "images": names, "category_candidates": names},
        quarantine=aside,
    )


def listed_paths(value: Any) -> list[str]:
    """Return the category paths of one cell of ``potential_product_categories``, each once, in their order.

    value: a list; a JSON or Python list as text; or text with one path per line. Commas separate nothing: some
    paths contain commas.
    """
    if isinstance(value, str):
        text = value.strip()
        value = _as_list(text) if text.startswith("[") else text.splitlines()
    paths = (clean_text(path) for path in value or [] if isinstance(path, str))
    return list(dict.fromkeys(path for path in paths if path))


def candidate_rows(product_id: str, true: str | None, listed: list[str]) -> list[dict[str, Any]]:
    """Return the rows of `category_candidates` for one product: at most `CANDIDATES`, the true path among them.
    Positions are those of the cleaned list."""
    paths = listed if true is None or true in listed else [*listed, true]
    room = CANDIDATES - (true is not None)
    kept = {path for path in [path for path in paths if path != true][:room]} | {true}
    return [
        {"product_id": product_id, "category_path": path, "is_true": path == true, "position": position}
        for position, path in enumerate(paths)
        if path in kept
    ]


def _as_list(text: str) -> list[Any]:
    for parse in (json.loads, ast.literal_eval):
        try:
            return list(parse(text))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return [text]


def _records(split: str, paths: list[Path], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a record for each row of a split's files: `product`, `candidates` and `image`, which is then written.
    `image` is None if there is none. A product's id is its split and the number of its row."""
    rows = (row for path in paths for row in _rows(path))
    for number, row in enumerate(progress(rows, desc=f"reading {split}", unit="product")):
        yield _record(row, f"{split}-{number:06d}", split, folder)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
        require_columns(file.schema_arrow.names, COLUMNS, path)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(COLUMNS)):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CourseError(f"{path}: not a readable Parquet file ({str(error)[:120]}); get it again") from None


def _record(row: dict[str, Any], product_id: str, split: str, folder: Path) -> dict[str, Any]:
    true = clean_text(row["ground_truth_category"] or "") or None
    secondhand = row["ground_truth_is_secondhand"]
    product = {
        "product_id": product_id,
        "title": row["product_title"],
        "description": strip_markup(row["product_description"] or "") or None,
        "brand": row["ground_truth_brand"],
        "category_path": true,
        "attributes": None if secondhand is None else json.dumps({"secondhand": secondhand in (True, "true", "True")}),
        "split": split,
    }
    picture = _write_picture(row["product_image"], folder, product_id)
    return {
        "product": product,
        "image": picture and {"product_id": product_id, "path": picture},
        "candidates": candidate_rows(product_id, true, listed_paths(row["potential_product_categories"])),
    }


def _write_picture(cell: dict[str, Any] | bytes | None, folder: Path, product_id: str) -> str | None:
    """Write the bytes of an image cell into the catalogue's folder; return its path there, None without bytes. Whether
    they are a picture is checked with all others, when the catalogue is made."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if not content:
        return None
    suffix = next((end for start, end in _SUFFIX_OF_SIGNATURE.items() if content.startswith(start)), ".image")
    path = f"images/{product_id}{suffix}"
    (folder / path).write_bytes(content)
    return path


def _groups(products: pd.DataFrame) -> pd.Series:
    """Group products of the same title and brand, named by the first of them. A product without a title is a group of
    its own."""
    cells = (products[name].fillna("").map(normalise_query) for name in ("title", "brand"))
    keys = pd.Series(
        [f"{title}\n{brand}" if title else None for title, brand in zip(*cells, strict=True)], dtype=object
    )
    first = products["product_id"].groupby(keys).transform("first")
    return first.where(keys.notna(), products["product_id"])


def _without_leaks(products: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the products without those of train whose group is in test, and those as rows of the quarantine."""
    tested = products.loc[products["split"] == "test", "group_id"].unique()
    leaks = (products["split"] == "train") & products["group_id"].isin(tested)
    ids = products.loc[leaks, "product_id"]
    return products[~leaks], quarantine_rows([("products", row, name, "title", LEAKS) for row, name in ids.items()])
