"""Declare the catalogue contract: which tables a catalogue has, their columns, and what a cell may hold.

Everything that checks, saves, digests or explains a catalogue reads this declaration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RELEVANT_GRADE = 2
"""A judged product is *relevant* (for Recall, Precision, MRR, MAP) from this grade on: exact (3) and substitute (2)."""

GRADE_OF_LABEL = {"E": 3, "S": 2, "C": 1, "I": 0}
"""Labels of the ESCI judgements (exact, substitute, complement, irrelevant) and the grades they stand for."""

LABEL_OF_GRADE = {grade: label for label, grade in GRADE_OF_LABEL.items()}

SPLITS = ("train", "val", "test")

FORMAT_VERSION = 1
"""Version of the saved tables. Raise it when columns change: catalogues of an older version are then built again."""

Kind = Literal["text", "number", "integer", "boolean", "json"]


@dataclass(frozen=True)
class Column:
    """Declare a column: its kind of value and the bounds of its cells.

    `required` asks for the column in the table and for a value in every row. A cell outside its bounds sets its row
    aside. `refers_to` names the table whose key (`product_id` or `query_id`) the cell must be found in.
    """

    name: str
    kind: Kind = "text"
    required: bool = False
    max_length: int = 1_000
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    refers_to: str | None = None
    default: int | None = None


@dataclass(frozen=True)
class Table:
    """Declare a table: its columns, the `key` of a row, and what two different rows with the same key mean.

    Exact repetitions are always set aside. Rows that share a key and differ are a fault of the whole table if
    `key_is_identity` (nobody can say which of two products P1 is meant); elsewhere the first row counts.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    key_is_identity: bool = False

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def required_names(self) -> list[str]:
        return [column.name for column in self.columns if column.required]


_PRODUCT = Column("product_id", required=True, max_length=200, refers_to="products")
_QUERY = Column("query_id", required=True, max_length=200, refers_to="queries")
_GRADE = Column("grade", "integer", required=True, minimum=0, maximum=3)
_SPLIT = Column("split", choices=SPLITS)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "products",
            (
                Column("product_id", required=True, max_length=200),
                Column("title", max_length=10_000),
                Column("description", max_length=200_000),
                Column("brand"),
                Column("colour"),
                Column("material"),
                Column("price", "number", minimum=0, maximum=1e12),
                Column("category_path", max_length=2_000),
                Column("attributes", "json", max_length=200_000),
                Column("group_id", max_length=200),
                Column("locale", max_length=50),
                _SPLIT,
            ),
            key=("product_id",),
            key_is_identity=True,
        ),
        Table(
            "images",
            (
                _PRODUCT,
                Column("path", required=True, max_length=4_000),
                Column("position", "integer", minimum=0, maximum=1_000_000),
                # Of the file's bytes. Filled where nothing else determines the pictures (a user's own), so that
                # a picture replaced under its old name changes the catalogue's digest.
                Column("digest", max_length=64),
            ),
            key=("product_id", "position"),
        ),
        Table(
            "queries",
            (
                Column("query_id", required=True, max_length=200),
                Column("query", required=True, max_length=2_000),
                Column("kind", max_length=200),
                _SPLIT,
            ),
            key=("query_id",),
            key_is_identity=True,
        ),
        Table(
            "judgements",
            (_QUERY, _PRODUCT, _GRADE, Column("label", choices=tuple(GRADE_OF_LABEL))),
            key=("query_id", "product_id"),
        ),
        Table(
            "category_candidates",
            (
                _PRODUCT,
                Column("category_path", required=True, max_length=2_000),
                Column("is_true", "boolean", required=True),
                Column("position", "integer", minimum=0, maximum=1_000_000),
            ),
            key=("product_id", "category_path"),
        ),
        Table(
            "pairs",
            (
                Column("a_id", required=True, max_length=200, refers_to="products"),
                Column("b_id", required=True, max_length=200, refers_to="products"),
                Column("label", "integer", minimum=0, maximum=1, default=1),
                Column("outfit_id", max_length=200),
                _SPLIT,
            ),
            key=("a_id", "b_id", "outfit_id"),
        ),
        Table("truth", (_QUERY, _PRODUCT, _GRADE), key=("query_id", "product_id")),
        Table(
            "captions", (_PRODUCT, Column("caption", required=True, max_length=10_000)), key=("product_id", "caption")
        ),
    )
}

QUARANTINE_COLUMNS = ("table", "row", "id", "column", "reason")
"""Of `Catalogue.quarantine`: the table, the row (the index of the input frame; for CSV and JSON Lines the line of the
file), the row's key, the column at fault, the reason."""
