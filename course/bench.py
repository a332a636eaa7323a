"""``python -m course bench``: our fast paths beside the plain ones, measured in one run on this machine."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import CourseError

BENCHMARKS = {
    "text-embedding": "common.benchmarks.text_embedding:main",
    "training": "chapter02_two_tower.benchmarks.training:main",
    "mining": "chapter02_two_tower.benchmarks.mining:main",
    "cached-loss": "chapter02_two_tower.benchmarks.cached_loss:main",
    "image-embedding": "chapter03_multimodal.benchmarks.image_embedding:main",
    "reranker-training": "chapter04_catalogue_reranker.benchmarks.training_step:main",
    "constellation": "chapter04_catalogue_reranker.benchmarks.constellation:main",
    "sharded-embedding": "common.benchmarks.sharded_embedding:main",
    "service": "course.benchmarks.service:main",
}
"""Each takes nothing and returns rows with ``FIELDS`` and what else it has to say (a quality, a note); what it prints
is for the reader, not part of the result."""

FIELDS = ("name", "ours", "peer", "unit", "our_value", "peer_value", "ratio")


@dataclass(frozen=True)
class Bench:
    """Measure our fast paths and the plain ones side by side, in one run on this machine."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")
    ] = ()
    """Benchmarks to run; all when left out."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the rows as one JSON list, and nothing else, on standard output."""


def main(config: Bench) -> None:
    """Run the benchmarks and print their rows. Raises ``CourseError`` for an unknown name, before any is run, and for a
    benchmark that cannot be run; the rows of those before it are printed all the same."""
    for name in config.names:
        if name not in BENCHMARKS:
            raise CourseError(f"bench: no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    rows: list[dict[str, Any]] = []
    try:
        for name in config.names or BENCHMARKS:
            module, _, function = BENCHMARKS[name].partition(":")
            with redirect_stdout(sys.stderr):
                rows += getattr(import_module(module), function)()
    finally:
        if config.json:
            print(json.dumps(rows, indent=2, ensure_ascii=False))
        elif rows:
            show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    """Print a line a row: ours, the peer's, and how many times the peer's ours is."""
    table = Table()
    for column in ("benchmark", "ours", "peer", "unit"):
        table.add_column(column)
    for column in ("our value", "peer value", "ratio"):
        table.add_column(column, justify="right")
    table.add_column("besides")
    for row in rows:
        besides = ", ".join(_besides(key, value) for key, value in row.items() if key not in FIELDS)
        figures = (f"{row['our_value']:,.4g}", f"{row['peer_value']:,.4g}", f"{row['ratio']:.2f}x")
        table.add_row(row["name"], row["ours"], row["peer"], row["unit"], *figures, besides)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def _besides(key: str, value: Any) -> str:
    return escape(value if key == "note" else f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}")
