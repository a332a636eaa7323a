"""``python -m course scoreboard``: every chapter's systems on one board, each figure with its interval."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.atomic import read_json
from common.errors import CourseError
from common.settings import DEFAULT_PROFILE, artifacts_root, resolve_profile

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("chapter", "system", "source", "split", "metric", "value", "ci_low", "ci_high", "n_queries", "seconds")
DEFAULT_SOURCE = "pocket_shop"
SHOWN_DEPTHS = ("R@10", "R@100", "P@10")
"""Of the metrics reported at many depths, those that the table has room for; ``--json`` has all, and the variants
with a star, which not every chapter reports."""


@dataclass(frozen=True)
class Scoreboard:
    """Show what every chapter's systems reached, from the newest evaluations; runs nothing."""

    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print all rows as one JSON list, and nothing else, on standard output."""
    catalogue: Annotated[str, tyro.conf.arg(metavar="SOURCE")] = DEFAULT_SOURCE
    """Source to show, or source@digest; of a bare source, the catalogue evaluated last."""
    profile: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""


def main(config: Scoreboard) -> None:
    """Print the board; ``SystemExit(1)``, with a hint on stderr, when there is nothing to show."""
    profile = resolve_profile(config.profile)
    rows = collect(config.catalogue, profile)
    if config.json:
        print("[]" if rows is None else rows.to_json(orient="records", indent=2, force_ascii=False))
    elif rows is not None:
        show(rows)
    if rows is None:
        flag = "" if profile == DEFAULT_PROFILE else f" --profile {profile}"
        hint = f"Fill the scoreboard with: python -m course run{flag}"
        print(f"No evaluation yet of {config.catalogue} in profile {profile}. {hint}", file=sys.stderr)
        raise SystemExit(1)


def collect(catalogue: str, profile: str, root: Path | None = None) -> pd.DataFrame | None:
    """Return the rows (``COLUMNS``) of the current ``evaluate`` run of every chapter, in the chapters' order.

    ``catalogue`` is a source or ``source@digest``. None when nothing was evaluated. Raises ``CourseError`` when a run's
    ``scoreboard.parquet`` lacks a column.
    """
    root = root if root is not None else artifacts_root()
    folder = root / catalogue if "@" in catalogue else _evaluated_last(root, catalogue, profile)
    if folder is None:
        return None
    pointers = sorted((folder / profile).glob("*/evaluate/current.json"))
    return rows_of([pointer.parent / read_json(pointer)["run"] for pointer in pointers])


def rows_of(runs: Sequence[Path]) -> pd.DataFrame | None:
    """Return the rows (``COLUMNS``) of these ``evaluate`` runs, in their order; None if there is none. Raises
    ``CourseError`` as ``collect`` does."""
    import pandas as pd

    tables = []
    for run in runs:
        path = run / "scoreboard.parquet"
        if not path.is_file():
            continue  # a catalogue without judgements is searched, not scored
        table = pd.read_parquet(path)
        missing = [column for column in COLUMNS if column not in table]
        if missing:
            raise CourseError(f"{path}: column {missing[0]!r} is missing; run the evaluate step of its chapter again")
        tables.append(table.loc[:, list(COLUMNS)])
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else None


def _evaluated_last(root: Path, source: str, profile: str) -> Path | None:
    pointers = root.glob(f"{source}@*/{profile}/*/evaluate/current.json")
    newest = max(pointers, key=lambda path: path.stat().st_mtime_ns, default=None)
    return newest and newest.parents[3]


def show(rows: pd.DataFrame) -> None:
    """Print the board: a line a system, a table for each catalogue, split and set of metrics."""
    # Nobody reads a board cut to the 80 columns that a pipe is taken to have.
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
    """The first metric is the headline and carries its 95% interval; in bold, the best of each column."""
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
