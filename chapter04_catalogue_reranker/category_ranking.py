"""Measure the ranking of category paths: before training, after each stage, and without each part.

    python -m chapter04_catalogue_reranker.category_ranking --split test

Each product of the split ranks its own candidates, and all paths of the catalogue. The systems are a zero-shot text
encoder, the model's stages and, if they were trained, its ablations. All rank the same products, for paired tests.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from chapter01_baseline.evaluate import compare_claims
from chapter04_catalogue_reranker import calibration
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.ranked_split import LISTED, TAXONOMY, Ranked, RankedSplit
from chapter04_catalogue_reranker.ranking_metrics import (
    MACRO_RECALL,
    by_depth,
    by_frequency,
    hierarchical,
    hierarchical_figures,
    rank_of_truth,
)
from chapter04_catalogue_reranker.studies.ablations import IMAGE_ONLY, TEXT_ONLY, load_ablations
from chapter04_catalogue_reranker.train import check_training, load_training, model_folders, trained_products
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import MissingArtifact
from common.scoreboard import save_scoreboard
from common.statistics import summarise

CHAPTER, STEP = "chapter04_catalogue_reranker", "category_ranking"
ZERO_SHOT, RERANKER = "zero-shot text encoder", "reranker"
CALIBRATION = "calibration.json"
TABLES = ("board", "per_product", "comparisons", "hierarchy", "by_depth", "by_frequency", "reliability", "coverage")
CLAIMS = (
    *((RERANKER, other, f"{LISTED} Acc@1") for other in (ZERO_SHOT, TEXT_ONLY, IMAGE_ONLY)),
    *((RERANKER, other, f"{TAXONOMY} Acc@1") for other in (ZERO_SHOT, TEXT_ONLY, IMAGE_ONLY)),
    (RERANKER, ZERO_SHOT, f"{TAXONOMY} {MACRO_RECALL}"),
    ("stage 1", "stage 0", f"{TAXONOMY} Acc@1"),
    (RERANKER, "stage 1", f"{TAXONOMY} Acc@1"),
    *(("stage 0", other, f"{TAXONOMY} Acc@1") for other in ("mean fusion", "no contrastive term", "no queue")),
)
"""The chapter's claims (system, against, metric); their p-values are corrected together (Holm)."""


@dataclass(frozen=True)
class CategoryRankingConfig:
    """Measure the ranking of category paths on one split of a catalogue's products."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: str = "test"
    """val or test; measure test once, at the end."""
    accuracy: float = 0.99
    """Share of the given answers that should be right; validation products choose the confidence for it."""
    seed: int = 0
    """Seed of the bootstrap and the paired tests."""


@dataclass(frozen=True)
class CategoryRanking:
    """Hold the figures of N products with a true path.

    board: system, metric ("listed Acc@1", "taxonomy MRR", …), value, ci_low, ci_high, n_queries. per_product: by system
    and product_id, one column per metric; its macro R@1 is each product's share (`macro_shares`). comparisons: one row
    per claim, p_holm corrected for their number. hierarchy: by system and "strict" or "lenient", of the first path of
    the whole taxonomy. by_depth, by_frequency: of the reranker, over the whole taxonomy. reliability, coverage: of the
    reranker's first path, by `among` ("listed" or "taxonomy"). calibration: by the same names: temperature (fitted on
    val), ece and ece_raw (with and without it), threshold (chosen on val; None if no confidence was enough), and
    coverage and accuracy from there on.
    """

    run: RunFolder
    board: pd.DataFrame
    per_product: pd.DataFrame
    comparisons: pd.DataFrame
    hierarchy: pd.DataFrame
    by_depth: pd.DataFrame
    by_frequency: pd.DataFrame
    reliability: pd.DataFrame
    coverage: pd.DataFrame
    calibration: dict[str, dict[str, float | None]]


def main(config: CategoryRankingConfig) -> CategoryRanking:
    """Rank, measure, compare and save, or return the result of an earlier run."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, training = load_reranker_data(artifacts, catalogue), load_training(artifacts)
    inputs = {"prepare_data": data.run, "train": training.run}
    folders = _named_folders(artifacts)
    with suppress(MissingArtifact):
        ablations = load_ablations(artifacts)
        inputs["ablations"], folders = ablations.run, folders | ablations.folders
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            _measure(folder, data, trained_products(artifacts, data), folders, config)
    return load_category_ranking(artifacts)


def load_category_ranking(artifacts: Artifacts) -> CategoryRanking:
    """Read the current measurement; raises `MissingArtifact` with the command that makes one, and `CourseError` if it
    belongs to another training than the current one."""
    run = artifacts.current(CHAPTER, STEP)
    check_training(run, artifacts)
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return CategoryRanking(run=run, **tables, calibration=read_json(run.path / CALIBRATION))


def _measure(
    folder: Path, data: RerankerData, trained: pd.DataFrame, folders: dict[str, Path], config: CategoryRankingConfig
) -> None:
    """Rank with every system, and write the files of `CategoryRanking`. trained: the products of the training."""
    split = RankedSplit(data, config.split)
    ranked = {ZERO_SHOT: split.ranked_zero_shot()}
    ranked |= {name: split.ranked_by(CatalogueReranker.load(path)) for name, path in folders.items()}
    tables = {name: split.figures(found) for name, found in ranked.items()}
    true_paths = split.products["true_path"].tolist()
    board = pd.concat([summarise(table, seed=config.seed).assign(system=name) for name, table in tables.items()])
    pd.concat(tables, names=["system"]).to_parquet(folder / "per_product.parquet")
    board.to_parquet(folder / "board.parquet", index=False)
    facts = {"chapter": CHAPTER, "source": data.catalogue.source, "split": config.split, "seconds": float("nan")}
    save_scoreboard(folder, board.assign(metric="category, " + board["metric"], **facts))
    compare_claims(tables, config.seed, CLAIMS).to_parquet(folder / "comparisons.parquet", index=False)
    _hierarchy(ranked, split).to_parquet(folder / "hierarchy.parquet", index=False)
    ranks = 1 / tables[RERANKER][f"{TAXONOMY} MRR"].to_numpy()
    by_depth(ranks, true_paths).to_parquet(folder / "by_depth.parquet")
    by_frequency(ranks, true_paths, trained["true_path"]).to_parquet(folder / "by_frequency.parquet")
    _calibrate(folder, RankedSplit(data, "val"), split, ranked[RERANKER], folders[RERANKER], config.accuracy)


def _hierarchy(ranked: dict[str, Ranked], split: RankedSplit) -> pd.DataFrame:
    """Return the hierarchical figures of each system's first path of all, against the true path and the list."""
    names = np.array(split.data.paths, dtype=object)
    accepted = {
        "strict": [[path] for path in split.products["true_path"]],
        "lenient": [names[row[kept]].tolist() for row, kept in zip(split.lists.paths, split.lists.listed, strict=True)],
    }
    rows = []
    for name, found in ranked.items():
        first = names[found.taxonomy.argmax(axis=1)]
        for kind, right in accepted.items():
            rows.append({"system": name, "accepted": kind} | hierarchical_figures(hierarchical(first, right)))
    return pd.DataFrame(rows)


def _calibrate(folder: Path, val: RankedSplit, split: RankedSplit, found: Ranked, model: Path, accuracy: float) -> None:
    """Fit temperature and threshold on validation products, and write their effect on the split."""
    on_val, facts, tables = val.ranked_by(CatalogueReranker.load(model)), {}, {}
    for among in (LISTED, TAXONOMY):
        temperature = calibration.fit_temperature(*val.logits(on_val, among))
        threshold = calibration.abstain_threshold(*_answers(val, on_val, among, temperature), accuracy)
        sure, right = _answers(split, found, among, temperature)
        raw, _ = _answers(split, found, among, 1.0)
        given = sure >= threshold
        tables[among] = (calibration.reliability(sure, right), calibration.coverage_curve(sure, right))
        facts[among] = {
            "temperature": temperature,
            "ece": calibration.expected_calibration_error(sure, right),
            "ece_raw": calibration.expected_calibration_error(raw, right),
            "threshold": threshold if np.isfinite(threshold) else None,
            "coverage": float(given.mean()),
            "accuracy": float(right[given].mean()) if given.any() else None,
        }
    for name, parts in zip(("reliability", "coverage"), zip(*tables.values(), strict=True), strict=True):
        table = pd.concat([part.assign(among=among) for among, part in zip(tables, parts, strict=True)])
        table.to_parquet(folder / f"{name}.parquet", index=False)
    write_json(folder / CALIBRATION, facts)


def _answers(split: RankedSplit, found: Ranked, among: str, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence of each product's first path, and whether it is right; [N] each."""
    logits, listed, truth = split.logits(found, among)
    confidence = calibration.top_confidence(logits, listed, temperature)
    return confidence, rank_of_truth(logits / found.scale, listed, truth) == 1


def _named_folders(artifacts: Artifacts) -> dict[str, Path]:
    """Return the models of the stages before the last, and the best model."""
    folders = model_folders(artifacts)
    stages = [name for name in folders if name.startswith("stage_")]
    return {name.replace("_", " "): folders[name] for name in stages[:-1]} | {RERANKER: folders["best"]}


if __name__ == "__main__":
    run_step(main)
