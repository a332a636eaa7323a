"""Provide what every training needs besides its loop, which each chapter's `train.py` shows.

A loop sets the rate (`warmup_schedule`), computes a loss, clips (`clip_gradients`), steps and reports to its
`TrainingRun`. The run logs, saves checkpoints, keeps the model of each epoch and the best one, and stops when the
headline figure no longer improves. A killed training continues from its last checkpoint, to the same bits.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from common.artifacts import Artifacts, RunFolder, code_digest, fingerprint, jsonable
from common.atomic import atomic_folder
from common.checkpoints import read_state, restore_checkpoint, save_checkpoint
from common.errors import CourseError
from common.processes import ALONE, Processes
from common.progress import progress
from common.training_log import TrainingLog

MAX_GRAD_NORM = 1.0
CHECKPOINTS = "last"
"""Folder of a run's checkpoints; it is not published."""


def warmup_schedule(step: int, total: int, warmup: float, decay: Literal["linear", "cosine", "none"]) -> float:
    """Return the share of the peak learning rate at `step` (from 0) of `total`.

    The rate rises in a straight line over the first round(warmup * total) steps. Then it falls in a straight line or
    along a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983), reaching 0 one step after the last, or stays at its
    peak (the stable phase of warm-up, stable, decay: Hu et al. 2024, "MiniCPM").
    Raises `CourseError` if the warm-up leaves no steps.
    """
    rise = round(warmup * total)
    if rise >= total:
        raise CourseError(f"train: a warm-up of {rise} steps leaves none of {total}; lower the warm-up or train longer")
    if step < rise:
        return (step + 1) / rise
    match decay:
        case "linear":
            return (total - step) / (total - rise)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - rise) / (total - rise)))
        case "none":
            return 1.0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """Give every parameter group the learning rate, and return it. A resumed optimizer keeps no rate of its own."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def parameter_groups(model: torch.nn.Module, weight_decay: float, *, no_decay: str = "") -> list[dict[str, Any]]:
    """Split the trained weights for AdamW: decay for matrices, none for biases, norms and scalars (a temperature, say).

    no_decay: part of the names of matrices that get none either.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    decayed = [weight.ndim >= 2 and not (no_decay and no_decay in name) for name, weight in trained]
    return [
        {"params": [w for (_, w), yes in zip(trained, decayed, strict=True) if yes], "weight_decay": weight_decay},
        {"params": [w for (_, w), yes in zip(trained, decayed, strict=True) if not yes], "weight_decay": 0.0},
    ]


def clip_gradients(weights: Iterable[torch.nn.Parameter]) -> float:
    """Scale all gradients together down to the norm `MAX_GRAD_NORM`; return the norm before (Pascanu et al. 2013)."""
    return float(torch.nn.utils.clip_grad_norm_(weights, MAX_GRAD_NORM))


class TrainingRun:
    """Keep one training, or one stage of it, on disk: checkpoints, log, the model of each epoch and the best one.

    folder: receives `epoch_N/` and, at the end, `best/`. model: anything with a `state_dict` of live tensors. log: of
    the whole training; `first_step` is the number of steps that it holds from earlier stages. headline: the validation
    figure to be raised; training ends after `patience` epochs without a better one. labels: written on every line.

    `state` is saved with each checkpoint (JSON); a loop may keep counters of its own in it.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        optimizer: torch.optim.Optimizer,
        log: TrainingLog,
        *,
        headline: str,
        patience: int | None = None,
        checkpoint_every: int,
        processes: Processes = ALONE,
        first_step: int = 0,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.model, self.optimizer, self.log = folder, model, optimizer, log
        self.headline, self.patience, self.checkpoint_every = headline, patience, checkpoint_every
        self.processes, self.first_step, self.labels = processes, first_step, dict(labels or {})
        self.state = resumed_state(folder)
        if self.step:
            restore_checkpoint(folder / CHECKPOINTS, model, optimizer)
        processes.wait()  # the main process may have nothing left to train, and remove what another still reads
        self._clock = time.perf_counter()

    @property
    def step(self) -> int:
        """Return the steps taken so far, including those before an interruption."""
        return self.state["step"]

    @property
    def best(self) -> dict[str, Any] | None:
        """Return epoch and figures of the best epoch so far, None before the first."""
        return self.state["best"]

    def epochs(self, count: int, steps: int, desc: str) -> Iterator[tuple[int, int]]:
        """Yield each epoch that is left (from 0) and how many of its `steps` were taken before an interruption.

        Shows one progress bar over all steps, and ends early when patience runs out.
        """
        shown = self.processes.is_main
        with progress(total=count * steps, initial=self.step, desc=desc, unit="batch", shown=shown) as self.bar:
            for epoch in range(self.state["epoch"], count):
                if self.patience is not None and self.state["stale"] >= self.patience:
                    return
                self._clock = time.perf_counter()
                yield epoch, self.step - epoch * steps

    def check_finite(self, **figures: float) -> None:
        """Raise `CourseError` if a loss or norm is infinite or no number, before the weights take the step."""
        if not all(map(math.isfinite, figures.values())):
            said = " and ".join(f"{name} {value}" for name, value in figures.items())
            where = "".join(f", {name} {value}" for name, value in self.labels.items())
            raise CourseError(
                f"train: {said} at step {self.step + 1}{where}; training stopped before this step.\n"
                "Earlier epochs are kept. Try a lower --learning-rate."
            )

    def after_step(self, **figures: Any) -> None:
        """Count and log a step, and save a checkpoint when one is due."""
        self.state["step"] += 1
        self._write(self.state["epoch"] + 1, figures)
        self.bar.update(1)
        if self.step % self.checkpoint_every == 0:
            self.save()

    def after_epoch(self, validate: Callable[[], dict[str, float]], save: Callable[[Path], None], **also: Any) -> None:
        """Measure the model, log the figures, keep the model as `epoch_N/`, and save a checkpoint.

        validate: called on the main process; all get its figures, so that all stop at the same epoch. save: writes the
        model to a folder that does not exist. also: further entries of the line.
        """
        self._clock = time.perf_counter()
        figures = self.processes.from_main(validate)
        self.state["epoch"] += 1
        self._write(self.state["epoch"], {**figures, **also})
        kept = self.folder / f"epoch_{self.state['epoch']}"
        if self.processes.is_main and not kept.is_dir():  # it is there, with the same bits, after a kill right here
            save(kept)
        better = self.best is None or figures[self.headline] > self.best[self.headline]
        self.state["stale"] = 0 if better else self.state["stale"] + 1
        if better:
            self.state["best"] = {**self.labels, "epoch": self.state["epoch"], **figures}
        self.save()

    def save(self) -> None:
        """Write a checkpoint, from which the same command continues."""
        self.state["lines"] = self.log.lines
        self.log.flush()
        if self.processes.is_main:
            name = f"step-{self.step:06d}-epoch-{self.state['epoch']}"
            save_checkpoint(self.folder / CHECKPOINTS, name, self.model, self.optimizer, self.state)

    def finish(self) -> dict[str, Any]:
        """Make the model of the best epoch `best/` and return its figures; the checkpoints stay until the run ends."""
        if self.processes.is_main:
            link_folder(self.folder / f"epoch_{self.best['epoch']}", self.folder / "best")
        return self.best

    def _write(self, epoch: int, figures: Mapping[str, Any]) -> None:
        seconds = round(time.perf_counter() - self._clock, 3)
        self.log.write(self.first_step + self.step, **self.labels, epoch=epoch, **figures, seconds=seconds)
        self._clock = time.perf_counter()


def resumed_state(folder: Path) -> dict[str, Any]:
    """Return the state that a `TrainingRun` in `folder` starts from: its last checkpoint's, or that of a new run."""
    return read_state(folder / CHECKPOINTS) or {"step": 0, "epoch": 0, "best": None, "stale": 0, "lines": 0}


def train_and_publish(
    artifacts: Artifacts,
    chapter: str,
    step: str,
    *,
    config: Any,
    inputs: Mapping[str, RunFolder],
    train: Callable[[Path], None],
    processes: Processes = ALONE,
    unpublished: tuple[str, ...] = (),
) -> None:
    """Call `train(work)` unless its result is published already, then publish the folder `work` as the step's run.

    The folder's name depends on config, inputs and code: only the same training is resumed there. unpublished: patterns
    of further names that stay out of the run.
    """
    if artifacts.reuse(chapter, step, config=config, inputs=inputs) is not None:
        return
    key = [step, jsonable(config), *(run.name for run in inputs.values()), code_digest(chapter)]
    work = artifacts.folder / chapter / "unfinished" / fingerprint(key)
    train(work)
    if processes.is_main:
        with artifacts.new_run(chapter, step, config=config, inputs=inputs) as folder:
            excluded = shutil.ignore_patterns(CHECKPOINTS, ".staging-*", *unpublished)
            shutil.copytree(work, folder, copy_function=_link_or_copy, ignore=excluded, dirs_exist_ok=True)
        shutil.rmtree(work)
    processes.wait()


def link_folder(source: Path, target: Path) -> None:
    """Give a folder a second name, which takes no room; what had that name before is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
