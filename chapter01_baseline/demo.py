"""A search box on chapter 1: `python -m chapter01_baseline.demo "comfy chair for reading"`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pandas as pd
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chapter01_baseline.systems import systems
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.search import Hits


@dataclass(frozen=True)
class DemoConfig:
    """Search a catalogue with one of the chapter's systems."""

    query: Annotated[str, tyro.conf.Positional]
    """What you are looking for, in your own words."""
    system: str | None = None
    """Which system searches; default: the strongest that is built."""
    k: int = 10
    """How many products to show."""
    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""


def main(config: DemoConfig) -> None:
    """Print the best products for a query as a table."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    searchers = systems(Artifacts.for_catalogue(catalogue, config.profile), catalogue)
    name = config.system or list(searchers)[-1]
    if name not in searchers:
        raise CourseError(f"demo: no system {name!r}; there are: {', '.join(searchers)}")
    hits = searchers[name].search([config.query], config.k)
    Console().print(result_table(config.query, name, hits, catalogue))


def result_table(query: str, system: str, hits: Hits, catalogue: Catalogue) -> Table:
    """Return the hits of one query as a rich table: rank, score, title, brand, category, price."""
    table = Table(title=f"{escape(query)}   ({escape(system)})", title_justify="left")
    for column in ("#", "score"):
        table.add_column(column, justify="right")
    for column in ("product", "brand", "category"):
        table.add_column(column, overflow="fold")
    table.add_column("price", justify="right")
    products = catalogue.products.set_index("product_id")
    for rank, (product_id, score) in enumerate(hits.row(0), start=1):
        row = products.loc[product_id]
        cells = [_text(row[name]) for name in ("title", "brand", "category_path")]
        cells[0] = cells[0] or escape(product_id)
        cells[2] = cells[2].rsplit(" > ", 1)[-1]
        price = "" if pd.isna(row["price"]) else f"{row['price']:,.2f}"
        table.add_row(str(rank), f"{score:.3f}", *cells, price)
    if not table.row_count:
        table.add_row("", "", "nothing found: try other words", "", "", "")
    return table


def _text(value: object) -> str:
    return "" if pd.isna(value) else escape(str(value))


if __name__ == "__main__":
    run_step(main)
