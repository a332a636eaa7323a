"""Train the two towers in stages.

    python -m chapter02_two_tower.train --learning-rate 3e-5

1. Random and in-batch negatives. 2. Hard negatives, mined with the model of stage 1, and similar queries in one batch.
3. Partly relevant products (label C) as weak positives, at a tenth of the rate. Each stage starts from the best model
so far, by nDCG@10 on the validation queries. The control repeats stage 2 for as many steps, with random negatives in
random batches.

A killed run loses nothing: the same command continues from the last checkpoint, to the same bits.
`accelerate launch --multi_gpu --num_processes 2 -m chapter02_two_tower.train` shares each batch among two processes, on
CPUs as well (with `--cpu` accelerate starts a single one, unless there is MPI).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from chapter01_baseline.reindex import load_indices
from chapter02_two_tower.batches import Batch, BatchMaker
from chapter02_two_tower.cached_loss import cached_backward
from chapter02_two_tower.guide import Guide
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.objective import batch_loss
from chapter02_two_tower.stage_batches import SKIPPED, mine_once, stage_batches
from chapter02_two_tower.stages import CONTROL, Stage, plan_stages
from chapter02_two_tower.train_config import TrainConfig, resolved
from chapter02_two_tower.training_data import TrainingData, load_training_data
from chapter02_two_tower.training_texts import TrainingTexts
from chapter02_two_tower.validation import Validation
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.devices import choose_placement
from common.processes import ALONE, Processes
from common.progress import tell
from common.training import (
    CHECKPOINTS,
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

CHAPTER, STEP = "chapter02_two_tower", "train"
HEADLINE = "nDCG@10"
WEIGHT_DECAY = 0.01
LOG, UNTRAINED, BEST, DONE = "log.jsonl", "untrained.json", "best.json", "done.json"


@dataclass(frozen=True)
class TrainResult:
    """Hold the training in force.

    run: its folder holds `best/` (the model kept), of every stage `epoch_N/` and `best/`, and `log.jsonl`.
    log: its table, a row a batch (loss, rate, gradient_norm, seconds) and a row an epoch (validation figures, embedding
        statistics).
    best: stage, epoch and validation figures of the model kept. untrained: the figures before any training.
    mined: by stage, how many candidates each rule of mining left out (rule, count).
    """

    run: RunFolder
    log: pd.DataFrame
    best: dict[str, Any]
    untrained: dict[str, float]
    mined: dict[str, pd.DataFrame]


def main(config: TrainConfig) -> TrainResult:
    """Train the towers, continue an interrupted training, or read what the same training made before."""
    processes = Processes.launched()  # before the guide's encoder is put on a GPU: each process gets its own
    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = load_training_data(artifacts)
    indices = load_indices(artifacts, catalogue)

    def train(work: Path) -> None:
        guide = Guide.of(indices, data) if config.guide else None
        train_stages(config, data, Validation(catalogue, data), work, processes=processes, guide=guide)

    inputs = {"prepare_data": data.run, "baseline": indices.run}
    train_and_publish(artifacts, CHAPTER, STEP, config=config, inputs=inputs, train=train, processes=processes)
    return load_training(artifacts)


def load_training(artifacts: Artifacts) -> TrainResult:
    """Read the training in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    mined = {path.parent.name: pd.read_parquet(path) for path in sorted(run.path.glob(f"*/{SKIPPED}"))}
    return TrainResult(
        run, read_log(run.path / LOG), read_json(run.path / BEST), read_json(run.path / UNTRAINED), mined
    )


def tower_folders(artifacts: Artifacts) -> dict[str, Path]:
    """Return the folders of the trained models: "best" of all, the best of "stage1", of "control" if there is one."""
    path = artifacts.current(CHAPTER, STEP).path
    folders = {"best": path / "best", "stage1": path / "stage1" / "best", CONTROL: path / CONTROL / "best"}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def train_stages(
    config: TrainConfig,
    data: TrainingData,
    validation: Validation,
    work: Path,
    *,
    processes: Processes = ALONE,
    guide: Guide | None = None,
) -> None:
    """Train every stage that is not done yet, each from the best model so far; `work` then holds all of the run.

    config: `resolved`. processes: all take the same steps, only the main one writes.
    """
    plan, texts = plan_stages(config, data), TrainingTexts(data, validation.product_texts)
    if processes.is_main and not (work / UNTRAINED).is_file():
        write_json(work / UNTRAINED, validation(_model(config, work, None)))
    done: dict[str, dict[str, Any]] = {}
    with closing(_open_log(config, work, [stage.name for stage in plan], processes)) as log:
        for stage in plan:
            folder = work / stage.name
            if not (folder / DONE).is_file():
                model = _model(config, work, _best({"stage1": done["stage1"]} if stage.name == CONTROL else done))
                log.watch(model)
                if processes.is_main:
                    mine_once(stage, model, folder, texts, data, config)
                processes.wait()  # for what is read next
                first_step = [*done.values()][-1]["steps"] if done else 0
                batches = stage_batches(stage, folder, data, config)
                train_stage(stage, model, batches, texts, validation, config, folder, log, first_step, processes, guide)
                processes.wait()
            done[stage.name] = read_json(folder / DONE)
    best = _best({name: result for name, result in done.items() if name != CONTROL})
    if processes.is_main:
        if best[HEADLINE] <= read_json(work / UNTRAINED)[HEADLINE]:
            tell("train: no epoch was better on the validation queries than the untrained encoder")
        write_json(work / BEST, best)
        link_folder(work / best["stage"] / "best", work / "best")
    processes.wait()


def train_stage(
    stage: Stage,
    model: TwoTowerModel,
    batches: BatchMaker,
    texts: TrainingTexts,
    validation: Validation,
    config: TrainConfig,
    folder: Path,
    log: TrainingLog,
    first_step: int = 0,
    processes: Processes = ALONE,
    guide: Guide | None = None,
) -> None:
    """Train `model` on one stage, and leave the models of its epochs and `best/` in the stage's folder.

    log: of the whole training. first_step: how many steps the stages before took.
    """
    placement = choose_placement("torch")
    optimizer = torch.optim.AdamW(parameter_groups(model, WEIGHT_DECAY), lr=stage.rate, fused=True)
    torch.manual_seed(stage.seed)
    run = TrainingRun(
        folder,
        model,
        optimizer,
        log,
        headline=HEADLINE,
        patience=config.patience,
        checkpoint_every=config.checkpoint_every,
        processes=processes,
        first_step=first_step,
        labels={"stage": stage.name},
    )
    in_chunks = config.cached or processes.count > 1
    for epoch, taken in run.epochs(stage.epochs, batches.steps, desc=stage.name):
        model.train()
        for batch in batches.epoch(epoch)[taken:]:
            share = warmup_schedule(run.step, stage.epochs * batches.steps, stage.warmup, stage.decay)
            rate = set_rate(optimizer, stage.rate * share)
            marked = batch if guide is None else guide.mark(batch)
            parts = texts.tokens(model, marked)

            def loss_of(vectors: Sequence[torch.Tensor], batch: Batch = marked) -> torch.Tensor:
                return batch_loss(*vectors, batch, config, model.temperature)

            optimizer.zero_grad()
            with torch.autocast(placement.device, torch.bfloat16, enabled=placement.precision == "bfloat16"):
                if in_chunks:
                    loss = cached_backward(parts, loss_of, processes=processes)
                else:
                    loss = loss_of([tower(tokens) for tower, tokens in parts])
            if not in_chunks:
                loss.backward()
            elif model.architecture.learn_temperature:  # whole in every process, but for rounding
                processes.average_gradients([model.log_temperature])
            norm = clip_gradients(model.parameters())
            run.check_finite(loss=float(loss.detach()), gradient_norm=norm)
            optimizer.step()
            run.after_step(loss=float(loss.detach()), rate=rate, gradient_norm=norm)
        run.after_epoch(lambda: validation(model), model.save)
    best = run.finish()
    if processes.is_main:
        write_json(folder / DONE, {**best, "lines": log.lines, "steps": first_step + run.step})
        shutil.rmtree(folder / CHECKPOINTS)


def _open_log(config: TrainConfig, work: Path, stages: Sequence[str], processes: Processes) -> TrainingLog:
    """Open the log of the whole training after the lines that a kill left valid; only the main process writes it."""
    finished = [work / name / DONE for name in stages]
    counted = [read_json(file)["lines"] for file in finished if file.is_file()]
    lines = max([*counted, *(resumed_state(work / name)["lines"] for name in stages)])
    if not processes.is_main:
        return TrainingLog(None, keep=lines)
    tracker = open_tracker(config.track, run=CHAPTER, config=asdict(config), folder=work)
    return TrainingLog(work / LOG, keep=lines, tracker=tracker)


def _model(config: TrainConfig, work: Path, start: Mapping[str, Any] | None) -> TwoTowerModel:
    """Load the best model of the stage `start`, or build the untrained one."""
    if start is None:
        model = TwoTowerModel.build(config.architecture, seed=config.seed)
    else:
        model = TwoTowerModel.load(work / start["stage"] / "best")
    return model.to(choose_placement("torch").device)


def _best(done: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    return max(done.values(), key=lambda result: result[HEADLINE]) if done else None


if __name__ == "__main__":
    run_step(main)
