"""Hold one shop's products, pictures, queries and judgements, valid by construction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from common.atomic import atomic_folder
from common.catalogue import store
from common.catalogue.contract import SPLITS, TABLES
from common.catalogue.digest import digest_tables
from common.catalogue.validation import validate
from common.errors import CourseError


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Hold the tables of one source, checked against the contract (`common.catalogue.contract.TABLES`).

    Make one with `from_tables` or `load`, which check, not with the constructor. Text columns have dtype ``str`` with
    missing cells as NaN; `grade`, `position` and `label` of pairs are int64, `price` float64, `is_true` bool.

    `judgements` are what a source's judges looked at. `truth` holds the grades above 0 of *every* query-product pair,
    where the source knows them (a generated shop): a pair absent from it has grade 0. `quarantine` lists the input rows
    that were set aside: table, row, id, column, reason. Paths in `images` are relative to `folder`, or absolute.
    """

    source: str
    products: pd.DataFrame
    images: pd.DataFrame
    queries: pd.DataFrame
    judgements: pd.DataFrame
    category_candidates: pd.DataFrame
    pairs: pd.DataFrame
    truth: pd.DataFrame
    captions: pd.DataFrame
    quarantine: pd.DataFrame
    folder: Path | None = None

    @classmethod
    def from_tables(
        cls,
        source: str,
        *,
        products: pd.DataFrame,
        images: pd.DataFrame | None = None,
        queries: pd.DataFrame | None = None,
        judgements: pd.DataFrame | None = None,
        category_candidates: pd.DataFrame | None = None,
        pairs: pd.DataFrame | None = None,
        truth: pd.DataFrame | None = None,
        captions: pd.DataFrame | None = None,
        folder: str | Path | None = None,
        files: Mapping[str, str] | None = None,
        quarantine: pd.DataFrame | None = None,
        verify_images: bool = True,
    ) -> Catalogue:
        """Check the tables and return the catalogue of their clean rows.

        `files` says which file each table came from, so that errors can name it. `quarantine` holds rows that a reader
        set aside before. `verify_images=False` skips opening every picture (for a source that has just drawn them).
        Raises `CourseError` for faults of a whole table, see `common.catalogue.validation.validate`.
        """
        folder = None if folder is None else Path(folder)
        given = {
            "products": products, "images": images, "queries": queries, "judgements": judgements,
            "category_candidates": category_candidates, "pairs": pairs, "truth": truth, "captions": captions,
        }  # fmt: skip
        clean, aside = validate(given, source=source, folder=folder, files=files, verify_images=verify_images)
        if quarantine is not None and len(quarantine):
            aside = pd.concat([quarantine, aside], ignore_index=True).astype(aside.dtypes)
        return cls(source=source, quarantine=aside, folder=folder, **clean)

    @classmethod
    def load(cls, folder: str | Path) -> Catalogue:
        """Read a saved catalogue. Raises `CourseError` if there is none in `folder` or a table is damaged."""
        source, tables, digest = store.load_tables(Path(folder))
        catalogue = cls(source=source, folder=Path(folder), **tables)
        catalogue.__dict__["digest"] = digest  # checked with the files, so the tables need not be hashed again
        return catalogue

    def save(self, folder: str | Path) -> Catalogue:
        """Write tables and pictures to `folder`, whole or not at all, and return the saved catalogue.

        Pictures with relative paths are copied, absolute paths stay as they are. Raises `CourseError` if `folder` holds
        anything else.
        """
        if not store.holds(Path(folder), self.digest):
            with atomic_folder(folder) as staging:
                store.copy_pictures(self.images["path"].unique(), self.folder, staging)
                self.write_tables(staging)
        return Catalogue.load(folder)

    def write_tables(self, folder: Path) -> None:
        """Write tables and manifest into `folder`, which the caller moves into place (`atomic_folder`)."""
        store.write_tables(folder, self.source, self.digest, {**self.tables, "quarantine": self.quarantine})

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the eight tables of the contract by name (without the quarantine)."""
        return {name: getattr(self, name) for name in TABLES}

    @cached_property
    def digest(self) -> str:
        """Return 16 hexadecimal digits over the content of all tables, without the quarantine. The same rows in the
        same order give the same digest on every machine and with every library version."""
        return digest_tables(self.tables)

    @cached_property
    def _first_image(self) -> dict[str, str]:
        first = self.images[self.images["position"] == 0]
        return dict(zip(first["product_id"], first["path"], strict=True))

    def image_path(self, product_id: str) -> Path | None:
        """Return the path of the product's first picture, None if it has none."""
        path = self._first_image.get(product_id)
        return None if path is None else Path(self.folder or ".", path)

    def split_queries(self, split: str) -> pd.DataFrame:
        """Return the queries of one split ("train", "val" or "test"), with a fresh index; there may be none."""
        if split not in SPLITS:
            raise CourseError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        return self.queries[self.queries["split"] == split].reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """Count the rows and the quarantined rows of each table that has any."""
        aside = self.quarantine["table"].value_counts()
        counts = {name: {"rows": len(rows), "set aside": aside.get(name, 0)} for name, rows in self.tables.items()}
        table = pd.DataFrame.from_dict(counts, orient="index").rename_axis("table")
        return table[table.sum(axis=1) > 0]

    def quarantine_summary(self) -> pd.DataFrame:
        """Count the rows set aside, by table, column and reason, most frequent first."""
        counts = self.quarantine.groupby(["table", "column", "reason"], as_index=False).size()
        return counts.rename(columns={"size": "rows"}).sort_values("rows", ascending=False, ignore_index=True)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(table):,} {name}" for name, table in self.tables.items() if len(table))
        aside = f", {len(self.quarantine):,} rows set aside" if len(self.quarantine) else ""
        return f"Catalogue({self.source}: {sizes}{aside})"
