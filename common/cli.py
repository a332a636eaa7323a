"""Turn a function with a config dataclass into a command, and a ``CourseError`` into a readable message."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import tyro

from common.errors import CourseError


def run_step(main: Callable[[Any], Any], args: Sequence[str] | None = None) -> None:
    """Run ``main(config)`` with a config read from the command line (``args``, else ``sys.argv``).

    The type of main's one parameter, a dataclass or a union of them for subcommands, gives flags, defaults and
    ``--help``. Exit codes: 0 done, 2 for a ``CourseError`` (its message on stderr, no traceback) or unusable flags,
    130 when interrupted. Any other exception is a bug and keeps its traceback.
    """
    hints = get_type_hints(main, include_extras=True)
    hints.pop("return", None)
    config_type = next(iter(hints.values()))
    config = tyro.cli(config_type, args=args, prog=_program(main), description=main.__doc__)
    try:
        main(config)
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _program(main: Callable[[Any], Any]) -> str:
    """Return ``python -m package.module`` as the user typed it; a module run as a script does not know its own name."""
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__') if spec else main.__module__}"
