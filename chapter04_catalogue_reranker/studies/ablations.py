"""Measure what each part of the model is good for: train it again with one part left out at a time.

    python -m chapter04_catalogue_reranker.studies.ablations

Each variant is trained like the model itself, with the same products, order and seed. Variants of one modality go
through all stages and are compared with the model; the others go through stage 0 alone and are compared with the model
of stage 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.train import STAGE_FOLDERS, check_training, config_of, train_stages
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.processes import ALONE, Processes
from common.profiles import with_profile_defaults
from common.progress import tell
from common.training import link_folder, train_and_publish

CHAPTER, STEP = "chapter04_catalogue_reranker", "studies.ablations"
TEXT_ONLY, IMAGE_ONLY = "text only", "image only"
VARIANTS: dict[str, dict[str, Any]] = {
    TEXT_ONLY: {"inputs": "text"},
    IMAGE_ONLY: {"inputs": "image"},
    "mean fusion": {"fusion": "mean"},
    "no contrastive term": {"contrastive": 0.0},
    "no queue": {"queue": 0},
}
"""Changes of the training's config, by variant."""


@dataclass(frozen=True)
class AblationsConfig:
    """Train the variants of the current training."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    variants: tuple[str, ...] | None = None
    """Variants to train; None: the profile's (`PROFILE_DEFAULTS`)."""


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"variants": (TEXT_ONLY, IMAGE_ONLY)},
    "pocket": {"variants": tuple(VARIANTS)},
    "full": {"variants": tuple(VARIANTS)},
}


@dataclass(frozen=True)
class Ablations:
    """run: holds a folder for each variant. folders: by variant, for `CatalogueReranker.load`."""

    run: RunFolder
    folders: dict[str, Path]


def main(config: AblationsConfig) -> Ablations:
    """Train every variant, continue where that was interrupted, or return the result of an earlier run."""
    config = with_profile_defaults(config, PROFILE_DEFAULTS)
    unknown = [name for name in config.variants if name not in VARIANTS]
    if unknown:
        raise CourseError(f"ablations: {unknown[0]!r} is no variant; choose from {', '.join(VARIANTS)}.")
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, trained = load_reranker_data(artifacts, catalogue), artifacts.current(CHAPTER, "train")
    processes = Processes.launched()
    train_and_publish(
        artifacts,
        CHAPTER,
        STEP,
        config=config,
        inputs={"prepare_data": data.run, "train": trained},
        train=lambda work: train_variants(config.variants, config_of(trained), data, work, processes),
        processes=processes,
        unpublished=(STAGE_FOLDERS, "training_*"),
    )
    return load_ablations(artifacts)


def load_ablations(artifacts: Artifacts) -> Ablations:
    """Read the current variants; raises `MissingArtifact` with the command that makes them, and `CourseError` if they
    belong to another training than the current one."""
    run = artifacts.current(CHAPTER, STEP)
    check_training(run, artifacts)
    return Ablations(run, {name: run.path / _slug(name) for name in run.manifest["config"]["variants"]})


def train_variants(
    names: tuple[str, ...], base: TrainConfig, data: RerankerData, work: Path, processes: Processes = ALONE
) -> None:
    """Train each variant of the config `base` that is not trained yet; leave its best model in a folder of `work`."""
    for name in names:
        if (work / _slug(name)).is_dir():  # trained before an interruption
            continue
        if processes.is_main:
            tell(f"ablations: {name}")
        epochs = base.epochs if name in (TEXT_ONLY, IMAGE_ONLY) else (base.epochs[0], 0, 0)
        training = work / f"training_{_slug(name)}"
        train_stages(resolved(replace(base, epochs=epochs, **VARIANTS[name])), data, training, processes)
        if processes.is_main:
            link_folder(training / "best", work / _slug(name))
        processes.wait()


def _slug(name: str) -> str:
    return name.replace(" ", "_")


if __name__ == "__main__":
    run_step(main)
