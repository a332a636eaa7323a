"""The catalogue contract, said once: which tables a catalogue has, their columns, and what a cell may hold.

Everything that checks, saves, digests or explains a catalogue reads this declaration; nothing else repeats it.
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
"""Of the saved tables. Raise it when columns change: cached catalogues of an older version are then built anew."""

Kind = Literal["text", "number", "integer", "boolean", "json"]


@dataclass(frozen=True)
class Column:
    """One column: its kind of value and the bounds that a cell must keep.

    `required` asks for the column in the table and for a value in every row. A cell outside its bounds sets its row
    aside. `refers_to` names the table whose key (`product_id` or `query_id`) the cell must be found in.
    """

    name: str
    kind: Kind = "text"
    required: bool = False
    longest: int = 1_000
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    refers_to: str | None = None
    default: int | None = None


@dataclass(frozen=True)
class Table:
    """One table: its columns, the `key` that tells rows apart, and what two different rows with the same key mean.

    Exact repetitions are always set aside. Rows that share a key and differ are a fault of the whole table where
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


_PRODUCT = Column("product_id", required=True, longest=200, refers_to="products")
_QUERY = Column("query_id", required=True, longest=200, refers_to="queries")
_GRADE = Column("grade", "integer", required=True, least=0, most=3)
_SPLIT = Column("split", choices=SPLITS)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "products",
            (
                Column("product_id", required=True, longest=200),
                Column("title", longest=10_000),
                Column("description", longest=200_000),
                Column("brand"),
                Column("colour"),
                Column("material"),
                Column("price", "number", least=0, most=1e12),
                Column("category_path", longest=2_000),
                Column("attributes", "json", longest=200_000),
                Column("group_id", longest=200),
                Column("locale", longest=50),
                _SPLIT,
            ),
            key=("product_id",),
            key_is_identity=True,
        ),
        Table(
            "images",
            (
                _PRODUCT,
                Column("path", required=True, longest=4_000),
                Column("position", "integer", least=0, most=1_000_000),
                # Of the file's bytes. Filled where the pictures are not determined by anything else in the catalogue
                # (a learner's own), so that a picture replaced under its old name changes the catalogue's digest.
                Column("digest", longest=64),
            ),
            key=("product_id", "position"),
        ),
        Table(
            "queries",
            (
                Column("query_id", required=True, longest=200),
                Column("query", required=True, longest=2_000),
                Column("kind", longest=200),
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
                Column("category_path", required=True, longest=2_000),
                Column("is_true", "boolean", required=True),
                Column("position", "integer", least=0, most=1_000_000),
            ),
            key=("product_id", "category_path"),
        ),
        Table(
            "pairs",
            (
                Column("a_id", required=True, longest=200, refers_to="products"),
                Column("b_id", required=True, longest=200, refers_to="products"),
                Column("label", "integer", least=0, most=1, default=1),
                Column("outfit_id", longest=200),
                _SPLIT,
            ),
            key=("a_id", "b_id", "outfit_id"),
        ),
        Table("truth", (_QUERY, _PRODUCT, _GRADE), key=("query_id", "product_id")),
        Table("captions", (_PRODUCT, Column("caption", required=True, longest=10_000)), key=("product_id", "caption")),
    )
}

QUARANTINE_COLUMNS = ("table", "row", "id", "column", "reason")
"""Of `Catalogue.quarantine`: which table, the row (the index of the frame as handed in: readers of CSV and JSON Lines
give the line of the file), the row's key, the column at fault, why."""
