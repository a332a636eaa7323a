"""Choose the weights of the fusions and the strength of the feedback on validation queries.

No test query is ever read here. `python -m chapter01_baseline.choose`
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from chapter01_baseline.expansion import RM3Searcher, RocchioSearcher, choose_feedback
from chapter01_baseline.fusion import choose_weight
from chapter01_baseline.keyword import keyword_text
from chapter01_baseline.reindex import Indices, load_indices
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.search import Searcher

CHAPTER, STEP = "chapter01_baseline", "choose"
DEPTH = 200

DEFAULTS: dict[str, Any] = {
    "fusion_weight": 0.5,
    "rm3": {"weight": 0.0},
    "rocchio": {"beta": 0.0},
    "feedback_fusion_weight": 0.5,
}
"""Choices for a catalogue without judged validation queries: equal shares, no feedback."""

# "No feedback" comes first and wins ties, so that feedback is only switched on if it gains something.
RM3_GRID = [
    {"weight": 0.0},
    *({"weight": w, "n_feedback": n} for w, n in itertools.product((0.2, 0.4, 0.6, 0.8), (3, 10))),
]
ROCCHIO_GRID = [
    {"beta": 0.0},
    *({"beta": b, "n_feedback": n} for b, n in itertools.product((0.2, 0.5, 1.0), (3, 10))),
]


@dataclass(frozen=True)
class ChooseConfig:
    """Choose fusion weight and feedback on the validation queries of a catalogue."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    gains: str = "linear"
    """Gains of nDCG@10, by which the choice is made: linear or esci."""


@dataclass(frozen=True)
class Choices:
    """run: where they are saved. fusion_weight: share of the vectors. rm3, rocchio: settings of the feedback.
    feedback_fusion_weight: share of the vectors if both lists come from feedback. curves: by name ("fusion", "rm3",
    "rocchio", "feedback_fusion") the nDCG@10 of every setting tried; empty without judgements."""

    run: RunFolder
    fusion_weight: float
    rm3: dict[str, float]
    rocchio: dict[str, float]
    feedback_fusion_weight: float
    curves: dict[str, pd.DataFrame]


def main(config: ChooseConfig) -> Choices:
    """Try every setting on the validation queries, and save the best ones with their curves."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    indices = load_indices(artifacts, catalogue)
    inputs = {"reindex": indices.run}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            save_choices(folder, indices, config.gains)
    return load_choices(artifacts)


def save_choices(folder: Path, indices: Indices, gains: str = "linear") -> None:
    """Choose on the validation queries of the catalogue and write choices and curves into the folder of a run."""
    queries = judged_queries(indices.catalogue, "val")
    chosen, curves = choose_on(queries, indices, gains) if len(queries) else (DEFAULTS, {})
    write_json(folder / "choices.json", chosen)
    for name, curve in curves.items():
        curve.to_parquet(folder / f"{name}.parquet", index=False)


def load_choices(artifacts: Artifacts, chapter: str = CHAPTER) -> Choices:
    """Read the current choices of a chapter; raises `MissingArtifact` with the command that makes them."""
    run = artifacts.current(chapter, STEP)
    curves = {path.stem: pd.read_parquet(path) for path in sorted(run.path.glob("*.parquet"))}
    return Choices(run=run, curves=curves, **read_json(run.path / "choices.json"))


def evaluation_judgements(catalogue: Catalogue) -> pd.DataFrame:
    """Return the grades that systems are measured by: the full truth if the source knows it, else the judgements."""
    return catalogue.truth if len(catalogue.truth) else catalogue.judgements


def judged_queries(catalogue: Catalogue, split: str) -> pd.DataFrame:
    """Return the queries of a split that have judgements; there may be none."""
    queries = catalogue.split_queries(split)
    return queries[queries["query_id"].isin(evaluation_judgements(catalogue)["query_id"])].reset_index(drop=True)


def feedback_searchers(indices: Indices) -> dict[str, Callable[..., Searcher]]:
    """Return makers of RM3 over the keyword index and of Rocchio over the vectors; each takes its settings."""
    texts = dict(zip(indices.product_ids, keyword_text(indices.catalogue.products), strict=True))
    return {
        "rm3": lambda **settings: RM3Searcher(indices.keyword, texts, **settings),
        "rocchio": lambda **settings: RocchioSearcher(
            indices.dense, indices.embeddings, indices.product_ids, **settings
        ),
    }


def choose_on(
    queries: pd.DataFrame, indices: Indices, gains: str = "linear"
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Return the best settings for judged `queries` (`query_id, query`), and the curves they were chosen from."""
    words, ids = queries["query"].tolist(), queries["query_id"].tolist()
    grades = evaluation_judgements(indices.catalogue)
    rankings = [searcher.search(words, DEPTH) for searcher in (indices.keyword, indices.dense)]
    chosen, curves = {}, {}
    chosen["fusion_weight"], curves["fusion"] = choose_weight(rankings, ids, grades, gains=gains)
    again = []
    for name, grid in (("rm3", RM3_GRID), ("rocchio", ROCCHIO_GRID)):
        build = feedback_searchers(indices)[name]
        chosen[name], curves[name] = choose_feedback(build, grid, words, ids, grades, depth=DEPTH, gains=gains)
        again.append(build(**chosen[name]).search(words, DEPTH))
    weight, curves["feedback_fusion"] = choose_weight(again, ids, grades, gains=gains)
    chosen["feedback_fusion_weight"] = weight
    return chosen, curves


if __name__ == "__main__":
    run_step(main)
