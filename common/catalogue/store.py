"""Save a catalogue in a folder of parquet files, with a manifest that proves each of them whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.atomic import read_json, write_json
from common.catalogue.contract import FORMAT_VERSION, TABLES
from common.digests import file_sha256
from common.errors import CourseError, MissingArtifact

MANIFEST = "catalogue.json"


def holds(folder: Path, digest: str) -> bool:
    """Return whether the catalogue of this digest is saved in `folder`, False if the folder is empty or missing. Raises
    `CourseError` if it holds anything else: nothing is ever overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if (folder / MANIFEST).is_file() and read_json(folder / MANIFEST).get("digest") == digest:
            return True
        raise CourseError(f"{folder}: there is something else already; choose another folder or remove it first")
    return False


def write_tables(folder: Path, source: str, digest: str, tables: Mapping[str, pd.DataFrame]) -> None:
    """Write tables (quarantine included) and manifest into `folder`, which the caller moves into place."""
    entries: dict[str, Any] = {}
    for name, frame in tables.items():
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path, compression="zstd")
        entries[name] = {"rows": len(frame), "sha256": file_sha256(path)}
    manifest = {"format": FORMAT_VERSION, "source": source, "digest": digest, "tables": entries}
    write_json(folder / MANIFEST, manifest)


def copy_pictures(paths: Iterable[str], folder: Path | None, target: Path) -> None:
    """Copy pictures with relative paths from `folder` to `target`. Raises `CourseError` for a path that leaves it."""
    for path in paths:
        if os.path.isabs(path):
            continue
        if ".." in Path(path).parts:
            raise CourseError(f"images: path {path!r} leaves the catalogue's folder; make it absolute")
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder or ".", path), target / path)


def load_tables(folder: Path) -> tuple[str, dict[str, pd.DataFrame], str]:
    """Return source, tables (quarantine included) and digest of the catalogue in `folder`. Raises `MissingArtifact` if
    there is none, `CourseError` if it is of another format or a table is damaged."""
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
    if entry is None or not path.is_file() or file_sha256(path) != entry["sha256"]:
        state = "damaged" if path.is_file() else "missing"
        raise CourseError(f"{path}: {state}; remove the folder {folder} and load the catalogue from its source again")
    return pq.read_table(path).to_pandas()
