"""Trains the two towers, in stages, with a loop that reads from top to bottom.

    python -m chapter02_two_tower.train --learning-rate 3e-5

1. random and in-batch negatives; 2. hard negatives, mined with the model of stage 1, and similar queries in one batch;
3. partly relevant products (label C) as weak positives, at a tenth of the rate. Each stage starts from the best model
so far, by nDCG@10 on the validation queries. Beside them a control: stage 2 once more, as many steps, with random
negatives in random batches.

Nothing is lost when a run is killed: the same command goes on from the last checkpoint, to the same bits.
`accelerate launch --multi_gpu --num_processes 2 -m chapter02_two_tower.train` shares each batch among two processes, on
CPUs as well (with `--cpu` accelerate starts a single one, unless there is MPI).
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from chapter01_baseline.reindex import load_indices
from chapter02_two_tower.batches import Batch, BatchMaker
from chapter02_two_tower.cached_loss import cached_backward
from chapter02_two_tower.guide import Guide
from chapter02_two_tower.model import Tower, TwoTowerModel
from chapter02_two_tower.objective import batch_loss
from chapter02_two_tower.stages import Stage, plan_stages, similar_queries, stage_negatives
from chapter02_two_tower.train_config import TrainConfig, architecture, resolved
from chapter02_two_tower.training_data import TrainingData, known_relevant, load_training_data
from chapter02_two_tower.typos import misspell
from chapter02_two_tower.validation import Validation
from common.artifacts import Artifacts, RunFolder, code_digest, fingerprint, jsonable
from common.atomic import atomic_folder, read_json, write_json
from common.catalogue import load_catalogue
from common.checkpoints import read_state, restore_checkpoint, save_checkpoint
from common.cli import run_step
from common.devices import choose_placement
from common.errors import CourseError
from common.processes import Processes
from common.progress import progress, tell
from common.training_log import TrainingLog, open_tracker, read_log

CHAPTER, STEP = "chapter02_two_tower", "train"
HEADLINE = "nDCG@10"
CONTROL, UNTRAINED = "control", "untrained.json"
CLIP = 1.0
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class TrainResult:
    """run: its folder holds `best/` (the model kept), of every stage `epoch_N/` and `best/`, and `log.jsonl`. log: its
    table, a row a batch (loss, rate, gradient_norm, seconds) and a row an epoch (validation figures, embedding
    statistics). best: stage, epoch and validation figures of the model kept; untrained: those before any training.
    mined: by stage, what each rule of mining left out (rule, count)."""

    run: RunFolder
    log: pd.DataFrame
    best: dict[str, Any]
    untrained: dict[str, float]
    mined: dict[str, pd.DataFrame]


def main(config: TrainConfig) -> TrainResult:
    """Train, or go on where the same training was interrupted, or return what it made before."""
    processes = Processes.launched()  # before the guide's encoder is put on a GPU: each process gets its own
    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = load_training_data(artifacts)
    indices = load_indices(artifacts, catalogue)
    inputs = {"prepare_data": data.run, "baseline": indices.run}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        # What another config, input or state of the code began is not gone on with.
        key = [jsonable(config), *(run.name for run in inputs.values()), code_digest(CHAPTER)]
        work = artifacts.folder / CHAPTER / "unfinished" / fingerprint(key)
        guide = Guide.of(indices, data) if config.guide else None
        Training(config, work, Validation(catalogue, data), data, processes, guide).run()
        if processes.is_main:
            with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
                shut = shutil.ignore_patterns("last", ".staging-*")
                shutil.copytree(work, folder, copy_function=link_or_copy, ignore=shut, dirs_exist_ok=True)
            shutil.rmtree(work)
        processes.wait()
    return load_training(artifacts)


def load_training(artifacts: Artifacts) -> TrainResult:
    """Read the training in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    mined = {path.parent.name: pd.read_parquet(path) for path in sorted(run.path.glob("*/skipped.parquet"))}
    best, untrained = read_json(run.path / "best.json"), read_json(run.path / UNTRAINED)
    return TrainResult(run, read_log(run.path / "log.jsonl"), best, untrained, mined)


def tower_folders(artifacts: Artifacts) -> dict[str, Path]:
    """Return the folders of the trained models: "best" of all, the best of "stage1", of "control" if there is one."""
    path = artifacts.current(CHAPTER, STEP).path
    folders = {"best": path / "best", "stage1": path / "stage1" / "best", "control": path / "control" / "best"}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


class Training:
    """One training run in its work folder: `run` trains whatever is not trained yet.

    Of several processes (accelerate) all hold the same state and take the same steps; only the main one writes.
    """

    def __init__(
        self,
        config: TrainConfig,
        work: Path,
        validation: Validation,
        data: TrainingData,
        processes: Processes,
        guide: Guide | None = None,
    ) -> None:
        self.config, self.work, self.validation, self.data, self.guide = config, work, validation, data, guide
        self.processes, self.is_main = processes, processes.is_main
        self.placement = choose_placement("torch")
        # Two dictionaries: some sources number queries and products alike.
        asked = pd.concat([data.training_pairs, data.notes])[["query_id", "query"]]
        self.queries = dict(asked.itertuples(index=False))
        self.products = validation.product_texts | dict(data.notes[["text_id", "product_text"]].itertuples(index=False))
        self.tokens: dict[tuple[type, str], list[int]] = {}

    def run(self) -> None:
        """Train every stage, each from the best model so far, and put the best of all into `best/`."""
        plan = plan_stages(self.config, self.data)
        if self.is_main and not (self.work / UNTRAINED).is_file():
            write_json(self.work / UNTRAINED, self.validation(self._model(None)))
        done: dict[str, dict[str, Any]] = {}
        for stage in plan:
            file = self.work / stage.name / "done.json"
            if not file.is_file():
                earlier = {"stage1": done["stage1"]} if stage.name == CONTROL else done
                before = [*done.values()][-1] if done else {"lines": 0, "steps": 0}
                self.train(stage, _best(earlier), {name: before[name] for name in ("lines", "steps")})
                self.processes.wait()
            done[stage.name] = read_json(file)
        best = _best({name: result for name, result in done.items() if name != CONTROL})
        if self.is_main:
            if best[HEADLINE] <= read_json(self.work / UNTRAINED)[HEADLINE]:
                tell("train: no epoch was better on the validation queries than the untrained encoder")
            write_json(self.work / "best.json", best)
            _link(self.work / best["stage"] / "best", self.work / "best")
        self.processes.wait()

    def train(self, stage: Stage, start: dict[str, Any] | None, before: dict[str, int]) -> None:
        """Train one stage. start: the stage whose best model it begins with, None for the pretrained encoder. before:
        how many lines and steps the log has when it begins."""
        folder, model = self.work / stage.name, self._model(start)
        batches = self._batches(stage, model)
        optimizer = torch.optim.AdamW(_parameter_groups(model), lr=stage.rate, fused=True)
        torch.manual_seed(stage.seed)
        state = read_state(folder / "last") or {"step": 0, "epoch": 0, "best": None, "stale": 0, **before}
        if state["step"]:
            restore_checkpoint(folder / "last", model, optimizer)
        self.processes.wait()  # or the main process, with nothing left to train, would remove what another still reads
        tracker = open_tracker(
            self.config.track if self.is_main else None, project="product-search-course", config=asdict(self.config)
        )
        log = TrainingLog(self._write_to("log.jsonl"), keep=state["lines"], tracker=tracker, watched=model)
        total = stage.epochs * batches.steps
        bar = progress(total=total, initial=state["step"], desc=stage.name, unit="batch", shown=self.is_main)
        for epoch in range(state["epoch"], stage.epochs):
            if state["stale"] >= self.config.patience:
                break
            model.train()
            for step, batch in enumerate(batches.epoch(epoch), start=epoch * batches.steps):
                if step < state["step"]:
                    continue  # taken before the run was interrupted
                started = time.perf_counter()
                rate = _set_rate(optimizer, stage.rate * schedule(step, total, falls=stage.falls))
                optimizer.zero_grad()
                loss = self._backward(model, batch if self.guide is None else self.guide.mark(batch))
                norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP))
                if not math.isfinite(loss) or not math.isfinite(norm):
                    raise CourseError(_not_a_number(stage, step, loss, norm))
                optimizer.step()
                state["step"] = step + 1
                seconds = round(time.perf_counter() - started, 3)
                figures = {"loss": loss, "rate": rate, "gradient_norm": norm, "seconds": seconds}
                log.write(before["steps"] + step + 1, stage=stage.name, epoch=epoch + 1, **figures)
                bar.update(1)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                if state["step"] % self.config.checkpoint_every == 0:
                    self._save(folder, model, optimizer, state, log)
            self._validate(stage, model, state, log, before)
            self._save(folder, model, optimizer, state, log)
        bar.close()
        log.close()
        self._finish(stage, state, before)

    def _model(self, start: dict[str, Any] | None) -> TwoTowerModel:
        if start is None:
            model = TwoTowerModel.build(architecture(self.config), seed=self.config.seed)
        else:
            model = TwoTowerModel.load(self.work / start["stage"] / "best")
        return model.to(self.placement.device)

    def _batches(self, stage: Stage, model: TwoTowerModel) -> BatchMaker:
        """Mining is done once and kept: what was drawn must be drawn again after an interruption."""
        file, similar = (self.work / stage.name / name for name in ("negatives.json", "similar_queries.json"))
        if self.is_main and not file.is_file():
            pools, mined = stage_negatives(stage, model, self.validation, self.data, self.config)
            if mined is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                mined.skipped.to_parquet(file.parent / "skipped.parquet", index=False)
            write_json(similar, similar_queries(stage, model, self.queries))
            write_json(file, pools)
        self.processes.wait()
        return BatchMaker(
            positives=stage.positives,
            negatives=read_json(file),
            relevant=known_relevant(self.data.relevant),
            batch_size=self.config.batch_size,
            negatives_per_positive=stage.negatives,
            pairs=stage.pairs,
            typo_share=self.config.typo_share,
            together=stage.together,
            similar=read_json(similar),
            seed=stage.seed,
        )

    def _backward(self, model: TwoTowerModel, batch: Batch) -> float:
        """Compute the loss of a batch and its gradients."""
        parts = [
            (model.query, self._query_tokens(model.query, batch)),
            (model.product, self._tokenised(model.product, batch.product_ids, self.products)),
        ]

        def loss_of(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
            return batch_loss(*vectors, batch, self.config, model.temperature)

        half = self.placement.precision == "bfloat16"
        with torch.autocast(self.placement.device, torch.bfloat16, enabled=half):
            if self.config.cached or self.processes.count > 1:
                loss = cached_backward(parts, loss_of, processes=self.processes)
                if model.architecture.learn_temperature:  # whole in every process, but for rounding
                    self.processes.average_gradients([model.log_temperature])
                return float(loss)
            loss = loss_of([tower(tokens) for tower, tokens in parts])
        loss.backward()
        return float(loss.detach())

    def _query_tokens(self, tower: Tower, batch: Batch) -> list[list[int]]:
        tokens = self._tokenised(tower, batch.query_ids, self.queries)
        noisy = [row for row, seed in enumerate(batch.typos) if seed]
        wrong = [misspell(self.queries[batch.query_ids[row]], batch.typos[row]) for row in noisy]
        for row, ids in zip(noisy, tower.tokenise(wrong), strict=True):
            tokens[row] = ids
        return tokens

    def _tokenised(self, tower: Tower, ids: Sequence[str], texts: Mapping[str, str]) -> list[list[int]]:
        missing = [key for key in dict.fromkeys(ids) if (type(tower), key) not in self.tokens]
        for key, tokens in zip(missing, tower.tokenise([texts[key] for key in missing]), strict=True):
            self.tokens[type(tower), key] = tokens
        return [self.tokens[type(tower), key] for key in ids]

    def _validate(self, stage: Stage, model: TwoTowerModel, state: dict, log: TrainingLog, before: dict) -> None:
        """Measure, log, keep the model of the epoch, and note whether it is the best of its stage."""
        started = time.perf_counter()
        figures = self.processes.from_main(lambda: self.validation(model))
        state["epoch"] += 1
        seconds = round(time.perf_counter() - started, 3)
        log.write(before["steps"] + state["step"], stage=stage.name, epoch=state["epoch"], **figures, seconds=seconds)
        if self.is_main:
            folder = self.work / stage.name / f"epoch_{state['epoch']}"
            if not folder.is_dir():  # else of a run that was killed just after: the same bits
                model.save(folder)
        better = state["best"] is None or figures[HEADLINE] > state["best"][HEADLINE]
        state["stale"] = 0 if better else state["stale"] + 1
        if better:
            state["best"] = {"stage": stage.name, "epoch": state["epoch"], **figures}

    def _save(self, folder: Path, model: TwoTowerModel, optimizer: Any, state: dict, log: TrainingLog) -> None:
        state["lines"] = log.lines
        log.flush()
        if self.is_main:
            name = f"step-{state['step']:06d}-epoch-{state['epoch']}"
            save_checkpoint(folder / "last", name, model, optimizer, state)

    def _finish(self, stage: Stage, state: dict[str, Any], before: dict[str, int]) -> None:
        """Link the best epoch's model as `best/`; the optimizer's state is of no more use."""
        if self.is_main:
            folder = self.work / stage.name
            _link(folder / f"epoch_{state['best']['epoch']}", folder / "best")
            done = {**state["best"], "lines": state["lines"], "steps": before["steps"] + state["step"]}
            write_json(folder / "done.json", done)
            shutil.rmtree(folder / "last")

    def _write_to(self, name: str) -> Path | None:
        return self.work / name if self.is_main else None


def schedule(step: int, total: int, *, falls: bool = True, warm_up: float = 0.1) -> float:
    """Return the share of the peak rate at a step (from 0): up in a line over the warm-up, then down in a line to 0, or
    level if it does not fall. A stage that another one follows stays level: with some hundred steps in all, every step
    at a low rate is lost (warm-up, stable, decay: Hu et al., "MiniCPM", 2024)."""
    rise = max(1, round(warm_up * total))
    if step < rise:
        return (step + 1) / rise
    return (total - step) / (total - rise) if falls else 1.0


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """The rate is always the schedule's, never one that came with an optimizer's saved state."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _parameter_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices alone: shrinking biases, norms and the temperature has no purpose."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _best(done: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    return max(done.values(), key=lambda result: result[HEADLINE]) if done else None


def _link(source: Path, target: Path) -> None:
    """The same model under another name, which takes no room."""
    with atomic_folder(target) as folder:
        shutil.copytree(source, folder, copy_function=link_or_copy, dirs_exist_ok=True)


def link_or_copy(source: str, target: str) -> None:
    """Link a file under a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _not_a_number(stage: Stage, step: int, loss: float, norm: float) -> str:
    return (
        f"{stage.name}: loss {loss} and gradient norm {norm} at step {step + 1}; training stopped before this step.\n"
        "Earlier epochs are kept. Try a lower --learning-rate or a higher --temperature."
    )


if __name__ == "__main__":
    run_step(main)
