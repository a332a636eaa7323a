"""Measure the chapter on real photos, those of two public shops, for the scoreboard.

    python -m chapter03_multimodal.studies.real_photos --catalogue grocery_store      # trains two models: some minutes
    python -m chapter03_multimodal.studies.real_photos --catalogue luma

**grocery_store**: three models are measured as `grocery_photos` describes. `CLIP, from scratch` has random weights
trained on the shop; `CLIP, zero-shot` is the encoder as it is; `CLIP, fine-tuned` is the encoder trained on the shop in
the same way.

**luma** says which products go together (links "related" and "crosssell"), and not which do not: negatives are sampled
(`negatives.add_negatives`). A compatibility head on the encoder's frozen vectors is cross-validated, five folds by
product, beside the cosine of the vectors themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import open_clip
import pandas as pd
import torch

from chapter03_multimodal.clip import POCKET_CLIP, Clip, load_clip, save_clip
from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.outfits.compatibility import CompatibilityConfig
from chapter03_multimodal.outfits.cross_validation import HEAD, cross_validate
from chapter03_multimodal.outfits.export_embeddings import ExportConfig
from chapter03_multimodal.outfits.export_embeddings import main as export_embeddings
from chapter03_multimodal.outfits.metrics import FROZEN
from chapter03_multimodal.outfits.pair_data import PairData, load_pair_data
from chapter03_multimodal.prepare_data import MultimodalData, PrepareDataConfig
from chapter03_multimodal.prepare_data import main as prepare_data
from chapter03_multimodal.retrieval import FINE_TUNED, ZERO_SHOT
from chapter03_multimodal.studies.grocery_photos import grocery_pairs, measure_classes
from chapter03_multimodal.train import fine_tune
from chapter03_multimodal.train_config import TrainConfig, resolved
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.scoreboard import read_scoreboard, save_scoreboard
from common.settings import artifacts_root
from common.statistics import summarise
from common.training import link_folder, train_and_publish

CHAPTER, STEP = "chapter03_multimodal", "studies.real_photos"
SCRATCH = "CLIP, from scratch"
SOURCES = ("grocery_store", "luma")
FOLDERS = {SCRATCH: "from_scratch", FINE_TUNED: "fine_tuned"}
TRAININGS = "trainings"
FOLDS = 5
EVERY_PICTURE = 1_000_000


@dataclass(frozen=True)
class RealPhotosConfig:
    """Measure the chapter on real photos: grocery_store (search and classes) or luma (what goes together)."""

    catalogue: str = "grocery_store"
    """grocery_store or luma."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = POCKET_CLIP
    """What is measured as it is and fine-tuned; its architecture is trained from scratch too."""
    epochs: int = 10
    """Times that each model sees every training photo, at most; the best on the held-out photos is kept."""
    batch_size: int = 64
    """Photos a step."""
    scratch_rate: float = 1e-3
    """Peak learning rate from scratch."""
    fine_tuning_rate: float = 5e-4
    """Peak learning rate of fine-tuning."""
    held_out: float = 0.1
    """Share of the training photos to choose on."""
    seed: int = 0
    """Of held-out photos, weights, batches, folds and the bootstrap."""


@dataclass(frozen=True)
class RealPhotosResult:
    """run: its folder holds, for grocery_store, the trained models (`from_scratch/`, `fine_tuned/`) with their logs.
    board: a row a system and metric, the columns of the scoreboard."""

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


def _grocery_store(config: RealPhotosConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Train from scratch and fine-tune, resuming what was interrupted, and measure the three models."""
    start = load_clip(config.encoder)

    def train(work: Path) -> None:
        shop, folder = replace(data, pairs=grocery_pairs(data, config.held_out, config.seed)), work / TRAININGS
        starts = {SCRATCH: with_random_weights(start, folder / "random_weights", config.seed), FINE_TUNED: start}
        for system, clip in starts.items():
            if not (folder / FOLDERS[system] / "best.json").is_file():  # the last file that a training writes
                fine_tune(training_config(config, system), folder / FOLDERS[system], clip, shop)
        trained = {system: folder / name / "best" for system, name in FOLDERS.items()}
        models = {SCRATCH: trained[SCRATCH], ZERO_SHOT: config.encoder, FINE_TUNED: trained[FINE_TUNED]}
        rows = {}
        for system, model in models.items():
            encoder = load_clip_encoder(str(model), cache=artifacts_root() / "embeddings")
            rows[system] = measure_classes(encoder, shop, config.seed)
        shop.pairs.to_parquet(work / "pairs.parquet", index=False)
        for system, name in FOLDERS.items():
            link_folder(trained[system], work / name)
            shutil.copyfile(folder / name / "log.jsonl", work / f"{name}.jsonl")
        save_scoreboard(work, _board(rows, data.catalogue.source, "val"))

    recorded = {**asdict(config), "encoder_digest": start.digest}
    inputs = {"prepare_data": data.run}
    train_and_publish(artifacts, CHAPTER, STEP, config=recorded, inputs=inputs, train=train, unpublished=(TRAININGS,))


def with_random_weights(clip: Clip, folder: Path, seed: int = 0) -> Clip:
    """Write an untrained model of the same architecture and image preprocessing to `folder`, and load it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**clip.config["model_cfg"])
    save_clip(replace(clip, model=model), folder)
    return load_clip(folder)


def training_config(config: RealPhotosConfig, system: str) -> TrainConfig:
    """Return the config of a training; the two differ in the peak learning rate alone.

    No neighbours are mined: random weights cannot tell which pictures are similar.
    """
    return resolved(
        TrainConfig(
            catalogue=config.catalogue,
            profile=config.profile,
            encoder=config.encoder,
            pictures=EVERY_PICTURE,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.scratch_rate if system == SCRATCH else config.fine_tuning_rate,
            hard_share=0.0,
            neighbours=0,
            patience=config.epochs,
            seed=config.seed,
        )
    )


def _luma(config: RealPhotosConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Export the encoder's vectors, and cross-validate heads on them."""
    export_embeddings(ExportConfig(model=config.encoder, catalogue=config.catalogue, profile=config.profile))
    pair_data, inputs = load_pair_data(artifacts, data.catalogue)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        rows = measure_compatibility(pair_data, CompatibilityConfig(catalogue=config.catalogue, seed=config.seed))
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            save_scoreboard(folder, _board(rows, data.catalogue.source, "cross-validated"))


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
    return {f"compatibility, {system}": table.loc[table["system"] == system, columns] for system in (FROZEN, HEAD)}


def _board(rows: Mapping[str, pd.DataFrame], source: str, split: str) -> pd.DataFrame:
    facts = {"chapter": CHAPTER, "source": source, "split": split, "seconds": float("nan")}
    return pd.concat([table.assign(system=system, **facts) for system, table in rows.items()], ignore_index=True)


if __name__ == "__main__":
    run_step(main)
