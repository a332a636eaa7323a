"""MS MARCO v1.1: real questions to a search engine, passages of web pages, and which passage an answer was taken from.

Source: Bajaj et al., "MS MARCO: A Human Generated MAchine Reading COmprehension Dataset" (2016), on the hub as
microsoft/ms_marco. It is no shop: a *product* is a passage here, and what is relevant is what was selected.

Only a selected passage is judged (grade 3, label E). The others that were shown with the question are *not* judged
irrelevant: the writer of the answer stopped at the passage that sufficed, and many of the others answer as well.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.atomic import atomic_folder
from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.text import clean_text
from common.errors import CourseError
from common.settings import artifacts_root, data_home

HUB_NAME, VERSION_ON_HUB = "microsoft/ms_marco", "v1.1"
FOLDER = "ms_marco"
SPLIT_OF_FILE = {"train": "train", "validation": "val", "test": "test"}
COLUMNS = ("query", "query_id", "query_type", "passages")
PASSAGE_COLUMNS = ("passage_text", "is_selected")

PROFILE_PARAMETERS = {"smoke": {"queries_per_split": 100}, "pocket": {"queries_per_split": 1_000}}
"""82,000 questions with 8 passages each are for the full profile."""


def find_files(*, queries_per_split: int | None = None) -> dict[str, Path]:
    """The Parquet file of train, validation and test: in the data home, else downloaded by `datasets`.

    A file is known by the name of its split in its own name or its folder's (``train-00000-of-00001.parquet``,
    ``train/0000.parquet``). Raises `CourseError` if one is missing and cannot be had.
    """
    home = data_home()
    places = [artifacts_root() / "downloads" / FOLDER]
    if home is not None:
        places.insert(0, home / FOLDER)
    for place in places:
        found = _files_of_splits(place)
        if len(found) == len(SPLIT_OF_FILE):
            return found
        if found:
            missing = ", ".join(name for name in SPLIT_OF_FILE if name not in found)
            raise CourseError(f"{place}: no Parquet file of {missing}; {_where_to_get()}")
    _download(places[-1], places[0] if home is not None else Path(FOLDER))
    return _files_of_splits(places[-1])


def build_catalogue(folder: Path, *, queries_per_split: int | None = None) -> Catalogue:
    """Every distinct passage is a product (its text is the title), every question a query of its file's split.

    `queries_per_split`: the first so many questions of each file and the passages shown with them; None takes all.
    A product's id is a digest of its text, so the same passage under two questions is one product.
    """
    if queries_per_split is not None and queries_per_split < 1:
        raise CourseError(f"ms_marco: queries_per_split must be at least 1, not {queries_per_split}")
    files = find_files(queries_per_split=queries_per_split)
    parts = [_read(path, SPLIT_OF_FILE[name], queries_per_split) for name, path in files.items()]
    queries, passages = (pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))
    passages["product_id"] = passages["title"].map(_passage_id)
    selected = passages.loc[passages["is_selected"] > 0, ["query_id", "product_id"]].drop_duplicates()
    names = ", ".join(map(str, files.values()))
    return Catalogue.from_tables(
        "ms_marco",
        products=passages[["product_id", "title"]].drop_duplicates("product_id").assign(locale="en"),
        queries=queries,
        judgements=selected.assign(grade=3, label="E"),
        files={"products": names, "queries": names, "judgements": names},
    )


def _files_of_splits(place: Path) -> dict[str, Path]:
    """By name of the split the file below `place`, those of v1.1 first."""
    paths = sorted(place.rglob("*.parquet")) if place.is_dir() else []
    of_version = [path for path in paths if VERSION_ON_HUB in path.relative_to(place).parts] or paths
    found: dict[str, Path] = {}
    for path in of_version:
        named = re.search(
            r"\b(train|validation|test)\b", "/".join(path.relative_to(place).parts[-2:]).replace("_", " ")
        )
        if named and found.setdefault(named[1], path) != path:
            raise CourseError(
                f"{place}: {found[named[1]].name} and {path.name} are both of {named[1]}; leave one there"
            )
    return {name: found[name] for name in SPLIT_OF_FILE if name in found}


def _download(target: Path, by_hand: Path) -> None:
    try:
        from datasets import load_dataset

        splits = load_dataset(HUB_NAME, VERSION_ON_HUB)
        with atomic_folder(target) as staging:
            for name in SPLIT_OF_FILE:
                splits[name].to_parquet(str(staging / f"{name}.parquet"))
    except Exception as error:  # whatever the network, the hub or the disk had to say
        raise CourseError(
            f"ms_marco: no files, and the download failed ({type(error).__name__}); {_where_to_get(by_hand)}"
        ) from None


def _where_to_get(place: Path = Path(FOLDER)) -> str:
    names = ", ".join(f"{name}-00000-of-00001.parquet" for name in SPLIT_OF_FILE)
    where = place if place.is_absolute() else f"{place}/ below the folder that COURSE_DATA_HOME names"
    return f"put {names} of {HUB_NAME}, folder {VERSION_ON_HUB}, into {where}"


def _read(path: Path, split: str, count: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The questions of a file (`query_id, query, kind, split`) and their passages (`query_id, title, is_selected`)."""
    try:
        require_columns(pq.read_schema(path).names, COLUMNS, path)
        table = pq.read_table(path, columns=list(COLUMNS)).slice(0, count)
    except (pa.ArrowInvalid, OSError) as error:
        raise CourseError(f"{path}: not a readable Parquet file ({str(error)[:120]}); get it again") from None
    if not pa.types.is_struct(table.schema.field("passages").type):
        raise CourseError(f"{path}: column 'passages' is not a record of lists; {_where_to_get()}")
    queries = table.select(["query_id", "query", "query_type"]).to_pandas()
    queries = queries.rename(columns={"query_type": "kind"}).astype({"query_id": "str"}).assign(split=split)
    passages = table["passages"].combine_chunks()
    require_columns([field.name for field in passages.type], PASSAGE_COLUMNS, f"{path}: passages")
    texts, selected = (pc.struct_field(passages, name) for name in PASSAGE_COLUMNS)
    if not pc.list_value_length(texts).equals(pc.list_value_length(selected)):
        raise CourseError(f"{path}: a question has more passages than marks of selection; get the file again")
    owner = np.asarray(pc.list_parent_indices(texts))
    shown = pd.DataFrame(
        {
            "query_id": queries["query_id"].to_numpy()[owner],
            "title": [clean_text(text or "") for text in pc.list_flatten(texts).to_pylist()],
            "is_selected": pc.list_flatten(selected).to_numpy(zero_copy_only=False),
        }
    )
    return queries, shown[shown["title"] != ""]


def _passage_id(text: str) -> str:
    return blake2b(text.encode("utf-8"), digest_size=8).hexdigest()
