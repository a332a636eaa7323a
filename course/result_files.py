"""Read and write the rows in `results/`: CSV tables whose every row says how it was made."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic import atomic_write
from common.devices import hardware
from common.errors import CourseError
from common.settings import repository_root

if TYPE_CHECKING:
    import pandas as pd

MADE_BY = ("command", "commit", "hardware")
"""Columns that say how a row was made; see `provenance`."""


def results_folder() -> Path:
    """Return the folder of the CSVs and the page."""
    return repository_root() / "results"


def provenance(command: str, commit: str | None) -> dict[str, str]:
    """Return how figures were made, as cells of their rows: command, commit (its first digits) and hardware."""
    return {"command": command, "commit": (commit or "uncommitted")[:12], "hardware": hardware()}


def write_rows(path: Path, rows: pd.DataFrame, decimals: int | None = None) -> None:
    """Write a CSV of results atomically, the same on every system; without ``decimals``, numbers in full."""
    with atomic_write(path) as temporary:
        float_format = None if decimals is None else f"%.{decimals}f"
        rows.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n", encoding="utf-8")


def read_rows(
    path: Path, texts: Sequence[str], numbers: Sequence[str], *, optional: Sequence[str] = (), key: Sequence[str]
) -> pd.DataFrame:
    """Read a CSV of results: columns ``texts`` as text, ``numbers`` as float64 with NaN for an empty cell.

    Raises ``CourseError``, with file and column, for a file that is not a table, a missing column, an empty cell
    outside ``optional``, a cell of ``numbers`` that is not a finite number, and two rows with the same ``key``.
    """
    import pandas as pd

    table = _read_cells(path)
    for column in (*texts, *numbers):
        if column not in table:
            raise CourseError(f"{path}: column {column!r} is missing; there are: {', '.join(table)}")
        if column not in optional and (empty := table[column].str.strip() == "").any():
            raise CourseError(f"{path}: column {column!r} is empty in row {_first(empty)}; fill it, or drop the row")
    for column in numbers:
        values = pd.to_numeric(table[column].where(table[column].str.strip() != ""), errors="coerce").astype("float64")
        wrong = (table[column].str.strip() != "") & ~values.abs().lt(float("inf"))
        if wrong.any():
            text = table[column][wrong].iloc[0]
            raise CourseError(f"{path}: column {column!r} has {text!r} in row {_first(wrong)}; a number belongs there")
        table[column] = values
    twice = table.duplicated(list(key))
    if twice.any():
        same = ", ".join(repr(value) for value in table.loc[twice, list(key)].iloc[0])
        raise CourseError(f"{path}: column {key[-1]!r}: row {_first(twice)} is there before ({same}); keep one")
    return table[[*texts, *numbers]]


def _read_cells(path: Path) -> pd.DataFrame:
    """Read all cells as text. Pandas would accept short rows, and in some files long ones, silently."""
    import pandas as pd

    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except FileNotFoundError:
        raise CourseError(f"{path}: there is no such file") from None
    except (ValueError, csv.Error) as error:
        raise CourseError(f"{path}: not a CSV table in UTF-8 ({error})") from None
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            where = f"column {header[len(row)]!r} is missing" if len(row) < len(header) else "there are too many cells"
            raise CourseError(f"{path}: {where} in row {number}; each row needs {len(header)} cells")
    return pd.DataFrame(rows, columns=header, dtype=str)


def _first(rows: pd.Series) -> int:
    """Return the number of the first True row as an editor counts it: the header is row 1."""
    return int(rows.to_numpy().argmax()) + 2
