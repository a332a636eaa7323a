"""``python -m course scoreboard``: show every chapter's systems on one board, each figure with its interval."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.atomic import read_json
from common.scoreboard import FILE, read_scoreboard
from common.settings import DEFAULT_PROFILE, artifacts_root, resolve_profile

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_SOURCE = "pocket_shop"
SHOWN_DEPTHS = ("R@10", "R@100", "P@10")
"""Depths that the table has room for; ``--json`` has all, and the variants with a star, which not every chapter
reports."""


@dataclass(frozen=True)
class Scoreboard:
    """Show what every chapter's systems reached in their newest runs, without running anything."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print all rows as one JSON list, and nothing else, on standard output."""
    catalogue: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = DEFAULT_SOURCE
    """Source to show, or source@digest; for a bare source, the catalogue that was measured last."""
    profile: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""


def main(config: Scoreboard) -> None:
    """Print the board. Raises ``SystemExit(1)``, with a hint on stderr, if there is nothing to show."""
    profile = resolve_profile(config.profile)
    rows = collect(config.catalogue, profile)
    if config.json:
        print("[]" if rows is None else rows.to_json(orient="records", indent=2, force_ascii=False))
    elif rows is not None:
        show(rows)
    if rows is None:
        flag = "" if profile == DEFAULT_PROFILE else f" --profile {profile}"
        hint = f"Fill the scoreboard with: python -m course run{flag}"
        print(f"Nothing was measured yet on {config.catalogue} in profile {profile}. {hint}", file=sys.stderr)
        raise SystemExit(1)


def collect(catalogue: str, profile: str, root: Path | None = None) -> pd.DataFrame | None:
    """Return the rows of every current run that has some, in the order of the board; None if there are none.

    ``catalogue`` is a source or ``source@digest``. Raises ``CourseError`` if a run's rows lack a column.
    """
    pattern = catalogue if "@" in catalogue else f"{catalogue}@*"
    runs = current_runs(root if root is not None else artifacts_root(), pattern, profile)
    return rows_of(run for run in runs if run.parents[3] == runs[-1].parents[3])


def current_runs(root: Path, catalogues: str, profile: str) -> list[Path]:
    """Return the folders of the current runs that hold scoreboard rows, the oldest first.

    ``catalogues`` is a glob pattern such as ``pocket_shop@*``.
    """
    pointers = root.glob(f"{catalogues}/{profile}/*/*/current.json")
    runs = [
        pointer.parent / read_json(pointer)["run"]
        for pointer in sorted(pointers, key=lambda pointer: pointer.stat().st_mtime_ns)
    ]
    return [run for run in runs if (run / FILE).is_file()]


def rows_of(runs: Iterable[Path]) -> pd.DataFrame | None:
    """Return the rows of these run folders in the order of the board, None if there are none.

    Raises ``CourseError`` as ``collect`` does.
    """
    import pandas as pd

    tables = [read_scoreboard(run) for run in sorted(runs, key=place_on_the_board)]
    tables = [table for table in tables if table is not None and len(table)]
    return pd.concat(tables, ignore_index=True) if tables else None


def place_on_the_board(run: Path) -> tuple:
    """Return the sort key of a run folder: by chapter; in it ``evaluate`` first, flat steps, then those in folders."""
    chapter, step, _ = run.parts[-3:]
    return chapter, step != "evaluate", "." in step, step


def show(rows: pd.DataFrame) -> None:
    """Print the board: one table for each catalogue, split and set of metrics, one line for each system."""
    # Rich assumes 80 columns for a pipe, which would cut the board.
    console = Console(width=None if sys.stdout.isatty() else 150)
    shown = rows[~rows["metric"].map(_is_detail)]
    lines = shown.groupby(["source", "split", "chapter", "system"], sort=False, dropna=False)
    groups: dict[tuple, list] = {}
    for (source, split, *_), line in lines:
        groups.setdefault((source, split, tuple(line["metric"])), []).append(line)
    for (source, split, metrics), systems in groups.items():
        console.print(_table(f"{source}, {split} queries", metrics, systems))


def _is_detail(metric: str) -> bool:
    return metric.endswith("*") or (bool(re.fullmatch(r"[RP]@\d+", metric)) and metric not in SHOWN_DEPTHS)


def _table(title: str, metrics: tuple[str, ...], systems: list[pd.DataFrame]) -> Table:
    """Build one table: the first metric is the headline, with its 95% interval; the best of each column is bold."""
    import pandas as pd

    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("chapter")
    table.add_column("system", no_wrap=True)
    for number, metric in enumerate(metrics):
        table.add_column(f"{metric} [95% CI]" if number == 0 else metric, justify="right", no_wrap=True)
    table.add_column("queries", justify="right")
    table.add_column("seconds", justify="right")
    best = pd.concat(systems).groupby("metric")["value"].max()
    for line in systems:
        cells = []
        for number, row in enumerate(line.itertuples()):
            text = "" if pd.isna(row.value) else f"{row.value:.3f}"
            text = f"[bold]{text}[/bold]" if text and len(systems) > 1 and row.value == best[row.metric] else text
            if number == 0 and not pd.isna(row.ci_low):
                text += rf" \[{row.ci_low:.3f}, {row.ci_high:.3f}]"
            cells.append(text)
        first = line.iloc[0]
        seconds = "" if pd.isna(first["seconds"]) else f"{first['seconds']:.1f}"
        table.add_row(
            escape(str(first["chapter"])), escape(str(first["system"])), *cells, f"{first['n_queries']}", seconds
        )
    return table
