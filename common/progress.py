"""Progress bars and remarks for people who wait, and silence where output is recorded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def somebody_watches() -> bool:
    """Say whether a person is likely to look: a terminal, or a notebook that is not being executed for the record.

    Runs that keep the output (`course run`, `make test-notebooks`) set COURSE_QUIET, so that no bar stands in it.
    """
    if os.environ.get("COURSE_QUIET"):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def tell(line: str) -> None:
    """Print a remark for people on standard error, unless output is being recorded."""
    if not os.environ.get("COURSE_QUIET"):
        print(line, file=sys.stderr)


def progress(iterable: Iterable | None = None, *, shown: bool = True, **options: Any) -> tqdm:
    """Return a tqdm bar over `iterable` (or one to `update` by hand), shown only if somebody watches."""
    return tqdm(iterable, disable=not (shown and somebody_watches()), **options)
