"""Digest tables by their content only, independently of library versions and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def digest_tables(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return 16 hexadecimal digits over names, columns and cells of `tables`, in their order.

    A text cell counts as its length in bytes (-1 if missing) and its UTF-8 bytes, a number as a little-endian float64
    or int64; so no two different tables give the same stream of bytes.
    """
    state = sha256()
    for name, frame in tables.items():
        state.update(f"{name}:{len(frame)}:{len(frame.columns)};".encode())
        for column in frame.columns:
            values = frame[column]
            state.update(f"{column}:{values.dtype.kind if values.dtype != 'str' else 'str'};".encode())
            for part in _parts(values):
                state.update(part)
    return state.hexdigest()[:16]


def _parts(values: pd.Series) -> list[bytes | memoryview]:
    if values.dtype == "str":
        array = pa.array(values, pa.large_string(), from_pandas=True)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        lengths = pc.binary_length(array).fill_null(-1).to_numpy().astype("<i8")
        present = array.drop_null()
        joined = "".join(present.to_pylist()).encode("utf-8") if len(present) else b""
        return [lengths.tobytes(), joined]
    if values.dtype == bool:
        return [values.to_numpy().astype("u1").tobytes()]
    if values.dtype.kind == "i":
        return [values.to_numpy().astype("<i8").tobytes()]
    numbers = values.to_numpy(dtype="<f8", copy=True)
    numbers[np.isnan(numbers)] = np.nan  # one bit pattern for every missing number
    return [numbers.tobytes()]
