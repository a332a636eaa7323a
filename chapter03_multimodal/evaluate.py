"""Measures search with pictures on the queries of chapters 1 and 2, and puts all the chapter's figures on the board.

`python -m chapter03_multimodal.evaluate --catalogue pocket_shop`

The course's thread: the same test queries, the same grades, the figures of the earlier chapters read from their own
evaluations, query by query. Beside it stand the chapter's other figures, as far as their steps were run: retrieval
among products (`retrieval`), the classifier and compatibility.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from chapter01_baseline import evaluate as baseline
from chapter01_baseline.choose import judged_queries
from chapter01_baseline.evaluate import (
    EvaluateResult,
    compare_claims,
    load_evaluation,
    save_evaluation,
    score_all,
    search_all,
    to_scoreboard,
)
from chapter02_two_tower import evaluate as two_tower
from chapter02_two_tower.evaluate import add_gains, add_judged_only, earlier_scores
from chapter03_multimodal import retrieval
from chapter03_multimodal.categories import classifier as category_classifier
from chapter03_multimodal.outfits import compatibility
from chapter03_multimodal.studies import real_photos
from chapter03_multimodal.studies import thinned_tails as longer_tails
from chapter03_multimodal.systems import BEST, systems
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError, MissingArtifact

CHAPTER, STEP = "chapter03_multimodal", "evaluate"
HEADLINE = "nDCG@10"
JOINT = "text + image"

CLAIMS = (
    *((BEST, "two towers + BM25 + feedback", metric) for metric in (HEADLINE, "R@10", "MRR")),
    *((JOINT, "two towers", metric) for metric in (HEADLINE, "R@10", "MRR")),
    ("text + image + Rocchio", "two towers + Rocchio", HEADLINE),
    ("text + image + BM25", "two towers + BM25", HEADLINE),
    (BEST, "reranked fusion + feedback", HEADLINE),
)
"""What the chapter makes a statement about (system, against, metric); the p-values are corrected together (Holm)."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure search with pictures on the judged test queries of a catalogue, against chapters 1 and 2."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: str = "test"
    """test or val; the earlier chapters must have been evaluated on the same. On val the figures flatter: shares and
    weights were chosen there."""
    gains: str = "linear"
    """linear or esci, as in the earlier evaluations."""
    seed: int = 0
    """Of the bootstrap and the paired tests."""


def main(config: EvaluateConfig) -> EvaluateResult:
    """Search with the chapter's systems, score the hits, and save scoreboard, scores of each query, runs and claims.

    A catalogue without judged queries gets the rows of the other measurements alone. Raises CourseError if there are
    none of these either, and if an earlier chapter was not evaluated on the same queries in the same way.
    """
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    queries, inputs = judged_queries(catalogue, config.split), {}
    if len(queries):
        inputs = {step: artifacts.current(CHAPTER, step) for step in ("reindex", "choose")}
        inputs |= {
            "baseline": artifacts.current(baseline.CHAPTER, STEP),
            "towers": artifacts.current(two_tower.CHAPTER, STEP),
            "text_choices": artifacts.current(two_tower.CHAPTER, "choose"),
        }
    for step in OTHERS:
        with suppress(MissingArtifact):
            inputs[step] = artifacts.current(CHAPTER, step)
    if not inputs:
        raise CourseError(
            f"{catalogue.source} has no judged {config.split} queries, and nothing else was measured on it; run "
            "retrieval, category_classifier or compatibility, or real_photos for "
            f"{' or '.join(real_photos.SOURCES)}, first."
        )
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        rows = [of(artifacts, catalogue) for step, of in OTHERS.items() if step in inputs]
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            if len(queries):
                theirs = _earlier(artifacts, catalogue, queries, config)
                hits, seconds = search_all(systems(artifacts, catalogue), queries)
                ours = add_judged_only(score_all(hits, queries, catalogue, config.gains), hits, catalogue, config.gains)
                comparisons = add_gains(compare_claims(theirs | ours, config.seed, CLAIMS), theirs | ours)
                board = to_scoreboard(ours, seconds, catalogue, config, CHAPTER)
                save_evaluation(folder, pd.concat([board, *rows], ignore_index=True), ours, comparisons, hits)
            else:
                _save_without_queries(folder, pd.concat(rows, ignore_index=True))
    return load_evaluation(artifacts, CHAPTER)


def _earlier(
    artifacts: Artifacts, catalogue: Catalogue, queries: pd.DataFrame, config: EvaluateConfig
) -> dict[str, pd.DataFrame]:
    """The scores of each query of both earlier chapters, by system."""
    chapters = (baseline.CHAPTER, two_tower.CHAPTER)
    return {
        name: scores
        for chapter in chapters
        for name, scores in earlier_scores(artifacts, catalogue, queries, config, chapter).items()
    }


def _save_without_queries(folder: Path, board: pd.DataFrame) -> None:
    """Write a board and, for `load_evaluation`, tables of no query and no claim."""
    board.to_parquet(folder / "scoreboard.parquet", index=False)
    no_queries = pd.MultiIndex.from_arrays([[], []], names=["system", "query_id"])
    pd.DataFrame(index=no_queries).to_parquet(folder / "per_query.parquet")
    pd.DataFrame().to_parquet(folder / "comparisons.parquet", index=False)


def _retrieval_rows(artifacts: Artifacts, catalogue: Catalogue) -> pd.DataFrame:
    return retrieval.scoreboard_rows(retrieval.load_retrieval(artifacts), catalogue)


def _classifier_rows(artifacts: Artifacts, catalogue: Catalogue) -> pd.DataFrame:
    """Plain cross-entropy and the technique that was chosen; the interval of their difference is in `comparison`."""
    found = category_classifier.load_classifier(artifacts)
    technique = found.results.loc[found.results["chosen"], "technique"].iloc[0]
    systems = {"plain": "classifier, plain cross-entropy", "chosen": f"classifier, {technique}"}
    table = found.comparison.melt(id_vars="metric", value_vars=list(systems), var_name="system")
    named = table.assign(system=table["system"].map(systems), metric="category " + table["metric"])
    facts = {"chapter": CHAPTER, "source": catalogue.source, "split": "test", "n_queries": len(found.predictions)}
    return named.assign(ci_low=float("nan"), ci_high=float("nan"), seconds=float("nan"), **facts)


def _compatibility_rows(artifacts: Artifacts, catalogue: Catalogue) -> pd.DataFrame:
    found = compatibility.load_compatibility(artifacts).held_out.rename(columns={"n": "n_queries"})
    found = found[["system", "metric", "value", "ci_low", "ci_high", "n_queries"]]
    facts = {"chapter": CHAPTER, "source": catalogue.source, "split": "test", "seconds": float("nan")}
    return found.assign(system="compatibility, " + found["system"], **facts)


OTHERS: dict[str, Callable[[Artifacts, Catalogue], pd.DataFrame]] = {
    "retrieval": _retrieval_rows,
    "categories.classifier": _classifier_rows,
    "outfits.compatibility": _compatibility_rows,
    "studies.real_photos": real_photos.scoreboard_rows,
    "studies.thinned_tails": longer_tails.scoreboard_rows,
}
"""The chapter's other measurements, by step, and what makes scoreboard rows of each."""


if __name__ == "__main__":
    run_step(main)
