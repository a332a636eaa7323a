"""Align two frozen towers: train only the projections that map pictures and texts into one space.

    python -m chapter03_multimodal.align --catalogue fashion_products

Source: Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning" (arXiv:2111.07991). There the image
tower is frozen and the text tower trained. Here both are frozen, so their features are computed once, and an epoch
takes seconds. What comes out is the CLIP that `train --encoder aligned` goes on with. A killed run loses nothing:
features are kept on disk, and the same command continues from the last epoch.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from chapter03_multimodal.batches import BatchMaker
from chapter03_multimodal.clip import LITE0_MINILM, Clip, load_clip, save_clip
from chapter03_multimodal.frozen_features import picture_features, projections, text_features
from chapter03_multimodal.losses import clip_loss
from chapter03_multimodal.model import clamp_logit_scale
from chapter03_multimodal.prepare_data import MultimodalData, load_multimodal_data
from chapter03_multimodal.retrieval_metrics import mean_of_directions, retrieval_metrics
from chapter03_multimodal.training_pictures import contents
from common.artifacts import Artifacts, RunFolder
from common.atomic import atomic_folder, read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.profiles import check_ranges
from common.settings import artifacts_root
from common.training import (
    TrainingRun,
    clip_gradients,
    parameter_groups,
    resumed_state,
    set_rate,
    train_and_publish,
    warmup_schedule,
)
from common.training_log import TrainingLog, read_log

CHAPTER, STEP = "chapter03_multimodal", "align"
HEADLINE, MODEL = "MRR", "model"
ALIGNED = "aligned"
"""Name of a catalogue's own alignment among the encoders that steps start from."""
WARMUP = 0.05


@dataclass(frozen=True)
class AlignConfig:
    """Train the projections of EfficientNet-Lite0 and MiniLM on the pictures and texts of a catalogue."""

    catalogue: str = "fashion_products"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    epochs: int = 20
    """Most epochs; each shows every training picture once."""
    batch_size: int = 512
    """Pictures a step, each among as many texts."""
    learning_rate: float = 1e-3
    """Peak of AdamW's rate, after a warm-up of a twentieth of the steps; it then falls along a cosine to 0."""
    weight_decay: float = 0.1
    """AdamW's, of matrices only."""
    patience: int = 3
    """Epochs without a better validation MRR after which training ends."""
    seed: int = 0
    """Seed of the order of the pictures."""


RANGES: dict[str, tuple[float, float | None]] = {
    "epochs": (1, None), "batch_size": (2, None), "learning_rate": (0, None), "weight_decay": (0, None),
    "patience": (1, None),
}  # fmt: skip


@dataclass(frozen=True)
class Features:
    """What the frozen towers say of M pairs. pairs: as in `MultimodalData`, with `content`, equal for copies of a file.
    pictures: float32 [M, F]. texts: float32 [M, G]."""

    pairs: pd.DataFrame
    pictures: Tensor
    texts: Tensor


@dataclass(frozen=True)
class Alignment:
    """A finished alignment. run: its folder holds the CLIP (`model/`) and `log.jsonl`. log: a row a batch and a row an
    epoch. best: epoch and validation figures of the projections kept."""

    run: RunFolder
    log: pd.DataFrame
    best: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Return the folder of the CLIP, for `load_clip`."""
        return self.run.path / MODEL


def main(config: AlignConfig) -> Alignment:
    """Align, continue an interrupted alignment, or return the result that is there already."""
    check_ranges("align", config, RANGES)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, clip = load_multimodal_data(artifacts, catalogue), load_clip(LITE0_MINILM)

    def train(work: Path) -> None:
        cache = artifacts_root() / "embeddings" / "frozen_features"
        for split in ("train", "val"):
            if len(data.with_text(split)) < 2:
                raise CourseError(
                    f"align: the {split} split has fewer than two pictures with a text; prepare_data prints all"
                )
        parts = {split: frozen(clip, data, split, cache) for split in ("train", "val")}
        align(config, clip, parts["train"], parts["val"], work)

    inputs = {"prepare_data": data.run}
    train_and_publish(
        artifacts, CHAPTER, STEP, config=config, inputs=inputs, train=train, unpublished=("epoch_*", "best")
    )
    return load_alignment(artifacts)


def load_alignment(artifacts: Artifacts) -> Alignment:
    """Read the current alignment; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    return Alignment(run, read_log(run.path / "log.jsonl"), read_json(run.path / "best.json"))


def starting_point(artifacts: Artifacts, encoder: str) -> str:
    """Return what `load_clip` takes for the encoder of a config: the folder of the alignment for "aligned"."""
    return str(artifacts.current(CHAPTER, STEP).path / MODEL) if encoder == ALIGNED else encoder


def frozen(clip: Clip, data: MultimodalData, split: str, cache: Path) -> Features:
    """Compute the features of the usable pictures of a split and of their texts. cache: see `picture_features`."""
    pairs, folder = data.with_text(split), Path(data.catalogue.folder or ".")
    paths = [folder / path for path in pairs["path"]]
    pictures, usable = picture_features(clip, paths, cache)
    pairs = pairs.assign(content=contents(paths))[usable].reset_index(drop=True)
    texts = text_features(clip, pairs["text"].tolist(), cache)
    return Features(pairs, torch.from_numpy(pictures[usable]), torch.from_numpy(texts))


def align(config: AlignConfig, clip: Clip, train: Features, held_out: Features, work: Path) -> None:
    """Train the projections of `clip` in place, in the folder `work`, which receives the best CLIP as `model/`."""
    heads = projections(clip)
    heads.register_parameter("logit_scale", clip.model.logit_scale)
    optimizer = torch.optim.AdamW(parameter_groups(heads.requires_grad_(True), config.weight_decay), fused=True)
    batches = batches_of(train, config)
    log = TrainingLog(work / "log.jsonl", keep=resumed_state(work)["lines"])
    with closing(log):
        run = TrainingRun(
            work,
            heads,
            optimizer,
            log,
            headline=HEADLINE,
            patience=config.patience,
            checkpoint_every=10**9,  # an epoch takes seconds, and ends with a checkpoint
        )
        total = config.epochs * batches.steps
        for epoch, taken in run.epochs(config.epochs, batches.steps, "aligning"):
            for batch in batches.epoch(epoch)[taken:]:
                share = warmup_schedule(run.step, total, WARMUP, "cosine")
                rate = set_rate(optimizer, config.learning_rate * share)
                optimizer.zero_grad()
                images, texts = projected(heads, train, batch.rows)
                loss = clip_loss(texts, images, batch.known, logit_scale=heads.logit_scale)
                loss.backward()
                norm = clip_gradients(heads.parameters())
                figures = {"loss": float(loss.detach()), "gradient_norm": norm}
                run.check_finite(**figures)
                optimizer.step()
                clamp_logit_scale(clip.model)
                run.after_step(**figures, rate=rate, scale=float(heads.logit_scale.detach().exp()))
            run.after_epoch(partial(validation, heads, held_out), partial(_save, heads))
        best = run.finish()
    heads.load_state_dict(load_file(work / "best" / "projections.safetensors"))
    clip.model.requires_grad_(False)
    with atomic_folder(work / MODEL) as folder:
        save_clip(clip, folder)
    write_json(work / "best.json", best)


def batches_of(train: Features, config: AlignConfig) -> BatchMaker:
    """Return the maker of batches. A title that several products share is no negative for any of them, nor is a photo
    that they share."""
    return BatchMaker(
        pairs=train.pairs,
        texts=train.pairs[["text"]].to_numpy(dtype=object),
        neighbours=np.full((len(train.pairs), 1), -1),
        batch_size=config.batch_size,
        seed=config.seed,
    )


def projected(heads: nn.ModuleDict, features: Features, rows: np.ndarray | slice) -> tuple[Tensor, Tensor]:
    """Return the vectors of some pairs' pictures and texts, float [B, D] each, of length 1."""
    images, texts = heads["image"](features.pictures[rows]), heads["text"](features.texts[rows])
    return normalize(images, dim=-1), normalize(texts, dim=-1)


@torch.no_grad()
def validation(heads: nn.ModuleDict, held_out: Features) -> dict[str, float]:
    """Return Recall@1, 5, 10 and MRR of both directions on held-out pairs, and `MRR`, their mean."""
    images, texts = projected(heads, held_out, slice(None))
    means = retrieval_metrics(images.numpy(), texts.numpy(), held_out.pairs["text"].tolist()).mean()
    return {name: float(value) for name, value in means.items()} | {HEADLINE: mean_of_directions(means)}


def _save(heads: nn.ModuleDict, folder: Path) -> None:
    with atomic_folder(folder) as staging:
        weights = {name: value.detach().contiguous() for name, value in heads.state_dict().items()}
        save_file(weights, staging / "projections.safetensors")


def print_summary(config: AlignConfig) -> None:
    """Align and print the validation figures of the projections that were kept."""
    result = main(config)
    print(f"{config.catalogue}: best epoch {result.best['epoch']}, {HEADLINE} {result.best[HEADLINE]:.3f}")
    print(f"CLIP: {result.folder}")


if __name__ == "__main__":
    run_step(print_summary)
