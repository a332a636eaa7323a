"""What is each part good for? The training in force again, with one thing left out at a time.

    python -m chapter04_catalogue_reranker.ablations

Each variant is trained like the model itself, with the same products, order and seed. Those that read one modality go
through all the stages that train something of it; the others through stage 0 alone in profile pocket, to be compared
with the model's own stage 0.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from chapter02_two_tower.train import link_or_copy
from chapter04_catalogue_reranker import train
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.train import Training, work_name
from chapter04_catalogue_reranker.train_config import TrainConfig
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import tell

CHAPTER, STEP = "chapter04_catalogue_reranker", "ablations"
TEXT_ONLY, IMAGE_ONLY = "text only", "image only"
VARIANTS: dict[str, dict[str, Any]] = {
    TEXT_ONLY: {"inputs": "text"},
    IMAGE_ONLY: {"inputs": "image"},
    "mean fusion": {"fusion": "mean"},
    "no contrastive term": {"contrastive": 0.0},
    "no queue": {"queue": 0},
}
"""What is changed in the training's config, by variant."""

STAGES_OF = {TEXT_ONLY: (0, 1), IMAGE_ONLY: (0, 2)}
"""The stages in which a variant of one modality trains the tower that it reads with."""


@dataclass(frozen=True)
class AblationsConfig:
    """Train the variants of the training in force."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which to train."""
    all_stages: bool = False
    """Train the others than text only and image only through all stages, too."""


@dataclass(frozen=True)
class Ablations:
    """run: a folder for each variant. folders: by variant, what `CatalogueReranker.load` takes. stages: by variant, the
    stages it was trained in."""

    run: RunFolder
    folders: dict[str, Path]
    stages: dict[str, tuple[int, ...]]


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
        works = {name: _train(name, base, config, data, artifacts) for name in config.variants}
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            for name, work in works.items():
                shutil.copytree(work / "best", folder / _slug(name), copy_function=link_or_copy)
        for work in works.values():
            shutil.rmtree(work)
    return load_ablations(artifacts)


def load_ablations(artifacts: Artifacts) -> Ablations:
    """Read the variants in force; raises `MissingArtifact` with the command that makes them."""
    run = artifacts.current(CHAPTER, STEP)
    names, everything = run.manifest["config"]["variants"], run.manifest["config"]["all_stages"]
    stages = {name: _stages(name, everything) for name in names}
    return Ablations(run, {name: run.path / _slug(name) for name in names}, stages)


def config_of(trained: RunFolder) -> TrainConfig:
    """The config that a training was made with."""
    recorded = trained.manifest["config"]
    as_tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()}
    return TrainConfig(**{field.name: as_tuples[field.name] for field in fields(TrainConfig)})


def _train(name: str, base: TrainConfig, config: AblationsConfig, data: RerankerData, artifacts: Artifacts) -> Path:
    """Train one variant and return its work folder, which stays until all are trained."""
    stages = _stages(name, config.all_stages)
    epochs = tuple(count if stage in stages else 0 for stage, count in enumerate(base.epochs))
    changed = replace(base, epochs=epochs, **VARIANTS[name])
    work = artifacts.folder / CHAPTER / "unfinished" / work_name(changed, data)
    if not (work / "best").is_dir():
        tell(f"ablations: {name}, stages {', '.join(map(str, stages))}")
        Training(changed, work, data).run()
    return work


def _stages(name: str, everything: bool) -> tuple[int, ...]:
    return STAGES_OF.get(name, (0, 1, 2) if everything else (0,))


def _slug(name: str) -> str:
    return name.replace(" ", "_")


if __name__ == "__main__":
    run_step(main)
