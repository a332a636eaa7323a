"""Read Luma, the sample shop of Magento: 147 garments in 1,847 colours and sizes, 46 bags, watches and other gear.

Source: magento/magento2-sample-data; OSL-3.0.

A garment (a *configurable* product) and its variants are one group; so are the balls and the straps, which differ in
size and colour and share their photos. A variant has the facts of its garment (material, pattern, climate) and its own
size and colour; the garment itself has no colour.

**The shop's own links are pairs.** ``related`` (worn together) and ``crosssell`` (offered in the basket) say what goes
with a product. ``upsell`` names a dearer product *instead* of it: that is a substitute, not a match, and is read only
if asked for. All pairs have label 1; the shop says nowhere what does not go together. `outfit_id` is the list that a
pair is in, such as ``related/WH01``. A pair with one end in val or test is in that split (the later one if they
differ), so that a pair in train has both ends there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.contract import SPLITS
from common.catalogue.download import LUMA, public_files
from common.catalogue.readers import quarantine_rows, read_table
from common.catalogue.splits import split_by_group
from common.catalogue.text import strip_markup
from common.category_path import join_path, split_path
from common.errors import CourseError

LINKS = ("related", "crosssell", "upsell")
MEDIA = "pub/media/catalog/product"

CLOTHES_COLUMNS = ("sku", "product_type", "categories", "name", "base_image", "additional_images")
CLOTHES_COLUMNS += ("additional_attributes", "configurable_variations", "description", "price")
GEAR_COLUMNS = ("sku", "category", "name", "description", "price", "attribute_set")

GENERAL_SETS = ("Bag", "Gear")
"""Attribute sets of unlike products. Any other set of the gear is one product in several sizes and colours."""

_OF_THE_SHOP = {
    "has_options",
    "required_options",
    "erin_recommends",
    "new",
    "sale",
    "special_price",
    "qty",
    "visibility",
}
_OF_THE_SHOP |= {"url_key", "bundle_options", "associated_sku", "color", "material", *GEAR_COLUMNS}
_SHELVES = ("Collections", "Promotions", "Default Category")
_NEXT_ATTRIBUTE = re.compile(r",(?=[a-z_]+=)")


def find_files(*, links: tuple[str, ...]) -> dict[str, Path | list[Path]]:
    """Return every table below ``app/code/Magento`` and every picture."""
    unknown = [name for name in links if name not in LINKS]
    if unknown or not links:
        raise CourseError(f"luma: unknown links {unknown}; choose some of {', '.join(LINKS)}")
    home = _home(public_files(LUMA)["app/code/Magento/ConfigurableSampleData/fixtures/products.csv"])
    pictures = [path for path in (home / MEDIA).glob("**/*") if path.is_file()]
    return {"tables": sorted((home / "app/code/Magento").glob("*/fixtures/**/*.csv")), "pictures": sorted(pictures)}


def build_catalogue(folder: Path, *, links: tuple[str, ...] = ("related", "crosssell")) -> Catalogue:
    """Build the catalogue; `links` of "related", "crosssell" and "upsell" become pairs, see the module.

    Products are split 80 / 10 / 10 by group. The base image comes first, then the additional ones in their order. A
    link to something that is not in the tables (downloads, gift cards) is set aside.
    """
    tables = find_files(links=links)["tables"]
    home = _home(next(path for path in tables if path.match("ConfigurableSampleData/fixtures/products.csv")))
    clothes, gear, pictures, linked, aside = _read(tables)
    products = pd.DataFrame([*_clothes(clothes), *_gear(gear)], dtype=object)
    products = products.assign(split=split_by_group(products))
    shown = _pictures(clothes, pictures, home).merge(products[["product_id"]])
    return Catalogue.from_tables(
        "luma",
        products=products,
        images=shown,
        pairs=_pairs(linked[linked["kind"].isin(links)], products),
        files={"products": str(home / "app"), "images": str(home / MEDIA), "pairs": str(home / "app")},
        quarantine=aside,
    )


def _home(products: Path) -> Path:
    return products.parents[5]


def _read(tables: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return clothes, gear, pictures of gear, links, and rows set aside. The columns tell what a table holds; several
    modules repeat the tables of others."""
    kinds: dict[str, list[pd.DataFrame]] = {"clothes": [], "gear": [], "pictures": [], "links": []}
    aside = [quarantine_rows([])]
    for path in tables:
        read = read_table(path, "products")
        columns = set(read.frame.columns)
        if {"sku", "linked_sku"} <= columns:
            kinds["links"].append(read.frame.assign(kind=path.stem))
        elif {"sku", "image"} <= columns:
            kinds["pictures"].append(read.frame)
        elif "product_type" in columns:
            require_columns(columns, CLOTHES_COLUMNS, path)
            kinds["clothes"].append(read.frame)
        elif "sku" in columns:
            require_columns(columns, GEAR_COLUMNS, path)
            kinds["gear"].append(read.frame)
        else:
            continue  # categories and attributes, which the products repeat
        aside.append(read.aside)
    empty = {"clothes": CLOTHES_COLUMNS, "gear": GEAR_COLUMNS, "pictures": ("sku", "image")}
    empty["links"] = ("sku", "linked_sku", "kind")
    clothes, gear, pictures, links = (
        pd.concat(kinds[name] or [pd.DataFrame(columns=columns)], ignore_index=True).astype(object)
        for name, columns in empty.items()
    )
    return clothes, gear, pictures, links, pd.concat(aside, ignore_index=True)


def _clothes(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records = frame.to_dict("records")
    parent_of = {
        variation.split(",")[0].partition("=")[2]: record["sku"]
        for record in records
        for variation in _text(record["configurable_variations"]).split("|")
        if variation
    }
    facts = {record["sku"]: _listed_attributes(_text(record["additional_attributes"])) for record in records}
    rows = []
    for record in records:
        parent = parent_of.get(record["sku"], record["sku"])
        own = facts[record["sku"]]
        path = _category_path(_text(record["categories"]).split(","))
        rows.append(_product(record, {**facts.get(parent, {}), **own}, path, parent))
    return rows


def _gear(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records = frame.to_dict("records")
    set_of = {record["sku"]: record["attribute_set"] for record in records}
    rows = []
    for record in records:
        # A set of straps is a product of its own; it belongs to the group of the straps.
        members = _text(record.get("associated_sku")).split(",")
        kind = set_of.get(members[0], record["attribute_set"])
        group = record["sku"] if kind in GENERAL_SETS or not _text(kind) else kind
        facts = {name: _text(value).split("\n") for name, value in record.items() if _text(value)}
        rows.append(_product(record, facts, _shelf(_text(record["category"]).split("\n")), group))
    return rows


def _product(record: dict[str, Any], facts: dict[str, list[str]], path: str | None, group: str) -> dict[str, Any]:
    attributes = {name.replace("_", " "): _value(v) for name, v in facts.items() if name not in _OF_THE_SHOP}
    return {
        "product_id": record["sku"],
        "title": strip_markup(_text(record["name"])) or None,
        "description": strip_markup(_text(record["description"])) or None,
        "colour": _joined(facts.get("color")),
        "material": _joined(facts.get("material")),
        "price": record["price"],
        "category_path": path,
        "attributes": json.dumps(attributes, ensure_ascii=False) if attributes else None,
        "group_id": group,
        "locale": "en",
    }


def _listed_attributes(text: str) -> dict[str, list[str]]:
    """Turn ``material=Wool|Nylon,new=No`` into ``{"material": ["Wool", "Nylon"], "new": ["No"]}``."""
    parts = [part.partition("=") for part in _NEXT_ATTRIBUTE.split(text) if part]
    return {name: value.split("|") for name, _, value in parts if value}


def _value(values: list[str]) -> bool | str:
    return values == ["Yes"] if values in (["Yes"], ["No"]) else _joined(values) or ""


def _joined(values: list[str] | None) -> str | None:
    return ", ".join(dict.fromkeys(filter(None, map(strip_markup, values or [])))) or None


def _category_path(paths: list[str]) -> str | None:
    """Return the deepest path ``Default Category/Men/Tops/Tees`` that is no promotion, as ``Men > Tops > Tees``."""
    shelves = [_shelf(path.removeprefix("Default Category/").split("/")) for path in paths]
    return max((shelf for shelf in shelves if shelf), key=lambda shelf: len(split_path(shelf)), default=None)


def _shelf(levels: list[str]) -> str | None:
    """Join the levels before the first promotion or collection: ``Gear, Bags, Collections, Eco`` is ``Gear > Bags``."""
    levels = [level.strip() for level in levels if level.strip()]
    end = next((at for at, level in enumerate(levels) if level in _SHELVES), len(levels))
    return join_path(levels[:end]) or None


def _pictures(clothes: pd.DataFrame, of_gear: pd.DataFrame, home: Path) -> pd.DataFrame:
    """Return `product_id, path`, each picture of a product once, in the shop's order."""
    rows = []
    columns = (clothes[name] for name in ("sku", "base_image", "additional_images"))
    for sku, base, more in zip(*columns, strict=True):
        rows += [(sku, name.strip()) for name in [_text(base), *_text(more).split(",")] if name.strip()]
    rows += zip(of_gear["sku"], of_gear["image"].map(_text), strict=True)
    paths = {row: str(home / MEDIA / row[1].lstrip("/")) for row in rows}  # dict keys: each once
    return pd.DataFrame([(sku, path) for (sku, _), path in paths.items()], columns=["product_id", "path"])


def _pairs(links: pd.DataFrame, products: pd.DataFrame) -> pd.DataFrame:
    rows = [
        (sku, other, f"{kind}/{sku}")
        for sku, others, kind in zip(links["sku"], links["linked_sku"], links["kind"], strict=True)
        for other in _text(others).split()
    ]
    pairs = pd.DataFrame(rows, columns=["a_id", "b_id", "outfit_id"]).drop_duplicates(ignore_index=True)
    place = products.set_index("product_id")["split"].map(SPLITS.index)
    later = pd.concat([pairs["a_id"].map(place), pairs["b_id"].map(place)], axis=1).max(axis=1)
    return pairs.assign(label=1, split=later.map(dict(enumerate(SPLITS))))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
