"""Measures the towers on the queries that chapter 1 was measured on, and tests every claim against its systems.

`python -m chapter02_two_tower.evaluate --catalogue pocket_shop`

Chapter 1's figures are read from its own evaluation, query by query. On validation queries (`--split val`) fusion and
feedback are cross-validated in chapter 1's folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chapter01_baseline import evaluate as baseline
from chapter01_baseline.choose import judged_queries, load_choices
from chapter01_baseline.cross_validate import cross_validated_hits
from chapter01_baseline.evaluate import (
    EvaluateResult,
    compare_claims,
    load_evaluation,
    save_evaluation,
    saved_hits,
    score_all,
    search_all,
    to_scoreboard,
)
from chapter01_baseline.systems import FIRST_STAGES, RERANKED, first_stages
from chapter02_two_tower.reindex import CHAPTER, load_both
from chapter02_two_tower.systems import ablations, with_towers
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.evaluation import RELEVANT_GRADE, evaluate
from common.search import Hits

STEP = "evaluate"
HEADLINE = "nDCG@10"
JUDGED_ONLY = "nDCG@10*"
"""nDCG@10 with unjudged products taken out of the ranking. Reported where judgements have holes: the pool they come
from was filled by other systems, and a product that only the towers find counts as irrelevant in the plain figure."""

CLAIMS = (
    *(("two towers", "MiniLM", metric) for metric in ("R@10", "MRR", "R@50", "R@200", HEADLINE, JUDGED_ONLY)),
    ("two towers", "two towers, random negatives", HEADLINE),
    *(("two towers + BM25", other, HEADLINE) for other in (*FIRST_STAGES, *(f"reranked {name}" for name in RERANKED))),
    ("two towers + BM25", "fusion", JUDGED_ONLY),
)
"""What the chapter makes a statement about (system, against, metric); the p-values are corrected together (Holm)."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure the towers on the judged queries of one split, against chapter 1's evaluation of the same."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: str = "test"
    """test or val; chapter 1 must have been evaluated on the same."""
    gains: str = "linear"
    """linear or esci, as in chapter 1's evaluation."""
    seed: int = 0
    """Of the bootstrap, the paired tests and the folds; the last must be chapter 1's."""


def main(config: EvaluateConfig) -> EvaluateResult:
    """Search with the chapter's systems, score the hits, and save scoreboard, scores of each query, runs and claims.

    The comparisons have two columns more than chapter 1's: `relative` and `recovered` (see `add_gains`). Raises
    CourseError if chapter 1 was not evaluated on the same queries in the same way.
    """
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = {step: artifacts.current(CHAPTER, step) for step in ("reindex", "choose")}
    inputs["baseline"] = artifacts.current(baseline.CHAPTER, STEP)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        queries = judged_queries(catalogue, config.split)
        theirs = earlier_scores(artifacts, catalogue, queries, config)
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            if len(queries):
                hits, seconds = _search(catalogue, artifacts, queries, config)
                ours = score_all(hits, queries, catalogue, config.gains)
                ours = add_judged_only(ours, hits, catalogue, config.gains)
                board = to_scoreboard(ours, seconds, catalogue, config, CHAPTER)
                comparisons = add_gains(compare_claims(theirs | ours, config.seed, CLAIMS), theirs | ours)
                save_evaluation(folder, board, ours, comparisons, hits)
    return load_evaluation(artifacts, CHAPTER)


def earlier_scores(
    artifacts: Artifacts,
    catalogue: Catalogue,
    queries: pd.DataFrame,
    config: EvaluateConfig,
    chapter: str = baseline.CHAPTER,
) -> dict[str, pd.DataFrame]:
    """Return what an earlier chapter's evaluation in force says of each query, by system, judged-only figures added.

    Raises CourseError, with the command that mends it, unless that evaluation is of the same queries, gains, indices
    and (where there are folds) seed.
    """
    found = load_evaluation(artifacts, chapter)
    said = found.run.manifest["config"]
    asked = {"split": config.split, "gains": config.gains}
    if config.split == "val":
        asked["seed"] = config.seed
    faults = [f"{name} is {said[name]}, not {value}" for name, value in asked.items() if said[name] != value]
    if found.run.manifest["inputs"]["reindex"] != artifacts.current(chapter, "reindex").name:
        faults.append("its indices were built anew since")
    if any(scores.index.tolist() != queries["query_id"].tolist() for scores in found.per_query.values()):
        faults.append("it is of other queries")
    if faults:
        flags = " ".join(f"--{name} {value}" for name, value in asked.items())
        raise CourseError(
            f"the evaluation of {chapter} cannot be compared with: {'; '.join(faults)}.\n"
            f"Make it anew with: python -m {chapter}.{STEP} --catalogue {config.catalogue} {flags}"
        )
    if len(catalogue.truth):
        return found.per_query
    hits = {name: saved_hits(found, name) for name in found.per_query}
    return add_judged_only(found.per_query, hits, catalogue, config.gains)


def add_judged_only(
    per_query: Mapping[str, pd.DataFrame], hits: Mapping[str, Hits], catalogue: Catalogue, gains: str
) -> dict[str, pd.DataFrame]:
    """Return the tables of all systems with the column `JUDGED_ONLY` more; as they are where the catalogue knows the
    full truth, for there nothing is unjudged."""
    if len(catalogue.truth):
        return dict(per_query)
    asked = {"metrics": [HEADLINE], "gains": gains, "judged_only": True}
    condensed = {
        name: evaluate(hits[name], scores.index.tolist(), catalogue.judgements, **asked)[HEADLINE]
        for name, scores in per_query.items()
    }
    return {name: scores.assign(**{JUDGED_ONLY: condensed[name]}) for name, scores in per_query.items()}


def add_gains(comparisons: pd.DataFrame, per_query: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the comparisons with two more ways to say a difference.

    `relative`: difference / what the other reaches. `recovered`, of recalls: difference / what the other misses, the
    share of it that is found now; NaN for other metrics.
    """
    if comparisons.empty:
        return comparisons
    reached = np.array([per_query[row.against][row.metric].mean() for row in comparisons.itertuples()])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative, recovered = (comparisons["difference"] / part for part in (reached, 1 - reached))
    return comparisons.assign(relative=relative, recovered=recovered.where(comparisons["metric"].str.startswith("R@")))


def wins_and_losses(
    per_query_a: pd.DataFrame,
    per_query_b: pd.DataFrame,
    queries: pd.DataFrame,
    metric: str = HEADLINE,
    n: int = 5,
) -> pd.DataFrame:
    """Return the queries on which a gains most over b and those on which it loses most, at most n each.

    Columns: query_id, query, kind, `a`, `b` (the metric), difference; best gain first, worst loss last. A figure says
    how much better a system is; these rows say at what.
    """
    table = queries[["query_id", "query", "kind"]].copy()
    for name, scores in (("a", per_query_a), ("b", per_query_b)):
        table[name] = scores[metric].reindex(table["query_id"]).to_numpy()
    table["difference"] = table["a"] - table["b"]
    table = table.sort_values(["difference", "query_id"], ascending=[False, True])
    wins, losses = table[table["difference"] > 0].head(n), table[table["difference"] < 0].tail(n)
    return pd.concat([wins, losses], ignore_index=True)


def unseen_recall(
    hits: Mapping[str, Hits],
    query_ids: list[str],
    judgements: pd.DataFrame,
    trained: set[str],
    k: int = 50,
) -> pd.DataFrame:
    """Does a system find only what it was trained on? R@k over relevant products that were a positive of some training
    pair (`seen`) and over those that never were (`unseen`).

    hits: by system, row i for query_ids[i]. trained: product ids of the training positives. Returns a row a system and
    group: system, products, R@k (mean over the queries that have such products), n_queries.
    """
    relevant = judgements[(judgements["grade"] >= RELEVANT_GRADE) & judgements["query_id"].isin(query_ids)]
    rows = []
    for group, part in (("seen", True), ("unseen", False)):
        grades = relevant[relevant["product_id"].isin(trained) == part]
        asked = np.flatnonzero(pd.Index(query_ids).isin(grades["query_id"]))
        ids = [query_ids[row] for row in asked]
        for system, found in hits.items() if ids else ():
            scores = evaluate(Hits(found.ids[asked], found.scores[asked]), ids, grades, metrics=[f"R@{k}"])
            rows.append((system, group, float(scores[f"R@{k}"].mean()), len(ids)))
    return pd.DataFrame(rows, columns=["system", "products", f"R@{k}", "n_queries"])


def _search(
    catalogue: Catalogue, artifacts: Artifacts, queries: pd.DataFrame, config: EvaluateConfig
) -> tuple[dict[str, Hits], dict[str, float]]:
    indices, towers = load_both(artifacts, catalogue)
    swapped = towers.in_place_of_the_baseline(indices)
    if config.split != "val":
        searchers = with_towers(first_stages(swapped, load_choices(artifacts, CHAPTER)))
        return search_all(searchers | ablations(towers), queries)
    chosen = with_towers(cross_validated_hits(queries, swapped, None, seed=config.seed, gains=config.gains))
    others, seconds = search_all(ablations(towers), queries)  # nothing to choose, so no folds
    return chosen | others, dict.fromkeys(chosen, float("nan")) | seconds


if __name__ == "__main__":
    run_step(main)
