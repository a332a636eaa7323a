"""How well category paths are ranked: before training, after each stage, and without each part.

    python -m chapter04_catalogue_reranker.category_ranking --split test

Every product of the split ranks its own candidates, and all paths of the catalogue. The zero-shot text encoder stands
beside the model's stages and, if they were trained, its ablations; on the same products, so that they can be compared
in pairs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker import calibration
from chapter04_catalogue_reranker.batches import Candidates
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.ranking_metrics import (
    MACRO_RECALL,
    by_depth,
    by_frequency,
    hierarchical,
    hierarchical_figures,
    macro_shares,
    per_product,
    rank_of_truth,
)
from chapter04_catalogue_reranker.studies.ablations import IMAGE_ONLY, TEXT_ONLY, load_ablations
from chapter04_catalogue_reranker.train import check_training, load_training, model_folders, trained_products
from common.artifacts import Artifacts, RunFolder, read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.encoders import MINILM, load_text_encoder
from common.errors import CourseError, MissingArtifact
from common.settings import artifacts_root
from common.statistics import compare, holm, summarise

CHAPTER, STEP = "chapter04_catalogue_reranker", "category_ranking"
ZERO_SHOT, RERANKER = "zero-shot text encoder", "reranker"
LISTED, TAXONOMY = "listed", "taxonomy"
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
"""What the chapter makes a statement about (system, against, metric); the p-values are corrected together (Holm)."""


@dataclass(frozen=True)
class CategoryRankingConfig:
    """Measure the ranking of category paths on one split of a catalogue's products."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: str = "test"
    """val or test; test is looked at once, at the end."""
    accuracy: float = 0.99
    """Share of the given answers that should be right: from which confidence on is chosen on validation."""
    seed: int = 0
    """Of the bootstrap and the paired tests."""


@dataclass(frozen=True)
class CategoryRanking:
    """Figures of N products with a true path.

    Macro R@1 in per_product is each product's share of it (`macro_shares`).

    board: system, metric ("listed Acc@1", "taxonomy MRR", …), value, ci_low, ci_high, n_queries. per_product: by system
    and product_id, a column a metric. comparisons: a row a claim, p_holm corrected for their number. hierarchy: by
    system and "strict" or "lenient", of the first path of the whole taxonomy. by_depth, by_frequency: of the reranker,
    over the whole taxonomy. reliability, coverage: of the reranker's first path, by `among` ("listed" or "taxonomy").
    calibration: by the same names: temperature (fitted on val), ece and ece_raw (with and without it), threshold
    (chosen on val; None if no confidence was enough), and coverage and accuracy from there on.
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


@dataclass(frozen=True)
class Ranked:
    """What one system says of N products: cosines of the listed candidates [N, K], of all paths [N, C], and the number
    that it multiplies cosines with."""

    listed: np.ndarray
    taxonomy: np.ndarray
    scale: float


def main(config: CategoryRankingConfig) -> CategoryRanking:
    """Rank, measure, compare and save, or read what was measured before."""
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
    """Read the measurement in force; raises `MissingArtifact` with the command that makes one, and CourseError if it is
    of another training than the one in force."""
    run = artifacts.current(CHAPTER, STEP)
    check_training(run, artifacts)
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return CategoryRanking(run=run, **tables, calibration=read_json(run.path / CALIBRATION))


class Split:
    """The products of a split that have a true path among their candidates, with these lists. The others are left out:
    no ranking of theirs could be right."""

    def __init__(self, data: RerankerData, split: str) -> None:
        products = data.products
        self.products = products[(products["split"] == split) & products["true_path"].notna()].reset_index(drop=True)
        if self.products.empty:
            raise CourseError(f"{data.catalogue.source}: the {split} split has no product whose true path is known.")
        self.data = data
        self.lists = Candidates.of(data.candidates, self.products["product_id"].tolist(), data.paths)

    def ranked_by(self, model: CatalogueReranker) -> Ranked:
        """By a reranker's fused vectors."""
        home = Path(self.data.catalogue.folder or ".")
        images = [None if pd.isna(image) else home / image for image in self.products["image"]]
        products = encode_products(model, self.products["text"].tolist(), images).fused
        return self._ranked(products, encode_categories(model, self.data.paths), float(model.scale.detach()))

    def ranked_zero_shot(self) -> Ranked:
        """By the packaged text encoder as it is: the product's text against the path."""
        encoder = load_text_encoder(MINILM, cache=artifacts_root() / "embeddings")
        products = encoder.encode(self.products["text"].tolist()).vectors
        return self._ranked(products, encoder.encode(self.data.paths).vectors, 1.0)

    def logits(self, ranked: Ranked, among: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Scale times cosine [N, K or C], which of these are candidates, and the column of the true one [N]."""
        if among == LISTED:
            return ranked.scale * ranked.listed, self.lists.listed, self.lists.truth
        return ranked.scale * ranked.taxonomy, np.ones(ranked.taxonomy.shape, dtype=bool), self.lists.labels()

    def figures(self, ranked: Ranked) -> pd.DataFrame:
        """A row a product, a column a metric; own list and whole taxonomy."""
        cosines = Ranked(ranked.listed, ranked.taxonomy, 1.0)
        listed, taxonomy = (per_product(rank_of_truth(*self.logits(cosines, among))) for among in (LISTED, TAXONOMY))
        taxonomy[MACRO_RECALL] = macro_shares(taxonomy["Acc@1"].to_numpy(), self.products["true_path"])
        table = pd.concat([listed.add_prefix(f"{LISTED} "), taxonomy.add_prefix(f"{TAXONOMY} ")], axis=1)
        return table.set_index(self.products["product_id"])

    def _ranked(self, products: np.ndarray, paths: np.ndarray, scale: float) -> Ranked:
        return Ranked(self.lists.scores(products, paths), products @ paths.T, scale)


def _measure(
    folder: Path, data: RerankerData, trained: pd.DataFrame, folders: dict[str, Path], config: CategoryRankingConfig
) -> None:
    """Rank with every system, and write what `CategoryRanking` holds. trained: the products of the training."""
    split = Split(data, config.split)
    ranked = {ZERO_SHOT: split.ranked_zero_shot()}
    ranked |= {name: split.ranked_by(CatalogueReranker.load(path)) for name, path in folders.items()}
    tables = {name: split.figures(found) for name, found in ranked.items()}
    true_paths = split.products["true_path"].tolist()
    board = pd.concat([summarise(table, seed=config.seed).assign(system=name) for name, table in tables.items()])
    pd.concat(tables, names=["system"]).to_parquet(folder / "per_product.parquet")
    board.to_parquet(folder / "board.parquet", index=False)
    _comparisons(tables, config.seed).to_parquet(folder / "comparisons.parquet", index=False)
    _hierarchy(ranked, split).to_parquet(folder / "hierarchy.parquet", index=False)
    ranks = 1 / tables[RERANKER][f"{TAXONOMY} MRR"].to_numpy()
    by_depth(ranks, true_paths).to_parquet(folder / "by_depth.parquet")
    by_frequency(ranks, true_paths, trained["true_path"]).to_parquet(folder / "by_frequency.parquet")
    _calibrate(folder, Split(data, "val"), split, ranked[RERANKER], folders[RERANKER], config.accuracy)


def _comparisons(tables: dict[str, pd.DataFrame], seed: int) -> pd.DataFrame:
    rows = [
        {"system": system, "against": other, **asdict(compare(tables[system], tables[other], metric, seed=seed))}
        for system, other, metric in CLAIMS
        if system in tables and other in tables
    ]
    corrected = holm({str(number): row["p"] for number, row in enumerate(rows)})
    return pd.DataFrame(rows).assign(p_holm=list(corrected.values()))


def _hierarchy(ranked: dict[str, Ranked], split: Split) -> pd.DataFrame:
    """The hierarchical figures of each system's first path of all, against the true path and against the list."""
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


def _calibrate(folder: Path, val: Split, split: Split, found: Ranked, model: Path, accuracy: float) -> None:
    """Fit temperature and threshold on validation products, and write what both do on the split."""
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


def _answers(split: Split, found: Ranked, among: str, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """How sure each product's first path is, and whether it is right; [N] each."""
    logits, listed, truth = split.logits(found, among)
    confidence = calibration.top_confidence(logits, listed, temperature)
    return confidence, rank_of_truth(logits / found.scale, listed, truth) == 1


def _named_folders(artifacts: Artifacts) -> dict[str, Path]:
    """The stages before the last, and the model itself."""
    folders = model_folders(artifacts)
    stages = [name for name in folders if name.startswith("stage_")]
    return {name.replace("_", " "): folders[name] for name in stages[:-1]} | {RERANKER: folders["best"]}


def scoreboard_rows(artifacts: Artifacts, catalogue: Catalogue) -> pd.DataFrame:
    """The board in the form of the course's scoreboard."""
    found = load_category_ranking(artifacts)
    facts = {"chapter": CHAPTER, "source": catalogue.source, "split": found.run.manifest["config"]["split"]}
    metric = "category, " + found.board["metric"]
    return found.board.assign(metric=metric, seconds=float("nan"), **facts)


if __name__ == "__main__":
    run_step(main)
