"""What is each part good for? The training in force again, with one thing left out at a time.

    python -m chapter04_catalogue_reranker.studies.ablations

Each variant is trained like the model itself, with the same products, order and seed. Those that read one modality go
through all stages, and are compared with the model; the others through stage 0 alone, and are compared with the model's
own stage 0.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chapter02_two_tower.train import link_or_copy
from chapter04_catalogue_reranker import train
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.train import Training, check_training, config_of, work_name
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import tell

CHAPTER, STEP = "chapter04_catalogue_reranker", "studies.ablations"
TEXT_ONLY, IMAGE_ONLY = "text only", "image only"
VARIANTS: dict[str, dict[str, Any]] = {
    TEXT_ONLY: {"inputs": "text"},
    IMAGE_ONLY: {"inputs": "image"},
    "mean fusion": {"fusion": "mean"},
    "no contrastive term": {"contrastive": 0.0},
    "no queue": {"queue": 0},
}
"""What is changed in the training's config, by variant."""


@dataclass(frozen=True)
class AblationsConfig:
    """Train the variants of the training in force."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which to train."""


@dataclass(frozen=True)
class Ablations:
    """run: a folder for each variant. folders: by variant, what `CatalogueReranker.load` takes."""

    run: RunFolder
    folders: dict[str, Path]


def main(config: AblationsConfig) -> Ablations:
    """Train every variant, or go on where that was interrupted, or return what was made before."""
    unknown = [name for name in config.variants if name not in VARIANTS]
    if unknown:
        raise CourseError(f"ablations: {unknown[0]!r} is no variant; choose from {', '.join(VARIANTS)}.")
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, trained = load_reranker_data(artifacts, catalogue), artifacts.current(CHAPTER, train.STEP)
    inputs = {"prepare_data": data.run, "train": trained}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        base = config_of(trained)
        works = {name: _train(name, base, data, artifacts) for name in config.variants}
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            for name, work in works.items():
                shutil.copytree(work / "best", folder / _slug(name), copy_function=link_or_copy)
        for work in works.values():
            shutil.rmtree(work)
    return load_ablations(artifacts)


def load_ablations(artifacts: Artifacts) -> Ablations:
    """Read the variants in force; raises `MissingArtifact` with the command that makes them, and CourseError if they
    are of another training than the one in force."""
    run = artifacts.current(CHAPTER, STEP)
    check_training(run, artifacts)
    return Ablations(run, {name: run.path / _slug(name) for name in run.manifest["config"]["variants"]})


def _train(name: str, base: TrainConfig, data: RerankerData, artifacts: Artifacts) -> Path:
    """Train one variant and return its work folder, which stays until all are trained."""
    epochs = base.epochs if name in (TEXT_ONLY, IMAGE_ONLY) else (base.epochs[0], 0, 0)
    changed = resolved(replace(base, epochs=epochs, **VARIANTS[name]))
    work = artifacts.folder / CHAPTER / "unfinished" / work_name(changed, data)
    if not (work / "best").is_dir():
        tell(f"ablations: {name}")
        Training(changed, work, data).run()
    return work


def _slug(name: str) -> str:
    return name.replace(" ", "_")


if __name__ == "__main__":
    run_step(main)
