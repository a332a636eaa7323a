"""Train the catalogue reranker in three stages.

    python -m chapter04_catalogue_reranker.train

Stage 0 trains projections and fusion on the features of the frozen towers, stage 1 adds the text tower's LoRA, stage 2
the vision tower's. Each stage starts from the best model of the stage before. A killed training loses nothing: the
same command continues from the last checkpoint, to the same bits.

`accelerate launch --multi_gpu --num_processes 2 -m chapter04_catalogue_reranker.train` shares each batch among two
processes, on CPUs as well; through MPI use `--cpu --mpirun_hostfile hosts` instead of `--multi_gpu`. Each process draws
its own dropout, and draws anew after an interruption.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from chapter04_catalogue_reranker.candidate_lists import CONFUSIONS
from chapter04_catalogue_reranker.examples import choose_products
from chapter04_catalogue_reranker.model import STAGES
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from chapter04_catalogue_reranker.training_setup import TrainingSetup
from common.artifacts import Artifacts, RunFolder
from common.atomic import atomic_write, read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.prefetch import prefetch
from common.processes import ALONE, Processes
from common.progress import tell
from common.training import (
    TrainingRun,
    clip_gradients,
    link_folder,
    parameter_groups,
    resumed_state,
    set_rate,
    train_and_publish,
    warmup_schedule,
)
from common.training_log import TrainingLog, open_tracker, read_log

CHAPTER, STEP = "chapter04_catalogue_reranker", "train"
HEADLINE = "taxonomy MRR"
LOG, METRICS = "training_log.jsonl", "final_metrics.json"
STAGE_FOLDERS = "stage_*"
"""Working folders of the stages, which are not published."""


@dataclass(frozen=True)
class TrainResult:
    """Hold the result of a training.

    run: its folder holds `checkpoint_0` to `checkpoint_2` (the best model of each stage, for
    `CatalogueReranker.load`), `best`, the log, the metrics and `confusions.parquet`. log: one row per batch and one per
    epoch. metrics: validation figures by "untrained", "stage 0" and so on. confusions: `product_id`, `category_path`,
    the wrong paths that the best model puts first for training products.
    """

    run: RunFolder
    log: pd.DataFrame
    metrics: dict[str, dict[str, Any]]
    confusions: pd.DataFrame


def main(config: TrainConfig) -> TrainResult:
    """Train, continue an interrupted training, or return the result of an earlier run of the same config."""
    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, processes = load_reranker_data(artifacts, catalogue), Processes.launched()
    train_and_publish(
        artifacts,
        CHAPTER,
        STEP,
        config=config,
        inputs={"prepare_data": data.run},
        train=lambda work: train_stages(config, data, work, processes),
        processes=processes,
        unpublished=(STAGE_FOLDERS,),
    )
    return load_training(artifacts)


def train_stages(config: TrainConfig, data: RerankerData, work: Path, processes: Processes = ALONE) -> TrainingSetup:
    """Train all stages that are not trained yet, and leave the files of a run in `work`. Returns the trained setup.

    config: with its profile's defaults filled in (`resolved`).
    """
    setup = TrainingSetup.of(config, data, processes)
    metrics = processes.from_main(lambda: read_json(work / METRICS) if (work / METRICS).is_file() else {})
    folders = {stage: work / f"stage_{stage}" for stage in STAGES if config.epochs[stage]}
    tracker = config.track if processes.is_main else None
    tracker = open_tracker(tracker, run=CHAPTER, config=asdict(config), folder=work)
    lines = max(resumed_state(folder)["lines"] for folder in folders.values())
    file = work / LOG if processes.is_main else None
    log = TrainingLog(file, keep=lines, tracker=tracker)
    log.watch(setup.model)
    with closing(log), torch.random.fork_rng(devices=[]):
        for stage, folder in folders.items():
            if f"stage {stage}" in metrics:  # trained before an interruption
                continue
            trained = [earlier for earlier in folders if earlier < stage]
            checkpoint = work / f"checkpoint_{trained[-1]}" if trained else None
            setup.start_stage(stage, checkpoint, resumed_state(folder).get("queued", 0))
            if not metrics:
                metrics["untrained"] = processes.from_main(setup.validation_figures)
            best = train_stage(stage, setup, folder, log)
            metrics[f"stage {stage}"] = processes.from_main(partial(keep_best, stage, best, metrics, work))
    if processes.is_main:
        link_folder(work / f"checkpoint_{max(folders)}", work / "best")
        setup.model.load_weights(work / "best")
        setup.model.eval()
        with atomic_write(work / CONFUSIONS) as temporary:
            setup.examples.confusions(setup.inputs).to_parquet(temporary, index=False)
    processes.wait()
    return setup


def train_stage(stage: int, setup: TrainingSetup, folder: Path, log: TrainingLog) -> dict[str, Any]:
    """Train one stage, or what an interruption left of it, and return the figures of its best epoch.

    folder: receives the model of each epoch, and the best one as `best/`.
    """
    config, model, processes = setup.config, setup.model, setup.processes
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay, no_decay="lora_"), fused=True)
    torch.manual_seed(config.seed + stage)
    run = TrainingRun(
        folder,
        setup,
        optimizer,
        log,
        headline=HEADLINE,
        checkpoint_every=config.checkpoint_every,
        processes=processes,
        labels={"stage": stage},
    )
    if not processes.is_main:  # equal random numbers would drop the same places in every share
        rng = np.random.default_rng([config.seed, stage, run.step, processes.rank])
        torch.manual_seed(int(rng.integers(2**63)))
    epochs, steps = config.epochs[stage], len(setup.batches(stage, 0))
    for epoch, taken in run.epochs(epochs, steps, f"stage {stage}"):
        model.train()
        for batch, pixels in prefetch(setup.batches(stage, epoch)[taken:], setup.pixels):
            share = warmup_schedule(run.step, epochs * steps, config.warmup, "cosine")
            rate = set_rate(optimizer, config.learning_rate[stage] * share)
            optimizer.zero_grad()
            losses = setup.losses(batch, pixels)
            sum(losses.values()).backward()
            processes.average_gradients(model.parameters())
            figures = {name: float(loss.detach()) for name, loss in losses.items()}
            figures["gradient_norm"] = clip_gradients(model.parameters())
            run.check_finite(**figures)
            optimizer.step()
            run.state["queued"] = len(setup.queue) if setup.queue is not None else 0
            run.after_step(**figures, rate=rate, scale=float(model.scale.detach()), products=len(batch.rows))
        model.eval()
        run.after_epoch(setup.validation_figures, model.save)
    best = run.finish()
    return {name: value for name, value in best.items() if name not in run.labels}


def keep_best(stage: int, best: dict[str, Any], metrics: dict[str, dict[str, Any]], work: Path) -> dict[str, Any]:
    """Keep the best model of a stage as its checkpoint, or the model that it started from if no epoch was better.

    best: the figures of its best epoch. metrics: of the stages before; saved with the figures of the model that is
    kept. Returns these figures.
    """
    earlier = [name for name in metrics if name.startswith("stage")]
    source = work / f"stage_{stage}" / "best"
    if earlier and metrics[earlier[-1]][HEADLINE] >= best[HEADLINE]:
        tell(f"train: no epoch of stage {stage} was better on validation products than {earlier[-1]}, which stays")
        source = work / f"checkpoint_{earlier[-1].removeprefix('stage ')}"
        best = {**metrics[earlier[-1]], "epoch": 0}
    link_folder(source, work / f"checkpoint_{stage}")
    write_json(work / METRICS, {**metrics, f"stage {stage}": best})
    return best


def load_training(artifacts: Artifacts) -> TrainResult:
    """Read the current training; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    metrics, confusions = read_json(run.path / METRICS), pd.read_parquet(run.path / CONFUSIONS)
    return TrainResult(run, read_log(run.path / LOG), metrics, confusions)


def trained_products(artifacts: Artifacts, data: RerankerData) -> pd.DataFrame:
    """Return the rows of `data.products` that the current training learned from: a sample, if its config says so."""
    found = choose_products(data.products, config_of(artifacts.current(CHAPTER, STEP)))
    return found[found["split"] == "train"]


def config_of(trained: RunFolder) -> TrainConfig:
    """Return the config of a training."""
    recorded = trained.manifest["config"]
    as_tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in recorded.items()}
    return TrainConfig(**{field.name: as_tuples[field.name] for field in fields(TrainConfig)})


def check_training(run: RunFolder, artifacts: Artifacts) -> None:
    """Raise `CourseError` if a step's run was made from another training than the current one."""
    trained = run.manifest["inputs"].get(STEP)
    if trained is not None and trained != artifacts.current(CHAPTER, STEP).name:
        step = run.name.split("/")[-2]
        raise CourseError(
            f"{CHAPTER}: the model was trained again since {step} was made.\n"
            f"Make it again with: python -m {CHAPTER}.{step}"
        )


def model_folders(artifacts: Artifacts) -> dict[str, Path]:
    """Return the folders of the trained models, for `CatalogueReranker.load`: "best", and "stage_0" and so on for each
    stage that was trained."""
    path = artifacts.current(CHAPTER, STEP).path
    stages = {f"stage_{stage}": path / f"checkpoint_{stage}" for stage in STAGES}
    return {"best": path / "best"} | {name: folder for name, folder in stages.items() if folder.is_dir()}


if __name__ == "__main__":
    run_step(main)
