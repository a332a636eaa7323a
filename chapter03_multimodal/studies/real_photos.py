"""Measure the pretrained towers on real photos, those of two public shops, for the scoreboard.

    python -m chapter03_multimodal.studies.real_photos --catalogue grocery_store      # some minutes
    python -m chapter03_multimodal.studies.real_photos --catalogue luma

The models start from the towers as `align` left them on the photos and titles of fashion_products.

**grocery_store**: `grocery_photos` says what is measured. Linear probes read what the frozen image tower sees, before
any projection; the aligned model is measured as it is, and after training on the shop. Towers that stay frozen look at
each photo once (`frozen_features`), and only the projections between them are trained, as in `align`; `--trained
last_blocks` or `everything` trains more, with `fine_tune`, and takes many times as long.

**luma** says which products go together (links "related" and "crosssell"), and not which do not: negatives are sampled
(`negatives.add_negatives`). Compatibility heads on frozen vectors are cross-validated, five folds by product, beside
the cosine of the vectors themselves: vectors of the pictures, of the texts, and both side by side.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from chapter03_multimodal.align import ALIGNED, MODEL, AlignConfig, align, frozen, starting_point
from chapter03_multimodal.clip import Clip, load_clip, resized
from chapter03_multimodal.encoder import ClipEncoder, load_clip_encoder
from chapter03_multimodal.frozen_features import picture_features, projections
from chapter03_multimodal.joint import side_by_side
from chapter03_multimodal.model import Trained
from chapter03_multimodal.outfits.compatibility import CompatibilityConfig
from chapter03_multimodal.outfits.cross_validation import HEAD, cross_validate
from chapter03_multimodal.outfits.embeddings import ItemEmbeddings
from chapter03_multimodal.outfits.export_embeddings import ExportConfig
from chapter03_multimodal.outfits.export_embeddings import main as export_embeddings
from chapter03_multimodal.outfits.metrics import FROZEN
from chapter03_multimodal.outfits.pair_data import PairData, load_pair_data
from chapter03_multimodal.prepare_data import MultimodalData, PrepareDataConfig
from chapter03_multimodal.prepare_data import main as prepare_data
from chapter03_multimodal.studies.grocery_photos import grocery_pairs, measure_classes, measure_probes
from chapter03_multimodal.studies.real_shop import FINE_TUNED, LIT
from chapter03_multimodal.train import fine_tune
from chapter03_multimodal.train_config import TrainConfig, resolved
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.cli import run_step
from common.devices import choose_placement
from common.errors import CourseError
from common.scoreboard import read_scoreboard, save_scoreboard
from common.settings import artifacts_root
from common.statistics import summarise
from common.training import link_folder, train_and_publish

CHAPTER, STEP = "chapter03_multimodal", "studies.real_photos"
FEATURES = "Lite0, frozen features"
SOURCES = ("grocery_store", "luma")
ALIGNED_ON = "fashion_products"
TRAINING = "training"
FOLDS = 5
EVERY_PICTURE = 1_000_000


@dataclass(frozen=True)
class RealPhotosConfig:
    """Measure the towers on real photos: grocery_store (search and classes) or luma (what goes together)."""

    catalogue: str = "grocery_store"
    """grocery_store or luma."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = ALIGNED
    """Model to measure and to train further: "aligned", what `align` made on fashion_products, or the folder of a CLIP
    of the same towers."""
    side: int = 224
    """Pixels of the squares that photos of grocery_store are seen as; Lite0 learned from 224, which was taken after six
    probes at 128 had been seen on the photos that are measured."""
    trained: Trained = "projections"
    """projections, last_blocks, lora or everything."""
    epochs: int = 40
    """Times that the model sees every training photo, at most; the best on the held-out photos is kept."""
    batch_size: int = 256
    """Photos a step."""
    learning_rate: float = 1e-3
    """Peak of the rate; the more is trained, the lower."""
    held_out: float = 0.1
    """Share of the training photos to choose on."""
    seed: int = 0
    """Of held-out photos, batches, folds and the bootstrap."""


@dataclass(frozen=True)
class RealPhotosResult:
    """run: its folder holds, for grocery_store, the trained model (`fine_tuned/`) with its log. board: a row a system
    and metric, the columns of the scoreboard."""

    run: RunFolder
    board: pd.DataFrame


def main(config: RealPhotosConfig) -> RealPhotosResult:
    """Prepare, train, measure, and save scoreboard rows, or read what was made before."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    if catalogue.source not in SOURCES:
        raise CourseError(f"real_photos: {catalogue.source} is none of {', '.join(SOURCES)}; use evaluate for others")
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = prepare_data(PrepareDataConfig(catalogue=config.catalogue, profile=config.profile))
    measure = _luma if catalogue.source == "luma" else _grocery_store
    measure(config, data, artifacts)
    return load_real_photos(artifacts)


def load_real_photos(artifacts: Artifacts) -> RealPhotosResult:
    """Read the measurement in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    return RealPhotosResult(run, read_scoreboard(run.path))


def model_to_measure(config: RealPhotosConfig) -> str:
    """Return what `load_clip` takes for the encoder of the config."""
    if config.encoder != ALIGNED:
        return config.encoder
    shop = load_catalogue(ALIGNED_ON, profile=config.profile)
    return starting_point(Artifacts.for_catalogue(shop, config.profile), ALIGNED)


def name_of(config: RealPhotosConfig) -> str:
    """Return the name of the encoder in the rows."""
    return LIT if config.encoder == ALIGNED else Path(config.encoder).name


def _grocery_store(config: RealPhotosConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Train, resuming what was interrupted, and measure the frozen tower and both models."""
    start, cache = resized(load_clip(model_to_measure(config)), config.side), artifacts_root() / "embeddings"

    def train(work: Path) -> None:
        pairs, folder = grocery_pairs(data, config.held_out, config.seed), Path(data.catalogue.folder or ".")
        paths = [folder / path for path in pairs["path"]]
        features, usable = picture_features(start, paths, cache / "frozen_features")
        shop, features = replace(data, pairs=pairs[usable].reset_index(drop=True)), features[usable]
        trained = train_on(config, start, shop, work / TRAINING, cache / "frozen_features")
        tuned, own = load_clip(trained), features
        if config.trained != "projections":
            paths = [folder / path for path in shop.pairs["path"]]
            own, _ = picture_features(tuned, paths, cache / "frozen_features")
        rows = {FEATURES: measure_probes(shop.pairs, features, config.seed)}
        for system, clip, seen in ((name_of(config), start, features), (FINE_TUNED, tuned, own)):
            encoder = ClipEncoder(clip, choose_placement("torch"))
            rows[system] = measure_classes(encoder, shop, projected(clip, seen), config.seed)
        shop.pairs.to_parquet(work / "pairs.parquet", index=False)
        link_folder(trained, work / "fine_tuned")
        shutil.copyfile(work / TRAINING / "log.jsonl", work / "fine_tuned.jsonl")
        save_scoreboard(work, _board(rows, data.catalogue.source, "val"))

    recorded = {**asdict(config), "encoder_digest": start.digest}
    inputs = {"prepare_data": data.run}
    train_and_publish(artifacts, CHAPTER, STEP, config=recorded, inputs=inputs, train=train, unpublished=(TRAINING,))


def train_on(config: RealPhotosConfig, start: Clip, shop: MultimodalData, work: Path, cache: Path) -> Path:
    """Train a copy of `start` on the training pairs of `shop` in the folder `work`; return the folder of the best."""
    settings = {"catalogue": config.catalogue, "profile": config.profile, "epochs": config.epochs}
    settings |= {"batch_size": config.batch_size, "learning_rate": config.learning_rate, "seed": config.seed}
    done = (work / "best.json").is_file()  # the last file that a training writes
    if config.trained == "projections":
        if not done:
            parts = [frozen(start, shop, split, cache) for split in ("train", "val")]
            clip = replace(start, model=deepcopy(start.model))
            align(AlignConfig(**settings, patience=config.epochs), clip, *parts, work)
        return work / MODEL
    if not done:
        settings |= {"encoder": config.encoder, "trained": config.trained, "pictures": EVERY_PICTURE, "neighbours": 0}
        fine_tune(resolved(TrainConfig(**settings, patience=config.epochs)), work, start, shop)
    return work / "best"


@torch.inference_mode()
def projected(clip: Clip, features: np.ndarray) -> np.ndarray:
    """Return the vectors, float32 [N, D] of length 1, of pictures whose features before the projection are [N, F]."""
    return normalize(projections(clip)["image"](torch.from_numpy(features)), dim=-1).numpy()


def _luma(config: RealPhotosConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Export the encoder's vectors of the pictures, and cross-validate heads on these, on those of texts, and both."""
    model = model_to_measure(config)
    export_embeddings(ExportConfig(model=model, catalogue=config.catalogue, profile=config.profile))
    pair_data, inputs = load_pair_data(artifacts, data.catalogue)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        encoder, rows = load_clip_encoder(model, cache=artifacts_root() / "embeddings"), {}
        text_of = dict(data.pairs[["product_id", "text"]].itertuples(index=False, name=None))
        heads = CompatibilityConfig(catalogue=config.catalogue, seed=config.seed)
        for kind, embeddings in kinds_of_vectors(pair_data.embeddings, text_of, encoder).items():
            found = measure_compatibility(replace(pair_data, embeddings=embeddings), heads)
            rows |= {f"{name_of(config)}, {system} on {kind}": table for system, table in found.items()}
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            save_scoreboard(folder, _board(rows, data.catalogue.source, "cross-validated"))


def kinds_of_vectors(
    pictures: ItemEmbeddings, text_of: Mapping[str, str], encoder: ClipEncoder
) -> dict[str, ItemEmbeddings]:
    """Return the vectors of the same items by what they are of: "pictures", "texts", and "both" side by side."""
    texts = encoder.encode([text_of[item] for item in pictures.ids]).vectors
    both = side_by_side(texts, pictures.vectors, share=0.5)
    return {"pictures": pictures, "texts": replace(pictures, vectors=texts), "both": replace(pictures, vectors=both)}


def measure_compatibility(
    data: PairData, config: CompatibilityConfig, *, folds: int = FOLDS
) -> dict[str, pd.DataFrame]:
    """Cross-validate a head; return by system, frozen encoder and head: metric, value, ci_low, ci_high, n_queries.

    AUC: of pairs of which the head has seen neither item, and, "one or both unseen", at most one (n_queries counts
    pairs). FITB: over the outfits, here lists of recommendations (n_queries). See `cross_validate`. Intervals by a
    bootstrap over lists.
    """
    found = cross_validate(data, config, folds=folds)
    if found.answers.empty:
        raise CourseError("no list of recommendations has enough products of one fold to ask about; use fewer folds")
    tested = found.auc["tested"]
    aucs = found.auc.assign(metric=("AUC, " + tested).where(tested != "both unseen", "AUC"))
    blanks = summarise(found.answers.groupby("outfit").mean(), seed=config.seed)
    blanks = blanks.rename(columns={"metric": "system"}).assign(metric="FITB")
    table = pd.concat([aucs.rename(columns={"n": "n_queries"}), blanks], ignore_index=True)
    columns = ["metric", "value", "ci_low", "ci_high", "n_queries"]
    return {system: table.loc[table["system"] == system, columns] for system in (FROZEN, HEAD)}


def _board(rows: Mapping[str, pd.DataFrame], source: str, split: str) -> pd.DataFrame:
    facts = {"chapter": CHAPTER, "source": source, "split": split, "seconds": float("nan")}
    return pd.concat([table.assign(system=system, **facts) for system, table in rows.items()], ignore_index=True)


if __name__ == "__main__":
    run_step(main)
