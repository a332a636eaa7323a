"""Compare five indices over up to a million products by recall, queries a second, memory and time to build.

    python -m chapter01_baseline.studies.index_at_scale --size 100000

Every index and the vectors are kept: killed and started again, the step builds only what was not finished. Each index
has a parameter that trades speed for recall. All its settings are measured on one half of the queries; there the
fastest that reaches the target is chosen, and the reported figures are measured on the other half.
`chapter01_baseline.studies.index_growth` draws the result.

Vectors and queries come from `chapter01_baseline.studies.stand_in`. FAISS uses OMP_NUM_THREADS threads, by default all
cores, for all kinds alike.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from chapter01_baseline.studies.index_kinds import (
    FLAT,
    HNSW,
    HNSW_SQ8,
    KINDS,
    TRAINED_ON,
    Effort,
    cells,
    effort_name,
    factory,
    filled_index,
    resident_bytes,
    search_parameters,
)
from chapter01_baseline.studies.recall import kth_scores, recall_by_score
from chapter01_baseline.studies.stand_in import SHOPPERS, STAND_IN, ShopVectors, shop_vectors
from common.artifacts import Artifacts, fingerprint
from common.atomic import atomic_folder, atomic_write, read_json, write_json
from common.cli import run_step
from common.devices import hardware
from common.errors import CourseError
from common.profiles import with_profile_defaults
from common.progress import progress, tell
from common.settings import DEFAULT_PROFILE

CHAPTER, STEP = "chapter01_baseline", "studies.index_at_scale"
FORMAT = 1  # of a kept index; raise it when indices are made in another way


@dataclass(frozen=True)
class IndexAtScaleConfig:
    """Build and measure indices over a text-only pocket shop."""

    size: int | None = None
    """Products. None: 2,000, 100,000 or 1,000,000 by profile."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = STAND_IN
    """"stand-in" (weighted means of token embeddings), or a text encoder such as "all-MiniLM-L6-v2"."""
    queries: Literal["shoppers", "products"] = SHOPPERS
    """What is searched for: queries in shoppers' words, or products of other shops, as for "similar products"."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Which indices; Flat is always measured."""
    k: int = 10
    """Products asked for, and the k of recall@k."""
    target: float = 0.97
    """Recall that the reported setting of an index should reach."""
    ef_construction: int = 400
    """HNSW: candidates examined while building."""
    batch: int | None = None
    """Queries searched at once. None: 128 in profile smoke, else 1,024."""
    batches: int = 2
    """Batches in each half of the queries."""
    rounds: int = 4
    """Measurements of every setting on each half, in turns; medians are reported."""
    seed: int = 0
    """Of the queries."""
    csv: Path | None = None
    """Also write the result into this CSV, in place of the rows of the same size, encoder and queries."""


SETTINGS = ("size", "encoder", "queries", "k", "batch", "target", "ef_construction")
"""Fields of the config that are columns of the result."""
CSV_KEYS = ("encoder", "queries", "size")
MIN_SIZE = 1_000
PROFILE_DEFAULTS = {
    "smoke": {"size": 2_000, "batch": 128},
    "pocket": {"size": 100_000, "batch": 1_024},
    "full": {"size": 1_000_000, "batch": 1_024},
}


def main(config: IndexAtScaleConfig) -> pd.DataFrame:
    """Build what is not built, measure, and return a row for every setting of every kind (`measured`).

    If there is a result of the same config, code and packages, read that instead.
    """
    import faiss

    config, csv = replace(resolved(config), csv=None), config.csv
    vectors = load_vectors(config)
    artifacts = Artifacts("pocket_shop", vectors.digest, config.profile)
    recipe = {**asdict(config), "threads": faiss.omp_get_max_threads()}
    run = artifacts.reuse(CHAPTER, STEP, config=recipe)
    if run is None:
        with artifacts.new_run(CHAPTER, STEP, config=recipe) as folder:
            measured(config, vectors).to_parquet(folder / "points.parquet", index=False)
        run = artifacts.current(CHAPTER, STEP)
    points = pd.read_parquet(run.path / "points.parquet")
    if csv is not None:
        made = {
            "command": command(config),
            "commit": (run.manifest["commit"] or "uncommitted")[:12],
            "hardware": hardware(),
        }
        save_points(points.assign(**made), csv)
    for row in points[points["chosen"]].itertuples():
        tell(
            f"{row.kind} {row.effort}: recall@{config.k} {row.recall:.3f}, {row.queries_per_second:,.0f} queries/s "
            f"({row.times_flat:.1f}x Flat), {row.resident_mb:,.0f} MB, built in {row.build_seconds:,.0f} s"
        )
    return points


def resolved(config: IndexAtScaleConfig) -> IndexAtScaleConfig:
    """Fill in the profile's size and add Flat to the kinds. Raises CourseError for what cannot be measured."""
    unknown = [kind for kind in config.kinds if kind not in KINDS]
    if unknown:
        raise CourseError(f"index kind {unknown[0]!r} is unknown; choose among {', '.join(KINDS)}.")
    if config.rounds < config.batches or config.batches < 1:
        raise CourseError(f"rounds must be at least batches ({config.batches}), so that every query is asked.")
    config = with_profile_defaults(config, PROFILE_DEFAULTS)
    if config.size < MIN_SIZE:
        raise CourseError(f"size must be at least {MIN_SIZE:,}, not {config.size}: IVF needs more to train on.")
    return replace(config, kinds=tuple(kind for kind in KINDS if kind == FLAT or kind in config.kinds))


def load_vectors(config: IndexAtScaleConfig) -> ShopVectors:
    """Return the vectors for a `resolved` config."""
    return shop_vectors(config.size, 2 * config.batches * config.batch, config.encoder, config.seed, config.queries)


def measured(config: IndexAtScaleConfig, vectors: ShopVectors) -> pd.DataFrame:
    """Build and measure all kinds, and return a row for every kind and effort.

    Columns: those of `measure` on the reporting half of the queries, and with the prefix `tuning_` on the other half;
    those of `build`; and `chosen`, true for one row of each kind, and `reached` (`choose`). config: `resolved`.
    """
    built = pd.DataFrame([build(kind, config, vectors) for kind in config.kinds])
    indices = load(config, vectors)
    tuning, report = (measure(indices, half, config) for half in np.split(vectors.queries, 2))
    points = report.join(tuning.drop(columns=["kind", "effort"]).add_prefix("tuning_"))
    points = choose(points, config.target).merge(built, on="kind")
    points = points.sort_values("kind", key=lambda kinds: kinds.map(list(KINDS).index), kind="stable")
    return points.assign(**{name: getattr(config, name) for name in SETTINGS})


def build(kind: str, config: IndexAtScaleConfig, vectors: ShopVectors) -> dict[str, Any]:
    """Build an index and keep it, unless it was kept before, and return what it took.

    Keys: `kind, factory, build_seconds` (training and adding, without the vectors), `file_mb, resident_mb` (10^6
    bytes), `threads`, `faiss`.
    """
    import faiss

    folder = _folder(kind, config, vectors)
    if not folder.is_dir():
        with atomic_folder(folder) as staging:
            tell(f"building {kind} over {len(vectors.products):,} products")
            started = time.perf_counter()
            index = filled_index(kind, vectors.products, config.ef_construction)
            seconds = time.perf_counter() - started
            file = staging / "index.faiss"
            faiss.write_index(index, str(file))
            del index
            report = {
                "kind": kind,
                "factory": factory(kind, *vectors.products.shape),
                "build_seconds": seconds,
                "file_mb": file.stat().st_size / 1e6,
                "resident_mb": resident_bytes(file) / 1e6,
                "threads": faiss.omp_get_max_threads(),
                "faiss": faiss.__version__,
            }
            write_json(staging / "build.json", report)
    return read_json(folder / "build.json")


def load(config: IndexAtScaleConfig, vectors: ShopVectors) -> dict[str, Any]:
    """Load the built indices by kind. HNSW32 keeps its vectors in a flat index, which also serves as Flat if both are
    there, so that the vectors are in memory only once."""
    import faiss

    indices = {}
    for kind in reversed(config.kinds):
        if kind == FLAT and HNSW in indices:
            indices[FLAT] = faiss.downcast_index(indices[HNSW].storage)
        else:
            indices[kind] = faiss.read_index(str(_folder(kind, config, vectors) / "index.faiss"))
    return {kind: indices[kind] for kind in config.kinds}


def measure(indices: dict[str, Any], queries: np.ndarray, config: IndexAtScaleConfig) -> pd.DataFrame:
    """Search with every kind at every effort, in turns, batch after batch of queries [Q, D].

    Columns: `kind, effort, recall` (mean over the queries), `recall_error` (its standard error), `queries_per_second`
    (median over the rounds), `times_flat` (median over the rounds of the ratio to Flat in the same round).
    """
    batches = np.split(queries, config.batches)
    kth = [kth_scores(indices[FLAT], batch, config.k) for batch in batches]
    points = list(_turns(indices))
    rates, recalls = np.zeros((config.rounds, len(points))), np.zeros((len(points), len(queries)))
    for kind, index in indices.items():  # the first call pays for threads and pages
        index.search(queries[:64], config.k, params=search_parameters(kind, KINDS[kind].efforts[0]))
    for turn in progress(range(config.rounds), desc="measuring"):
        at = turn % config.batches
        order = range(len(points)) if turn % 2 == 0 else reversed(range(len(points)))
        for number in order:
            kind, effort = points[number]
            parameters = search_parameters(kind, effort)
            started = time.perf_counter()
            found = indices[kind].search(batches[at], config.k, params=parameters)[1]
            rates[turn, number] = len(found) / (time.perf_counter() - started)
            own = slice(at * len(found), (at + 1) * len(found))
            recalls[number, own] = recall_by_score(indices[FLAT], batches[at], found, kth[at])
    flat = [kind for kind, _ in points].index(FLAT)
    table = pd.DataFrame([(kind, effort_name(effort)) for kind, effort in points], columns=["kind", "effort"])
    return table.assign(
        recall=recalls.mean(axis=1),
        recall_error=recalls.std(axis=1) / np.sqrt(len(queries)),
        queries_per_second=np.median(rates, axis=0),
        times_flat=np.median(rates / rates[:, [flat]], axis=0),
    )


def choose(points: pd.DataFrame, target: float) -> pd.DataFrame:
    """Mark one point of each kind as `chosen`, by the tuning queries alone.

    It is the fastest whose recall less two standard errors is at least the target (`reached`), or, if there is none,
    the one of the highest recall.
    """
    safe = points["tuning_recall"] - 2 * points["tuning_recall_error"] >= target
    best = [
        part["tuning_queries_per_second"][safe].idxmax() if safe[part.index].any() else part["tuning_recall"].idxmax()
        for _, part in points.groupby("kind")
    ]
    return points.assign(chosen=points.index.isin(best), reached=points["kind"].map(safe.groupby(points["kind"]).any()))


def command(config: IndexAtScaleConfig) -> str:
    """Return the command that repeats the measurement, with the `SETTINGS` that differ from their defaults.

    The size is always named, since the profile is not.
    """
    usual = IndexAtScaleConfig(batch=PROFILE_DEFAULTS[DEFAULT_PROFILE]["batch"])
    settings = {name: getattr(config, name) for name in SETTINGS}
    changed = {name: value for name, value in settings.items() if value != getattr(usual, name)}
    return f"python -m {CHAPTER}.{STEP} " + " ".join(f"--{name.replace('_', '-')} {v}" for name, v in changed.items())


def save_points(points: pd.DataFrame, csv: Path) -> None:
    """Write the points into a CSV, in place of older ones of the same size, encoder and queries."""
    if csv.is_file():
        old = pd.read_csv(csv, keep_default_na=False)
        if not set(CSV_KEYS) <= set(old):
            raise CourseError(f"{csv.name}: not a file of measured indices; remove it, or name another with --csv.")
        same = pd.MultiIndex.from_frame(old[list(CSV_KEYS)]).isin(pd.MultiIndex.from_frame(points[list(CSV_KEYS)]))
        points = pd.concat([old[~same], points])
        points = points.sort_values(list(CSV_KEYS), ascending=[True, False, True], kind="stable")
    with atomic_write(csv) as temporary:
        points.to_csv(temporary, index=False, float_format="%.6g")


def _turns(indices: dict[str, Any]) -> Iterator[tuple[str, Effort]]:
    """Yield every kind and effort, the kinds in turns, so that other load on the machine affects them all."""
    most = cells(indices[FLAT].ntotal, indices[FLAT].d)
    fitting = ([(kind, e) for e in KINDS[kind].efforts if e.get("nprobe", 1) <= most] for kind in indices)
    for turn in itertools.zip_longest(*fitting):
        yield from (point for point in turn if point)


def _folder(kind: str, config: IndexAtScaleConfig, vectors: ShopVectors) -> Path:
    """Return the folder of an index, named after everything that decides the index and its building time."""
    import faiss

    recipe = {
        "format": FORMAT,
        "factory": factory(kind, *vectors.products.shape),
        "ef_construction": config.ef_construction if kind in (HNSW, HNSW_SQ8) else None,
        "trained_on": TRAINED_ON,
        "threads": faiss.omp_get_max_threads(),
        "faiss": faiss.__version__,
    }
    return vectors.folder / f"{kind.replace(' ', '-')}-{fingerprint(recipe)}"


if __name__ == "__main__":
    run_step(main)
