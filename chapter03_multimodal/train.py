"""Fine-tunes a CLIP on a shop's pictures and texts, with a loop that reads from top to bottom.

    python -m chapter03_multimodal.train --trained lora

Every picture is seen once an epoch, beside pictures that look like it; the model of the epoch with the best MRR on the
validation split is kept. Nothing is lost when a run is killed: the same command goes on from the last checkpoint, to
the same bits.

`accelerate launch --multi_gpu --num_processes 2 -m chapter03_multimodal.train` shares each batch among two processes,
on CPUs as well; through MPI it is `--cpu --mpirun_hostfile hosts` for `--multi_gpu`.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from chapter02_two_tower.train import link_or_copy
from chapter03_multimodal.batches import Batch, BatchMaker, text_variants
from chapter03_multimodal.clip import Clip, load_clip, save_clip
from chapter03_multimodal.encoder import ClipEncoder
from chapter03_multimodal.losses import clip_loss
from chapter03_multimodal.mine_hard_negatives import visual_neighbours
from chapter03_multimodal.model import clamp_scale, count_parameters, merged, parameter_groups, prepare, training_mode
from chapter03_multimodal.prepare_data import MultimodalData, load_multimodal_data
from chapter03_multimodal.train_config import TrainConfig, resolved
from chapter03_multimodal.training_pictures import ImagePreprocessing, Pictures, prefetch, random_windows
from chapter03_multimodal.validation import Validation
from common.artifacts import Artifacts, RunFolder, code_digest, fingerprint, jsonable
from common.atomic import atomic_folder, atomic_write, read_json, write_json
from common.catalogue import load_catalogue
from common.checkpoints import read_state, restore_checkpoint, save_checkpoint
from common.cli import run_step
from common.devices import choose_placement
from common.errors import CourseError
from common.processes import Processes
from common.progress import progress, tell
from common.training_log import TrainingLog, open_tracker, read_log

CHAPTER, STEP = "chapter03_multimodal", "train"
HEADLINE = "MRR"
LONGEST_GRADIENT = 1.0
NEW = {"step": 0, "epoch": 0, "best": None, "stale": 0, "lines": 0, "skipped_pictures": 0, "skipped_batches": 0}


@dataclass(frozen=True)
class TrainResult:
    """run: its folder holds `best/` (the model kept), `epoch_N/`, `log.jsonl`, and `training_pairs.parquet` with
    `neighbours.npy` (by row of it, the rows of its visual neighbours). log: a row a batch (loss, rate, gradient_norm,
    scale, pairs, skipped, seconds) and a row an epoch (validation figures, skipped_pictures, skipped_batches). best:
    epoch and validation figures of the model kept; untrained: those before training. parameters: how many were
    `trained`, and `all`."""

    run: RunFolder
    log: pd.DataFrame
    best: dict[str, Any]
    untrained: dict[str, float]
    parameters: dict[str, int]


def main(config: TrainConfig) -> TrainResult:
    """Train, or go on where the same training was interrupted, or return what it made before."""
    config = resolved(config)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, clip = load_multimodal_data(artifacts, catalogue), load_clip(config.encoder)
    inputs = {"prepare_data": data.run}
    recorded = {**asdict(config), "encoder_digest": clip.digest}
    if artifacts.reuse(CHAPTER, STEP, config=recorded, inputs=inputs) is None:
        # What another config, input or state of the code began is not gone on with.
        key = [jsonable(recorded), data.run.name, code_digest(CHAPTER)]
        work = artifacts.folder / CHAPTER / "unfinished" / fingerprint(key)
        training = Training(config, work, clip, data)
        training.run()
        if training.processes.is_main:
            with artifacts.new_run(CHAPTER, STEP, config=recorded, inputs=inputs) as folder:
                shut = shutil.ignore_patterns("last", ".staging-*")
                shutil.copytree(work, folder, copy_function=link_or_copy, ignore=shut, dirs_exist_ok=True)
            shutil.rmtree(work)
        training.processes.wait()
    return load_training(artifacts)


def load_training(artifacts: Artifacts) -> TrainResult:
    """Read the training in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    best, untrained, parameters = (read_json(run.path / f"{name}.json") for name in ("best", "untrained", "parameters"))
    return TrainResult(run, read_log(run.path / "log.jsonl"), best, untrained, parameters)


def clip_folders(artifacts: Artifacts) -> dict[str, Path]:
    """Return the folders of the trained models, which `load_clip` takes: "best", "epoch_1", "epoch_2" and so on."""
    path = artifacts.current(CHAPTER, STEP).path
    epochs = sorted(path.glob("epoch_*"), key=lambda folder: int(folder.name.removeprefix("epoch_")))
    return {"best": path / "best"} | {folder.name: folder for folder in epochs}


class Training:
    """One training run in its work folder: `run` trains whatever is not trained yet.

    Of several processes all draw the same batches and take the same steps, each sees its share of the pictures and
    texts; only the main one mines, measures and writes.
    """

    def __init__(self, config: TrainConfig, work: Path, clip: Clip, data: MultimodalData) -> None:
        self.config, self.work, self.clip, self.processes = config, work, clip, Processes.launched()
        self.placement, self.preprocessing = choose_placement("torch"), ImagePreprocessing.of(clip)
        folder = Path(data.catalogue.folder or ".")
        told = data.pairs[data.pairs["text"] != ""]
        self.validation = Validation(told[told["split"] == "val"], folder)
        pairs = told[told["split"] == "train"]
        if len(pairs) < 2:
            raise CourseError(
                f"train: needs two pictures that have a text, or more; there are {len(pairs)} in the training split. "
                "prepare_data prints how many each split has."
            )
        if len(pairs) > config.pictures:
            pairs = pairs.sample(config.pictures, random_state=config.seed).sort_index()
        # A little larger than the model sees: an eighth is room for another window in every epoch.
        files = [folder / path for path in pairs["path"]]
        self.pictures = Pictures(
            files, self.preprocessing, self.preprocessing.side + self.preprocessing.side // 8, self.processes
        )
        contents = self.processes.from_main(self.pictures.contents)
        self.pairs = pairs.reset_index(drop=True).assign(content=contents)
        self.texts = text_variants(self.pairs, data.catalogue.products)

    def run(self) -> None:
        """Train, and put the model of the best epoch into `best/`."""
        config, work, is_main = self.config, self.work, self.processes.is_main
        batches = self.batches()
        total = config.epochs * batches.steps
        rates = config.learning_rate * schedule(total, config.warm_up)
        model = prepare(
            self.clip.model,
            config.trained,
            last_blocks=config.last_blocks,
            lora_rank=config.lora_rank,
            seed=config.seed,
        ).to(self.placement.device)
        optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate, fused=True)
        torch.manual_seed(config.seed)
        state = read_state(work / "last") or dict(NEW)
        if state["step"]:
            restore_checkpoint(work / "last", model, optimizer)
        elif is_main:
            write_json(work / "untrained.json", self.validation(self.clip))
            write_json(work / "parameters.json", count_parameters(model))
        track, file = (config.track, work / "log.jsonl") if is_main else (None, None)
        tracker = open_tracker(track, project="product-search-course", config=asdict(config))
        log = TrainingLog(file, keep=state["lines"], tracker=tracker, watched=model)
        bar = progress(total=total, initial=state["step"], desc="fine-tuning", unit="batch", shown=is_main)
        with closing(log), bar:
            for epoch in range(state["epoch"], config.epochs):
                if state["stale"] >= config.patience:
                    break
                training_mode(model)
                taken = state["step"] - epoch * batches.steps  # before the run was interrupted
                started = time.perf_counter()
                read = self.agreed(prefetch(batches.epoch(epoch)[taken:], self.read))
                for _, (batch, usable, pixels, tokens) in prefetch(read, self.load):
                    step, skipped = state["step"], len(usable) - len(batch)
                    figures: dict[str, Any] = {"loss": None}
                    if len(batch) > 1:  # else there is nothing to compare with
                        for group in optimizer.param_groups:
                            group["lr"] = float(rates[step])
                        optimizer.zero_grad()
                        loss = self.loss(model, batch, usable, pixels, tokens)
                        loss.backward()
                        self.processes.average_gradients(model.parameters())
                        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
                        figures = {
                            "loss": float(loss.detach()),
                            "rate": float(rates[step]),
                            "gradient_norm": float(norm),
                        }
                        if not all(map(math.isfinite, figures.values())):
                            raise CourseError(_not_a_number(step, figures))
                        optimizer.step()
                        clamp_scale(model)
                        figures["scale"] = float(model.logit_scale.detach().exp())
                    state["step"] += 1
                    state["skipped_pictures"] += skipped
                    state["skipped_batches"] += len(batch) < 2
                    seconds = round(time.perf_counter() - started, 3)
                    log.write(step + 1, epoch=epoch + 1, **figures, pairs=len(batch), skipped=skipped, seconds=seconds)
                    bar.update(1)
                    if state["step"] % config.checkpoint_every == 0:
                        self._save(model, optimizer, state, log)
                    started = time.perf_counter()
                self._validate(model, state, log)
                self._save(model, optimizer, state, log)
        if is_main:
            self._finish(state)
        self.processes.wait()

    def batches(self) -> BatchMaker:
        """The maker of batches; neighbours are mined once and kept, for what was drawn must be drawn again after an
        interruption."""
        config, file = self.config, self.work / "neighbours.npy"
        if self.processes.is_main and not file.is_file():
            self.work.mkdir(parents=True, exist_ok=True)
            self.pairs.to_parquet(self.work / "training_pairs.parquet", index=False)
            with atomic_write(file) as temporary:
                np.save(temporary, self._neighbours(), allow_pickle=False)
        self.processes.wait()
        return BatchMaker(
            pairs=self.pairs,
            texts=self.texts,
            neighbours=np.load(file, allow_pickle=False),
            batch_size=config.batch_size,
            hard_share=config.hard_share,
            more_texts=config.more_texts,
            shorten=config.shorten,
            seed=config.seed,
        )

    def read(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of this process's share of a batch, and which of them are usable."""
        return self.pictures.take(batch.rows[self.processes.share(len(batch))])

    def agreed(
        self, read: Iterable[tuple[Batch, tuple[np.ndarray, np.ndarray]]]
    ) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
        """Each batch with this process's pixels, and which of all its pictures are usable, bool [B]."""
        for batch, (pixels, usable) in read:
            yield batch, pixels, self.pictures.agree(batch.rows, usable)

    def load(self, read: tuple[Batch, np.ndarray, np.ndarray]) -> tuple[Batch, np.ndarray, torch.Tensor, torch.Tensor]:
        """The batch without pictures that cannot be read, which of them all could be, and what this process encodes:
        the windows [P, 3, S, S] of the usable ones of its share, and its share [T, L] of the tokens."""
        whole, pixels, usable = read
        batch, share = whole.only(usable), self.processes.share(len(whole))
        pixels, before = pixels[usable[share]], int(usable[: share.start].sum())
        own, rng = slice(before, before + len(pixels)), np.random.default_rng(batch.seed)
        windows = random_windows(pixels, self.preprocessing.side, rng, share=own, of=len(batch))
        texts = batch.texts[self.processes.share(len(batch.texts))]
        return batch, usable, self.preprocessing.as_input(windows), self.clip.tokenise(texts)

    def loss(
        self,
        model: torch.nn.Module,
        batch: Batch,
        usable: np.ndarray,
        pixels: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        """The loss of a whole batch, the same in every process, from what `load` gave each. Both towers in half
        precision where the hardware computes in it; what follows in float32."""
        device = self.placement.device
        with torch.autocast(device, torch.bfloat16, enabled=self.placement.precision == "bfloat16"):
            images, texts = self._encoded(model.encode_image, pixels), self._encoded(model.encode_text, tokens)
        images, texts = normalize(images.float(), dim=-1), normalize(texts.float(), dim=-1)
        images, texts = self._gathered(images, usable), self.processes.gather(texts, len(batch.texts))
        known = batch.known.to(device)
        return clip_loss(texts, images, known, pairs=len(batch), logit_scale=model.logit_scale)

    def _encoded(self, encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        """The vectors of a share, [N, D]: none of none, which not every tower would give."""
        device = self.placement.device
        return encode(inputs.to(device)) if len(inputs) else torch.zeros(0, self.clip.dimension, device=device)

    def _gathered(self, own: torch.Tensor, usable: np.ndarray) -> torch.Tensor:
        """The vectors of all usable pictures of a batch, of which each process brings those of its share."""
        if self.processes.count == 1:
            return own
        # Gathered with zeros where a picture cannot be used: the shares are those of the whole batch.
        there = torch.from_numpy(usable).to(own.device)
        places = there[self.processes.share(len(usable))]
        vectors = own.new_zeros(len(places), own.shape[1])
        vectors[places] = own
        return self.processes.gather(vectors, len(usable))[there]

    def _neighbours(self) -> np.ndarray:
        config = self.config
        pools = np.full((len(self.pairs), max(1, config.neighbours)), -1, dtype=np.int64)
        if config.neighbours and (config.hard_share or config.more_texts):
            encoder = ClipEncoder(self.clip, self.placement)
            seen = encoder.encode_images(self.pictures.paths, desc="looking for neighbours")
            found, _ = visual_neighbours(seen.vectors, self.pairs.iloc[seen.rows], keep=config.neighbours)
            pools[seen.rows] = np.where(found >= 0, seen.rows[found], -1)
        return pools

    def _validate(self, model: torch.nn.Module, state: dict[str, Any], log: TrainingLog) -> None:
        """Measure, log, keep the model of the epoch, and note whether it is the best so far."""
        started = time.perf_counter()
        clip = replace(self.clip, model=merged(model))
        figures = self.processes.from_main(lambda: self.validation(clip))
        state["epoch"] += 1
        counted = {name: state[name] for name in ("skipped_pictures", "skipped_batches")}
        state.update(dict.fromkeys(counted, 0))
        seconds = round(time.perf_counter() - started, 3)
        log.write(state["step"], epoch=state["epoch"], **figures, **counted, seconds=seconds)
        folder = self.work / f"epoch_{state['epoch']}"
        if self.processes.is_main and not folder.is_dir():  # else of a run that was killed just after: the same bits
            with atomic_folder(folder) as staging:
                save_clip(clip, staging)
        better = state["best"] is None or figures[HEADLINE] > state["best"][HEADLINE]
        state["stale"] = 0 if better else state["stale"] + 1
        if better:
            state["best"] = {"epoch": state["epoch"], **figures}

    def _save(self, model: torch.nn.Module, optimizer: Any, state: dict[str, Any], log: TrainingLog) -> None:
        state["lines"] = log.lines
        log.flush()
        if self.processes.is_main:
            name = f"step-{state['step']:06d}-epoch-{state['epoch']}"
            save_checkpoint(self.work / "last", name, model, optimizer, state)

    def _finish(self, state: dict[str, Any]) -> None:
        """Link the best epoch's model as `best/`, which takes no room."""
        best = state["best"]
        if best[HEADLINE] <= read_json(self.work / "untrained.json")[HEADLINE]:
            tell("train: no epoch was better on the validation split than the model that training started from")
        bad = [*self.pictures.unusable.values()]
        if bad:
            tell(f"train: {len(bad):,} pictures could not be used, the first: {bad[0]}")
        with atomic_folder(self.work / "best") as folder:
            source = self.work / f"epoch_{best['epoch']}"
            shutil.copytree(source, folder, copy_function=link_or_copy, dirs_exist_ok=True)
        write_json(self.work / "best.json", best)


def schedule(total: int, warm_up: float) -> np.ndarray:
    """The share of the peak rate at each of `total` steps: up in a line over the first round(warm_up * total), then
    down a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983) that would reach 0 at the step after the last.

    Raises `CourseError` if the warm-up is as long as the training: its rate would never be reached, or never left.
    """
    rise = round(warm_up * total)
    if rise >= total:
        raise CourseError(
            f"train: a warm-up of {rise} steps leaves nothing of {total}; lower --warm-up or raise --epochs"
        )
    steps = np.arange(total)
    fall = 0.5 * (1 + np.cos(np.pi * (steps - rise) / (total - rise)))
    return np.where(steps < rise, (steps + 1) / max(1, rise), fall)


def _not_a_number(step: int, figures: dict[str, float]) -> str:
    return (
        f"train: loss {figures['loss']} and gradient norm {figures['gradient_norm']} at step {step + 1}; training "
        "stopped before this step.\nEarlier epochs are kept. Try a lower --learning-rate."
    )


if __name__ == "__main__":
    run_step(main)
