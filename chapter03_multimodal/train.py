"""Fine-tune a CLIP on a shop's pictures and texts.

    python -m chapter03_multimodal.train --trained lora

`fine_tune` is the whole loop. Each epoch shows every picture once; the model of the epoch with the best MRR on the
validation split is kept. A killed run loses nothing: the same command continues from the last checkpoint, to the same
bits.

`accelerate launch --multi_gpu --num_processes 2 -m chapter03_multimodal.train` shares each batch between two processes,
on CPUs too. With MPI, replace `--multi_gpu` by `--cpu --mpirun_hostfile hosts`.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from chapter03_multimodal.align import ALIGNED, starting_point
from chapter03_multimodal.align import STEP as ALIGN_STEP
from chapter03_multimodal.clip import Clip, load_clip, save_clip
from chapter03_multimodal.losses import batch_loss
from chapter03_multimodal.model import clamp_logit_scale, count_parameters, merged, prepare, training_mode
from chapter03_multimodal.prepare_data import MultimodalData, load_multimodal_data
from chapter03_multimodal.train_config import TrainConfig, resolved
from chapter03_multimodal.training_inputs import TrainingInputs
from chapter03_multimodal.validation import Validation
from common.artifacts import Artifacts, RunFolder
from common.atomic import atomic_folder, atomic_write, read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.devices import choose_placement
from common.errors import CourseError
from common.processes import ALONE, Processes
from common.progress import tell
from common.training import (
    TrainingRun,
    clip_gradients,
    parameter_groups,
    resumed_state,
    set_rate,
    train_and_publish,
    warmup_schedule,
)
from common.training_log import TrainingLog, open_tracker, read_log

CHAPTER, STEP = "chapter03_multimodal", "train"
HEADLINE = "MRR"


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    run: its folder holds `best/` (the model kept), `epoch_N/`, `log.jsonl`, `training_pairs.parquet` and
    `neighbours.npy` (by row of the pairs, the rows of its visual neighbours). log: a row a batch (loss, rate,
    gradient_norm, scale, pairs, skipped, seconds) and a row an epoch (validation figures, skipped_pictures,
    skipped_batches). best: epoch and validation figures of the model kept. untrained: those before training.
    parameters: how many were `trained`, and `all`.
    """

    run: RunFolder
    log: pd.DataFrame
    best: dict[str, Any]
    untrained: dict[str, float]
    parameters: dict[str, int]


def main(config: TrainConfig) -> TrainResult:
    """Train, continue the same training where it was interrupted, or return the result that is there already."""
    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, processes = load_multimodal_data(artifacts, catalogue), Processes.launched()
    clip, inputs = load_clip(starting_point(artifacts, config.encoder)), {"prepare_data": data.run}
    if config.encoder == ALIGNED:
        inputs[ALIGN_STEP] = artifacts.current(CHAPTER, ALIGN_STEP)
    train_and_publish(
        artifacts,
        CHAPTER,
        STEP,
        config={**asdict(config), "encoder_digest": clip.digest},
        inputs=inputs,
        train=lambda work: fine_tune(config, work, clip, data, processes),
        processes=processes,
    )
    return load_training(artifacts)


def load_training(artifacts: Artifacts) -> TrainResult:
    """Read the current training; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    best, untrained, parameters = (read_json(run.path / f"{name}.json") for name in ("best", "untrained", "parameters"))
    return TrainResult(run, read_log(run.path / "log.jsonl"), best, untrained, parameters)


def check_start(artifacts: Artifacts, training: TrainResult) -> None:
    """Raise `CourseError` if the current training started from another alignment than the current one."""
    started = training.run.manifest["inputs"].get(ALIGN_STEP)
    if started is not None and started != artifacts.current(CHAPTER, ALIGN_STEP).name:
        raise CourseError(
            f"{CHAPTER}: the towers were aligned again since the training.\n"
            f"Train again with: python -m {CHAPTER}.train --encoder {ALIGNED}"
        )


def clip_folders(artifacts: Artifacts) -> dict[str, Path]:
    """Return the folders of the trained models, which `load_clip` takes: "best", "epoch_1", "epoch_2" and so on."""
    path = artifacts.current(CHAPTER, STEP).path
    epochs = sorted(path.glob("epoch_*"), key=lambda folder: int(folder.name.removeprefix("epoch_")))
    return {"best": path / "best"} | {folder.name: folder for folder in epochs}


def fine_tune(config: TrainConfig, work: Path, clip: Clip, data: MultimodalData, processes: Processes = ALONE) -> None:
    """Fine-tune `clip` in the folder `work`, or continue there, and put the model of the best epoch into `best/`.

    Of several processes all draw the same batches and take the same steps; each encodes its share of the pictures and
    texts. Only the main one mines, measures and writes.
    """
    placement = choose_placement("torch")
    validation = Validation(data.with_text("val"), Path(data.catalogue.folder or "."))
    inputs = TrainingInputs(config, clip, data, processes)
    batches = inputs.batches(_kept_neighbours(inputs, work, processes))
    total = config.epochs * batches.steps
    chosen = {"last_blocks": config.last_blocks, "lora_rank": config.lora_rank, "seed": config.seed}
    model = training_mode(prepare(clip.model, config.trained, **chosen)).to(placement.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate, fused=True)
    torch.manual_seed(config.seed)
    with closing(_open_log(config, work, model, processes)) as log:
        run = TrainingRun(
            work,
            model,
            optimizer,
            log,
            headline=HEADLINE,
            patience=config.patience,
            checkpoint_every=config.checkpoint_every,
            processes=processes,
        )
        if processes.is_main and not run.step:
            write_json(work / "untrained.json", validation(clip))
            write_json(work / "parameters.json", count_parameters(model))
        skipped = run.state.setdefault("skipped", {"skipped_pictures": 0, "skipped_batches": 0})
        for epoch, taken in run.epochs(config.epochs, batches.steps, "fine-tuning"):
            for ready in inputs.ready(batches.epoch(epoch)[taken:]):
                figures = {"loss": None}
                if len(ready) > 1:  # a lone picture has nothing to be compared with
                    decay = warmup_schedule(run.step, total, config.warm_up, "cosine")
                    rate = set_rate(optimizer, config.learning_rate * decay)
                    optimizer.zero_grad()
                    loss = batch_loss(model, ready, clip.dimension, placement, processes)
                    loss.backward()
                    processes.average_gradients(model.parameters())
                    norm = clip_gradients(model.parameters())
                    figures = {"loss": float(loss.detach()), "rate": rate, "gradient_norm": norm}
                    run.check_finite(**figures)
                    optimizer.step()
                    clamp_logit_scale(model)
                    figures["scale"] = float(model.logit_scale.detach().exp())
                skipped["skipped_pictures"] += ready.skipped
                skipped["skipped_batches"] += len(ready) < 2
                run.after_step(**figures, pairs=len(ready), skipped=ready.skipped)
            tuned = replace(clip, model=merged(model))
            counted = dict(skipped)
            skipped.update(dict.fromkeys(skipped, 0))
            run.after_epoch(partial(validation, tuned), partial(_save, tuned), **counted)
        best = run.finish()
    if processes.is_main:
        _report(best, inputs, work)


def _kept_neighbours(inputs: TrainingInputs, work: Path, processes: Processes) -> np.ndarray:
    """Mine the neighbours once and keep them: after an interruption the same batches must be drawn again."""
    file = work / "neighbours.npy"
    if processes.is_main and not file.is_file():
        work.mkdir(parents=True, exist_ok=True)
        inputs.pairs.to_parquet(work / "training_pairs.parquet", index=False)
        with atomic_write(file) as temporary:
            np.save(temporary, inputs.neighbours(), allow_pickle=False)
    processes.wait()
    return np.load(file, allow_pickle=False)


def _open_log(config: TrainConfig, work: Path, model: torch.nn.Module, processes: Processes) -> TrainingLog:
    """Open the log after the lines of an earlier, interrupted run; only the main process writes."""
    track, file = (config.track, work / "log.jsonl") if processes.is_main else (None, None)
    tracker = open_tracker(track, run=CHAPTER, config=asdict(config), folder=work)
    log = TrainingLog(file, keep=resumed_state(work)["lines"], tracker=tracker)
    log.watch(model)
    return log


def _save(clip: Clip, folder: Path) -> None:
    with atomic_folder(folder) as staging:
        save_clip(clip, staging)


def _report(best: dict[str, Any], inputs: TrainingInputs, work: Path) -> None:
    """Tell what the user should know, and write `best.json`, the last file of a training."""
    if best[HEADLINE] <= read_json(work / "untrained.json")[HEADLINE]:
        tell("train: no epoch was better on the validation split than the model that training started from")
    unusable = [*inputs.pictures.unusable.values()]
    if unusable:
        tell(f"train: {len(unusable):,} pictures could not be used, the first: {unusable[0]}")
    write_json(work / "best.json", best)


if __name__ == "__main__":
    run_step(main)
