"""Predicts a product's category from its picture: small heads on frozen embeddings, and every long-tail technique.

`python -m chapter03_multimodal.categories.classifier --catalogue pocket_shop`

The pictures are encoded once. Plain cross-entropy is tuned first, and every technique of `long_tail` then takes its
place, all else equal; which one is used is decided on the validation split. Test is looked at once, at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chapter03_multimodal.categories.long_tail import (
    GRIDS,
    PLAIN,
    Technique,
    batch_loss,
    class_frequencies,
    epoch_rows,
    frequency_buckets,
)
from chapter03_multimodal.categories.metrics import (
    buckets_of,
    class_counts,
    classification_figures,
    compare_on,
    macro_f1,
)
from chapter03_multimodal.model import parameter_groups
from chapter03_multimodal.reindex import FINE_TUNED, encoder_of
from common.artifacts import Artifacts, RunFolder, read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress

if TYPE_CHECKING:
    from chapter03_multimodal.encoder import ClipEncoder
    from chapter03_multimodal.prepare_data import MultimodalData

CHAPTER, STEP = "chapter03_multimodal", "categories.classifier"
SPLITS = ("train", "val", "test")
LEVELS = " > "  # between the levels of a category path
TABLES = ("results", "comparison", "per_class", "predictions", "absent")


@dataclass(frozen=True)
class Fitting:
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


@dataclass(frozen=True)
class ClassifierConfig:
    """Train category classifiers on the frozen embeddings of a catalogue's pictures."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = FINE_TUNED
    """fine-tuned (the best of chapter03_multimodal.train), pocket_clip, or the folder or name of another CLIP."""
    level: int | None = None
    """The label is the first so many levels of the category path; None: the whole path."""
    heads: tuple[str, ...] = ("linear", "mlp")
    """Heads to train."""
    techniques: tuple[str, ...] = tuple(GRIDS)
    """Techniques to compare with plain cross-entropy, which always takes part."""
    weight_decays: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Tried for plain cross-entropy of each head; the other techniques take what is best for it."""
    slack: float = 0.02
    """Top-1 accuracy that the chosen technique may lose against plain cross-entropy."""
    fitting: Fitting = field(default_factory=Fitting)
    """How a head is trained."""
    seed: int = 0
    """Of weights, order and dropout."""


class Head(nn.Module):
    """From embeddings [B, D] to logits [B, C]: "linear", or "mlp" (LayerNorm, Linear, GELU, dropout, Linear).

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
        """Probabilities float32 [N, C] for embeddings [N, D]. Those of a head that was trained with weights, balanced
        or adjusted are not the shop's: they are meant for classes that are equally frequent."""
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
    fitting: Fitting | None = None,
    seed: int = 0,
) -> Head:
    """Train one head in one technique, in float32 on the CPU, and return it as it was after its best epoch.

    vectors: [N, D]. labels: int64 [N], every class 0 to C-1 occurs. val_vectors [V, D], val_labels [V], by whose
    macro-F1 (`macro_f1`) the epoch is chosen, the earliest of equals; labels from C on are classes without a training
    example. technique: plain cross-entropy by default. The same arguments give the same head.
    """
    technique, fitting = technique or Technique(), fitting or Fitting()
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
            for rows in epoch_rows(technique, targets, rng).split(fitting.batch_size):
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
class Examples:
    """The labelled pictures of a catalogue. table: product_id, path, category_path (the label), split, label (its
    number), one row a picture. vectors: float32 [N, D], of its rows. classes: those of the training split, in
    alphabetical order; a label from len(classes) on is a class without a training example. left_out: how many pictures
    have no category, how many could not be read."""

    table: pd.DataFrame
    vectors: np.ndarray
    classes: list[str]
    left_out: dict[str, int]

    def part(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and labels of one split."""
        rows = (self.table["split"] == split).to_numpy()
        return self.vectors[rows], self.table["label"].to_numpy()[rows]

    def names(self) -> list[str]:
        """The class of every label number, those without a training example at the end."""
        rest = self.table.loc[self.table["label"] >= len(self.classes), ["label", "category_path"]].drop_duplicates()
        return [*self.classes, *rest.sort_values("label")["category_path"]]


def embed_examples(data: MultimodalData, encoder: ClipEncoder, level: int | None = None) -> Examples:
    """Encode all pictures that have a category, and number their classes.

    level: the label is the first so many levels of the path, None the whole path. Raises CourseError for a level below
    1, and if a split has no such picture.
    """
    if level is not None and level < 1:
        raise CourseError(f"level must be at least 1, or None for the whole category path, not {level}.")
    table = data.pairs[data.pairs["category_path"].notna()]
    folder = data.catalogue.folder or "."
    pictures = encoder.encode_images([Path(folder, path) for path in table["path"]], desc="embedding pictures")
    left_out = {"no category": len(data.pairs) - len(table), "unusable picture": len(table) - len(pictures.rows)}
    table = table.iloc[pictures.rows][["product_id", "path", "category_path", "split"]].reset_index(drop=True)
    table["category_path"] = [LEVELS.join(path.split(LEVELS)[:level]) for path in table["category_path"]]
    for split in SPLITS:
        if not (table["split"] == split).any():
            raise CourseError(f"no picture of the {split} split has a category; a classifier needs some in each split.")
    classes = sorted(table.loc[table["split"] == "train", "category_path"].unique())
    absent = sorted(set(table["category_path"]) - set(classes))
    numbers = {name: number for number, name in enumerate([*classes, *absent])}
    table["label"] = table["category_path"].map(numbers).astype(np.int64)
    return Examples(table, pictures.vectors, classes, left_out)


@dataclass(frozen=True)
class Trial:
    """A trained head and its figures on validation. lost: top-1 below plain cross-entropy with the same head."""

    head: Head
    technique: Technique
    figures: dict[str, float]
    lost: float = 0.0


def choose(trials: Sequence[Trial], slack: float = 0.02) -> Trial:
    """Return the trial with the highest validation macro-F1 among those that lose at most `slack` of top-1 against
    plain cross-entropy; if all lose more, the highest of all. The first of equals."""
    return max(trials, key=lambda trial: (trial.lost <= slack + 1e-9, round(trial.figures["macro-F1"], 9)))


def try_techniques(examples: Examples, config: ClassifierConfig) -> list[Trial]:
    """Train every head in every technique and keep the best of each, plain cross-entropy first; test is not touched.

    Plain cross-entropy has its weight decay chosen, and the other techniques theirs from it, so that none of them wins
    against a badly tuned rival; their own parameter is chosen from `GRIDS`. All by `choose`.
    """
    others = [name for name in config.techniques if name != PLAIN]
    total = len(config.heads) * (len(config.weight_decays) + sum(len(GRIDS[name]) for name in others))
    (vectors, labels), (val_vectors, val_labels) = examples.part("train"), examples.part("val")
    buckets, kept = _buckets(labels), []
    bar = progress(total=total, desc="fitting heads", unit="head")

    def attempt(kind: str, technique: Technique, decay: float, plain: Trial | None = None) -> Trial:
        fitting = replace(config.fitting, weight_decay=decay)
        head = fit(vectors, labels, val_vectors, val_labels, technique, kind, fitting, config.seed)
        bar.update(1)
        found = classification_figures(head.probabilities(val_vectors), val_labels, buckets)
        return Trial(head, technique, found, plain.figures["top-1"] - found["top-1"] if plain else 0.0)

    for kind in config.heads:
        tuned = {decay: attempt(kind, Technique(), decay) for decay in config.weight_decays}
        plain = choose([*tuned.values()])
        decay = next(decay for decay, trial in tuned.items() if trial is plain)
        kept.append(plain)
        for name in others:
            tries = [attempt(kind, Technique(name, value), decay, plain) for value in GRIDS[name]]
            kept.append(choose(tries, config.slack))
    bar.close()
    return kept


@dataclass(frozen=True)
class CategoryClassifier:
    """The chosen head, and what is known about it and the others.

    classes: category paths, in the order of the head's logits. encoder_id: whose vectors it reads. results: a row for
    each head, technique and split (val, test): `classification_figures`, the `value` of the technique, whether it was
    `chosen`, and n. comparison: on test, the chosen head against plain cross-entropy in the same head: metric, plain,
    chosen, difference, ci_low, ci_high (95%, paired bootstrap over pictures). per_class: on test, category_path, train
    (examples), bucket ("absent" for a class that training has not seen), n, predicted, precision, recall, f1; the
    last three are NaN for a class that test has not. predictions: a row for each test picture: product_id, path,
    category_path, predicted, plain (what plain cross-entropy says), probability. absent: category_path, split, n.
    left_out: pictures without category, and unusable ones.
    """

    run: RunFolder
    head: Head
    classes: list[str]
    encoder_id: str
    results: pd.DataFrame
    comparison: pd.DataFrame
    per_class: pd.DataFrame
    predictions: pd.DataFrame
    absent: pd.DataFrame
    left_out: dict[str, int]

    def predict(self, vectors: np.ndarray, k: int = 5) -> list[list[tuple[str, float]]]:
        """The `k` likeliest categories of each picture, as (category path, probability), the likeliest first.

        vectors: [N, D], of the encoder `encoder_id`. Raises CourseError for another dimension.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.head.shape["dimension"]:
            raise CourseError(
                f"predict: needs vectors [N, {self.head.shape['dimension']}] of {self.encoder_id}, not {vectors.shape}."
            )
        probabilities = self.head.probabilities(vectors)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[at], float(row[at])) for at in order] for row, order in zip(probabilities, best, strict=True)
        ]


def main(config: ClassifierConfig) -> CategoryClassifier:
    """Train every head in every technique, choose on validation, look at test once; or read what was made before."""
    from chapter03_multimodal.prepare_data import load_multimodal_data

    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = load_multimodal_data(artifacts, catalogue)
    inputs = {"prepare_data": data.run}
    if config.encoder == FINE_TUNED:
        inputs["train"] = artifacts.current(CHAPTER, "train")
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            encoder = encoder_of(artifacts, config.encoder)
            examples = embed_examples(data, encoder, config.level)
            trials = try_techniques(examples, config)
            _save(folder, examples, trials, choose(trials, config.slack), encoder.encoder_id)
    return load_classifier(artifacts)


def load_classifier(artifacts: Artifacts) -> CategoryClassifier:
    """Read the classifier in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return CategoryClassifier(run=run, head=Head.load(run.path), **tables, **read_json(run.path / "labels.json"))


def load_encoder_of(classifier: CategoryClassifier, artifacts: Artifacts) -> ClipEncoder:
    """Load the encoder whose vectors the classifier reads. Raises CourseError if it was trained again since."""
    encoder = encoder_of(artifacts, classifier.run.manifest["config"]["encoder"])
    if encoder.encoder_id != classifier.encoder_id:
        raise CourseError(
            f"{CHAPTER}: the classifier reads vectors of {classifier.encoder_id}, the encoder is now "
            f"{encoder.encoder_id}.\nTrain it again with: python -m {CHAPTER}.{STEP}"
        )
    return encoder


def _save(folder: Path, examples: Examples, trials: list[Trial], chosen: Trial, encoder_id: str) -> None:
    """Measure every trial on val and test, and write all that `CategoryClassifier` holds."""
    vectors, labels = examples.part("test")
    plain = next(t for t in trials if t.technique.name == PLAIN and t.head.shape["kind"] == chosen.head.shape["kind"])
    ours, theirs = (trial.head.probabilities(vectors) for trial in (chosen, plain))
    table = examples.table
    absent = table[table["label"] >= len(examples.classes)].groupby(["category_path", "split"], as_index=False)
    tables = {
        "results": _results(examples, trials, chosen),
        "comparison": compare_on(labels, ours, theirs, _buckets(examples.part("train")[1])),
        "per_class": _per_class(examples, ours.argmax(axis=1)),
        "predictions": _predictions(examples, ours, theirs),
        "absent": absent.size().rename(columns={"size": "n"}),
    }
    for name, made in tables.items():
        made.to_parquet(folder / f"{name}.parquet", index=False)
    tables["results"].to_csv(folder / "results.csv", index=False)
    tables["per_class"].to_csv(folder / "per_class_f1.csv", index=False)
    chosen.head.save(folder)
    facts = {"classes": examples.classes, "encoder_id": encoder_id, "left_out": examples.left_out}
    write_json(folder / "labels.json", facts)


def _results(examples: Examples, trials: list[Trial], chosen: Trial) -> pd.DataFrame:
    buckets, rows = _buckets(examples.part("train")[1]), []
    for split in ("val", "test"):
        vectors, labels = examples.part(split)
        for trial in trials:
            row = {"head": trial.head.shape["kind"], "technique": trial.technique.name, "value": trial.technique.value}
            row |= {"chosen": trial is chosen, "split": split, "n": len(labels)}
            rows.append(row | classification_figures(trial.head.probabilities(vectors), labels, buckets))
    return pd.DataFrame(rows).astype({"value": float})


def _per_class(examples: Examples, predicted: np.ndarray) -> pd.DataFrame:
    names = examples.names()
    train, test = examples.part("train")[1], examples.part("test")[1]
    n, said, hits = (np.pad(counts, (0, len(names) - len(counts))) for counts in class_counts(test, predicted))
    here = n > 0
    return pd.DataFrame(
        {
            "category_path": names,
            "train": np.bincount(train, minlength=len(names)),
            "bucket": buckets_of(np.arange(len(names)), _buckets(train)),
            "n": n,
            "predicted": said,
            "precision": np.where(here, hits / np.maximum(said, 1), np.nan),
            "recall": np.where(here, hits / np.maximum(n, 1), np.nan),
            "f1": np.where(here, 2 * hits / np.maximum(n + said, 1), np.nan),
        }
    )


def _predictions(examples: Examples, ours: np.ndarray, theirs: np.ndarray) -> pd.DataFrame:
    table, names = examples.table[examples.table["split"] == "test"], np.array(examples.classes)
    return table[["product_id", "path", "category_path"]].assign(
        predicted=names[ours.argmax(axis=1)], plain=names[theirs.argmax(axis=1)], probability=ours.max(axis=1)
    )


def _buckets(train_labels: np.ndarray) -> np.ndarray:
    return frequency_buckets(class_frequencies(torch.from_numpy(train_labels)))


if __name__ == "__main__":
    run_step(main)
