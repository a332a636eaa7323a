"""Read tables from CSV, TSV, JSON Lines and Parquet. Bad rows are set aside, bad files are errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from common.catalogue.contract import QUARANTINE_COLUMNS
from common.errors import CourseError

MAX_CELL = 256 * 2**20
"""Characters. The csv module stops at 131,072 by default; longer cells are read, so that they can be set aside."""

MISSING_WORDS = {"", "nan", "NaN", "null", "NULL", "None", "<NA>", "#N/A"}
"""Cells of a CSV file that mean "no value": what spreadsheets and data frames write for it."""

_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "a spreadsheet or zip archive"}


@dataclass(frozen=True)
class ReadTable:
    """Hold what was read from a file.

    `frame`: the readable rows; their index is the line of the file (CSV, JSON Lines) or the row (Parquet, from 0).
    `aside`: the others, as rows of a quarantine (`common.catalogue.contract.QUARANTINE_COLUMNS`).
    """

    frame: pd.DataFrame
    aside: pd.DataFrame


def read_table(path: str | Path, table: str, delimiter: str | None = None) -> ReadTable:
    """Read a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file as rows of `table`.

    Cells keep their text: ids such as "007" stay, nothing is guessed. A cell whose bytes are not UTF-8 keeps them
    (escaped), and the contract's check then sets the row aside. `delimiter` of a CSV file is the comma, semicolon or
    tab that is most frequent in its header, unless given. Raises `CourseError` naming the file and the fix.
    """
    path = Path(path)
    if not path.is_file():
        raise CourseError(f"{path}: there is no such file; check the path")
    if path.stat().st_size == 0:
        raise CourseError(f"{path}: the file is empty; it needs a header line and rows")
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return _read_csv(path, table, "\t" if suffix == ".tsv" and delimiter is None else delimiter)
    if suffix in (".jsonl", ".ndjson"):
        return _read_json_lines(path, table)
    if suffix in (".parquet", ".pq"):
        return ReadTable(_read_parquet(path), quarantine_rows([]))
    raise CourseError(f"{path}: cannot read {suffix or 'a file without ending'!r}; save it as .csv, .jsonl or .parquet")


def quarantine_rows(rows: list[tuple[str, int, str, str, str]]) -> pd.DataFrame:
    """Return tuples of (table, row, id, column, reason) as a quarantine table."""
    frame = pd.DataFrame(rows, columns=list(QUARANTINE_COLUMNS))
    return frame.astype({name: "int64" if name == "row" else "str" for name in QUARANTINE_COLUMNS})


def _open_text(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file; other bytes come through as lone surrogates."""
    with path.open("rb") as file:
        start = file.read(4)
    for signature, name in _OTHER_ENCODINGS.items():
        if start.startswith(signature):
            raise CourseError(f"{path}: this is {name}, not UTF-8 text; save it as CSV with encoding UTF-8")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from file


def _read_csv(path: Path, table: str, delimiter: str | None) -> ReadTable:
    lines = _open_text(path)
    first = next(lines)
    if not _is_text(first):
        raise CourseError(f"{path}: line 1 (the header) is not valid UTF-8; save the file with encoding UTF-8")
    delimiter = delimiter or max(",;\t", key=first.count)
    limit = csv.field_size_limit(MAX_CELL)
    try:
        reader = csv.reader(chain([first], lines), delimiter=delimiter)
        header = [name.strip() for name in next(reader)]
        cells, numbers, aside = [], [], []
        for row in reader:
            if len(row) > len(header):
                reason = f"{len(row)} cells under {len(header)} columns (put cells with {delimiter!r} in quotes)"
                aside.append((table, reader.line_num, _shown(row[0]), header[0], reason))
            elif row:
                filled = [None if cell in MISSING_WORDS else cell for cell in row]
                cells.append(filled + [None] * (len(header) - len(row)))
                numbers.append(reader.line_num)
    except csv.Error as error:
        raise CourseError(f"{path}: line {reader.line_num} is not CSV ({error}); correct its quotes") from None
    finally:
        csv.field_size_limit(limit)
    if not cells:
        raise CourseError(f"{path}: no usable row below the header; add rows")
    frame = pd.DataFrame(cells, columns=header, index=pd.Index(numbers), dtype=object)
    return ReadTable(frame, quarantine_rows(aside))


def _read_json_lines(path: Path, table: str) -> ReadTable:
    rows, numbers, aside = [], [], []
    for number, line in enumerate(_open_text(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            reason = None if isinstance(row, dict) else "not a JSON object"
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({str(error)[:80]})"
        if reason:
            aside.append((table, number, "", "", f"line {number}: {reason}"))
        else:
            rows.append(row)
            numbers.append(number)
    if not rows:
        example = f" ({aside[0][-1]})" if aside else ""
        raise CourseError(f"{path}: no line is a JSON object{example}; write one object a line")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names}
    frame = pd.DataFrame(columns).set_axis(pd.Index(numbers), axis=0)
    return ReadTable(frame, quarantine_rows(aside))


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path}: not a readable Parquet file ({str(error)[:120]}); write it again") from None


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(text: str) -> str:
    return text[:100].encode("utf-8", "replace").decode()
