"""Measure the towers on chapter 1's queries, and test every claim against its systems.

`python -m chapter02_two_tower.evaluate --catalogue pocket_shop`

Chapter 1's figures are read from its own evaluation, query by query. On validation queries (`--split val`) fusion and
feedback are cross-validated in chapter 1's folds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from chapter01_baseline.systems import FUSION, MINILM, first_stages
from chapter01_baseline.systems import SCORES as BASELINE_SCORES
from chapter02_two_tower.reindex import CHAPTER, load_both
from chapter02_two_tower.systems import RANDOM_NEGATIVES, TWO_TOWERS, TWO_TOWERS_BM25, ablations, with_towers
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.evaluation import RELEVANT_GRADE, evaluate
from common.search import Hits

STEP = "evaluate"
HEADLINE = "nDCG@10"
JUDGED_ONLY = "nDCG@10*"
"""nDCG@10 without unjudged products, reported where judgements are incomplete: other systems filled their pool, so the
plain figure counts a product that only the towers find as irrelevant."""

CLAIMS = (
    *((TWO_TOWERS, MINILM, metric) for metric in ("R@10", "MRR", "R@50", "R@200", HEADLINE, JUDGED_ONLY)),
    (TWO_TOWERS, RANDOM_NEGATIVES, HEADLINE),
    *((TWO_TOWERS_BM25, other, HEADLINE) for other in BASELINE_SCORES),
    (TWO_TOWERS_BM25, FUSION, JUDGED_ONLY),
)
"""The claims of the chapter (system, against, metric); their p-values are corrected together (Holm)."""


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
    """Seed of the bootstrap, the paired tests and the folds; the folds must be chapter 1's."""


def main(config: EvaluateConfig) -> EvaluateResult:
    """Measure the chapter's systems against chapter 1's; see `evaluate_against`."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    return evaluate_against(
        (baseline.CHAPTER,),
        lambda queries: _search(catalogue, artifacts, queries, config),
        chapter=CHAPTER,
        steps={step: (CHAPTER, step) for step in ("reindex", "choose")},
        claims=CLAIMS,
        catalogue=catalogue,
        artifacts=artifacts,
        config=config,
    )


def evaluate_against(
    earlier: Sequence[str],
    search: Callable[[pd.DataFrame], tuple[Mapping[str, Hits], Mapping[str, float]]],
    *,
    chapter: str,
    steps: Mapping[str, tuple[str, str]],
    claims: Sequence[tuple[str, str, str]],
    catalogue: Catalogue,
    artifacts: Artifacts,
    config: EvaluateConfig,
    instead: str = "",
) -> EvaluateResult:
    """Measure a chapter's systems on the judged queries, compare them with those of earlier chapters, and save it all.

    earlier: chapters, whose evaluations are read. search: returns the hits of every system for the queries, and the
    seconds that each took. steps: chapter and step of the other runs that the figures depend on, by their name in the
    manifest. claims: (system, against, metric). instead: what else can be measured, for the error.

    Saves scoreboard, scores of each query, hits and comparisons; these have two columns more than chapter 1's:
    `relative` and `recovered` (see `add_gains`). Raises CourseError if no query is judged, or if an earlier chapter was
    not evaluated on the same queries in the same way.
    """
    queries = judged_queries(catalogue, config.split)
    if queries.empty:
        said = f"evaluate: catalogue {catalogue.source} has no judged queries of split {config.split!r}."
        raise CourseError(f"{said}\n{instead}" if instead else said)
    evaluations = {one: (one, STEP) for one in earlier}
    inputs = {name: artifacts.current(*step) for name, step in {**steps, **evaluations}.items()}
    if artifacts.reuse(chapter, STEP, config=config, inputs=inputs) is None:
        theirs: dict[str, pd.DataFrame] = {}
        for one in earlier:
            theirs |= earlier_scores(artifacts, catalogue, queries, config, one)
        with artifacts.new_run(chapter, STEP, config=config, inputs=inputs) as folder:
            hits, seconds = search(queries)
            ours = add_judged_only(score_all(hits, queries, catalogue, config.gains), hits, catalogue, config.gains)
            comparisons = add_gains(compare_claims(theirs | ours, config.seed, claims), theirs | ours)
            save_evaluation(folder, to_scoreboard(ours, seconds, catalogue, config, chapter), ours, comparisons, hits)
    return load_evaluation(artifacts, chapter)


def earlier_scores(
    artifacts: Artifacts,
    catalogue: Catalogue,
    queries: pd.DataFrame,
    config: EvaluateConfig,
    chapter: str = baseline.CHAPTER,
) -> dict[str, pd.DataFrame]:
    """Return an earlier chapter's figures for each query by system, with the judged-only ones added.

    Raises CourseError, with the command that mends it, unless that evaluation is of the same queries, gains, indices
    and (where there are folds) seed.
    """
    found = load_evaluation(artifacts, chapter)
    earlier = found.run.manifest["config"]
    wanted = {"split": config.split, "gains": config.gains}
    if config.split == "val":
        wanted["seed"] = config.seed
    faults = [f"{name} is {earlier[name]}, not {value}" for name, value in wanted.items() if earlier[name] != value]
    if found.run.manifest["inputs"]["reindex"] != artifacts.current(chapter, "reindex").name:
        faults.append("its indices were built anew since")
    if any(scores.index.tolist() != queries["query_id"].tolist() for scores in found.per_query.values()):
        faults.append("it is of other queries")
    if faults:
        flags = " ".join(f"--{name} {value}" for name, value in wanted.items())
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
    """Add the column `JUDGED_ONLY` to the tables of all systems, unless the catalogue knows the full truth."""
    if len(catalogue.truth):
        return dict(per_query)
    options = {"metrics": [HEADLINE], "gains": gains, "judged_only": True}
    condensed = {
        name: evaluate(hits[name], scores.index.tolist(), catalogue.judgements, **options)[HEADLINE]
        for name, scores in per_query.items()
    }
    return {name: scores.assign(**{JUDGED_ONLY: condensed[name]}) for name, scores in per_query.items()}


def add_gains(comparisons: pd.DataFrame, per_query: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Add two columns to the comparisons.

    `relative`: difference / the other's figure. `recovered`, of recalls: difference / what the other misses, the share
    of it that is found now; NaN for other metrics.
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

    Columns: query_id, query, kind, `a`, `b` (the metric), difference; best gain first, worst loss last.
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
    """Measure R@k over relevant products that were a training positive (`seen`), and over all others (`unseen`).

    A system that only finds what it was trained on has a low figure for unseen ones. hits: by system, row i for
    query_ids[i]. trained: product ids of the training positives. Returns a row a system and group: system, products,
    R@k (mean over the queries that have such products), n_queries.
    """
    relevant = judgements[(judgements["grade"] >= RELEVANT_GRADE) & judgements["query_id"].isin(query_ids)]
    rows = []
    for group, part in (("seen", True), ("unseen", False)):
        grades = relevant[relevant["product_id"].isin(trained) == part]
        chosen = np.flatnonzero(pd.Index(query_ids).isin(grades["query_id"]))
        ids = [query_ids[row] for row in chosen]
        for system, found in hits.items() if ids else ():
            scores = evaluate(Hits(found.ids[chosen], found.scores[chosen]), ids, grades, metrics=[f"R@{k}"])
            rows.append((system, group, float(scores[f"R@{k}"].mean()), len(ids)))
    return pd.DataFrame(rows, columns=["system", "products", f"R@{k}", "n_queries"])


def _search(
    catalogue: Catalogue, artifacts: Artifacts, queries: pd.DataFrame, config: EvaluateConfig
) -> tuple[dict[str, Hits], dict[str, float]]:
    indices, towers = load_both(artifacts, catalogue)
    swapped = towers.as_indices(indices)
    if config.split != "val":
        searchers = with_towers(first_stages(swapped, load_choices(artifacts, CHAPTER)))
        return search_all(searchers | ablations(towers), queries)
    chosen = with_towers(cross_validated_hits(queries, swapped, None, seed=config.seed, gains=config.gains))
    others, seconds = search_all(ablations(towers), queries)  # nothing to choose, so no folds
    return chosen | others, dict.fromkeys(chosen, float("nan")) | seconds


if __name__ == "__main__":
    run_step(main)
