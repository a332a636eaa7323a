"""Read Amazon Berkeley Objects (ABO): 147,702 product listings in many languages, with photos.

Source: Collins et al., "ABO: Dataset and Benchmarks for Real-World 3D Object Understanding", CVPR 2022; CC BY 4.0.

One listing is one product. An item that is sold in several marketplaces has several listings: the first (an English one
if there is one) has the item's id, the others are ``<item_id>-2``, ``<item_id>-3``. Listings that share the item or the
main photo are one group, whatever their titles say: in a public preparation of this data set that split by listing, a
fifth of the validation photos were training photos.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.contract import SPLITS
from common.catalogue.download import ABO, ABO_TEXT, public_files
from common.catalogue.readers import quarantine_rows, read_table
from common.catalogue.splits import linked_groups, split_by_group
from common.catalogue.text import strip_markup
from common.category_path import join_path
from common.errors import CourseError

SELECTIONS = ("mini", "all", "text")
MINI_ITEMS = 20_000
FRACTIONS = {"train": 0.9, "val": 0.05, "test": 0.05}

# fmt: off
ROOTS = frozenset((
    "categories", "categorías", "kategorien", "catégories", "categorie", "カテゴリー別", "products", "departments",
    "categorieën", "kategorier", "kategoriler", "kategorie", "categorias", "produkte", "produits", "produkter",
))
# fmt: on
"""First levels that are left out: words for "everything" in the marketplace's language."""

TEXT_COLUMNS = ("item_id", "main_image_id", "title", "brand", "product_type", "node_path", "text")


def find_files(*, selection: str) -> dict[str, Path | list[Path]]:
    """Return the listings and the list of pictures in the public layout; for the selection "text", the two tables."""
    if selection not in SELECTIONS:
        raise CourseError(f"abo: unknown selection {selection!r}; choose one of {', '.join(SELECTIONS)}")
    if selection == "text":
        return dict(public_files(ABO_TEXT))
    try:
        listings, images = public_files(ABO).values()
    except CourseError as error:
        raise CourseError(f'{error}; or load the text tables without pictures: selection="text"') from None
    return {"images": images, "listings": sorted(listings.parent.glob("listings_*.json.gz"))}


def build_catalogue(folder: Path, *, selection: str = "mini") -> Catalogue:
    """Build the catalogue of a `selection`: "mini", "all" or "text".

    The first two read the public layout (``listings/metadata``, ``images/metadata/images.csv.gz``, ``images/small``),
    the last one two tables without pictures (folder `abo-mini`).

    "mini" holds the listings with a main photo of `MINI_ITEMS` items: those with an English title come first, and among
    them those with the smallest ``blake2b(item_id, digest_size=8)``. No random state is involved, so everybody who has
    the data set gets the same selection. Splits are 90 / 5 / 5 by group; the tables of "text" keep their own (train and
    val), and a group that is in both counts as train.

    The title is the English one where there is one; `locale` says its language. Only the main photo is taken: the
    others show backs, labels and size charts that no title describes.
    """
    files = find_files(selection=selection)
    if selection == "text":
        listings, aside = _read_text_tables(files), quarantine_rows([])
    else:
        listings, aside = _read_listings(files["listings"], _read_image_paths(files["images"]))
        listings = _mini(listings) if selection == "mini" else listings
    listings = listings.reset_index(drop=True)
    products = _products(listings)
    images = products[["product_id"]].assign(path=listings["path"]).dropna()
    return Catalogue.from_tables(
        "abo",
        products=products,
        images=images if len(images) else None,
        files={"products": _place(files), "images": _place(files)},
        quarantine=aside,
    )


def _place(files: Mapping[str, Path | list[Path]]) -> str:
    last = list(files.values())[-1]
    return str((last[0] if isinstance(last, list) else last).parent)


def _read_image_paths(path: Path) -> dict[str, str]:
    """Return the path of each picture by its id."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CourseError(f"{path}: damaged ({error}); remove it and get it again") from None
    require_columns(frame.columns, ("image_id", "path"), path)
    small = path.parent.parent / "small"
    return {image_id: str(small / name) for image_id, name in zip(frame["image_id"], frame["path"], strict=True)}


def _read_listings(paths: Iterable[Path], image_paths: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows, aside = [], []
    for path in paths:
        for number, line in enumerate(_lines(path), start=1):
            try:
                rows.append(_listing(json.loads(line), image_paths))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{path.name}, line {number}: not a listing with an item_id ({error!r})"[:200]
                aside.append(("products", number, "", "product_id", reason))
    if not rows:
        raise CourseError(f"{_place({'listings': list(paths)})}: no line is a listing; get the files again")
    return pd.DataFrame(rows, dtype=object), quarantine_rows(aside)


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from file
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise CourseError(f"{path}: damaged ({error}); remove it and get it again") from None


def _listing(record: dict[str, Any], image_paths: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(record["item_id"], str):
        raise TypeError("its item_id is not text")
    title, language = _preferred(record.get("item_name"))
    points = [point for point in record.get("bullet_point") or [] if point.get("language_tag") == language]
    return {
        "item_id": record["item_id"],
        "main_image_id": record.get("main_image_id"),
        "path": image_paths.get(record.get("main_image_id") or ""),
        "title": title,
        "description": strip_markup(" ".join(str(point.get("value")) for point in points)) or None,
        "brand": _preferred(record.get("brand"))[0],
        "colour": _preferred(record.get("color"))[0],
        "material": _preferred(record.get("material"))[0],
        "product_type": _preferred(record.get("product_type"))[0],
        "node_path": next((node.get("node_name") for node in record.get("node") or []), None),
        "locale": language,
    }


def _preferred(values: list[dict[str, str]] | None) -> tuple[str | None, str | None]:
    """Return value and language of the first English entry, else of the first one; (None, None) if there is none."""
    entries = [(entry["value"], entry.get("language_tag")) for entry in values or [] if entry.get("value")]
    return next((entry for entry in entries if _is_english(entry[1])), entries[0] if entries else (None, None))


def _is_english(language: object) -> bool:
    return isinstance(language, str) and language.split("_")[0] == "en"


def _mini(listings: pd.DataFrame) -> pd.DataFrame:
    pictured = listings[listings["path"].notna()]
    english = pictured["locale"].map(_is_english).groupby(pictured["item_id"]).any()
    order = sorted(english.index, key=lambda item: (not english[item], selection_key(item)))
    return pictured[pictured["item_id"].isin(set(order[:MINI_ITEMS]))]


def selection_key(item_id: str) -> str:
    """Return the sort key of an item for the selection "mini", 16 hexadecimal digits."""
    return blake2b(item_id.encode(), digest_size=8).hexdigest()


def _read_text_tables(files: Mapping[str, Path]) -> pd.DataFrame:
    frames = []
    for name, path in files.items():
        frame = read_table(path, "products").frame
        require_columns(frame.columns, TEXT_COLUMNS, path)
        frames.append(frame[[*TEXT_COLUMNS]].assign(split=Path(name).stem))
    table = pd.concat(frames, ignore_index=True).astype(object)
    for column, label in (("colour", "color"), ("material", "material")):
        table[column] = table["text"].str.extract(rf" \| {label}: ([^|]+?)(?: \| |$)", expand=False)
    return table.drop(columns="text").assign(path=None, description=None, locale=None)


def _products(listings: pd.DataFrame) -> pd.DataFrame:
    products = pd.DataFrame(
        {
            "product_id": _numbered(listings["item_id"], listings["locale"].map(_is_english)),
            **{name: listings[name] for name in ("title", "description", "brand", "colour", "material")},
            "category_path": listings["node_path"].map(_category_path, na_action="ignore"),
            "attributes": listings["product_type"].map(_attributes, na_action="ignore"),
            "group_id": _groups(listings),
            "locale": listings["locale"],
        },
        dtype=object,
    )
    if "split" not in listings.columns:
        return products.assign(split=split_by_group(products, FRACTIONS))
    earliest = listings["split"].map(SPLITS.index).groupby(products["group_id"]).transform("min")
    return products.assign(split=earliest.map(dict(enumerate(SPLITS))))


def _numbered(items: pd.Series, english: pd.Series) -> pd.Series:
    """Number the ids of listings: the first one, English before others, keeps the item's own id."""
    order = english.sort_values(ascending=False, kind="stable").index
    number = items.loc[order].groupby(items.loc[order]).cumcount().reindex(items.index) + 1
    return items.where(number == 1, items + "-" + number.astype(str))


def _groups(listings: pd.DataFrame) -> pd.Series:
    """Group listings that share the item or the main photo, directly or through others; the first item's id names
    it."""
    part = linked_groups(listings["item_id"], listings["main_image_id"].fillna("item " + listings["item_id"]))
    return listings["item_id"].groupby(part).transform("first")


def _category_path(node_path: str) -> str | None:
    """Turn ``/Categories/Shoes/Boots`` into ``Shoes > Boots``; None where nothing is left."""
    levels = [level.strip() for level in node_path.split("/") if level.strip()]
    if levels and levels[0].casefold() in ROOTS:
        levels = levels[1:]
    return join_path(levels) or None


def _attributes(product_type: str) -> str:
    return json.dumps({"type": product_type.replace("_", " ").lower()}, ensure_ascii=False)
