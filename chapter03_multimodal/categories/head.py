"""Train small heads that read categories off frozen embeddings, with any technique of `long_tail`, and choose one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chapter03_multimodal.categories.long_tail import (
    Technique,
    batch_loss,
    class_frequencies,
    label_buckets,
    sample_epoch,
)
from chapter03_multimodal.categories.metrics import classification_figures, macro_f1
from common.atomic import read_json, write_json
from common.errors import CourseError
from common.training import parameter_groups

LabelledVectors = tuple[np.ndarray, np.ndarray]
"""Embeddings [N, D] and labels [N]."""


@dataclass(frozen=True)
class HeadTraining:
    """How a head is trained."""

    hidden: int = 256
    """Width of the MLP's hidden layer."""
    dropout: float = 0.3
    """Share of the MLP's hidden units left out in a step."""
    epochs: int = 60
    """At most; the rate falls to 0 over them, along a cosine."""
    patience: int = 15
    """Stop after so many epochs without a better validation macro-F1."""
    batch_size: int = 512
    """Examples a step."""
    rate: float = 1e-2
    """Learning rate of AdamW at the start."""
    weight_decay: float = 1.0
    """Of AdamW, for matrices only."""


class Head(nn.Module):
    """Map embeddings [B, D] to logits [B, C]: "linear", or "mlp" (LayerNorm, Linear, GELU, dropout, Linear).

    The embeddings of one CLIP lie in a narrow cone. `standardise` moves their mean to 0 and gives each dimension
    the deviation 1, with which one learning rate fits all encoders; a linear head stays linear. Raises CourseError for
    another kind.
    """

    def __init__(self, kind: str, dimension: int, n_classes: int, *, hidden: int = 256, dropout: float = 0.3) -> None:
        super().__init__()
        self.shape = {"kind": kind, "dimension": dimension, "n_classes": n_classes, "hidden": hidden}
        self.register_buffer("mean", torch.zeros(dimension))
        self.register_buffer("deviation", torch.ones(dimension))
        if kind == "linear":
            self.layers = nn.Linear(dimension, n_classes)
        elif kind == "mlp":
            first, last = nn.Linear(dimension, hidden), nn.Linear(hidden, n_classes)
            self.layers = nn.Sequential(nn.LayerNorm(dimension), first, nn.GELU(), nn.Dropout(dropout), last)
        else:
            raise CourseError(f"unknown head {kind!r}; choose linear or mlp.")

    def standardise(self, vectors: Tensor) -> None:
        """Set mean and deviation to those of the training vectors [N, D]."""
        self.mean.copy_(vectors.mean(dim=0))
        deviation = vectors.std(dim=0, correction=0)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.layers((vectors - self.mean) / self.deviation)

    @torch.no_grad()
    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Return probabilities float32 [N, C] for embeddings [N, D].

        A head trained with class weights, balanced sampling or logit adjustment gives those of a shop whose classes
        are equally frequent.
        """
        self.eval()
        return self(torch.from_numpy(np.asarray(vectors, dtype=np.float32))).softmax(dim=1).numpy()

    def save(self, folder: Path) -> None:
        """Write `head.safetensors` and `head.json`."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "head.safetensors")
        write_json(folder / "head.json", self.shape)

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read what `save` wrote, ready to predict."""
        head = cls(**read_json(folder / "head.json"))
        head.load_state_dict(load_file(folder / "head.safetensors"))
        return head.eval()


def fit(
    vectors: np.ndarray,
    labels: np.ndarray,
    val_vectors: np.ndarray,
    val_labels: np.ndarray,
    technique: Technique | None = None,
    head: str = "linear",
    fitting: HeadTraining | None = None,
    seed: int = 0,
) -> Head:
    """Train a head in float32 on the CPU and return it as it was after its best epoch, the earliest of equals.

    vectors: [N, D]. labels: int64 [N], every class 0 to C-1 occurs. val_vectors [V, D] and val_labels [V] choose the
    epoch by `macro_f1`; labels from C on are classes without a training example. technique: plain cross-entropy by
    default. The same arguments give the same head.
    """
    technique, fitting = technique or Technique(), fitting or HeadTraining()
    inputs, targets = torch.from_numpy(np.asarray(vectors, dtype=np.float32)), torch.from_numpy(labels)
    frequencies, rng = class_frequencies(targets), np.random.default_rng(seed)
    loss_of = batch_loss(technique, frequencies, rng)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Head(head, inputs.shape[1], len(frequencies), hidden=fitting.hidden, dropout=fitting.dropout)
        model.standardise(inputs)
        optimizer = torch.optim.AdamW(parameter_groups(model, fitting.weight_decay), lr=fitting.rate, fused=True)
        steps = fitting.epochs * -(-len(inputs) // fitting.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        best, best_epoch, kept = -1.0, 0, {}
        for epoch in range(fitting.epochs):
            if epoch - best_epoch > fitting.patience:
                break
            model.train()
            for rows in sample_epoch(technique, targets, rng).split(fitting.batch_size):
                optimizer.zero_grad()
                loss_of(model, inputs[rows], targets[rows]).backward()
                optimizer.step()
                schedule.step()
            figure = macro_f1(val_labels, model.probabilities(val_vectors).argmax(axis=1))
            if figure > best:
                best, best_epoch, kept = figure, epoch, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return model.eval()


@dataclass(frozen=True)
class Trial:
    """A trained head and its figures on validation. lost: top-1 below plain cross-entropy with the same head."""

    head: Head
    technique: Technique
    figures: dict[str, float]
    lost: float = 0.0


def run_trial(
    train: LabelledVectors,
    val: LabelledVectors,
    technique: Technique,
    kind: str,
    fitting: HeadTraining,
    *,
    seed: int = 0,
    plain: Trial | None = None,
) -> Trial:
    """Train a head and measure it on validation; plain: the trial that its top-1 accuracy is compared with."""
    head = fit(*train, *val, technique, kind, fitting, seed)
    figures = classification_figures(head.probabilities(val[0]), val[1], label_buckets(train[1]))
    return Trial(head, technique, figures, plain.figures["top-1"] - figures["top-1"] if plain else 0.0)


def choose(trials: Sequence[Trial], slack: float = 0.02) -> Trial:
    """Return the trial with the highest validation macro-F1, the first of equals.

    Only trials that lose at most `slack` of top-1 against plain cross-entropy take part, unless all lose more.
    """
    return max(trials, key=lambda trial: (trial.lost <= slack + 1e-9, round(trial.figures["macro-F1"], 9)))
