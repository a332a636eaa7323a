"""Read a user's own catalogue: tables as CSV, TSV, JSON Lines or Parquet, pictures in a folder.

=============  ======================================================================================================
``products``   ``product_id`` and a ``title`` or a picture; all other columns of the contract if there are any
``images``     a folder. With a ``path`` column in the products, paths start there (else at the products file);
               without one, a picture belongs to the product that its file name says: ``P7.jpg``, then ``P7_2.jpg``
``queries``    ``query``, and if known ``query_id``, ``kind``, ``split``
``judgements`` ``query_id`` or ``query``, ``product_id``, and ``grade`` (0 to 3) or ``label`` (E, S, C, I)
``pairs``      ``a_id``, ``b_id``, and if known ``label`` (1 / 0), ``outfit_id``, ``split``
=============  ======================================================================================================

Only ``products`` or ``images`` is needed. A catalogue of pictures alone is a products file with ``product_id, path``,
or just the folder: then each picture is a product. The words of its file name are its text: ``red_mug-01.jpg`` is read
as "red mug", ``IMG_0142.jpg`` as nothing. Other usual names of columns are understood (`ALIASES`).

Queries without a ``split`` column are split 60 / 15 / 25 by hash of their words; fewer than `MIN_TO_SPLIT` of them are
all test queries, since the parts would be too small to train on or to choose by.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.contract import GRADE_OF_LABEL, TABLES
from common.catalogue.readers import ReadTable, read_table
from common.catalogue.splits import split_queries
from common.catalogue.text import clean_text, normalise_query
from common.digests import file_sha256
from common.errors import CourseError
from common.progress import tell

ALIASES = {
    "id": "product_id",
    "sku": "product_id",
    "name": "title",
    "product_name": "title",
    "color": "colour",
    "category": "category_path",
    "image": "path",
    "image_path": "path",
    "rating": "grade",
}
"""Other names of columns, understood unless the contract's own name is there too."""

MIN_TO_SPLIT = 20
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_CAMERA_WORDS = {"img", "image", "dsc", "dscn", "photo", "pic", "pxl"}
_NUMBER_AT_END = re.compile(r"[ _.-]+\d+$")

Place = str | Path | None


def find_files(
    *, products: Place, images: Place, queries: Place, judgements: Place, pairs: Place
) -> dict[str, Path | list[Path]]:
    """Return the given files and every picture that they name. Raises `CourseError` for a path where nothing is."""
    if products is None and images is None:
        raise CourseError("your_own: give a products file, a folder of images, or both")
    given = {"products": products, "queries": queries, "judgements": judgements, "pairs": pairs}
    files: dict[str, Path | list[Path]] = {name: Path(place) for name, place in given.items() if place is not None}
    for name, path in files.items():
        if not path.is_file():
            raise CourseError(f"{path}: there is no such file; correct the path of {name}")
    if images is not None and not Path(images).is_dir():
        raise CourseError(f"{images}: there is no such folder; correct the path of images")
    pictures = _pictures_below(images) if images is not None else []
    if products is not None:
        frame = _read(Path(products), "products").frame
        pictures += [Path(path) for path in _named_paths(frame, images, Path(products))]
    return files | {"pictures": sorted(set(pictures))}


def build_catalogue(
    folder: Path,
    *,
    products: Place = None,
    images: Place = None,
    queries: Place = None,
    judgements: Place = None,
    pairs: Place = None,
) -> Catalogue:
    """Build the catalogue, see the module. Raises `CourseError` naming file, column and fix for a table that cannot be
    used."""
    reads = {
        name: _read(Path(place), name)
        for name, place in {"products": products, "queries": queries, "judgements": judgements, "pairs": pairs}.items()
        if place is not None
    }
    product_table, image_table = _products_and_images(reads.get("products"), products, images)
    query_table, judgement_table = _queries_and_judgements(reads, queries, judgements)
    catalogue = Catalogue.from_tables(
        "your_own",
        products=product_table,
        images=image_table,
        queries=query_table,
        judgements=judgement_table,
        pairs=reads["pairs"].frame if "pairs" in reads else None,
        files={
            "products": str(products or images),
            "images": str(images or products),
            "queries": str(queries or judgements),
            "judgements": str(judgements),
            "pairs": str(pairs),
        },
        quarantine=pd.concat([read.aside for read in reads.values()], ignore_index=True) if reads else None,
    )
    return catalogue if "title" in product_table.columns else _titled_by_file_names(catalogue)


def file_words(path: str | Path) -> str | None:
    """Return the words of a picture's file name, without numbers and words of cameras; None if none are left."""
    words = re.findall(r"[^\W\d_]+", clean_text(Path(path).stem))
    return " ".join(word for word in words if word.lower() not in _CAMERA_WORDS) or None


def _read(path: Path, table: str) -> ReadTable:
    """Read a file with the contract's column names; drop columns that the contract does not have, with a note."""
    read = read_table(path, table)
    plain = {name: re.sub(r"[\s-]+", "_", str(name).strip().lower()) for name in read.frame.columns}
    targets = {
        name: ALIASES[word] if word in ALIASES and ALIASES[word] not in plain.values() else word
        for name, word in plain.items()
    }
    known = {*TABLES[table].column_names, *{"products": ("path",), "judgements": ("query",)}.get(table, ())}
    renamed = [f"{name!r} as {target!r}" for name, target in targets.items() if target in known and target != name]
    unused = [name for name, target in targets.items() if target not in known]
    if renamed:
        tell(f"{path}: read {', '.join(renamed)}")
    if unused:
        meant = {name: get_close_matches(targets[name], known, n=1) for name in unused}
        hints = [f"{name} (did you mean {meant[name][0]!r}?)" if meant[name] else name for name in unused]
        tell(f"{path}: columns not used: {', '.join(hints)}")
    frame = read.frame.rename(columns=targets)
    return replace(read, frame=frame[[name for name in frame.columns if name in known]])


def _pictures_below(folder: Place) -> list[Path]:
    found = (path for path in Path(folder or ".").rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    return sorted(Path(os.path.abspath(path)) for path in found)


def _named_paths(frame: pd.DataFrame, images: Place, file: Path) -> pd.Series:
    """Return the absolute paths of the pictures that a products table names, for the rows that name one."""
    if "path" not in frame.columns:
        return pd.Series(dtype="str")
    base = Path(images) if images is not None else file.parent
    return frame["path"].dropna().map(lambda path: os.path.abspath(base / str(path)))


def _products_and_images(read: ReadTable | None, file: Place, images: Place) -> tuple[pd.DataFrame, pd.DataFrame]:
    if read is None:
        found = _pictures_below(images)
        if not found:
            raise CourseError(f"{images}: no pictures here ({', '.join(PICTURE_SUFFIXES)}); give another folder")
        ids = [path.relative_to(os.path.abspath(Path(images))).with_suffix("").as_posix() for path in found]
        table = pd.DataFrame({"product_id": ids, "path": [str(path) for path in found]})
        return table[["product_id"]].drop_duplicates(), _with_digests(table)
    require_columns(read.frame.columns, ["product_id"], file)
    frame = read.frame
    if "path" in frame.columns:
        paths = _named_paths(frame, images, Path(file))
        table = pd.DataFrame({"product_id": frame["product_id"].loc[paths.index], "path": paths})
    else:
        table = _pictures_by_name(frame["product_id"], images)
    products = frame.drop(columns="path", errors="ignore")
    if "title" not in products.columns:
        products = products.drop_duplicates()  # a product may have several rows, one for each picture
    return products, _with_digests(table)


def _pictures_by_name(product_ids: pd.Series, images: Place) -> pd.DataFrame:
    """Return the pictures whose file name is a product's id, or that and a number at its end."""
    known = set(product_ids.dropna().astype(str).map(clean_text))
    rows, others = [], []
    for path in _pictures_below(images) if images is not None else []:
        stem = clean_text(path.stem)
        owner = stem if stem in known else _NUMBER_AT_END.sub("", stem)
        (rows if owner in known else others).append((owner, stem != owner, str(path)))
    if others:
        tell(f"{images}: {len(others):,} pictures belong to no product_id, {Path(others[0][2]).name} for one")
    return pd.DataFrame([(owner, path) for owner, _, path in sorted(rows)], columns=["product_id", "path"], dtype="str")


def _with_digests(table: pd.DataFrame) -> pd.DataFrame:
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, table["path"]))
    return table.assign(digest=pd.Series(digests, index=table.index, dtype="str"))


def _digest(path: str) -> str | None:
    if not os.path.isfile(path):
        return None  # the check of pictures reports it
    return file_sha256(path)[:16]


def _titled_by_file_names(catalogue: Catalogue) -> Catalogue:
    """Use file names as titles. Only after the check: a title must not save a product whose only picture is broken."""
    paths = catalogue.products["product_id"].map(catalogue.image_path)
    titles = pd.Series([file_words(path) for path in paths], index=paths.index, dtype="str")
    return replace(catalogue, products=catalogue.products.assign(title=titles))


def _queries_and_judgements(
    reads: dict[str, ReadTable], queries_file: Place, judgements_file: Place
) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    queries = reads["queries"].frame if "queries" in reads else None
    judgements = reads["judgements"].frame if "judgements" in reads else None
    if judgements is not None:
        require_columns(judgements.columns, ["product_id"], judgements_file)
        require_columns(
            judgements.columns, ["grade" if "label" not in judgements.columns else "label"], judgements_file
        )
        if queries is None:
            require_columns(judgements.columns, ["query"], f"{judgements_file} (there is no queries file)")
            keep = [name for name in ("query_id", "query") if name in judgements.columns]
            queries = judgements[keep].drop_duplicates()
    if queries is None:
        return None, None
    require_columns(queries.columns, ["query"], queries_file or judgements_file)
    queries = _identified_and_split(queries)
    if judgements is not None:
        judgements = _graded(judgements, queries, judgements_file)
    return queries, judgements


def _identified_and_split(queries: pd.DataFrame) -> pd.DataFrame:
    if "query_id" not in queries.columns:
        queries = queries.assign(query_id=[f"q{number:04d}" for number in range(1, len(queries) + 1)])
    if "split" not in queries.columns:
        words = queries.assign(query=queries["query"].fillna("").astype(str))
        few = words["query"].map(normalise_query).nunique() < MIN_TO_SPLIT
        queries = queries.assign(split="test" if few else split_queries(words))
    return queries


def _graded(judgements: pd.DataFrame, queries: pd.DataFrame, file: Place) -> pd.DataFrame:
    """Return judgements by query id, and with a grade. Unknown queries stay, for the check to name them."""
    if "query_id" not in judgements.columns:
        require_columns(judgements.columns, ["query"], file)
        ids = dict(zip(_normalised(queries["query"]), queries["query_id"], strict=True))
        judgements = judgements.assign(query_id=_known_or_itself(_normalised(judgements["query"]), ids))
    if "label" in judgements.columns:
        judgements = judgements.assign(label=judgements["label"].str.strip().str.upper())
        grades = _known_or_itself(judgements["label"], GRADE_OF_LABEL)
        given = judgements["grade"] if "grade" in judgements.columns else None
        judgements = judgements.assign(grade=grades if given is None else given.astype(object).fillna(grades))
    return judgements.drop(columns="query", errors="ignore")


def _normalised(queries: pd.Series) -> pd.Series:
    return queries.astype(object).map(lambda query: normalise_query(str(query)), na_action="ignore")


def _known_or_itself(values: Iterable[str], known: dict[str, object]) -> pd.Series:
    values = pd.Series(values, dtype=object)
    return values.map(known).astype(object).fillna(values)
