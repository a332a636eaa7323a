"""A search box on both chapters, side by side: `python -m chapter02_two_tower.demo "comfy chair for reading"`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import pandas as pd
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chapter01_baseline.systems import systems as baseline_systems
from chapter02_two_tower.systems import systems
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.search import Hits, Searcher

ONLY_HERE = "bold green"


@dataclass(frozen=True)
class DemoConfig:
    """Search a catalogue with a system of chapter 1 and one of chapter 2."""

    query: Annotated[str, tyro.conf.Positional]
    """What you are looking for, in your own words."""
    against: str | None = None
    """Which of chapter 1's systems stands on the left; default: the strongest that is built."""
    system: str | None = None
    """Which of chapter 2's stands on the right; default: the strongest."""
    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    k: int = 10
    """How many products each shows."""


def main(config: DemoConfig) -> None:
    """Print what both systems find for a query; what only one of them finds is marked."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    found = {}
    for offered, wanted in ((baseline_systems, config.against), (systems, config.system)):
        name, searcher = _named(offered(artifacts, catalogue), wanted)
        found[name] = searcher.search([config.query], config.k)
    Console().print(side_by_side(config.query, found, catalogue))


def side_by_side(query: str, found: Mapping[str, Hits], catalogue: Catalogue) -> Table:
    """Return the hits of one query, by system, as a rich table with a column a system; a product that none of the
    other systems found is marked with + and in green."""
    rows = {name: [product_id for product_id, _ in hits.row(0)] for name, hits in found.items()}
    products = catalogue.products.set_index("product_id")
    table = Table(title=escape(query), title_justify="left", caption="+ found by this system only")
    table.add_column("#", justify="right")
    columns = []
    for name, ids in rows.items():
        table.add_column(escape(name), overflow="fold", ratio=1)
        elsewhere = {product_id for other, theirs in rows.items() if other != name for product_id in theirs}
        columns.append([_cell(i, products.loc[i], only_here=i not in elsewhere) for i in ids])
    depth = max(map(len, columns))
    for rank in range(depth):
        table.add_row(str(rank + 1), *(cells[rank] if rank < len(cells) else "" for cells in columns))
    if not depth:
        table.add_row("", *["nothing found: try other words"] * len(columns))
    return table


def _cell(product_id: str, product: pd.Series, *, only_here: bool) -> str:
    name = escape(product_id if pd.isna(product["title"]) else product["title"])
    return f"[{ONLY_HERE}]+ {name}[/]" if only_here else f"  {name}"


def _named(searchers: Mapping[str, Searcher], wanted: str | None) -> tuple[str, Searcher]:
    """The searcher of a name, or the last one, which is the strongest."""
    name = wanted or list(searchers)[-1]
    if name not in searchers:
        raise CourseError(f"demo: no system {name!r}; there are: {', '.join(searchers)}")
    return name, searchers[name]


if __name__ == "__main__":
    run_step(main)
