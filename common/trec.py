"""Read and write runs and judgements as TREC files, the format of trec_eval and every other tool of the field.

A run has the lines `query_id Q0 product_id rank score tag`, judgements (qrels) the lines `query_id 0 product_id grade`,
separated by blanks.

An id may contain white space (a picture named "red mug.jpg"), which these lines cannot hold: white space and the
percent sign are written percent-encoded ("red%20mug.jpg", "100%25"), nothing else. Reading decodes, so every id comes
back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from common.atomic import atomic_write
from common.errors import CourseError
from common.evaluation import rankings
from common.search import hits_from_rows

if TYPE_CHECKING:
    from common.search import Hits


def write_trec_run(path: str | Path, hits: Hits, query_ids: Sequence[str], *, tag: str = "course") -> None:
    """Write hits as a TREC run, in the order in which `evaluate` scores them.

    Every TREC tool orders a run by its score column, each breaking ties in its own way. Here a score that ties with the
    one before it is lowered by the smallest step of float32, so that all of them read the same order; other scores are
    written as they are.

    Raises CourseError for an empty id, for a tag that is empty or has a blank in it, and if hits and query_ids differ
    in length.
    """
    if len(query_ids) != len(hits.ids):
        raise CourseError(f"{Path(path).name}: {len(hits.ids)} rows of hits for {len(query_ids)} query ids.")
    lines = []
    for row, (query_id, ranking) in enumerate(zip(query_ids, rankings(hits), strict=True)):
        best: dict[str, np.float32] = {}
        for product_id, score in zip(hits.ids[row], hits.scores[row], strict=True):
            best[product_id] = max(best.get(product_id, score), score)
        above = np.float32(np.inf)
        for rank, product_id in enumerate(ranking, start=1):
            above = min(np.float32(best[product_id]), np.nextafter(above, np.float32(-np.inf)))
            # Nine significant digits identify every float32 exactly.
            lines.append((_encoded(query_id), "Q0", _encoded(product_id), rank, f"{above:.9g}", tag))
    _write(path, lines)


def read_trec_run(path: str | Path, query_ids: Sequence[str]) -> Hits:
    """Read a TREC run as hits, one row for each of `query_ids`, in their order; padding for a query not in the file.

    As in trec_eval the score column decides the order, not the rank column. Other queries of the file are left out.
    Raises CourseError, naming the line, if a line has not six fields, its score is not a number or an id cannot be
    decoded, and if the file holds none of the queries.
    """
    found: dict[str, tuple[list[str], list[float]]] = {query_id: ([], []) for query_id in query_ids}
    for number, (query, _, product, _, score, _) in _read(path, fields=6):
        query_id = _decoded(query, path, number)
        if query_id in found:
            found[query_id][0].append(_decoded(product, path, number))
            found[query_id][1].append(_number(score, path, number))
    depth = max((len(ids) for ids, _ in found.values()), default=0)
    if not depth:
        raise CourseError(
            f"{path}: holds no line for any of the {len(found)} queries; is it the run of another data set?"
        )
    return hits_from_rows(list(found.values()), depth)


def write_trec_qrels(path: str | Path, judgements: pd.DataFrame) -> None:
    """Write judgements (`query_id`, `product_id`, `grade`) as TREC qrels. Raises CourseError for an empty id."""
    rows = zip(judgements["query_id"], judgements["product_id"], judgements["grade"], strict=True)
    _write(path, [(_encoded(query_id), "0", _encoded(product_id), int(grade)) for query_id, product_id, grade in rows])


def read_trec_qrels(path: str | Path) -> pd.DataFrame:
    """Read TREC qrels: `query_id`, `product_id`, `grade`. Raises CourseError, naming the line, if one has not four
    fields, no whole grade, or an id that cannot be decoded."""
    rows = []
    for number, (query, _, product, grade) in _read(path, fields=4):
        value = _number(grade, path, number)
        if value != int(value):
            raise CourseError(f"{path}, line {number}: the grade {grade!r} is not a whole number.")
        rows.append((_decoded(query, path, number), _decoded(product, path, number), int(value)))
    return pd.DataFrame(rows, columns=["query_id", "product_id", "grade"]).astype(
        {"query_id": "str", "product_id": "str", "grade": "int64"}
    )


def _write(path: str | Path, lines: list[tuple]) -> None:
    for line in lines:
        if any(len(str(field).split()) != 1 for field in line):
            raise CourseError(
                f"{Path(path).name}: an id is empty, or the tag is empty or has a blank in it, which a TREC file "
                f"cannot hold; give it a name: {line}."
            )
    with atomic_write(path) as temporary:
        temporary.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")


def _read(path: str | Path, fields: int) -> list[tuple[int, list[str]]]:
    """Return the (line number, fields) of every line that is not empty."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path}: cannot be read as a TREC file in UTF-8 ({error}).") from error
    # split("\n"), because splitlines() also cuts at characters that an id may contain.
    lines = [(number, line.split()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for number, line in lines:
        if len(line) != fields:
            raise CourseError(f"{path}, line {number}: {len(line)} fields instead of {fields}.")
    return lines


def _encoded(name: str) -> str:
    """Encode white space (what `str.split` cuts at) and the percent sign of an id as %XX of UTF-8."""
    return re.sub(r"[\s%]", lambda found: quote(found[0], safe=""), str(name))


def _decoded(field: str, path: str | Path, line: int) -> str:
    """Decode the id of a field; a percent sign that begins no code, in a file of another tool, stays one."""
    try:
        return unquote(field, errors="strict")
    except UnicodeDecodeError as error:
        raise CourseError(
            f"{path}, line {line}: the id {field!r} has a %-code that is not UTF-8; write a percent sign as %25."
        ) from error


def _number(text: str, path: str | Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise CourseError(f"{path}, line {line}: {text!r} is not a finite number.")
    return value
