"""Read a folder of fashion products in any of its public layouts: Kaggle's table with pictures, or the hub's Parquet.

Kaggle: ``styles.csv`` with ``images/<id>.jpg`` or ``images.zip`` beside it, in the folder or one below, where
the archive may put it. The hub's copy: Parquet files with the same columns and a column ``image``.

In Kaggle's table some titles hold a comma without quotes. The title is the last column, so the surplus
cells belong to it and are joined back. A cell that is empty or says "NA" has no value.
"""

from __future__ import annotations

import csv
import itertools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.catalogue.columns import require_columns
from common.catalogue.readers import MISSING_WORDS, quarantine_rows
from common.errors import CourseError
from common.progress import progress

TITLE, IMAGE = "productDisplayName", "image"
FACTS = ("gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage")
COLUMNS = ("id", *FACTS, TITLE)
NOT_A_NUMBER = "the id is not a whole number"
ROWS_AT_ONCE = 256

Aside = list[tuple[str, int, str, str, str]]


def fashion_files(home: Path) -> dict[str, Path | list[Path]]:
    """Return the table and the pictures: `styles` with `images` (a zip, or the list of files), or `parquet`.

    Raises `CourseError` if `home` has none of the layouts.
    """
    places = [home, *sorted(path for path in home.glob("*") if path.is_dir())]
    for place in places:
        if (place / "styles.csv").is_file():
            return {"styles": place / "styles.csv", "images": _pictures([place, home])}
    parquet = sorted(home.rglob("*.parquet"))
    if parquet:
        return {"parquet": parquet}
    raise CourseError(f"{home}: there is neither styles.csv nor a Parquet file; put the data set there")


def _pictures(places: list[Path]) -> Path | list[Path]:
    for place in places:
        if (place / "images").is_dir():
            return sorted((place / "images").glob("*.jpg"))
        if (place / "images.zip").is_file():
            return place / "images.zip"
    raise CourseError(f"{places[0]}: there is styles.csv but neither images/ nor images.zip beside it; put it there")


def read_fashion(files: dict[str, Path | list[Path]], folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the table (`COLUMNS`, as text), the pictures (`product_id, path`), and the rows set aside.

    Pictures from a zip or from Parquet are written to ``<folder>/images``, each byte as it is; those of a folder stay
    where they are.
    """
    aside: Aside = []
    if "parquet" in files:
        table, images = _read_parquet(files["parquet"], folder, aside)
    else:
        table = _read_styles(files["styles"], aside)
        find = _from_zip if isinstance(files["images"], Path) else _from_folder
        images = find(files["images"], table["id"], folder, aside)
    return table, pd.DataFrame(images, columns=["product_id", "path"]), quarantine_rows(aside)


def _read_styles(path: Path, aside: Aside) -> pd.DataFrame:
    try:
        return _styles(path, aside)
    except csv.Error as error:
        raise CourseError(f"{path}: not CSV ({error}); correct its quotes") from None


def _styles(path: Path, aside: Aside) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        require_columns(header, COLUMNS, path)
        if header[-1] != TITLE:
            raise CourseError(f"{path}: the last column is {header[-1]!r}; move {TITLE!r} to the end")
        for cells in reader:
            joined = [*cells[: len(header) - 1], ",".join(cells[len(header) - 1 :])]
            if cells and len(cells) < len(header):
                reason = f"{path.name}: {len(cells)} cells under {len(header)} columns"
                aside.append(("products", reader.line_num, cells[0][:100], TITLE, reason))
            elif cells:
                _keep(dict(zip(header, joined, strict=True)), reader.line_num, rows, aside)
    if not rows:
        raise CourseError(f"{path}: no line is a product; get the file again")
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def _keep(row: dict[str, Any], number: int, rows: list[dict[str, Any]], aside: Aside) -> bool:
    """Add a row with its missing cells as None. The id names a file, so nothing but a number will do."""
    name = _text(row["id"])
    if not (name.isascii() and name.isdigit()):
        aside.append(("products", number, name[:100], "id", NOT_A_NUMBER))
        return False
    cells = {fact: _text(row[fact]) for fact in FACTS} | {TITLE: row[TITLE] or ""}
    known = {column: None if cell.strip() in MISSING_WORDS | {"NA"} else cell for column, cell in cells.items()}
    rows.append({"id": name, **known})
    return True


def _text(value: Any) -> str:
    """Return a cell as text; a year that became a decimal number among missing ones is whole again."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip()


def _from_folder(paths: list[Path], ids: pd.Series, folder: Path, aside: Aside) -> list[tuple[str, str]]:
    known = set(ids)
    return [(path.stem, str(path)) for path in paths if path.stem in known]


def _from_zip(path: Path, ids: pd.Series, folder: Path, aside: Aside) -> list[tuple[str, str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(name).stem: name for name in archive.namelist() if name.lower().endswith(".jpg")}
            shown = [name for name in ids if name in members]
            reads = ((name, lambda name=name: archive.read(members[name])) for name in shown)
            return _written(reads, len(shown), folder, aside)
    except zipfile.BadZipFile as error:
        raise CourseError(f"{path}: damaged ({error}); remove it and get it again") from None


def _read_parquet(paths: list[Path], folder: Path, aside: Aside) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    rows: list[dict[str, Any]] = []
    images: list[tuple[str, str]] = []
    for batch in itertools.chain.from_iterable(map(_batches, paths)):
        kept = [row for row in batch if _keep(row, len(rows), rows, aside)]
        reads = [(_text(row["id"]), lambda row=row: _bytes(row[IMAGE])) for row in kept if _bytes(row[IMAGE])]
        images += _written(reads, len(reads), folder, aside)
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object), images


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    try:
        file = pq.ParquetFile(path)
        require_columns(file.schema_arrow.names, (*COLUMNS, IMAGE), path)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*COLUMNS, IMAGE]):
            yield batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise CourseError(f"{path}: not a readable Parquet file ({str(error)[:120]}); get it again") from None


def _bytes(cell: dict[str, Any] | bytes | None) -> bytes | None:
    return cell.get("bytes") if isinstance(cell, dict) else cell


def _written(reads: Any, total: int, folder: Path, aside: Aside) -> list[tuple[str, str]]:
    """Write the bytes that each of `reads` (id, function) returns; a picture that cannot be read is set aside."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = []
    read: Callable[[], bytes]
    for name, read in progress(reads, total=total, desc="writing pictures", leave=False):
        try:
            (folder / "images" / f"{name}.jpg").write_bytes(read())
            images.append((name, f"images/{name}.jpg"))
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, zlib.error) as error:
            aside.append(("images", len(images), name, "path", f"damaged in the archive ({str(error)[:80]})"))
    return images
