"""Split and join category paths such as "Home > Lighting > Lamps"; no other module knows the separator."""

from __future__ import annotations

from collections.abc import Iterable

SEPARATOR = " > "


def split_path(path: str) -> list[str]:
    """Return the levels of a path, the widest first."""
    return path.split(SEPARATOR)


def join_path(levels: Iterable[str]) -> str:
    """Return the path of these levels, the widest first."""
    return SEPARATOR.join(levels)


def leaf_of(path: str) -> str:
    """Return the last level, the narrowest."""
    return split_path(path)[-1]


def parent_of(path: str) -> str:
    """Return the path without its last level; a path of one level is its own parent."""
    return path.rsplit(SEPARATOR, 1)[0]


def prefixes_of(path: str) -> list[str]:
    """Return the path cut after each of its levels, from the widest to the whole."""
    levels = split_path(path)
    return [join_path(levels[:depth]) for depth in range(1, len(levels) + 1)]
