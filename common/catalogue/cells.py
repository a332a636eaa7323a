"""Convert the cells of a table to their column's kind, and find the ones that cannot be converted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from numbers import Number

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from common.catalogue.contract import Column
from common.catalogue.text import clean_text

Fault = tuple[pd.Series, str]
"""Rows with a fault (a boolean Series), and the reason, in which ``{value}`` stands for the cell's content."""

NOT_TEXT = "not valid text: its bytes are not UTF-8"
_MAY_NEED_CLEANING = r"[^\x20-\x7e]|^ | $|^$"
_TRUE, _FALSE = ("true", "1", "yes", "1.0"), ("false", "0", "no", "0.0")


def as_kind(values: pd.Series, column: Column) -> tuple[pd.Series, list[Fault]]:
    """Return the cells of `values` as `column.kind`, and the faults found in converting and against its bounds.

    Text becomes pandas ``str`` (missing: NaN), numbers and integers float64 (so that a missing integer can be
    recognised), booleans ``boolean``. A blank cell counts as missing.
    """
    text, faults = as_text(values, rendered_as_json=column.kind == "json")
    parse = _PARSERS[column.kind]
    parsed, unreadable = parse(text)
    faults += [fault for fault in unreadable if fault[0].any()]
    faults += [fault for fault in _bounds(parsed, text, column) if fault[0].any()]
    if column.default is not None:
        parsed = parsed.fillna(column.default)
    return parsed, faults


def as_text(values: pd.Series, rendered_as_json: bool = False) -> tuple[pd.Series, list[Fault]]:
    """Return `values` as clean text (see `clean_text`), and the rows whose bytes or characters are not valid text."""
    faults: list[Fault] = []
    if values.dtype != "str" or not _is_utf8(values):
        cells = [_cell_text(value, rendered_as_json) for value in _objects(values)]
        invalid = pd.Series([cell is INVALID for cell in cells], index=values.index, dtype=bool)
        if invalid.any():
            faults.append((invalid, NOT_TEXT))
        values = pd.Series([None if cell is INVALID else cell for cell in cells], index=values.index, dtype="str")
    array = pa.array(values, from_pandas=True)
    unclean = pc.match_substring_regex(array, _MAY_NEED_CLEANING).fill_null(False).to_numpy(zero_copy_only=False)
    if unclean.any():
        values = values.copy()
        values[unclean] = pd.array([clean_text(text) or None for text in values[unclean]], dtype="str")
    return values, faults


def is_among(values: pd.Series, allowed: Iterable[str]) -> pd.Series:
    """Return which text cells are in `allowed`; a missing one never is. (`Series.isin` goes through Python objects.)"""
    allowed = pa.array(allowed, pa.large_string())
    found = pc.is_in(pa.array(values, pa.large_string(), from_pandas=True), value_set=allowed, skip_nulls=True)
    return pd.Series(found.to_numpy(zero_copy_only=False), index=values.index)


def _is_utf8(values: pd.Series) -> bool:
    """Return whether a text column is valid UTF-8; Parquet files are not checked when they are read."""
    try:
        pa.array(values, from_pandas=True).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _objects(values: pd.Series) -> list[object]:
    if values.dtype == "str":
        return pa.array(values, from_pandas=True).cast(pa.large_binary()).to_pylist()
    return values.tolist()


INVALID = object()


def _cell_text(value: object, rendered_as_json: bool) -> object:
    """Return one cell as text, None if it is missing, INVALID if it holds no valid text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return value if value.isascii() or _encodes(value) else INVALID
    if rendered_as_json and isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, Number) and value != value):
        return None
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))  # an integer column with one missing cell arrives as floats: 17.0 is the id 17
    return str(value)


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _as_text_kind(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    return text, []


def _as_number(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    numbers = numbers.where(np.isfinite(numbers))
    return numbers, [(text.notna() & numbers.isna(), "{value} is not a number")]


def _as_integer(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    numbers, faults = _as_number(text)
    return numbers, [*faults, (numbers.notna() & (numbers != numbers.round()), "{value} is not a whole number")]


def _as_boolean(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    lowered = text.str.lower()
    booleans = pd.Series(pd.NA, index=text.index, dtype="boolean")
    booleans[is_among(lowered, _TRUE)] = True
    booleans[is_among(lowered, _FALSE)] = False
    return booleans, [(text.notna() & booleans.isna(), "{value} is neither true nor false")]


def _as_json(text: pd.Series) -> tuple[pd.Series, list[Fault]]:
    readable = [not isinstance(cell, str) or _is_json_object(cell) for cell in text.tolist()]
    return text, [
        (~pd.Series(readable, index=text.index, dtype=bool), "{value} is not a JSON object of names and values")
    ]


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(_JSON.decode(text), dict)
    except (ValueError, RecursionError):
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(
    parse_constant=_refuse_constant
)  # made once: json.loads with an option makes a decoder at each call


_PARSERS: dict[str, Callable[[pd.Series], tuple[pd.Series, list[Fault]]]] = {
    "text": _as_text_kind,
    "number": _as_number,
    "integer": _as_integer,
    "boolean": _as_boolean,
    "json": _as_json,
}


def _bounds(parsed: pd.Series, text: pd.Series, column: Column) -> Iterator[Fault]:
    if column.required:
        yield text.isna(), "no value"
    yield text.str.len() > column.max_length, f"longer than {column.max_length:,} characters"
    if column.choices:
        yield text.notna() & ~is_among(text, column.choices), "{value} is none of " + ", ".join(column.choices)
    if column.minimum is not None:
        yield parsed < column.minimum, f"{{value}} is less than {column.minimum:g}"
    if column.maximum is not None:
        yield parsed > column.maximum, f"{{value}} is more than {column.maximum:g}"
