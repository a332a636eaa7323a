"""Check tables against the contract: rows that break it are set aside, a table that breaks it is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from pandas.api.types import is_integer_dtype

from common.catalogue.cells import as_kind, is_among
from common.catalogue.columns import column_hint, require_columns
from common.catalogue.contract import GRADE_OF_LABEL, QUARANTINE_COLUMNS, SPLITS, TABLES, Table
from common.catalogue.images import check_images
from common.catalogue.text import normalise_query
from common.errors import CourseError

UNKNOWN = "{value} is not in the table "
_DTYPES = {"text": "str", "json": "str", "number": "float64", "integer": "int64", "boolean": "bool"}


def validate(
    tables: Mapping[str, pd.DataFrame | None],
    *,
    source: str,
    folder: Path | None = None,
    files: Mapping[str, str] | None = None,
    verify_images: bool = True,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return the eight tables of the contract with clean rows only, and the quarantine of all other rows.

    `tables` maps names of `TABLES` to frames; absent or None means empty. `files` says which file each came from, for
    messages; `folder` is where relative image paths start. Every input row is in exactly one of the two results.

    Raises `CourseError` for faults of no single row: a required column missing, an unknown column, ids that stand for
    two different products or queries, variants of one product in two splits, no product at all, every row of a table
    set aside.
    """
    sieves = {name: _Sieve(table, tables.get(name), (files or {}).get(name, f"{source}: {name}"))
              for name, table in TABLES.items()}  # fmt: skip
    products, images = sieves["products"], sieves["images"]
    _check_products_have_something(products, images)
    for name in TABLES:  # in the order of declaration: a table comes after those that it refers to
        sieves[name].check_cells()
        if name == "images":
            _check_pictures(images, folder, verify_images)
            _set_aside_products_without_title_or_image(products, images)
        if name == "queries":
            _set_aside_queries_of_two_splits(sieves["queries"])
        if name != "products":
            sieves[name].check_references(sieves)
    _check_groups(products)
    _set_aside_disagreeing_labels(sieves["judgements"])
    _set_aside_self_pairs(sieves["pairs"])
    clean = {name: sieve.finish() for name, sieve in sieves.items()}
    return clean, pd.concat([sieve.quarantine() for sieve in sieves.values()], ignore_index=True)


@dataclass
class _Sieve:
    """Sift one table: `frame` holds the rows that are still good (their index is the input row), `aside` the others."""

    table: Table
    given: pd.DataFrame | None
    file: str
    frame: pd.DataFrame = field(init=False)
    aside: list[pd.DataFrame] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.frame = pd.DataFrame() if self.given is None else self.given.copy(deep=False)
        if not (is_integer_dtype(self.frame.index.dtype) and self.frame.index.is_unique):
            self.frame = self.frame.reset_index(drop=True)
        self.frame.columns = [str(name) for name in self.frame.columns]
        self.n_given = len(self.frame)
        names = list(self.frame.columns)
        for name in names:
            if name not in self.table.column_names:
                hint = column_hint(name, [other for other in self.table.column_names if other not in names])
                raise CourseError(
                    f"{self.file}: column {name!r} is not part of {self.table.name}; drop or rename it: {hint}"
                )
            if names.count(name) > 1:
                raise CourseError(f"{self.file}: column {name!r} is there twice; keep one of them")
        if names or self.n_given or self.table.name == "products":
            require_columns(names, self.table.required_names, self.file)
        self.had = set(names)
        for name in self.table.column_names:
            if name not in names:
                self.frame[name] = pd.Series(pd.NA, index=self.frame.index, dtype="str")
        self.frame = self.frame[self.table.column_names].copy()

    def check_cells(self) -> None:
        """Convert every column to its kind; set aside rows with faulty cells, repeated rows and repeated keys."""
        if self.frame.empty:
            return
        for column in self.table.columns:
            raw = self.frame[column.name]
            parsed, faults = as_kind(raw, column)
            self.frame[column.name] = parsed
            left = pd.Series(True, index=self.frame.index)
            for faulty, reason in faults:
                self._record(faulty & left, column.name, reason, raw)
                left &= ~faulty
            self.frame = self.frame[left]
        if "position" in self.table.column_names:
            self._number_positions()
        repeated = self.frame.duplicated()
        self.set_aside(repeated, self.table.key[0], "repeats an earlier row")
        same_key = self.frame.duplicated(list(self.table.key))
        if self.table.key_is_identity and same_key.any():
            self._refuse_shared_ids(self.frame.loc[same_key, self.table.key[0]])
        key = " and ".join(self.table.key)
        self.set_aside(same_key, self.table.key[0], f"contradicts an earlier row of the same {key}")

    def _refuse_shared_ids(self, shared: pd.Series) -> None:
        ids = shared.unique()
        listed = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
        key = self.table.key[0]
        raise CourseError(
            f"{self.file}: column {key!r} is not unique: {len(ids):,} ids stand for different rows ({listed}); "
            f"give each row its own {key}" + (", variants of one product a common group_id" * (key == "product_id"))
        )

    def _number_positions(self) -> None:
        """Fill missing positions in the order of the rows."""
        owner = self.frame[self.table.key[0]]
        unnumbered = self.frame["position"].isna().groupby(owner).transform("any").astype(bool)
        order = self.frame.groupby(owner).cumcount()
        self.frame["position"] = self.frame["position"].mask(unnumbered, order)

    def check_references(self, sieves: Mapping[str, _Sieve]) -> None:
        for column in self.table.columns:
            if column.refers_to:
                known = sieves[column.refers_to].frame
                found = is_among(self.frame[column.name], known[TABLES[column.refers_to].key[0]])
                reason = UNKNOWN + f"{column.refers_to}, or was set aside there"
                self.set_aside(~found, column.name, reason)

    def set_aside(self, faulty: pd.Series, column: str, reason: str) -> None:
        """Move the rows where `faulty` into the quarantine."""
        if faulty.any():
            self._record(faulty, column, reason, self.frame[column])
            self.frame = self.frame[~faulty]

    def set_aside_each(self, reasons: pd.Series, column: str) -> None:
        """Move the rows that have a reason (not None, not NaN) into the quarantine, each with its own."""
        for reason in reasons.dropna().unique():
            self.set_aside((reasons == reason).reindex(self.frame.index, fill_value=False), column, reason)

    def _record(self, faulty: pd.Series, column: str, reason: str, values: pd.Series) -> None:
        rows = self.frame.loc[faulty.to_numpy()]
        if rows.empty:
            return
        ids = rows[list(self.table.key[:2])] if self.table.key[0] != "product_id" else rows[["product_id"]]
        keys = ids.astype(object).where(ids.notna(), "").astype(str).agg(" ".join, axis=1).str.strip().str[:100]
        shown = [_shown(value) for value in values.loc[rows.index]] if "{value}" in reason else [""] * len(rows)
        self.aside.append(
            pd.DataFrame(
                {
                    "table": self.table.name,
                    "row": rows.index.to_numpy(),
                    "id": keys.to_numpy(),
                    "column": column,
                    "reason": [reason.replace("{value}", value) for value in shown],
                }
            )
        )

    def quarantine(self) -> pd.DataFrame:
        kinds = {name: "int64" if name == "row" else "str" for name in QUARANTINE_COLUMNS}
        if not self.aside:
            return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
        return pd.concat(self.aside).sort_values("row", kind="stable").astype(kinds)

    def finish(self) -> pd.DataFrame:
        """Return the clean table with its final dtypes."""
        if self.n_given and self.frame.empty:
            first = self.quarantine().iloc[0]
            raise CourseError(
                f"{self.file}: none of the {self.n_given:,} rows is usable; row {first['row']}, column "
                f"{first['column']!r}: {first['reason']}; correct the column and load again"
            )
        return self.frame.reset_index(drop=True).astype({c.name: _DTYPES[c.kind] for c in self.table.columns})


def _shown(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as in the file: a missing cell elsewhere makes whole numbers floats
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return repr(text if len(text) <= 40 else text[:40] + "…").encode("utf-8", "replace").decode()


def _check_products_have_something(products: _Sieve, images: _Sieve) -> None:
    if products.n_given == 0:
        raise CourseError(f"{products.file}: no products; a catalogue needs at least one row with product_id and title")
    if "title" not in products.had and images.n_given == 0:
        hint = column_hint(
            "title", [name for name in products.given.columns if name not in TABLES["products"].column_names]
        )
        raise CourseError(f"{products.file}: column 'title' is missing and there are no images; add one: {hint}")


def _check_pictures(images: _Sieve, folder: Path | None, look: bool) -> None:
    if look and len(images.frame):
        paths = [Path(folder or ".", path) for path in images.frame["path"]]
        images.set_aside_each(pd.Series(check_images(paths), index=images.frame.index, dtype="object"), "path")
    if images.frame.empty:
        return
    # Dense positions: a product whose first picture was set aside still has one at position 0.
    ranks = images.frame.groupby("product_id")["position"].rank(method="first") - 1
    images.frame = images.frame.assign(position=ranks)


def _set_aside_products_without_title_or_image(products: _Sieve, images: _Sieve) -> None:
    pictured = is_among(products.frame["product_id"], images.frame["product_id"])
    products.set_aside(products.frame["title"].isna() & ~pictured, "title", "no title and no usable image")


def _check_groups(products: _Sieve) -> None:
    grouped = products.frame.dropna(subset=["group_id", "split"]).groupby("group_id")["split"].nunique()
    cut = grouped[grouped > 1].index
    if len(cut):
        raise CourseError(
            f"{products.file}: column 'split': group {cut[0]!r} ({len(cut):,} in all) is in more than one split; "
            "give the variants of one product the same split, or leave the column out"
        )


def _set_aside_queries_of_two_splits(queries: _Sieve) -> None:
    """Keep queries of the same words in the latest split only: in train and test, training would see the test."""
    frame = queries.frame
    rank = frame["split"].map({split: number for number, split in enumerate(SPLITS)})
    last = rank.groupby(frame["query"].map(normalise_query)).transform("max")
    queries.set_aside(rank < last, "query", "the same words stand in a later split (test counts over val over train)")


def _set_aside_disagreeing_labels(judgements: _Sieve) -> None:
    frame = judgements.frame
    meant = frame["label"].map(GRADE_OF_LABEL)
    judgements.set_aside(meant.notna() & (meant != frame["grade"]), "label", "{value} does not mean the row's grade")


def _set_aside_self_pairs(pairs: _Sieve) -> None:
    pairs.set_aside(pairs.frame["a_id"] == pairs.frame["b_id"], "b_id", "pairs a product with itself")
