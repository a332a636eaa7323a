"""Read Chorus/Icecat: 19,406 real electronics products with human grades 0 to 3.

Source: the Chorus project (querqy/chorus), product data of Open Icecat. There are few judged queries, and many choices
of the course were checked on them: they are *development* queries. So all of them are in the split ``val``: nothing may
train on them, and no figure on them is a test figure.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.contract import LABEL_OF_GRADE
from common.catalogue.download import CHORUS_ICECAT, public_files
from common.catalogue.readers import read_table
from common.catalogue.text import strip_markup
from common.errors import CourseError

RATINGS = "Broad_Query_Set_rated.csv"

COLOUR = ("attr_t_product_colour", "attr_t_cable_colour", "attr_t_colour_name")
MATERIAL = ("attr_t_material", "attr_t_housing_material")

_REPEATED_UNIT = re.compile(r"__([a-z])_\1_$")
_LOGISTICS = re.compile(r"attr_._(package_(weight|height|width|depth|dimensions)|.*pallet|.*master_|harmonized_system)")
"""Attributes of the box, the pallet and the customs form, by which nobody searches."""


def find_files() -> dict[str, Path]:
    """Return the four product archives and the ratings."""
    return public_files(CHORUS_ICECAT)


def build_catalogue(folder: Path) -> Catalogue:
    """Build the catalogue; all queries are in the split ``val`` and have no kind.

    The supplier is the brand, short_description the description, ``attr_*`` are attributes with readable names. The
    price, whole cents in the source, is in currency units. Labels follow from the grades.
    """
    files = find_files()
    records = [record for name, path in files.items() if name.endswith(".zip") for record in _read_archive(path)]
    products = pd.DataFrame([_product(record) for record in records], dtype=object)
    ratings = read_table(files[RATINGS], "judgements")
    require_columns(ratings.frame.columns, ("query", "docid", "rating"), files[RATINGS])
    wordings = ratings.frame["query"].drop_duplicates()
    ids = {query: f"q{number:03d}" for number, query in enumerate(wordings, start=1)}
    queries = pd.DataFrame({"query_id": [ids[query] for query in wordings], "query": wordings, "split": "val"})
    grades = pd.to_numeric(ratings.frame["rating"], errors="coerce")
    judgements = pd.DataFrame(
        {
            "query_id": ratings.frame["query"].map(ids),
            "product_id": ratings.frame["docid"],
            "grade": ratings.frame["rating"],
            "label": grades.map(LABEL_OF_GRADE),
        }
    )
    return Catalogue.from_tables(
        "chorus_icecat",
        products=products,
        queries=queries,
        judgements=judgements,
        files={"products": str(files["products/1.json.zip"].parent), "judgements": str(files[RATINGS])},
        quarantine=ratings.aside,
    )


def _read_archive(path: Path) -> list[dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            records = [record for name in names for record in json.loads(archive.read(name))]
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise CourseError(f"{path}: damaged ({error}); remove it and get it again") from None
    for record in records[:1]:
        require_columns(record, ("id", "title", "supplier"), path)
    return records


def _product(record: dict[str, Any]) -> dict[str, Any]:
    colour = next((name for name in COLOUR if record.get(name)), None)
    material = next((name for name in MATERIAL if record.get(name)), None)
    attributes = {
        _readable(name): value
        for name, value in record.items()
        if name.startswith("attr_") and name not in (colour, material) and not _LOGISTICS.match(name)
    }
    return {
        "product_id": record.get("id"),
        "title": record.get("title"),
        "description": strip_markup(record.get("short_description") or "") or None,
        "brand": record.get("supplier"),
        "colour": record.get(colour),
        "material": record.get(material),
        "price": None if record.get("price") is None else record["price"] / 100,
        "attributes": json.dumps(attributes, ensure_ascii=False) if attributes else None,
        "locale": "en",
    }


def _readable(name: str) -> str:
    """Return a readable name: ``attr_t_ssd_form_factor`` becomes ``ssd form factor``; a repeated unit goes."""
    return " ".join(_REPEATED_UNIT.sub("", name)[len("attr_t_") :].replace("_", " ").split())
