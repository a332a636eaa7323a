"""The course's last ranker: gradient-boosted trees over what all four chapters know of a query and a product.

`python -m chapter04_catalogue_reranker.search_ranker.learned_ranker --catalogue pocket_shop`

Trained on the judged training queries. On validation queries are chosen: the leaves of a tree, the weight of the
starting score, and the number of trees. Since these flatter the figure on the same queries, the result holds a second
one, in which every query is scored with what was chosen on others.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter04_catalogue_reranker.search_ranker.boosted_ranking import (
    Boosting,
    Validation,
    chosen_without,
    grades_of,
    learn_from,
)
from chapter04_catalogue_reranker.search_ranker.feature_study import (
    READ,
    Learner,
    ablations,
    importances,
    no_ablations,
    permuted,
)
from chapter04_catalogue_reranker.search_ranker.query_features import PICTURES, PairTable, QueryFeatures
from common.artifacts import Artifacts, RunFolder, read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress
from common.search import Hits, check_request, empty_hits, hits_from_rows

if TYPE_CHECKING:
    from lightgbm import Booster

CHAPTER, STEP = "chapter04_catalogue_reranker", "search_ranker.learned_ranker"
MODEL, SETTINGS = "trees.txt", "ranker.json"


@dataclass(frozen=True)
class RankerConfig:
    """Train the learned ranker on the training queries of a catalogue, and choose its size on the validation ones."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    trees: int = 200
    """At most so many; a multiple of 20."""
    leaves: tuple[int, ...] = (4, 7, 15)
    """Leaves of a tree to try."""
    start_weights: tuple[float, ...] = (2.5, 5.0, 10.0)
    """Weights of the starting score to try."""
    learning_rate: float = 0.08
    """How far each tree goes."""
    least_data: int = 50
    """Pairs of a leaf, at least."""
    unjudged_share: float = 0.3
    """Share of the unjudged candidates that count as grade 0 in training."""
    unjudged_below: int = 20
    """Only such as the starting system ranks lower than this."""
    gains: str = "linear"
    """Gains of nDCG@10, which is trained for and chosen by: linear or esci."""
    ablate: bool = True
    """Whether to train the ablations too."""
    threads: int = 2
    """Of LightGBM; they do not change the result."""
    seed: int = 0
    """Of the sample of unjudged candidates, of the trees, and of the folds."""


@dataclass(frozen=True)
class RankerResult:
    """What the step found; all figures are nDCG@10 on the validation queries.

    settings: of the ranker (`Boosting`, number of trees). choices: leaves, start_weight, trees, nDCG@10 of the best
    number of trees. validation: query_id, kind, start, ranker, ranker_chosen_without (see the module's docstring).
    importances: feature, group, gain (share of the gain of all splits). permuted: group, drop (of nDCG@10 when the
    group's columns are shuffled). ablations: name, kind ("chapters", "without", "trap"), start, nDCG@10; start is what
    the starting score alone reaches. seconds: of features and of training.
    """

    run: RunFolder
    settings: dict[str, float]
    choices: pd.DataFrame
    validation: pd.DataFrame
    importances: pd.DataFrame
    permuted: pd.DataFrame
    ablations: pd.DataFrame
    seconds: dict[str, float]


class LearnedRanker:
    """Ranks the candidates of `QueryFeatures` by start_weight * start + trees; a `common.search.Searcher`.

    The starting score is that of chapter 3's best system. Behind the candidates follow its other hits, in its order.
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
        """The score of each pair [M]."""
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
        """The k best products of each query; see `common.search.Searcher`."""
        request = check_request(queries, k, allowed, exclude)
        if not request.queries:
            return empty_hits(0, request.k)
        table = self.features.of(request.queries, allowed=request.allowed, exclude=request.exclude)
        scores, ends = self.score(table), np.searchsorted(table.row, np.arange(len(request.queries) + 1))
        rows = []
        for query in range(len(request.queries)):
            part = slice(ends[query], ends[query + 1])
            ids, found = self.features.product_ids[table.product[part]].tolist(), scores[part].tolist()
            known, floor = {*ids}, min(found, default=0.0)
            below = [product_id for product_id, _ in table.best.row(query) if product_id not in known]
            rows.append(([*ids, *below], [*found, *(floor - place for place in range(1, len(below) + 1))]))
        return hits_from_rows(rows, request.k)


def main(config: RankerConfig) -> RankerResult:
    """Make the features, choose, train, ablate, and save; or read what the same settings made before.

    Raises `MissingArtifact` with the command for whatever the earlier chapters have not made, and CourseError for a
    catalogue without judged training or validation queries.
    """
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
    """Refuse settings that would fail after the features are made."""
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
    """The runs that features are made from, by name; raises `MissingArtifact` for one that is not there."""
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
    """Read the run in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    settings = read_json(run.path / SETTINGS)
    seconds = settings.pop("seconds")
    names = ("choices", "validation", "importances", "permuted", "ablations")
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in names}
    return RankerResult(run, settings, **tables, seconds=seconds)


def load_ranker(artifacts: Artifacts, catalogue: Catalogue) -> LearnedRanker:
    """Read the ranker in force. Raises `MissingArtifact` with the command that trains it, and CourseError if anything
    that it reads was made anew since."""
    import lightgbm

    run = artifacts.current(CHAPTER, STEP)
    changed = [name for name, found in inputs_of(artifacts).items() if run.manifest["inputs"].get(name) != found.name]
    if changed:
        raise CourseError(
            f"{CHAPTER}: since the ranker was trained, others were made of: {', '.join(changed)}.\n"
            f"Train it again with: python -m {CHAPTER}.{STEP}"
        )
    booster = lightgbm.Booster(model_str=(run.path / MODEL).read_text(encoding="utf-8"))
    settings = read_json(run.path / SETTINGS)
    features = QueryFeatures.load(artifacts, catalogue)
    threads = run.manifest["config"]["threads"]
    kept = {"start_weight": settings["start_weight"], "threads": threads}
    return LearnedRanker(features, booster, settings["columns"], **kept)


def _learner(features: QueryFeatures, catalogue: Catalogue, config: RankerConfig) -> tuple[Learner, pd.DataFrame]:
    """What to learn from and validate by, and the validation queries."""
    parts = {split: judged_queries(catalogue, split) for split in ("train", "val")}
    for split, queries in parts.items():
        if queries.empty:
            raise CourseError(f"learned ranker: {catalogue.source} has no judged queries of split {split!r}.")
    tables = {split: features.of(queries["query"].tolist()) for split, queries in parts.items()}
    ids = {split: queries["query_id"].tolist() for split, queries in parts.items()}
    grades = grades_of(tables["train"], ids["train"], features.product_ids, catalogue.judgements)
    sample = {"share": config.unjudged_share, "below": config.unjudged_below, "seed": config.seed}
    positions, grades = learn_from(tables["train"], grades, tables["train"].starts[PICTURES], **sample)
    truth = evaluation_judgements(catalogue)
    validation = Validation.of(tables["val"], ids["val"], features.product_ids, truth, config.gains)
    return Learner(tables["train"], tables["val"], positions, grades, validation), parts["val"]


def _train(learner: Learner, queries: pd.DataFrame, config: RankerConfig) -> dict:
    """Everything that the step saves, by name."""
    shared = ("trees", "learning_rate", "least_data", "gains", "threads", "seed")
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
        ranker_chosen_without=chosen_without(figures.reshape(-1, figures.shape[2]), config.seed),
    )
    columns = learner.train.columns_of(READ)
    settings = {"leaves": chosen.leaves, "start_weight": chosen.start_weight, "trees": trees, "columns": columns}
    return {
        "model": booster.model_to_string(num_iteration=trees),
        "settings": settings,
        "choices": choices,
        "validation": validation,
        "importances": importances(booster, learner.train.groups, trees),
        "permuted": permuted(learner, booster, columns, trees, chosen),
        "ablations": ablations(learner, chosen, float(means.max())) if config.ablate else no_ablations(),
    }


if __name__ == "__main__":
    run_step(main)
