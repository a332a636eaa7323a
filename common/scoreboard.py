"""Scoreboard rows: every measuring step saves its own in its run, and `course` finds them there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from common.errors import CourseError

FILE = "scoreboard.parquet"
COLUMNS = ("chapter", "system", "source", "split", "metric", "value", "ci_low", "ci_high", "n_queries", "seconds")
"""A row is one metric of one system: `value` with its 95% interval over `n_queries`, and the `seconds` it took. What is
not known is NaN."""


def save_scoreboard(folder: Path, rows: pd.DataFrame) -> None:
    """Save a step's rows into the folder of its run. Raises `CourseError` if one of `COLUMNS` is missing."""
    missing = [column for column in COLUMNS if column not in rows]
    if missing:
        raise CourseError(f"scoreboard: column {missing[0]!r} is missing")
    rows.loc[:, list(COLUMNS)].to_parquet(folder / FILE, index=False)


def read_scoreboard(folder: Path) -> pd.DataFrame | None:
    """Return the rows in the folder of a run, None if it has none. Raises `CourseError` if a column is missing."""
    path = folder / FILE
    if not path.is_file():
        return None
    rows = pd.read_parquet(path)
    missing = [column for column in COLUMNS if column not in rows]
    if missing:
        raise CourseError(f"{path}: column {missing[0]!r} is missing; run its step again")
    return rows.loc[:, list(COLUMNS)]
