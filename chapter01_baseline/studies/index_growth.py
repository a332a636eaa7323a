"""Show what `index_at_scale` measured as tables and pictures, and extrapolate it to a billion products.

`on_paper` says how it extrapolates to sizes that were not measured; every assumption is an argument (`Assumptions`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from chapter01_baseline.studies.index_at_scale import choose
from chapter01_baseline.studies.index_kinds import HNSW, HNSW_SQ8, KINDS
from common.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#444444", "#33658a", "#2a9d8f", "#e76f51", "#9b5de5")
COLUMNS = ("size", "queries", "kind", "effort", "k", "batch", "target", "threads", "recall", "queries_per_second")
COLUMNS += ("times_flat", "resident_mb", "file_mb", "build_seconds", "chosen", "reached", "command", "commit")
COLUMNS += ("hardware",)
GROWING = {
    "seconds_per_query": "processor seconds a query",
    "resident_mb": "memory, MB",
    "build_seconds": "seconds to build",
}


def read_points(csv: Path) -> pd.DataFrame:
    """Read the points of all sizes that `--csv` wrote. Raises CourseError, with the command that makes the file, if the
    file or a column of it is missing."""
    name, again = Path(csv).name, "python -m chapter01_baseline.studies.index_at_scale --size 100000 --csv"
    if not Path(csv).is_file():
        raise CourseError(f"{name}: not measured yet. Make it with: {again} {name}")
    points = pd.read_csv(csv, keep_default_na=False, dtype={"effort": str})
    missing = [column for column in COLUMNS if column not in points]
    if missing:
        raise CourseError(f"{name}: column {missing[0]!r} is missing. Remove the file and make it with: {again} {name}")
    return points


def summary(points: pd.DataFrame) -> pd.DataFrame:
    """Return a row for every kind of queries, size and index: the setting that the tuning queries chose, with the
    figures of the reporting queries.

    Memory is what a process that reads the index grows by; the file is what it takes on the disk. An index that reaches
    the target with no setting has its best recall, and `reached` False.
    """
    parts = [part[part["chosen"]] for _, part in _kinds(points)]
    chosen = pd.concat(parts).sort_values(["queries", "size"], ascending=[False, True], kind="stable")
    return pd.DataFrame(
        {
            "queries": chosen["queries"],
            "products": chosen["size"],
            "index": chosen["kind"],
            "setting": chosen["effort"],
            f"recall@{chosen['k'].iloc[0]}": chosen["recall"].round(3),
            "reached": chosen["reached"],
            "queries/s": chosen["queries_per_second"].round().astype(int),
            "x Flat": chosen["times_flat"].round(1),
            "memory, MB": chosen["resident_mb"].round(1),
            "file, MB": chosen["file_mb"].round(1),
            "bytes a product": (chosen["file_mb"] * 1e6 / chosen["size"]).round().astype(int),
            "build, s": chosen["build_seconds"].round(1),
        }
    ).reset_index(drop=True)


def headline(points: pd.DataFrame) -> dict[str, float]:
    """Return, at one size, recall and times_flat of HNSW32-SQ8, and its shares of HNSW32's memory and file."""
    chosen = points[points["chosen"]].set_index("kind")
    small, large = chosen.loc[HNSW_SQ8], chosen.loc[HNSW]
    return {
        "recall": float(small["recall"]),
        "times_flat": float(small["times_flat"]),
        "memory_share": float(small["resident_mb"] / large["resident_mb"]),
        "file_share": float(small["file_mb"] / large["file_mb"]),
    }


def by_target(points: pd.DataFrame, targets: Sequence[float]) -> pd.DataFrame:
    """Return how many times as fast as Flat each kind is at one size, for each target.

    The tuning queries choose the setting, and the reporting queries measure it; NaN if no setting surely reaches the
    target.
    """
    columns = {}
    for target in targets:
        rows = choose(points, target)
        rows = rows[rows["chosen"] & rows["reached"]].set_index("kind")
        columns[f"recall {target}"] = rows["times_flat"].reindex([kind for kind, _ in _kinds(points)])
    return pd.DataFrame(columns)


def draw_frontier(axes: Axes, points: pd.DataFrame) -> None:
    """Draw recall against queries a second for every setting of every kind at one size.

    The line joins the settings that no other of the kind beats in both; the ring marks the chosen one, and the dotted
    line the target.
    """
    for (kind, part), colour in zip(_kinds(points), COLOURS, strict=False):
        edge = frontier(part)
        axes.scatter(part["recall"], part["queries_per_second"], s=9, color=colour, alpha=0.35, linewidths=0)
        axes.plot(edge["recall"], edge["queries_per_second"], marker="o", ms=4, color=colour, label=kind)
        chosen = part[part["chosen"]]
        axes.scatter(chosen["recall"], chosen["queries_per_second"], s=110, facecolors="none", edgecolors=colour)
    axes.axvline(points["target"].iloc[0], color="#888888", linestyle=":", linewidth=1)
    size, batch, k = (points[name].iloc[0] for name in ("size", "batch", "k"))
    axes.set(
        yscale="log", xlabel=f"recall@{k}", ylabel=f"queries a second, {batch:,} at once", title=f"{size:,} products"
    )
    axes.legend(fontsize=8)


def frontier(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points that no other beats in both recall and queries a second, by ascending recall."""
    fastest = points.sort_values(["queries_per_second", "recall"], ascending=False, kind="stable")
    above = fastest["recall"].cummax().shift(fill_value=-1.0)
    return fastest[fastest["recall"] > above].sort_values("recall")


def draw_growth(axes: Sequence[Axes], points: pd.DataFrame) -> None:
    """Draw on three axes the seconds of a query, the memory and the build of each kind against the number of products.

    On these scales a straight line is a power; the legend has its slope (1: in proportion).
    """
    table = growth(points)
    for ax, (column, label) in zip(axes, GROWING.items(), strict=True):
        for (kind, part), colour in zip(_kinds(table), COLOURS, strict=False):
            slope = f" ({exponent(part, column):.2f})" if len(part) > 1 else ""
            ax.plot(part["size"], part[column], marker="o", color=colour, label=kind + slope)
        ax.set(xscale="log", yscale="log", xlabel="products", title=label)
        ax.legend(fontsize=7)


def growth(points: pd.DataFrame) -> pd.DataFrame:
    """Return the chosen settings by size, with `seconds_per_query` of one thread (threads / queries a second)."""
    chosen = points[points["chosen"]].sort_values("size", kind="stable")
    return chosen.assign(seconds_per_query=chosen["threads"] / chosen["queries_per_second"])


def exponent(rows: pd.DataFrame, column: str) -> float:
    """Return the power of the number of products with which a column grows (least-squares slope of the logarithms)."""
    return float(np.polyfit(np.log(rows["size"]), np.log(rows[column]), 1)[0])


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of `on_paper`, besides the measured figures."""

    machine_gb: float = 256
    """Memory of a machine, 10^9 bytes."""
    usable: float = 0.7
    """Share of the memory that indices may fill."""
    threads: int = 32
    """Of a machine."""
    thread_yield: float = 0.7
    """Work of each thread, as a share of what a measured one did: all share the memory's bandwidth."""
    queries_per_second: float = 1_000
    """Load on all machines together."""
    shard_at_most: int = 100_000_000
    """Products in one index: figures of a million products should not be extrapolated further."""
    embedded_per_second: float = 200
    """Products that the encoder embeds a second on one machine."""
    dimension: int = 384
    """Of the vectors, which are kept as float32 to build the index from."""


def on_paper(
    points: pd.DataFrame, products: Sequence[int] = (10**8, 10**9), assumptions: Assumptions | None = None
) -> pd.DataFrame:
    """Estimate what each kind takes for so many products, extrapolated from at least two measured sizes.

    Memory: the bytes of a product at the largest measured size (the cells' centres grow more slowly, which is
    neglected). The products are split into `shards`, as few as memory and `shard_at_most` allow; every query searches
    every shard. The times of a query and of a build in one shard grow from the largest measured size by the power
    fitted to all sizes (`exponent`). `machines`: as many as hold all shards once, or as the queries need, whichever is
    more; each is filled with shards. `latency_ms`: of one thread in one shard, without waiting. `build_hours`: of these
    machines together, each shard built by one of them; `embed_days`: of one machine. `vectors_tb`: on the disk, 10^12
    bytes. Not included: network and merging, spare machines, changes of the catalogue, a change of recall. Raises
    CourseError for fewer than two sizes of a kind.
    """
    assumptions = assumptions or Assumptions()
    rows = []
    for kind, part in _kinds(growth(points)):
        if part["size"].nunique() < 2:
            raise CourseError(f"on paper: {kind} was measured at one size only; measure a second one to extrapolate.")
        rows += [_on_paper(kind, part, count, assumptions) for count in products]
    return pd.DataFrame(rows).sort_values("products", kind="stable").reset_index(drop=True)


def _on_paper(kind: str, part: pd.DataFrame, products: int, given: Assumptions) -> dict[str, Any]:
    largest = part.iloc[-1]
    memory = largest["resident_mb"] / largest["size"] * products / 1_000  # 10^9 bytes
    room, power = given.machine_gb * given.usable, given.threads * given.thread_yield
    shards = max(math.ceil(memory / room), math.ceil(products / given.shard_at_most))
    times = products / shards / largest["size"]
    seconds = largest["seconds_per_query"] * times ** exponent(part, "seconds_per_query")
    build = largest["build_seconds"] * largest["threads"] * times ** exponent(part, "build_seconds")
    machines = max(math.ceil(memory / room), math.ceil(given.queries_per_second * seconds * shards / power))
    return {
        "products": products,
        "index": kind,
        "memory_gb": memory,
        "shards": shards,
        "machines": machines,
        "latency_ms": seconds * 1_000,
        "build_hours": build * shards / (min(machines, shards) * power) / 3_600,
        "embed_days": products / given.embedded_per_second / 86_400,
        "vectors_tb": products * given.dimension * 4 / 1e12,
    }


def _kinds(points: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split a table by kind, in the order of the kinds."""
    return [(kind, points[points["kind"] == kind]) for kind in sorted(set(points["kind"]), key=list(KINDS).index)]
