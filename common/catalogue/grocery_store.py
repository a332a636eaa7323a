"""Read Grocery Store: photos taken with a phone in shops, 81 products with a clean picture and a description each.

Source: Klasson, Zhang, Kjellström, "A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels", WACV
2019, marcusklasson/GroceryStoreDataset; MIT.

It holds two kinds of products, told apart by the attribute ``kind`` and by their ids:

``iconic/Golden-Delicious``     one per class: its clean ("iconic") picture, its name, its description
``train/Golden-Delicious_001``  one per natural photo: the photo, and the name of what is on it; no description

A natural photo is a product and a group of its own: the source puts photos of one class into several splits, as a
classifier needs, and its splits are kept. The iconic products are the shop's own data, which a system has from the
start: split ``train``. The validation photos show 60 of the 81 classes.

`category_path` is department, coarse class, fine class ("Fruit > Apple > Golden Delicious"), and the coarse class alone
where it has one fine class of the same name ("Fruit > Avocado"). So the first two levels name one of 43 coarse classes,
and the whole path one of 81 fine ones. Attributes: ``fine class`` and ``coarse class``, as the source spells them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.contract import SPLITS
from common.catalogue.download import GROCERY_STORE, public_files
from common.catalogue.readers import quarantine_rows, read_table
from common.category_path import join_path
from common.errors import CourseError

NAME, FINE, COARSE_NAME, COARSE, ICONIC, DESCRIPTION = (
    "Class Name (str)",
    "Class ID (int)",
    "Coarse Class Name (str)",
    "Coarse Class ID (int)",
    "Iconic Image Path (str)",
    "Product Description Path (str)",
)


def find_files() -> dict[str, Path | list[Path]]:
    """Return the lists of classes and of photos (train, val, and test if it exists), all pictures and descriptions."""
    files: dict[str, Path | list[Path]] = dict(public_files(GROCERY_STORE))
    home = files["dataset/classes.csv"].parent
    if (home / "test.txt").is_file():
        files["dataset/test.txt"] = home / "test.txt"
    pictures = [path for path in home.glob("*/**/*") if path.suffix.lower() in (".jpg", ".png", ".txt")]
    return files | {"pictures": sorted(pictures)}


def build_catalogue(folder: Path) -> Catalogue:
    """Build the catalogue, see the module. A line of a list that names no class, or not the coarse class of its fine
    one, is set aside."""
    files = find_files()
    home = files["dataset/classes.csv"].parent
    classes = _read_classes(files["dataset/classes.csv"])
    rows = [_iconic(home, one) for one in classes.values()]
    aside: list[tuple[str, int, str, str, str]] = []
    for split in SPLITS:
        if f"dataset/{split}.txt" in files:
            rows += _photos(files[f"dataset/{split}.txt"], split, classes, aside)
    table = pd.DataFrame(rows, dtype=object)
    return Catalogue.from_tables(
        "grocery_store",
        products=table.drop(columns="path"),
        images=table[["product_id", "path"]],
        files={"products": str(files["dataset/classes.csv"]), "images": str(home)},
        quarantine=quarantine_rows(aside),
    )


def _read_classes(path: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the list of classes by the number of the fine class, as text."""
    frame = read_table(path, "products").frame
    require_columns(frame.columns, (NAME, FINE, COARSE_NAME, COARSE, ICONIC, DESCRIPTION), path)
    incomplete = frame[frame[[NAME, FINE, COARSE_NAME, COARSE, ICONIC, DESCRIPTION]].isna().any(axis=1)]
    if len(incomplete):
        raise CourseError(f"{path}: line {incomplete.index[0]} is not complete; get the file again")
    return {row[FINE].strip(): row for row in frame.to_dict("records")}


def _iconic(home: Path, one: dict[str, str]) -> dict[str, Any]:
    text = home / one[DESCRIPTION].lstrip("/")
    description = text.read_text(encoding="utf-8", errors="replace") if text.is_file() else None
    return {
        "product_id": f"iconic/{one[NAME]}",
        "description": None if description is None else " ".join(description.split()),
        "split": "train",
        "path": str(home / one[ICONIC].lstrip("/")),
        **_class_fields(one, "iconic"),
    }


def _photos(path: Path, split: str, classes: dict[str, dict[str, str]], aside: list) -> list[dict[str, Any]]:
    """Return a product for each line "path, fine class, coarse class"; other lines go to `aside`."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name, fine, coarse = ([part.strip() for part in line.split(",")] + ["", ""])[:3]
        one = classes.get(fine)
        if not name:
            continue
        if one is None or coarse != one[COARSE].strip():
            reason = f"{path.name}, line {number}: no class {fine!r} of coarse class {coarse!r}"
            aside.append(("products", number, name[:100], "category_path", reason))
            continue
        photo = {"product_id": f"{split}/{Path(name).stem}", "description": None, "split": split}
        rows.append(photo | {"path": str(path.parent / name)} | _class_fields(one, "photo"))
    return rows


def _class_fields(one: dict[str, str], kind: str) -> dict[str, str]:
    department = one[ICONIC].strip("/").split("/")[1]
    levels = [_words(level) for level in (department, one[COARSE_NAME], one[NAME])]
    facts = {"kind": kind, "fine class": one[NAME], "coarse class": one[COARSE_NAME]}
    return {
        "title": levels[-1],
        "category_path": join_path(dict.fromkeys(levels)),
        "attributes": json.dumps(facts, ensure_ascii=False),
        "locale": "en",
    }


def _words(name: str) -> str:
    return " ".join(name.replace("-", " ").split())
