"""The chapter on text that nobody generated: which of thousands of category paths fits?

    python -m chapter04_catalogue_reranker.studies.real_text --catalogue abo                # titles, 1,592 paths
    python -m chapter04_catalogue_reranker.studies.real_text --catalogue shopify_taxonomy   # paths, 5,456 paths

All systems rank all paths (`text_tasks` says what is asked, and on which rows; `text_ranker`, how):

- `MiniLM, zero-shot`: the text tower as it is, cosine of text and path.
- `TF-IDF, nearest title` (abo): the path of the known title that shares the rarest words, then that of the next.
- `parent rule`, `name rule` (shopify_taxonomy): copy what the nearest ancestor is mapped to, as far as training tells;
  take the nearest ancestor that is a candidate word for word. Both answer with few paths or none: no answer is a miss.
- `reranker`: the chapter's text projection, trained in stage 0.
- `reranker + votes`: mixed with the votes of the nearest titles, or of both rules; not there if these got no weight.

The number of epochs and the learning rate were chosen on held-out training rows once, the weights of the votes are
chosen on them in every run. For abo the projection is then trained again on all training rows, held-out ones too. The
rows to be measured on are looked at once.

Macro R@1 is the mean over the true paths that occur of the share of their texts that have them first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.encode import FrozenTowers
from chapter04_catalogue_reranker.model import Architecture, CatalogueReranker
from chapter04_catalogue_reranker.ranking_metrics import MACRO_RECALL, macro_recall_at_1, macro_shares, rank_in_lists
from chapter04_catalogue_reranker.studies.text_ranker import (
    Fitting,
    choose_weights,
    fit_text_ranker,
    mixed,
    nearest_paths,
    neighbours_vote,
    places,
    probabilities,
    rule_votes,
    similarities,
)
from chapter04_catalogue_reranker.studies.text_tasks import (
    TextTask,
    abo_task,
    name_rule,
    parent_rule,
    parents_mapping,
    shopify_task,
)
from common.artifacts import Artifacts, RunFolder, write_json
from common.atomic import read_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.encoders import MINILM
from common.errors import CourseError
from common.progress import tell
from common.statistics import compare, holm, summarise

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
    """The text tower; it stays as it is."""
    epochs: int = 6
    """Times that the projection sees every training text."""
    batch_size: int = 256
    """Texts a step."""
    learning_rate: float = 1e-3
    """At its peak."""
    held_out: float = 0.1
    """Share of abo's training titles to choose on; shopify_taxonomy has a split for it."""
    seed: int = 0
    """Of held-out titles, weights, order, bootstrap and tests."""


@dataclass(frozen=True)
class RealTextResult:
    """run: its folder holds `model/` for `CatalogueReranker.load`. board: a row a system and metric, the columns of the
    scoreboard. comparisons: the last system of the board against each other, with paired tests. facts: counts, the
    chosen weights, figures of the held-out rows."""

    run: RunFolder
    board: pd.DataFrame
    comparisons: pd.DataFrame
    facts: dict


def main(config: RealTextConfig) -> RealTextResult:
    """Train, choose on held-out rows, measure once; what was made before is made no second time."""
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
            _board(tables, task.fresh[task.test], config).to_parquet(folder / "scoreboard.parquet", index=False)
            comparisons(tables, config.seed).to_parquet(folder / "comparisons.parquet", index=False)
            model.save(folder / "model")
            write_json(folder / "facts.json", facts | {"seconds": round(time.perf_counter() - started, 1)})
    return load_real_text(artifacts)


def load_real_text(artifacts: Artifacts) -> RealTextResult:
    """Read the measurement in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    board, compared = (pd.read_parquet(run.path / f"{name}.parquet") for name in ("scoreboard", "comparisons"))
    return RealTextResult(run, board, compared, read_json(run.path / "facts.json"))


def scoreboard_rows(artifacts: Artifacts, catalogue: Catalogue) -> pd.DataFrame:
    """The rows of the measurement in force. The artifacts are those of `load_catalogue(name, **SELECTION[name])`."""
    return load_real_text(artifacts).board


def measure(task: TextTask, config: RealTextConfig) -> tuple[CatalogueReranker, dict[str, np.ndarray], dict]:
    """The trained model; by system the place, from 1, of the true path of each text of `task.test`, infinite if it is
    not among the answers; and what was counted and chosen on the way."""
    untrained = _new_model(config)
    frozen = FrozenTowers(untrained)
    texts = frozen.text_features(task.texts, untrained.architecture.product_length, "encoding texts")
    paths = frozen.text_features(task.paths, untrained.architecture.category_length, "encoding paths")
    fitting = Fitting(config.epochs, config.batch_size, config.learning_rate, config.seed)
    model = fit_text_ranker(untrained, texts[task.fit], paths, task.labels[task.fit], fitting)
    weights, held = _choose(task, probabilities(model, texts[task.held], paths), config)
    held[ZERO_SHOT] = _figures(places(texts[task.held] @ paths.T, task.labels[task.held]), task.labels[task.held])
    if not np.array_equal(task.known, task.fit):
        model = fit_text_ranker(_new_model(config), texts[task.known], paths, task.labels[task.known], fitting)
    learned = probabilities(model, texts[task.test], paths)
    ranks = {ZERO_SHOT: places(texts[task.test] @ paths.T, task.labels[task.test])}
    rules, votes = _looked_up(task, task.known, task.test, config)
    ranks |= rules
    ranks[RANKER] = places(np.log(np.maximum(learned, 1e-30)), task.labels[task.test])
    if any(weights.values()):  # else it is the reranker
        ranks[BOTH] = places(mixed(learned, votes, weights), task.labels[task.test])
    return model, ranks, _counts(task) | {"weights": weights, "held out": held}


def _new_model(config: RealTextConfig) -> CatalogueReranker:
    return CatalogueReranker.build(Architecture(text=config.text, inputs="text"), config.seed)


def _choose(task: TextTask, learned: np.ndarray, config: RealTextConfig) -> tuple[dict[str, float], dict]:
    """The weights of the votes, and what the systems reach on the held-out rows with the training rows beside them."""
    labels = task.labels[task.held]
    rules, votes = _looked_up(task, task.fit, task.held, config)
    weights = choose_weights(learned, votes, labels)
    ranks = rules | {
        RANKER: places(np.log(np.maximum(learned, 1e-30)), labels),
        BOTH: places(mixed(learned, votes, weights), labels),
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
    task: TextTask, known: np.ndarray, asked: np.ndarray, config: RealTextConfig
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What needs no training: the places of the true paths by baseline, and the votes [N, C] by voter."""
    texts, labels = [task.texts[row] for row in asked], task.labels[asked]
    if config.catalogue == ABO:
        similar = similarities([task.texts[row] for row in known], texts)
        ranked = nearest_paths(similar, task.labels[known])
        votes = neighbours_vote(similar, task.labels[known], len(task.paths))
        return {NEAREST: rank_in_lists(ranked, labels.tolist())}, {"nearest titles": votes}
    mapping = {task.texts[row]: task.paths[task.labels[row]] for row in known}
    number = {path: at for at, path in enumerate(task.paths)}
    by_name, truth = name_rule(texts, task.paths), [task.paths[label] for label in labels]
    ranks = {PARENT: rank_in_lists(parent_rule(texts, mapping), truth), NAME: rank_in_lists(by_name, truth)}
    told = {"parent": parents_mapping(texts, mapping), "name": by_name}
    numbered = {voter: [[number[path] for path in paths] for paths in ranked] for voter, ranked in told.items()}
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
    """One row a text of `task.test` (index: its number), the columns `R@1`, `R@10`, `MRR` and `macro R@1`.

    Macro R@1 is a mean over paths; here each text has its share of it (`macro_shares`).
    """
    shares = macro_shares(ranks <= 1, task.labels[task.test])
    found = {"R@1": ranks <= 1, "R@10": ranks <= 10, "MRR": 1 / ranks, MACRO_RECALL: shares}
    return pd.DataFrame(found, index=task.test).astype(np.float64)


def comparisons(tables: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """`reranker + votes`, or the reranker where no vote was given weight, against each other system: system, metric,
    difference, ci_low, ci_high, p, and p by Holm over all rows. tables: of `per_text`, by system."""
    rows, ours = [], BOTH if BOTH in tables else RANKER
    for system in (name for name in tables if name != ours):
        for metric in ("R@1", "R@10", MACRO_RECALL):
            found = compare(tables[ours], tables[system], metric, seed=seed)
            rows.append({"against": system, **vars(found)})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=list(holm(table["p"].to_dict()).values()))


def _board(tables: Mapping[str, pd.DataFrame], fresh: np.ndarray, config: RealTextConfig) -> pd.DataFrame:
    """The columns of the scoreboard; R@k and MRR once more for the products that no training row tells of (`fresh`,
    bool [N]), unless that are all or none."""
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
