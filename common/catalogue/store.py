"""A catalogue on disk: a folder of parquet files with a manifest that proves each of them whole."""

from __future__ import annotations

import os
import shutil
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.atomic import atomic_folder, read_json, write_json
from common.catalogue.contract import FORMAT_VERSION, TABLES
from common.errors import CourseError, MissingArtifact

if TYPE_CHECKING:
    from common.catalogue.catalogue import Catalogue

MANIFEST = "catalogue.json"


def save_folder(catalogue: Catalogue, folder: Path) -> None:
    """Write `catalogue` to `folder` in one move. The same catalogue already there is left as it is.

    Raises `CourseError` if `folder` holds anything else: nothing is ever overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if (folder / MANIFEST).is_file() and read_json(folder / MANIFEST).get("digest") == catalogue.digest:
            return
        raise CourseError(f"{folder}: there is something else already; choose another folder or remove it first")
    with atomic_folder(folder) as staging:
        _copy_pictures(catalogue, staging)
        write_tables(catalogue, staging)


def write_tables(catalogue: Catalogue, folder: Path) -> None:
    """Write tables and manifest into `folder`, which the caller moves into place (`atomic_folder`)."""
    entries: dict[str, Any] = {}
    for name in (*TABLES, "quarantine"):
        path = folder / f"{name}.parquet"
        frame: pd.DataFrame = getattr(catalogue, name)
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, compression="zstd")
        entries[name] = {"rows": len(frame), "sha256": _sha256(path)}
    manifest = {"format": FORMAT_VERSION, "source": catalogue.source, "digest": catalogue.digest, "tables": entries}
    write_json(folder / MANIFEST, manifest)


def load_tables(folder: Path) -> tuple[str, dict[str, pd.DataFrame], str]:
    """Return source, tables (quarantine included) and digest of the catalogue in `folder`.

    Raises `MissingArtifact` if there is none, `CourseError` if it is of another format or a table is not whole.
    """
    if not (folder / MANIFEST).is_file():
        raise MissingArtifact(f"{folder}: no catalogue here ({MANIFEST} is missing); make one with Catalogue.save")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT_VERSION:
        raise CourseError(
            f"{folder / MANIFEST}: format {manifest.get('format')}, this version reads {FORMAT_VERSION}; "
            "remove the folder and load the catalogue from its source again"
        )
    tables = {name: _read_table(folder, name, manifest["tables"].get(name)) for name in (*TABLES, "quarantine")}
    return manifest["source"], tables, manifest["digest"]


def _read_table(folder: Path, name: str, entry: dict[str, Any] | None) -> pd.DataFrame:
    path = folder / f"{name}.parquet"
    if entry is None or not path.is_file() or _sha256(path) != entry["sha256"]:
        state = "damaged" if path.is_file() else "missing"
        raise CourseError(f"{path}: {state}; remove the folder {folder} and load the catalogue from its source again")
    return pq.read_table(path).to_pandas()


def _copy_pictures(catalogue: Catalogue, target: Path) -> None:
    for path in catalogue.images["path"].unique():
        if os.path.isabs(path):
            continue
        if ".." in Path(path).parts:
            raise CourseError(f"images: path {path!r} leaves the catalogue's folder; make it absolute")
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(catalogue.folder or ".", path), target / path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
