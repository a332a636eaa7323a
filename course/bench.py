"""``python -m course bench``: measure our fast paths beside the plain ones, in one run on this machine."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.artifacts import checkout_commit
from common.errors import CourseError
from common.progress import tell
from course.result_files import MADE_BY, provenance, read_rows, results_folder, write_rows

if TYPE_CHECKING:
    import pandas as pd

BENCHMARKS = {
    "text-embedding": "course.benchmarks.text_embedding:main",
    "evaluation": "course.benchmarks.evaluation:main",
    "training": "course.benchmarks.tower_training:main",
    "mining": "course.benchmarks.mining:main",
    "cached-loss": "course.benchmarks.cached_loss:main",
    "image-embedding": "course.benchmarks.image_embedding:main",
    "reranker-training": "course.benchmarks.reranker_training:main",
    "constellation": "course.benchmarks.constellation:main",
    "sharded-embedding": "course.benchmarks.sharded_embedding:main",
    "service": "course.benchmarks.service:main",
    "busy-machine": "course.benchmarks.busy_machine:main",
    "index-at-scale": "course.benchmarks.index_at_scale:main",
}
"""Functions without arguments that return rows: ``FIELDS``, and more where there is more to say (a quality, a note).
What they print is for the reader and no part of the result. A row's name is the benchmark's, or starts with it and a
comma."""

FIELDS = ("name", "ours", "peer", "unit", "our_value", "peer_value", "ratio")
NUMBERS = FIELDS[4:]
SAVED = "benchmarks.csv"
"""File in the folder of results, with ``FIELDS`` and ``MADE_BY`` of each row."""


@dataclass(frozen=True)
class Bench:
    """Measure our fast paths and the plain ones side by side, in one run on this machine."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")
    ] = ()
    """Benchmarks to run; all when left out."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the rows as one JSON list, and nothing else, on standard output."""
    save: tyro.conf.FlagCreatePairsOff[bool] = False
    """Save the rows of each benchmark in results/benchmarks.csv once it is done, in place of its older rows."""


def main(config: Bench) -> None:
    """Run the benchmarks and print their rows.

    Raises ``CourseError`` for an unknown name, for saved rows that cannot be read (both before any benchmark runs),
    and for a benchmark that cannot run; the rows of those before it are still printed and saved.
    """
    for name in config.names:
        if name not in BENCHMARKS:
            raise CourseError(f"bench: no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}")
    if config.save:
        read_saved(results_folder())
    commit = checkout_commit() if config.save else None  # read now: someone may commit while it runs
    rows: list[dict[str, Any]] = []
    try:
        for name in config.names or BENCHMARKS:
            module, _, function = BENCHMARKS[name].partition(":")
            with redirect_stdout(sys.stderr):
                measured = getattr(import_module(module), function)()
            rows += measured
            if config.save:
                save(name, measured, results_folder(), commit)
    finally:
        if config.json:
            print(json.dumps(rows, indent=2, ensure_ascii=False))
        elif rows:
            show(rows)


def read_saved(folder: Path) -> pd.DataFrame:
    """Read the rows saved in ``folder``, none if there is no file yet. Raises ``CourseError`` as ``read_rows`` does."""
    import pandas as pd

    if not (folder / SAVED).exists():
        return pd.DataFrame(columns=[*FIELDS, *MADE_BY])
    texts = [column for column in (*FIELDS, *MADE_BY) if column not in NUMBERS]
    return read_rows(folder / SAVED, texts, NUMBERS, key=["name"])[[*FIELDS, *MADE_BY]]


def save(benchmark: str, rows: list[dict[str, Any]], folder: Path, commit: str | None) -> None:
    """Save the rows of ``benchmark`` in place of its older ones."""
    import pandas as pd

    made = provenance(f"python -m course bench {benchmark} --save", commit)
    new = pd.DataFrame(rows, columns=list(FIELDS)).assign(**made)
    write_rows(folder / SAVED, merged(read_saved(folder), new, benchmark))
    tell(f"{benchmark}: kept in results/{SAVED}; the page shows it after: python -m course results --page")


def merged(saved: pd.DataFrame, new: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Return ``saved`` with all rows of ``benchmark`` replaced by ``new``: in the first one's place, else at the end.

    Rows of the benchmark have its name, its name followed by a comma (so that a row named after a size goes when the
    size changes), or the name of a new row. All others stay as they are.
    """
    import pandas as pd

    names = saved["name"]
    old = ((names == benchmark) | names.str.startswith(f"{benchmark}, ") | names.isin(new["name"])).to_numpy()
    place = int(old.argmax()) if old.any() else len(saved)
    parts = [saved[:place], new, saved[place:][~old[place:]]]
    return pd.concat([part for part in parts if len(part)] or [saved], ignore_index=True)


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for each row: our value, the peer's, and their ratio."""
    table = Table()
    for column in ("benchmark", "ours", "peer", "unit"):
        table.add_column(column)
    for column in ("our value", "peer value", "ratio"):
        table.add_column(column, justify="right")
    table.add_column("besides")
    for row in rows:
        besides = ", ".join(_besides(key, value) for key, value in row.items() if key not in FIELDS)
        figures = (figure(row["our_value"]), figure(row["peer_value"]), f"{row['ratio']:.2f}x")
        table.add_row(row["name"], row["ours"], row["peer"], row["unit"], *figures, besides)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def figure(value: float) -> str:
    """Format a measured value for people: up to three decimals, thousands separated."""
    return f"{round(value, 3):,}"


def _besides(key: str, value: Any) -> str:
    return escape(value if key == "note" else f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}")
