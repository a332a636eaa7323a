"""Measures the learned ranker on the queries of chapters 1 to 3, and puts all the chapter's figures on the board.

`python -m chapter04_catalogue_reranker.evaluate --catalogue pocket_shop`

The last step of the course's thread: the same test queries, the same grades, the figures of the earlier chapters read
from their own evaluations, query by query. Beside it stand the chapter's other figures, as far as their steps were run.
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
from chapter03_multimodal import evaluate as multimodal
from chapter03_multimodal import systems as pictures
from chapter04_catalogue_reranker import category_ranking
from chapter04_catalogue_reranker.studies import real_text
from chapter04_catalogue_reranker.systems import BEST, systems
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError, MissingArtifact

CHAPTER, STEP = "chapter04_catalogue_reranker", "evaluate"
HEADLINE = "nDCG@10"
EARLIER = (baseline.CHAPTER, two_tower.CHAPTER, multimodal.CHAPTER)

CLAIMS = (
    *((BEST, pictures.BEST, metric) for metric in (HEADLINE, "R@10", "MRR")),
    *(
        (BEST, other, HEADLINE)
        for other in (
            "reranked fusion",
            "reranked fusion + feedback",
            "fusion",
            "fusion + feedback",
            "two towers + BM25 + feedback",
        )
    ),
)
"""What the chapter makes a statement about (system, against, metric); the p-values are corrected together (Holm)."""


NOBODY = {"nobody": pd.DataFrame(index=pd.Index([], name="query_id", dtype="str"))}
"""The scores of each query, where there are no queries."""


@dataclass(frozen=True)
class EvaluateConfig(multimodal.EvaluateConfig):
    """Measure the learned ranker on the judged test queries of a catalogue, against chapters 1 to 3."""


def main(config: EvaluateConfig) -> EvaluateResult:
    """Search with the chapter's systems, score the hits, and save scoreboard, scores of each query, runs and claims.

    A catalogue without judged queries gets the rows of the other measurements alone. Raises CourseError if an earlier
    chapter was not evaluated on the same queries in the same way.
    """
    selection = real_text.SELECTION.get(config.catalogue, {})  # of abo, the part that is measured
    catalogue = load_catalogue(config.catalogue, profile=config.profile, **selection)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    queries = judged_queries(catalogue, config.split)
    inputs = _inputs(artifacts) if len(queries) else {}
    for step in OTHERS:
        with suppress(MissingArtifact):
            inputs[step] = artifacts.current(CHAPTER, step)
    _check(inputs, catalogue, config)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        rows = [of(artifacts, catalogue) for step, of in OTHERS.items() if step in inputs]
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            if len(queries):
                _compare(folder, artifacts, catalogue, queries, config, rows)
            else:
                save_evaluation(folder, pd.concat(rows, ignore_index=True), NOBODY, pd.DataFrame(), {})
    return load_evaluation(artifacts, CHAPTER)


def _inputs(artifacts: Artifacts) -> dict[str, RunFolder]:
    """The ranker, and what it is compared with."""
    earlier = {chapter: artifacts.current(chapter, STEP) for chapter in EARLIER}
    return {"learned_ranker": artifacts.current(CHAPTER, "learned_ranker")} | earlier


def _check(inputs: dict[str, RunFolder], catalogue: Catalogue, config: EvaluateConfig) -> None:
    """Refuse a board of nothing, and one of two splits."""
    if not inputs:
        raise CourseError(
            f"{catalogue.source} has no judged {config.split} queries, and nothing else was measured on it; run "
            f"category_ranking, or real_text for {' or '.join(real_text.SELECTION)}, first."
        )
    ranked = inputs.get(category_ranking.STEP)
    if ranked is not None and ranked.manifest["config"]["split"] != config.split:
        raise CourseError(
            f"evaluate: categories were ranked on the split {ranked.manifest['config']['split']}, not {config.split}.\n"
            f"Rank them again with: python -m {CHAPTER}.{category_ranking.STEP} --split {config.split}"
        )


def _compare(
    folder: Path,
    artifacts: Artifacts,
    catalogue: Catalogue,
    queries: pd.DataFrame,
    config: EvaluateConfig,
    rows: list[pd.DataFrame],
) -> None:
    """Search, score, test the claims and save all, with `rows` of other measurements at the end of the board."""
    scores: dict[str, pd.DataFrame] = {}
    for chapter in EARLIER:
        scores |= earlier_scores(artifacts, catalogue, queries, config, chapter)
    hits, seconds = search_all(systems(artifacts, catalogue), queries)
    ours = add_judged_only(score_all(hits, queries, catalogue, config.gains), hits, catalogue, config.gains)
    scores |= ours
    comparisons = add_gains(compare_claims(scores, config.seed, CLAIMS), scores)
    board = to_scoreboard(ours, seconds, catalogue, config, CHAPTER)
    save_evaluation(folder, pd.concat([board, *rows], ignore_index=True), ours, comparisons, hits)


OTHERS: dict[str, Callable[[Artifacts, Catalogue], pd.DataFrame]] = {
    category_ranking.STEP: category_ranking.scoreboard_rows,
    real_text.STEP: real_text.scoreboard_rows,
}
"""The chapter's other measurements, by step, and what makes scoreboard rows of each."""


if __name__ == "__main__":
    run_step(main)
