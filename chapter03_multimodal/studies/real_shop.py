"""Measure, on a real shop, what each step of the chapter adds to finding a product's photo by its title.

    python -m chapter03_multimodal.prepare_data --catalogue fashion_products --text title
    python -m chapter03_multimodal.align
    python -m chapter03_multimodal.train --catalogue fashion_products --encoder aligned --trained last_blocks
    python -m chapter03_multimodal.studies.real_shop                     # test products of fashion_products
    python -m chapter03_multimodal.studies.real_shop --data FOLDER       # products of another folder in its layout

Three models, each compared with the one before: photos as mixtures of ImageNet's class names (`class_names`: no pair
was seen), the aligned towers (`align`) and the fine-tuned ones (`train --encoder aligned`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pandas as pd

from chapter03_multimodal.align import ALIGNED, load_alignment
from chapter03_multimodal.class_names import picture_vectors
from chapter03_multimodal.clip import LITE0_MINILM, load_clip
from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.frozen_features import picture_features
from chapter03_multimodal.prepare_data import PrepareDataConfig, load_multimodal_data, make_tables
from chapter03_multimodal.retrieval import scoreboard_rows
from chapter03_multimodal.retrieval_metrics import retrieval_metrics
from chapter03_multimodal.train import check_start, clip_folders, load_training
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.catalogue.images import pixel_digests
from common.catalogue.text import normalise_query
from common.cli import run_step
from common.encoders import load_text_encoder
from common.errors import CourseError
from common.progress import tell
from common.scoreboard import save_scoreboard
from common.settings import artifacts_root
from common.statistics import compare, holm, summarise

CHAPTER, STEP = "chapter03_multimodal", "studies.real_shop"
CLASS_NAMES, LIT, FINE_TUNED = "ImageNet's class names", "Lite0 + MiniLM, aligned", "Lite0 + MiniLM, fine-tuned"
CLAIMS = ("text_to_image_R@1", "text_to_image_R@10", "text_to_image_MRR")


@dataclass(frozen=True)
class RealShopConfig:
    """Measure text to photo and photo to text on a real shop, for three models, in one pool of products."""

    catalogue: str = "fashion_products"
    """Name of the catalogue that the models were trained on."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    data: str | None = None
    """Folder with other products in the layout of fashion_products; they are measured instead, and nothing is saved."""
    split: Literal["val", "test"] = "test"
    """val or test; test is looked at once, at the end."""
    pool: int = 1000
    """Products to search among; which ones is drawn with the seed."""
    seed: int = 0
    """Of the pool, the bootstrap and the paired tests."""


@dataclass(frozen=True)
class RealShopResult:
    """board: system, metric, value, ci_low, ci_high, n_queries. comparisons: of each model with the one before it;
    p_holm is corrected for their number."""

    board: pd.DataFrame
    comparisons: pd.DataFrame


def main(config: RealShopConfig) -> RealShopResult:
    """Measure, and save the rows of a split of the catalogue for the scoreboard."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, aligned, trained = (
        load_multimodal_data(artifacts, catalogue),
        load_alignment(artifacts),
        load_training(artifacts),
    )
    if data.run.manifest["config"]["text"] != "title":
        raise CourseError(f"real_shop: the texts are not titles; run {CHAPTER}.prepare_data --text title")
    if trained.run.manifest["config"]["encoder"] != ALIGNED:
        raise CourseError(f"real_shop: the current training starts elsewhere; run {CHAPTER}.train --encoder {ALIGNED}")
    check_start(artifacts, trained)
    inputs = {"prepare_data": data.run, "align": aligned.run, "train": trained.run}
    if config.data is None:
        pairs, folder = data.with_text(config.split), Path(catalogue.folder or ".")
    else:
        pairs, folder = unseen_pairs(config.data, data.pairs[data.pairs["split"] != "test"], Path(catalogue.folder))
    if len(pairs) < 2:
        raise CourseError(f"real_shop: {len(pairs)} products with photo and title; there must be two or more")
    pairs = pairs.sample(min(config.pool, len(pairs)), random_state=config.seed)
    models = {LIT: aligned.folder, FINE_TUNED: clip_folders(artifacts)["best"]}
    per_pair = measure(pairs, folder, models)
    board = pd.concat([summarise(table, seed=config.seed).assign(system=name) for name, table in per_pair.items()])
    result = RealShopResult(board.reset_index(drop=True), compared(per_pair, config.seed))
    if config.data is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as run:
            result.comparisons.to_parquet(run / "comparisons.parquet", index=False)
            save_scoreboard(run, scoreboard_rows(result.board, catalogue.source, config.split))
    return result


def unseen_pairs(data: str, known: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, Path]:
    """Return the pairs of another folder of products, and where their photos lie.

    Left out are titles and photos that training or validation knew. known: pairs of these, with photos in `folder`.
    """
    catalogue = load_catalogue("fashion_products", data=data, queries=0)
    place = Path(catalogue.folder or ".")
    pairs = make_tables(catalogue, PrepareDataConfig(text="title"))["pairs"]
    pairs = pairs[pairs["text"] != ""]
    seen = pairs["text"].map(normalise_query).isin(set(known["text"].map(normalise_query)))
    photos = set(pixel_digests([folder / path for path in known["path"]]))
    seen |= pd.Series(pixel_digests([place / path for path in pairs["path"]]), index=pairs.index).isin(photos)
    tell(f"{data}: {len(pairs):,} products with photo and title; {int(seen.sum()):,} that were seen before left out")
    return pairs[~seen], place


def measure(pairs: pd.DataFrame, folder: Path, models: dict[str, Path]) -> dict[str, pd.DataFrame]:
    """Return, by system, a row a pair (index: product_id) and a column a metric of `retrieval_metrics`."""
    paths, cache = [folder / path for path in pairs["path"]], artifacts_root() / "embeddings"
    features, usable = picture_features(load_clip(LITE0_MINILM), paths, cache / "frozen_features")
    pairs, paths = pairs[usable], [path for path, good in zip(paths, usable, strict=True) if good]
    titles, words = pairs["text"].tolist(), load_text_encoder()
    vectors = {CLASS_NAMES: (picture_vectors(features[usable], words), words.encode(titles).vectors)}
    for name, model in models.items():
        encoder = load_clip_encoder(model, cache=cache)
        vectors[name] = encoder.encode_images(paths, desc=name).vectors, encoder.encode(titles).vectors
    return {
        name: retrieval_metrics(images, texts, titles).set_index(pairs["product_id"])
        for name, (images, texts) in vectors.items()
    }


def compared(per_pair: dict[str, pd.DataFrame], seed: int) -> pd.DataFrame:
    """Compare each system with the one before it, in the metrics of `CLAIMS`."""
    names = list(per_pair)
    rows = [
        {"system": after, "before": before, **asdict(compare(per_pair[after], per_pair[before], metric, seed=seed))}
        for before, after in pairwise(names)
        for metric in CLAIMS
    ]
    table = pd.DataFrame(rows)
    corrected = holm({str(at): p for at, p in enumerate(table["p"])})
    return table.assign(p_holm=[corrected[str(at)] for at in range(len(table))])


def print_summary(config: RealShopConfig) -> None:
    """Measure and print the table and the comparisons."""
    result = main(config)
    metrics = [f"{way}_{metric}" for way in ("text_to_image", "image_to_text") for metric in ("R@1", "R@10", "MRR")]
    table = result.board.pivot(index="system", columns="metric", values="value")[metrics]
    print(table.loc[[CLASS_NAMES, LIT, FINE_TUNED]].round(3).to_string())
    shown = result.board[result.board["metric"].isin(CLAIMS)]
    print(shown[["system", "metric", "value", "ci_low", "ci_high", "n_queries"]].round(3).to_string(index=False))
    print(result.comparisons.round(4).to_string(index=False))


if __name__ == "__main__":
    run_step(print_summary)
