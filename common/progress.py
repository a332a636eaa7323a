"""Show progress bars and remarks to people who wait, and nothing where output is recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from tqdm import tqdm


def is_interactive() -> bool:
    """Return whether a person is likely to watch: a terminal, or a notebook that is not executed for the record. Runs
    that keep the output (`course run`, `make test-notebooks`) set COURSE_QUIET, so that no bar is recorded."""
    if os.environ.get("COURSE_QUIET"):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def tell(line: str) -> None:
    """Print a remark for people on standard error, unless output is being recorded."""
    if not os.environ.get("COURSE_QUIET"):
        print(line, file=sys.stderr)


@cache
def announce(line: str) -> None:
    """Print a line on standard error if a person is likely to watch, the same line only once."""
    if is_interactive():
        print(line, file=sys.stderr)


def progress(iterable: Iterable | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """Return a tqdm bar over `iterable` (or one to `update` by hand), shown only if a person watches."""
    return tqdm(iterable, disable=not (shown and is_interactive()), **options)
