"""Five indices over up to a million products: recall, queries a second, memory and time to build, side by side.

    python -m chapter01_baseline.studies.index_at_scale --size 100000

Every index and the vectors are kept: killed and started again, the step builds only what was not finished. Recall is
by score, not by id: of products with equal vectors any one is as good as another. Each index has a knob for how hard it
looks. All settings of it are measured on one half of the queries; there the fastest that reaches the target is chosen,
and what is reported was measured on the other half. `chapter01_baseline.studies.index_growth` draws the result.

The stand-in for the encoder, and the queries: `chapter01_baseline.studies.stand_in`. FAISS uses as many threads as
OMP_NUM_THREADS says, else all cores, for all kinds alike.
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
from chapter01_baseline.studies.stand_in import SHOPPERS, STAND_IN, ShopVectors, shop_vectors
from common.artifacts import Artifacts, fingerprint
from common.atomic import atomic_folder, atomic_write, read_json, write_json
from common.cli import run_step
from common.devices import hardware
from common.errors import CourseError
from common.progress import progress, tell
from common.settings import resolve_profile

CHAPTER, STEP = "chapter01_baseline", "studies.index_at_scale"
FORMAT = 1  # of a kept index and what is kept with it; a change of how they are made raises it
TOLERANCE = 1e-6  # two float32 sums of 384 products of the same numbers differ by less


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
    """What is searched for: what shoppers write, or products of other shops, as for "similar products"."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Which indices; Flat is always measured."""
    k: int = 10
    """Products asked for, and the k of recall@k."""
    target: float = 0.97
    """Recall that the reported setting of an index is to reach."""
    ef_construction: int = 400
    """HNSW: candidates looked at while building."""
    batch: int = 1_024
    """Queries asked at once."""
    batches: int = 2
    """Batches in each half of the queries."""
    rounds: int = 4
    """Measurements of every setting on each half, taken turn by turn; medians are reported."""
    seed: int = 0
    """Of the queries."""
    csv: Path | None = None
    """Also put the result into this CSV, in place of the rows of the same size, encoder and queries."""


ASKED = ("size", "encoder", "queries", "k", "batch", "target", "ef_construction")
"""What of the config stands in every row."""
OF_ONE_CSV = ("encoder", "queries", "size")
FEWEST = 1_000
SIZES = {"smoke": 2_000, "pocket": 100_000, "full": 1_000_000}


def main(config: IndexAtScaleConfig) -> pd.DataFrame:
    """Build what is not built, measure, and return a row for every setting of every kind (`measured`).

    A result of the same config, code and packages is read instead.
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
    """The config with its profile's size and Flat among its kinds. Raises CourseError for what cannot be measured."""
    unknown = [kind for kind in config.kinds if kind not in KINDS]
    if unknown:
        raise CourseError(f"index kind {unknown[0]!r} is unknown; choose among {', '.join(KINDS)}.")
    if config.rounds < config.batches or config.batches < 1:
        raise CourseError(f"rounds must be at least batches ({config.batches}), so that every query is asked.")
    profile = resolve_profile(config.profile)
    size = SIZES[profile] if config.size is None else config.size
    if size < FEWEST:
        raise CourseError(f"size must be at least {FEWEST:,}, not {size}: fewer are too few to train IVF on.")
    kinds = tuple(kind for kind in KINDS if kind == FLAT or kind in config.kinds)
    return replace(config, profile=profile, size=size, kinds=kinds)


def load_vectors(config: IndexAtScaleConfig) -> ShopVectors:
    """The vectors that a `resolved` config asks for."""
    return shop_vectors(config.size, 2 * config.batches * config.batch, config.encoder, config.seed, config.queries)


def measured(config: IndexAtScaleConfig, vectors: ShopVectors) -> pd.DataFrame:
    """A row for every kind and effort: what was measured on the half of the queries for reporting (`measure`), with
    `tuning_` before it on the other half; what the index took (`build`); `chosen`, one a kind, and whether it `reached`
    the target (`choose`). config: `resolved`."""
    built = pd.DataFrame([build(kind, config, vectors) for kind in config.kinds])
    indices = load(config, vectors)
    tuning, report = (measure(indices, half, config) for half in np.split(vectors.queries, 2))
    points = report.join(tuning.drop(columns=["kind", "effort"]).add_prefix("tuning_"))
    points = choose(points, config.target).merge(built, on="kind")
    points = points.sort_values("kind", key=lambda kinds: kinds.map(list(KINDS).index), kind="stable")
    return points.assign(**{name: getattr(config, name) for name in ASKED})


def build(kind: str, config: IndexAtScaleConfig, vectors: ShopVectors) -> dict[str, Any]:
    """Build an index and keep it, unless it was kept before: `kind, factory, build_seconds` (training and adding, the
    vectors being there), `file_mb, resident_mb` (10^6 bytes), `threads`, `faiss`."""
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
    """The built indices by kind. HNSW32 keeps its vectors in a flat index: that one is Flat, if it is there, so that
    they are in memory once."""
    import faiss

    indices = {}
    for kind in reversed(config.kinds):
        if kind == FLAT and HNSW in indices:
            indices[FLAT] = faiss.downcast_index(indices[HNSW].storage)
        else:
            indices[kind] = faiss.read_index(str(_folder(kind, config, vectors) / "index.faiss"))
    return {kind: indices[kind] for kind in config.kinds}


def measure(indices: dict[str, Any], queries: np.ndarray, config: IndexAtScaleConfig) -> pd.DataFrame:
    """Ask every kind at every effort, turn by turn, batch after batch of queries [Q, D].

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


def kth_scores(flat: Any, queries: np.ndarray, k: int) -> np.ndarray:
    """The k-th best score [Q] of each query over all products; of fewer than k products, the last one's."""
    found = flat.search(queries, min(k, flat.ntotal))[1]
    return _scores(flat, queries, found).min(axis=1)


def recall_by_score(flat: Any, queries: np.ndarray, found: np.ndarray, kth: np.ndarray) -> np.ndarray:
    """The recall@k [Q] of found rows [Q, k] (-1 for none): the share of k different products whose exact score is not
    below the k-th best score [Q], but for rounding. Products as near as the k-th all count, whichever was returned."""
    good = (found >= 0) & (_scores(flat, queries, found) >= kth[:, None] - TOLERANCE)
    first = np.ones_like(good)  # a product that is returned twice counts once
    for column in range(1, found.shape[1]):
        first[:, column] = (found[:, :column] != found[:, [column]]).all(axis=1)
    return (good & first).sum(axis=1) / min(found.shape[1], flat.ntotal)


def choose(points: pd.DataFrame, target: float) -> pd.DataFrame:
    """Mark one point a kind as `chosen`, by the tuning queries alone: the fastest whose recall less two standard errors
    is at least the target (`reached`), or the one of the highest recall if there is none."""
    safe = points["tuning_recall"] - 2 * points["tuning_recall_error"] >= target
    best = [
        part["tuning_queries_per_second"][safe].idxmax() if safe[part.index].any() else part["tuning_recall"].idxmax()
        for _, part in points.groupby("kind")
    ]
    return points.assign(chosen=points.index.isin(best), reached=points["kind"].map(safe.groupby(points["kind"]).any()))


def command(config: IndexAtScaleConfig) -> str:
    """What measures this again: with the size, and what else of `ASKED` is not as it is by default."""
    asked = {name: getattr(config, name) for name in ASKED}
    changed = {name: value for name, value in asked.items() if value != getattr(IndexAtScaleConfig(), name)}
    return f"python -m {CHAPTER}.{STEP} " + " ".join(f"--{name.replace('_', '-')} {v}" for name, v in changed.items())


def save_points(points: pd.DataFrame, csv: Path) -> None:
    """Put the points into a CSV, in place of older ones of the same size, encoder and queries."""
    if csv.is_file():
        old = pd.read_csv(csv, keep_default_na=False)
        if not set(OF_ONE_CSV) <= set(old):
            raise CourseError(f"{csv.name}: not a file of measured indices; remove it, or name another with --csv.")
        same = pd.MultiIndex.from_frame(old[list(OF_ONE_CSV)]).isin(pd.MultiIndex.from_frame(points[list(OF_ONE_CSV)]))
        points = pd.concat([old[~same], points])
        points = points.sort_values(list(OF_ONE_CSV), ascending=[True, False, True], kind="stable")
    with atomic_write(csv) as temporary:
        points.to_csv(temporary, index=False, float_format="%.6g")


def _turns(indices: dict[str, Any]) -> Iterator[tuple[str, Effort]]:
    """Every kind and effort, the kinds taking turns: whatever else the machine does hits all of them."""
    most = cells(indices[FLAT].ntotal, indices[FLAT].d)
    fitting = ([(kind, e) for e in KINDS[kind].efforts if e.get("nprobe", 1) <= most] for kind in indices)
    for turn in itertools.zip_longest(*fitting):
        yield from (point for point in turn if point)


def _scores(flat: Any, queries: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The inner products [Q, k] of queries and found rows, all summed in the same order: equal vectors score the
    same."""
    vectors = flat.reconstruct_batch(np.maximum(found, 0).ravel()).reshape(*found.shape, flat.d)
    return np.einsum("qd,qkd->qk", queries, vectors)


def _folder(kind: str, config: IndexAtScaleConfig, vectors: ShopVectors) -> Path:
    """Where an index is kept, by all that decides it and the time that it takes to build."""
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
