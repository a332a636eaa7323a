"""Train and load the course's last ranker: gradient-boosted trees over the features of all four chapters.

`python -m chapter04_catalogue_reranker.search_ranker.learned_ranker --catalogue pocket_shop`

It is trained on the judged training queries. The leaves of a tree, the weight of the starting score and the number of
trees are chosen on validation queries. That flatters the figure on the same queries, so the result holds a second one,
in which every query is scored with the settings chosen on others.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter04_catalogue_reranker.search_ranker.boosted_ranking import (
    Boosting,
    Validation,
    grades_of,
    out_of_fold,
    training_pairs,
)
from chapter04_catalogue_reranker.search_ranker.feature_study import (
    READ,
    Learner,
    ablations,
    importances,
    permutation_importance,
)
from chapter04_catalogue_reranker.search_ranker.query_features import PICTURES, PairTable, QueryFeatures
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.profiles import with_profile_defaults
from common.progress import progress
from common.search import Hits, check_request, empty_hits, hits_from_rows

if TYPE_CHECKING:
    from lightgbm import Booster

CHAPTER, STEP = "chapter04_catalogue_reranker", "search_ranker.learned_ranker"
MODEL, SETTINGS = "trees.txt", "ranker.json"
TABLES = ("choices", "validation", "importances", "permutation", "ablations")


@dataclass(frozen=True)
class RankerConfig:
    """Train the learned ranker on the training queries of a catalogue, and choose its settings on validation.

    None stands for the profile's default (`PROFILE_DEFAULTS`).
    """

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    trees: int | None = None
    """Number of trees at most; a multiple of 20."""
    leaves: tuple[int, ...] | None = None
    """Leaves of a tree to try."""
    start_weights: tuple[float, ...] | None = None
    """Weights of the starting score to try."""
    learning_rate: float = 0.08
    """Factor of what each tree adds."""
    min_data_in_leaf: int = 50
    """Pairs of a leaf, at least."""
    unjudged_share: float = 0.3
    """Share of the unjudged candidates that count as grade 0 in training."""
    unjudged_below: int = 20
    """Only candidates that the starting system ranks below this count."""
    gains: str = "linear"
    """Gains of nDCG@10 in training and choice: linear or esci."""
    threads: int = 2
    """Threads of LightGBM; they do not change the result."""
    seed: int = 0
    """Of the sample of unjudged candidates, of the trees, and of the folds."""


_GRID = {"trees": 200, "leaves": (4, 7, 15), "start_weights": (2.5, 5.0, 10.0)}
PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"trees": 40, "leaves": (4, 7), "start_weights": (5.0,)},
    "pocket": _GRID,
    "full": _GRID,
}


@dataclass(frozen=True)
class RankerResult:
    """Hold settings and figures of a ranker; all figures are nDCG@10 on the validation queries.

    settings: leaves, start_weight, number of trees, columns. choices: leaves, start_weight, best number of trees and
    its nDCG@10. validation: query_id, kind, start, ranker, ranker_out_of_fold (see the module's docstring).
    importances: feature, group, gain (share of the gain of all splits). permutation: group, drop (of nDCG@10 if the
    group's columns are shuffled). ablations: see `feature_study.ablations`. seconds: of features and of training.
    """

    run: RunFolder
    settings: dict[str, float]
    choices: pd.DataFrame
    validation: pd.DataFrame
    importances: pd.DataFrame
    permutation: pd.DataFrame
    ablations: pd.DataFrame
    seconds: dict[str, float]


class LearnedRanker:
    """Rank the candidates of `QueryFeatures` by start_weight * start + trees; a `common.search.Searcher`.

    The starting score is that of chapter 3's best system, whose other hits follow after the candidates, in its order.
    booster: reads `columns`.
    """

    def __init__(
        self,
        features: QueryFeatures,
        booster: Booster,
        columns: Sequence[str],
        *,
        start_weight: float,
        threads: int = 2,
    ) -> None:
        self.features, self.booster, self.columns = features, booster, list(columns)
        self.start_weight, self.threads = start_weight, threads

    def score(self, table: PairTable) -> np.ndarray:
        """Return the score of each pair [M]."""
        if not len(table.row):
            return np.empty(0)
        moved = self.booster.predict(table.values[self.columns].to_numpy(), num_threads=self.threads)
        return self.start_weight * table.starts[PICTURES] + moved

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products of each query; see `common.search.Searcher`."""
        request = check_request(queries, k, allowed, exclude)
        if not request.queries:
            return empty_hits(0, request.k)
        table = self.features.of(request.queries, allowed=request.allowed, exclude=request.exclude)
        scores, ends = self.score(table), np.searchsorted(table.row, np.arange(len(request.queries) + 1))
        rows = []
        for query in range(len(request.queries)):
            part = slice(ends[query], ends[query + 1])
            ids, found = self.features.product_ids[table.product[part]].tolist(), scores[part].tolist()
            candidates, lowest = {*ids}, min(found, default=0.0)
            others = [product_id for product_id, _ in table.best.row(query) if product_id not in candidates]
            rows.append(([*ids, *others], [*found, *(lowest - place for place in range(1, len(others) + 1))]))
        return hits_from_rows(rows, request.k)


def main(config: RankerConfig) -> RankerResult:
    """Build the features, train, choose, ablate and save, or read the result of an earlier run.

    Raises `MissingArtifact` with the command for what the earlier chapters have not made, and CourseError for a
    catalogue without judged training or validation queries.
    """
    config = with_profile_defaults(config, PROFILE_DEFAULTS)
    _check(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = inputs_of(artifacts)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        started = time.perf_counter()
        learner, queries = _learner(QueryFeatures.load(artifacts, catalogue), catalogue, config)
        made = time.perf_counter()
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            tables = _train(learner, queries, config)
            (folder / MODEL).write_text(tables.pop("model"), encoding="utf-8")
            seconds = {"features": made - started, "training": time.perf_counter() - made}
            write_json(folder / SETTINGS, tables.pop("settings") | {"seconds": seconds})
            for name, table in tables.items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
    return load_result(artifacts)


def _check(config: RankerConfig) -> None:
    """Raise CourseError for settings that would fail only after the features are built."""
    rules = {
        "trees": (config.trees >= 1 and config.trees % Boosting.stage == 0, f"a multiple of {Boosting.stage}"),
        "leaves": (bool(config.leaves) and min(config.leaves) >= 2, "numbers of at least 2"),
        "start_weights": (bool(config.start_weights) and min(config.start_weights) >= 0, "numbers of at least 0"),
        "unjudged_share": (0 <= config.unjudged_share <= 1, "between 0 and 1"),
        "gains": (config.gains in ("linear", "esci"), "linear or esci"),
    }
    for name, (holds, wanted) in rules.items():
        if not holds:
            raise CourseError(f"learned ranker: {name} is {getattr(config, name)}; it must be {wanted}.")


def inputs_of(artifacts: Artifacts) -> dict[str, RunFolder]:
    """Return the runs that features are built from, by name; raises `MissingArtifact` if one is missing."""
    steps = {
        "words": ("chapter01_baseline", "reindex"),
        "words_choices": ("chapter01_baseline", "choose"),
        "towers": ("chapter02_two_tower", "reindex"),
        "towers_choices": ("chapter02_two_tower", "choose"),
        "pictures": ("chapter03_multimodal", "reindex"),
        "pictures_choices": ("chapter03_multimodal", "choose"),
        "reindex": (CHAPTER, "reindex"),
    }
    return {name: artifacts.current(*step) for name, step in steps.items()}


def load_result(artifacts: Artifacts) -> RankerResult:
    """Read the current run; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    settings = read_json(run.path / SETTINGS)
    seconds = settings.pop("seconds")
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return RankerResult(run, settings, **tables, seconds=seconds)


def load_ranker(artifacts: Artifacts, catalogue: Catalogue) -> LearnedRanker:
    """Read the current ranker. Raises `MissingArtifact` with the command that trains it, and CourseError if one of its
    inputs has changed since."""
    import lightgbm

    run = artifacts.current(CHAPTER, STEP)
    changed = [name for name, found in inputs_of(artifacts).items() if run.manifest["inputs"].get(name) != found.name]
    if changed:
        raise CourseError(
            f"{CHAPTER}: these inputs have changed since the ranker was trained: {', '.join(changed)}.\n"
            f"Train it again with: python -m {CHAPTER}.{STEP}"
        )
    booster = lightgbm.Booster(model_str=(run.path / MODEL).read_text(encoding="utf-8"))
    settings = read_json(run.path / SETTINGS)
    return LearnedRanker(
        QueryFeatures.load(artifacts, catalogue),
        booster,
        settings["columns"],
        start_weight=settings["start_weight"],
        threads=run.manifest["config"]["threads"],
    )


def _learner(features: QueryFeatures, catalogue: Catalogue, config: RankerConfig) -> tuple[Learner, pd.DataFrame]:
    """Return training pairs and validation, and the validation queries."""
    parts = {split: judged_queries(catalogue, split) for split in ("train", "val")}
    for split, queries in parts.items():
        if queries.empty:
            raise CourseError(f"learned ranker: {catalogue.source} has no judged queries of split {split!r}.")
    tables = {split: features.of(queries["query"].tolist()) for split, queries in parts.items()}
    ids = {split: queries["query_id"].tolist() for split, queries in parts.items()}
    grades = grades_of(tables["train"], ids["train"], features.product_ids, catalogue.judgements)
    sample = {"share": config.unjudged_share, "below": config.unjudged_below, "seed": config.seed}
    positions, grades = training_pairs(tables["train"], grades, tables["train"].starts[PICTURES], **sample)
    truth = evaluation_judgements(catalogue)
    validation = Validation.of(tables["val"], ids["val"], features.product_ids, truth, config.gains)
    return Learner(tables["train"], tables["val"], positions, grades, validation), parts["val"]


def _train(learner: Learner, queries: pd.DataFrame, config: RankerConfig) -> dict:
    """Choose the settings, and return all that the step saves, by name."""
    shared = ("trees", "learning_rate", "min_data_in_leaf", "gains", "threads", "seed")
    basis = Boosting(**{name: getattr(config, name) for name in shared})
    grid = [
        replace(basis, leaves=leaves, start_weight=weight)
        for leaves, weight in itertools.product(config.leaves, config.start_weights)
    ]
    tried = [learner.try_out(one, PICTURES, READ) for one in progress(grid, desc="choosing", unit="setting")]
    figures = np.array([per_query for _, per_query in tried])  # [settings, stages, queries]
    means = figures.mean(axis=2)
    best = int(means.max(axis=1).argmax())
    trees = basis.stage * (int(means[best].argmax()) + 1)
    chosen, booster = grid[best], tried[best][0]
    choices = pd.DataFrame(
        {
            "leaves": [one.leaves for one in grid],
            "start_weight": [one.start_weight for one in grid],
            "trees": basis.stage * (means.argmax(axis=1) + 1),
            "nDCG@10": means.max(axis=1),
        }
    )
    validation = queries[["query_id", "kind"]].assign(
        start=learner.validation.ndcg(learner.val.starts[PICTURES]),
        ranker=figures[best, means[best].argmax()],
        ranker_out_of_fold=out_of_fold(figures.reshape(-1, figures.shape[2]), config.seed),
    )
    columns = learner.train.columns_of(READ)
    settings = {"leaves": chosen.leaves, "start_weight": chosen.start_weight, "trees": trees, "columns": columns}
    return {
        "model": booster.model_to_string(num_iteration=trees),
        "settings": settings,
        "choices": choices,
        "validation": validation,
        "importances": importances(booster, learner.train.groups, trees),
        "permutation": permutation_importance(learner, booster, columns, trees, chosen),
        "ablations": ablations(learner, chosen, float(means.max())),
    }


if __name__ == "__main__":
    run_step(main)
