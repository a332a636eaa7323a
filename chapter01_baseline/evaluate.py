"""Measure every system of the chapter on the test queries, once, after everything has been chosen on validation.

`python -m chapter01_baseline.evaluate --catalogue pocket_shop`

On validation queries (`--split val`; some sources have no others) the figures are cross-validated instead: each query
is searched with settings that were chosen on other queries.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from chapter01_baseline.choose import DEPTH, evaluation_judgements, judged_queries
from chapter01_baseline.cross_validate import cross_validated_hits
from chapter01_baseline.reindex import load_indices
from chapter01_baseline.reranker import load_rerankers
from chapter01_baseline.systems import (
    BM25,
    BM25_RM3,
    FUSION,
    FUSION_FEEDBACK,
    MINILM,
    MINILM_ROCCHIO,
    RERANKED_FUSION,
    RERANKED_FUSION_FEEDBACK,
    systems,
)
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError, MissingArtifact
from common.evaluation import METRICS, compare, evaluate, holm, summarise
from common.progress import progress
from common.scoreboard import read_scoreboard, save_scoreboard
from common.search import Hits, Searcher
from common.trec import read_trec_run, write_trec_run

CHAPTER, STEP = "chapter01_baseline", "evaluate"
HEADLINE = "nDCG@10"

CLAIMS = (
    (FUSION, BM25, HEADLINE),
    (FUSION, MINILM, HEADLINE),
    (BM25_RM3, BM25, HEADLINE),
    (MINILM_ROCCHIO, MINILM, HEADLINE),
    (FUSION_FEEDBACK, FUSION, HEADLINE),
    (RERANKED_FUSION, FUSION, HEADLINE),
    (RERANKED_FUSION_FEEDBACK, FUSION_FEEDBACK, HEADLINE),
)
"""The chapter's claims (system, against, metric); their p-values are corrected together (Holm)."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure every built system of chapter 1 on the judged queries of one split."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: str = "test"
    """Which queries: test for a figure to report, val while developing."""
    gains: str = "linear"
    """Gains of nDCG: linear or esci."""
    borrow_cross_encoder: str | None = None
    """Catalogue whose trained cross-encoder reranks, for a catalogue without training queries (split val only)."""
    seed: int = 0
    """Of the bootstrap, the paired tests and the folds."""


@dataclass(frozen=True)
class EvaluateResult:
    """run: where everything is saved, TREC runs too. scoreboard: a row for each system and metric. per_query: by
    system, a row for each query and a column for each metric. comparisons: the paired tests of `CLAIMS`."""

    run: RunFolder
    scoreboard: pd.DataFrame
    per_query: dict[str, pd.DataFrame]
    comparisons: pd.DataFrame


def main(config: EvaluateConfig) -> EvaluateResult:
    """Search with every system, score the hits, and save scoreboard, scores of each query, comparisons and runs.

    Raises `MissingArtifact`, with the command to run, for what is not built yet, and `CourseError` if no query of the
    split is judged, or if a cross-encoder is borrowed for another split than val.
    """
    lender = _lender(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    queries = judged_queries(catalogue, config.split)
    if queries.empty:
        raise CourseError(f"evaluate: catalogue {catalogue.source} has no judged queries of split {config.split!r}.")
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = _inputs(artifacts, lender)
    run = artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs)
    if run is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            hits, seconds = _search(catalogue, artifacts, queries, config, lender)
            per_query = score_all(hits, queries, catalogue, config.gains)
            board = to_scoreboard(per_query, seconds, catalogue, config)
            save_evaluation(folder, board, per_query, compare_claims(per_query, config.seed), hits)
    return load_evaluation(artifacts)


def save_evaluation(
    folder: Path,
    board: pd.DataFrame,
    per_query: Mapping[str, pd.DataFrame],
    comparisons: pd.DataFrame,
    hits: Mapping[str, Hits],
) -> None:
    """Write what `load_evaluation` and `saved_hits` read into the folder of a run."""
    save_scoreboard(folder, board)
    pd.concat(per_query, names=["system"]).to_parquet(folder / "per_query.parquet")
    comparisons.to_parquet(folder / "comparisons.parquet", index=False)
    for name, found in hits.items():
        write_trec_run(folder / f"{_file_name(name)}.trec", found, per_query[name].index, tag=_file_name(name))


def load_evaluation(artifacts: Artifacts, chapter: str = CHAPTER) -> EvaluateResult:
    """Read the current evaluation of a chapter; raises `MissingArtifact` with the command that makes it."""
    run = artifacts.current(chapter, STEP)
    stacked = pd.read_parquet(run.path / "per_query.parquet")
    per_query = {name: stacked.xs(name, level="system") for name in stacked.index.unique("system")}
    comparisons = pd.read_parquet(run.path / "comparisons.parquet")
    return EvaluateResult(run, read_scoreboard(run.path), per_query, comparisons)


def saved_hits(result: EvaluateResult, system: str) -> Hits:
    """Return the hits of a system of a saved evaluation, one row for each query of `result.per_query[system]`."""
    query_ids = result.per_query[system].index.tolist()
    return read_trec_run(result.run.path / f"{_file_name(system)}.trec", query_ids)


def search_all(searchers: Mapping[str, Searcher], queries: pd.DataFrame) -> tuple[dict[str, Hits], dict[str, float]]:
    """Return the first 200 hits of every searcher for `queries` (column `query`), and how many seconds each took."""
    hits, seconds = {}, {}
    words = queries["query"].tolist()
    for name, searcher in progress(searchers.items(), desc="searching", unit="system", leave=False):
        started = time.perf_counter()
        hits[name] = searcher.search(words, DEPTH)
        seconds[name] = time.perf_counter() - started
    return hits, seconds


def score_all(
    hits: Mapping[str, Hits], queries: pd.DataFrame, catalogue: Catalogue, gains: str = "linear"
) -> dict[str, pd.DataFrame]:
    """Return, by system, the metrics of every query; by the full truth if the catalogue knows it."""
    grades = evaluation_judgements(catalogue)
    # Under the full truth nothing is unjudged.
    metrics = [metric for metric in METRICS if not (len(catalogue.truth) and metric.startswith("Judged"))]
    return {name: evaluate(found, queries, grades, metrics=metrics, gains=gains) for name, found in hits.items()}


def to_scoreboard(
    per_query: Mapping[str, pd.DataFrame],
    seconds: Mapping[str, float],
    catalogue: Catalogue,
    config: EvaluateConfig,
    chapter: str = CHAPTER,
) -> pd.DataFrame:
    """Return the scoreboard's rows: for every system and metric its mean, 95% interval and number of queries."""
    tables = []
    for name, scores in per_query.items():
        table = summarise(scores, seed=config.seed)
        table.insert(0, "split", config.split)
        table.insert(0, "source", catalogue.source)
        table.insert(0, "system", name)
        table.insert(0, "chapter", chapter)
        table["seconds"] = seconds[name]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def compare_claims(
    per_query: Mapping[str, pd.DataFrame], seed: int, claims: Sequence[tuple[str, str, str]] = CLAIMS
) -> pd.DataFrame:
    """Return a row for each claim (system, against, metric) whose systems were measured: the difference with its
    interval, p, and p_holm (corrected for the number of claims)."""
    rows = [
        {
            "system": system,
            "against": other,
            **asdict(compare(per_query[system], per_query[other], metric, seed=seed)),
        }
        for system, other, metric in claims
        if all(name in per_query and metric in per_query[name] for name in (system, other))
    ]
    corrected = holm({str(number): row["p"] for number, row in enumerate(rows)})
    return pd.DataFrame([row | {"p_holm": corrected[str(number)]} for number, row in enumerate(rows)])


def by_kind(per_query: Mapping[str, pd.DataFrame], queries: pd.DataFrame, metric: str = HEADLINE) -> pd.DataFrame:
    """Return the mean of a metric by kind of query (rows) and system (columns)."""
    kinds = queries.set_index("query_id")["kind"]
    return pd.DataFrame({name: scores[metric].groupby(kinds).mean() for name, scores in per_query.items()})


def _search(
    catalogue: Catalogue, artifacts: Artifacts, queries: pd.DataFrame, config: EvaluateConfig, lender: Artifacts | None
) -> tuple[dict[str, Hits], dict[str, float]]:
    if config.split != "val":
        return search_all(systems(artifacts, catalogue), queries)
    indices = load_indices(artifacts, catalogue)
    reranker = None if lender is None else load_rerankers({"any": indices.dense}, catalogue, lender)["any"]
    hits = cross_validated_hits(queries, indices, reranker, seed=config.seed, gains=config.gains)
    return hits, dict.fromkeys(hits, float("nan"))  # most of the time went into choosing: it says nothing of a search


def _lender(config: EvaluateConfig) -> Artifacts | None:
    """Return the artifacts of the catalogue whose cross-encoder is borrowed, None if none is."""
    if not config.borrow_cross_encoder:
        return None
    if config.split != "val":
        raise CourseError(
            f"evaluate: a cross-encoder is borrowed for cross-validation only, not for split {config.split!r}; "
            "add --split val, or leave out --borrow-cross-encoder."
        )
    lender = load_catalogue(config.borrow_cross_encoder, profile=config.profile)
    return Artifacts.for_catalogue(lender, config.profile)


def _inputs(artifacts: Artifacts, lender: Artifacts | None) -> dict[str, RunFolder]:
    inputs = {step: artifacts.current(CHAPTER, step) for step in ("reindex", "choose")}
    with suppress(MissingArtifact):
        inputs["rerank"] = artifacts.current(CHAPTER, "rerank")
    if lender is not None:
        inputs["borrowed_rerank"] = lender.current(CHAPTER, "rerank")
    return inputs


def _file_name(system: str) -> str:
    return re.sub("[^a-z0-9]+", "_", system.lower())


if __name__ == "__main__":
    run_step(main)
