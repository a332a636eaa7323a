"""Measure the reranker on text that nobody generated: which of thousands of category paths fits?

    python -m chapter04_catalogue_reranker.studies.real_text --catalogue abo                # titles, 1,592 paths
    python -m chapter04_catalogue_reranker.studies.real_text --catalogue shopify_taxonomy   # paths, 5,456 paths

All systems rank all paths (`text_tasks` defines the tasks, `text_ranker` the ranking):

- `MiniLM, zero-shot`: the text tower as it is, cosine of text and path.
- `TF-IDF, nearest title` (abo): the path of the known title that shares the rarest words, then that of the next.
- `parent rule`, `name rule` (shopify_taxonomy): copy the target of the nearest ancestor that training maps; take the
  nearest ancestor that is a candidate word for word. Both answer with few paths or none: no answer is a miss.
- `reranker`: the chapter's text projection, trained in stage 0.
- `reranker + votes`: mixed with the votes of the nearest titles, or of both rules; left out if these got no weight.

The number of epochs and the learning rate were chosen on held-out training rows once. The weights of the votes are
chosen on them in every run. For abo the projection is then trained again on all training rows, the held-out ones
included. The test rows are looked at once.

Macro R@1 is the mean, over the true paths that occur, of the share of their texts that rank them first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chapter01_baseline.evaluate import compare_claims
from chapter04_catalogue_reranker.architecture import Architecture
from chapter04_catalogue_reranker.encode import FrozenTowers
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.ranking_metrics import MACRO_RECALL, macro_recall_at_1, macro_shares, rank_in_lists
from chapter04_catalogue_reranker.studies.text_ranker import (
    Fitting,
    choose_weights,
    fit_text_ranker,
    mix,
    nearest_paths,
    neighbours_vote,
    probabilities,
    rule_votes,
    similarities,
    true_ranks,
)
from chapter04_catalogue_reranker.studies.text_tasks import (
    TextTask,
    abo_task,
    name_rule,
    parent_rule,
    parents_mapping,
    shopify_task,
)
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.encoders import MINILM
from common.errors import CourseError
from common.progress import tell
from common.scoreboard import read_scoreboard, save_scoreboard
from common.statistics import summarise

CHAPTER, STEP = "chapter04_catalogue_reranker", "studies.real_text"
ABO, SHOPIFY = "abo", "shopify_taxonomy"
SELECTION = {ABO: {"selection": "text"}, SHOPIFY: {}}
SPLIT = {ABO: "val", SHOPIFY: "test"}
ZERO_SHOT, NEAREST, PARENT, NAME = "MiniLM, zero-shot", "TF-IDF, nearest title", "parent rule", "name rule"
RANKER, BOTH = "reranker", "reranker + votes"
FRESH = "new products "


@dataclass(frozen=True)
class RealTextConfig:
    """Measure the reranker on real text: abo (titles of products) or shopify_taxonomy (paths to paths)."""

    catalogue: str = ABO
    """abo or shopify_taxonomy."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    text: str = MINILM
    """Text tower; it stays frozen."""
    epochs: int = 6
    """Passes over the training texts."""
    batch_size: int = 256
    """Texts per step."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    held_out: float = 0.1
    """Share of abo's training titles to choose on; shopify_taxonomy has a split for it."""
    seed: int = 0
    """Of the held-out titles, the weights, the order, the bootstrap and the tests."""


@dataclass(frozen=True)
class RealTextResult:
    """run: its folder holds `model/` for `CatalogueReranker.load`. board: the scoreboard's rows. comparisons: the last
    system of the board against each other system, with paired tests. facts: counts, the chosen weights, and figures of
    the held-out rows."""

    run: RunFolder
    board: pd.DataFrame
    comparisons: pd.DataFrame
    facts: dict


def main(config: RealTextConfig) -> RealTextResult:
    """Train, choose on held-out rows, measure once and save, or read the result of an earlier run."""
    if config.catalogue not in SELECTION:
        raise CourseError(f"real_text: {config.catalogue!r} is none of {', '.join(SELECTION)}")
    catalogue = load_catalogue(config.catalogue, profile=config.profile, **SELECTION[config.catalogue])
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    if artifacts.reuse(CHAPTER, STEP, config=config) is None:
        task = abo_task(catalogue, config.held_out, config.seed) if config.catalogue == ABO else shopify_task(catalogue)
        with artifacts.new_run(CHAPTER, STEP, config=config) as folder:
            started = time.perf_counter()
            model, ranks, facts = measure(task, config)
            tables = {system: per_text(task, found) for system, found in ranks.items()}
            save_scoreboard(folder, _board(tables, task.fresh[task.test], config))
            comparisons(tables, config.seed).to_parquet(folder / "comparisons.parquet", index=False)
            model.save(folder / "model")
            write_json(folder / "facts.json", facts | {"seconds": round(time.perf_counter() - started, 1)})
    return load_real_text(artifacts)


def load_real_text(artifacts: Artifacts) -> RealTextResult:
    """Read the current measurement; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    compared = pd.read_parquet(run.path / "comparisons.parquet")
    return RealTextResult(run, read_scoreboard(run.path), compared, read_json(run.path / "facts.json"))


def measure(task: TextTask, config: RealTextConfig) -> tuple[CatalogueReranker, dict[str, np.ndarray], dict]:
    """Train and measure; return the trained model, by system the rank of the true path of each text of `task.test`
    (from 1, infinite if it is not among the answers), and what was counted and chosen on the way."""
    untrained = _new_model(config)
    frozen = FrozenTowers(untrained)
    texts = frozen.text_features(task.texts, untrained.architecture.product_length, "encoding texts")
    paths = frozen.text_features(task.paths, untrained.architecture.category_length, "encoding paths")
    fitting = Fitting(config.epochs, config.batch_size, config.learning_rate, config.seed)
    model = fit_text_ranker(untrained, texts[task.fit], paths, task.labels[task.fit], fitting)
    weights, held = _choose(task, probabilities(model, texts[task.held], paths), config)
    held[ZERO_SHOT] = _figures(true_ranks(texts[task.held] @ paths.T, task.labels[task.held]), task.labels[task.held])
    if not np.array_equal(task.known, task.fit):
        model = fit_text_ranker(_new_model(config), texts[task.known], paths, task.labels[task.known], fitting)
    learned = probabilities(model, texts[task.test], paths)
    ranks = {ZERO_SHOT: true_ranks(texts[task.test] @ paths.T, task.labels[task.test])}
    rules, votes = _looked_up(task, task.known, task.test, config)
    ranks |= rules | {RANKER: true_ranks(np.log(np.maximum(learned, 1e-30)), task.labels[task.test])}
    if any(weights.values()):  # otherwise it is the reranker
        ranks[BOTH] = true_ranks(mix(learned, votes, weights), task.labels[task.test])
    return model, ranks, _counts(task) | {"weights": weights, "held out": held}


def _new_model(config: RealTextConfig) -> CatalogueReranker:
    return CatalogueReranker.build(Architecture(text=config.text, inputs="text"), config.seed)


def _choose(task: TextTask, learned: np.ndarray, config: RealTextConfig) -> tuple[dict[str, float], dict]:
    """Return the weights of the votes, and the systems' figures on the held-out rows, where the training rows are
    known."""
    labels = task.labels[task.held]
    rules, votes = _looked_up(task, task.fit, task.held, config)
    weights = choose_weights(learned, votes, labels)
    ranks = rules | {
        RANKER: true_ranks(np.log(np.maximum(learned, 1e-30)), labels),
        BOTH: true_ranks(mix(learned, votes, weights), labels),
    }
    figures = {system: _figures(found, labels) for system, found in ranks.items()}
    tell(f"real_text: on {len(labels):,} held-out rows {figures}, weights of the votes {weights}")
    return weights, figures


def _figures(ranks: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    found = {
        "R@1": (ranks <= 1).mean(),
        "R@10": (ranks <= 10).mean(),
        MACRO_RECALL: macro_recall_at_1(ranks <= 1, labels),
    }
    return {name: round(float(value), 4) for name, value in found.items()}


def _looked_up(
    task: TextTask, known: np.ndarray, rows: np.ndarray, config: RealTextConfig
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return, for N texts, what needs no training: ranks of the true paths by baseline, votes [N, C] by voter."""
    texts, labels = [task.texts[row] for row in rows], task.labels[rows]
    if config.catalogue == ABO:
        similar = similarities([task.texts[row] for row in known], texts)
        ranked = nearest_paths(similar, task.labels[known])
        votes = neighbours_vote(similar, task.labels[known], len(task.paths))
        return {NEAREST: rank_in_lists(ranked, labels.tolist())}, {"nearest titles": votes}
    mapping = {task.texts[row]: task.paths[task.labels[row]] for row in known}
    number = {path: at for at, path in enumerate(task.paths)}
    by_name, truth = name_rule(texts, task.paths), [task.paths[label] for label in labels]
    ranks = {PARENT: rank_in_lists(parent_rule(texts, mapping), truth), NAME: rank_in_lists(by_name, truth)}
    voters = {"parent": parents_mapping(texts, mapping), "name": by_name}
    numbered = {voter: [[number[path] for path in paths] for paths in ranked] for voter, ranked in voters.items()}
    return ranks, {voter: rule_votes(ranked, len(task.paths)) for voter, ranked in numbered.items()}


def _counts(task: TextTask) -> dict[str, int]:
    known = {task.texts[row] for row in task.known}
    return {
        "texts": len(task.texts),
        "paths": len(task.paths),
        "fit": len(task.fit),
        "held": len(task.held),
        "test": len(task.test),
        "test, path not in training": int((~np.isin(task.labels[task.test], task.labels[task.known])).sum()),
        "test, text in training": sum(task.texts[row] in known for row in task.test),
        "test, new products": int(task.fresh[task.test].sum()),
    }


def per_text(task: TextTask, ranks: np.ndarray) -> pd.DataFrame:
    """Return a row for each text of `task.test`, with columns `R@1`, `R@10`, `MRR` and `macro R@1`.

    Macro R@1 is a mean over paths; each text has its share of it (`macro_shares`).
    """
    shares = macro_shares(ranks <= 1, task.labels[task.test])
    found = {"R@1": ranks <= 1, "R@10": ranks <= 10, "MRR": 1 / ranks, MACRO_RECALL: shares}
    return pd.DataFrame(found, index=task.test).astype(np.float64)


def comparisons(tables: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Compare `reranker + votes` (the reranker, if no vote got weight) with each other system; see `compare_claims`.

    tables: of `per_text`, by system.
    """
    ours, metrics = BOTH if BOTH in tables else RANKER, ("R@1", "R@10", MACRO_RECALL)
    claims = [(ours, other, metric) for other in tables if other != ours for metric in metrics]
    return compare_claims(tables, seed, claims)


def _board(tables: Mapping[str, pd.DataFrame], fresh: np.ndarray, config: RealTextConfig) -> pd.DataFrame:
    """Return the scoreboard's rows, with R@k and MRR once more for the `fresh` products (bool [N]) unless these are all
    or none."""
    rows = []
    for system, table in tables.items():
        found = [summarise(table, seed=config.seed)]
        if 0 < fresh.sum() < len(fresh):
            new = table.loc[fresh, ["R@1", "R@10", "MRR"]]
            found.append(summarise(new.add_prefix(FRESH), seed=config.seed))
        rows.append(pd.concat(found, ignore_index=True).assign(system=system))
    facts = {"chapter": CHAPTER, "source": config.catalogue, "split": SPLIT[config.catalogue], "seconds": float("nan")}
    return pd.concat(rows, ignore_index=True).assign(**facts)


if __name__ == "__main__":
    run_step(main)
