"""Describe a missing or unknown column in an error: its name, the file, and the column that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from common.errors import CourseError


def column_hint(name: str, others: Iterable[str]) -> str:
    """Return the most similar of `others`, if one is similar, and the list of them."""
    others = [str(other) for other in others]
    listed = ", ".join(others[:30]) + (", …" if len(others) > 30 else "") or "none"
    close = get_close_matches(name, others, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}? (columns: {listed})" if close else f"(columns: {listed})"


def require_columns(present: Iterable[str], required: Iterable[str], file: object) -> None:
    """Raise `CourseError` naming the file, the first missing column and the fix."""
    present = [str(name) for name in present]
    for name in required:
        if name not in present:
            free = [other for other in present if other not in set(required)]
            raise CourseError(f"{file}: column {name!r} is missing; add or rename it: {column_hint(name, free)}")
