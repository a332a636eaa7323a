"""Read MS MARCO v1.1: real questions to a search engine, passages of web pages, and which passages gave the answers.

Source: Bajaj et al., "MS MARCO: A Human Generated MAchine Reading COmprehension Dataset" (2016), on the hub as
microsoft/ms_marco. It is not a shop: a *product* is a passage here, and a relevant one is a selected one.

Only a selected passage is judged (grade 3, label E). The others that were shown with the question are *not* judged
irrelevant: the writer of the answer stopped at the passage that sufficed, and many of the others answer as well.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from common.catalogue.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.hub import HubSource, hub_files
from common.catalogue.text import clean_text
from common.errors import CourseError

SPLIT_OF_FILE = {"train": "train", "validation": "val", "test": "test"}
HUB = HubSource("microsoft/ms_marco", "ms_marco", tuple(SPLIT_OF_FILE), config="v1.1")
COLUMNS = ("query", "query_id", "query_type", "passages")
PASSAGE_COLUMNS = ("passage_text", "is_selected")

PROFILE_PARAMETERS = {"smoke": {"queries_per_split": 100}, "pocket": {"queries_per_split": 1_000}}
"""The full profile takes all 82,000 questions with 8 passages each."""


def find_files(*, queries_per_split: int | None = None) -> dict[str, Path]:
    """Return the Parquet file of train, validation and test (see `hub_files`). Raises `CourseError` if one is missing
    and cannot be had, or if there are several of a split."""
    found = hub_files(HUB)
    for split, paths in found.items():
        if len(paths) > 1:
            names = f"{paths[0].name} and {paths[1].name}"
            raise CourseError(f"{paths[0].parent}: {names} are both of {split}; leave one there")
    return {split: path for split, (path,) in found.items()}


def build_catalogue(folder: Path, *, queries_per_split: int | None = None) -> Catalogue:
    """Build the catalogue: every distinct passage is a product (its text is the title), every question a query.

    `queries_per_split`: the first so many questions of each file and the passages shown with them; None takes all. A
    product's id is a digest of its text, so the same passage under two questions is one product.
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


def _read(path: Path, split: str, count: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the questions of a file (`query_id, query, kind, split`) and their passages (`query_id, title,
    is_selected`)."""
    try:
        require_columns(pq.read_schema(path).names, COLUMNS, path)
        table = pq.read_table(path, columns=list(COLUMNS)).slice(0, count)
    except (pa.ArrowInvalid, OSError) as error:
        raise CourseError(f"{path}: not a readable Parquet file ({str(error)[:120]}); get it again") from None
    if not pa.types.is_struct(table.schema.field("passages").type):
        raise CourseError(f"{path}: column 'passages' is not a record of lists; {HUB.where_to_get()}")
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
