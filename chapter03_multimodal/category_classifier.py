"""Predicts a product's category from its picture: small heads on frozen embeddings, and every long-tail technique.

`python -m chapter03_multimodal.category_classifier --catalogue pocket_shop`

The pictures are encoded once. Plain cross-entropy is tuned first, and every technique of `long_tail` then takes its
place, all else equal; which one is used is decided on the validation split. Test is looked at once, at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from chapter03_multimodal.long_tail import (
    BUCKETS,
    GRIDS,
    PLAIN,
    Technique,
    batch_loss,
    class_frequencies,
    epoch_rows,
    frequency_buckets,
)
from common.artifacts import Artifacts, RunFolder, read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress
from common.settings import artifacts_root
from common.statistics import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from chapter03_multimodal.encoder import ClipEncoder
    from chapter03_multimodal.prepare_data import MultimodalData

CHAPTER, STEP = "chapter03_multimodal", "category_classifier"
FINE_TUNED = "fine-tuned"
SPLITS = ("train", "val", "test")
TOP = (1, 3, 5)
ABSENT = "absent"
LEVELS = " > "  # between the levels of a category path
TABLES = ("results", "comparison", "per_class", "predictions", "absent")
SHADES = {"head": "#dce9f5", "middle": "#f3f3f3", "tail": "#fbe3d6"}


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
        optimizer = torch.optim.AdamW(_parameter_groups(model, fitting.weight_decay), lr=fitting.rate, fused=True)
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


def class_counts(labels: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By class: how many examples have it, how many are said to, how many of those rightly; int64 [K] each.

    labels, predicted: int64 [N], classes from 0 on; K is one more than the highest.
    """
    size = int(max(labels.max(), predicted.max())) + 1
    labelled, said, hits = (np.bincount(x, minlength=size) for x in (labels, predicted, labels[labels == predicted]))
    return labelled, said, hits


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over classes of F1 = 2 hits / (labelled + said), each class counting alike; 1 if all is right.

    The classes are those that occur among the *labels*. One that is never predicted, for one because it has no training
    example, counts 0. One that occurs only among the predictions is no part of the mean: the guess is paid for in the
    F1 of the true class. That is sklearn's `f1_score(labels, predicted, labels=np.unique(labels), average="macro",
    zero_division=0)`; its default would take the guessed class for a further 0, so that a single odd guess could cost
    more than ten usual mistakes.

    labels, predicted: int64 [N].
    """
    labelled, said, hits = class_counts(labels, predicted)
    occurs = labelled > 0
    return float((2 * hits[occurs] / (labelled + said)[occurs]).mean())


def bootstrap_macro_f1(
    labels: np.ndarray, predicted_a: np.ndarray, predicted_b: np.ndarray, *, seed: int = 0, rounds: int = 1_000
) -> tuple[float, float]:
    """95% bootstrap interval of macro_f1(a) - macro_f1(b), two classifiers on the same N pictures.

    Pictures are drawn with replacement, for both alike, and both figures computed anew: macro-F1 is no mean over
    pictures, so `common.statistics.bootstrap_interval` does not apply. A class that a draw misses is left out of it.
    """
    draws = np.random.default_rng(seed).integers(0, len(labels), (rounds, len(labels)))
    gains = [macro_f1(labels[d], predicted_a[d]) - macro_f1(labels[d], predicted_b[d]) for d in draws]
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def rank_of_label(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """At which place each label stands in the ranking of the classes, from 0 on: int64 [N], for [N, C] and [N].

    Of equal probabilities the class with the lower number comes first. A label from C on, of which the head has not
    heard, has an infinite place, as it were: it is in no top k.
    """
    n_classes = probabilities.shape[1]
    column = np.minimum(labels, n_classes - 1)[:, None]
    own = np.take_along_axis(probabilities, column, axis=1)
    before = (probabilities > own) | ((probabilities == own) & (np.arange(n_classes) < column))
    return np.where(labels < n_classes, before.sum(axis=1), np.iinfo(np.int64).max)


def buckets_of(labels: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """The bucket of each label, str [N]; "absent" for labels from C on. buckets: str [C], of `frequency_buckets`."""
    return np.append(buckets, ABSENT)[np.minimum(labels, len(buckets))]


def classification_figures(probabilities: np.ndarray, labels: np.ndarray, buckets: np.ndarray) -> dict[str, float]:
    """`top-1`, `top-3`, `top-5`, `macro-F1` and, by bucket, `head recall`, `middle recall`, `tail recall`.

    probabilities [N, C], labels int64 [N], buckets: str [C]. All but `macro_f1` are shares of pictures. A label from C
    on is wrong in every top-k, 0 in macro-F1, and in no bucket. The recall of a bucket is the share of its pictures
    that have their own class as the first; NaN if the bucket has no picture.
    """
    ranks, own = rank_of_label(probabilities, labels), buckets_of(labels, buckets)
    found = {f"top-{k}": float((ranks < k).mean()) for k in TOP}
    found["macro-F1"] = macro_f1(labels, probabilities.argmax(axis=1))
    for bucket in BUCKETS:
        inside = ranks[own == bucket] == 0
        found[f"{bucket} recall"] = float(inside.mean()) if len(inside) else float("nan")
    return found


def compare_on(labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray, buckets: np.ndarray) -> pd.DataFrame:
    """Two classifiers on the same pictures, from their probabilities [N, C]: metric, plain (theirs), chosen (ours),
    difference, and its 95% interval ci_low, ci_high by a bootstrap over pictures, drawn for both alike."""
    found = [classification_figures(probabilities, labels, buckets) for probabilities in (theirs, ours)]
    ranks = [rank_of_label(probabilities, labels) for probabilities in (theirs, ours)]
    tail = buckets_of(labels, buckets) == "tail"
    gains = {f"top-{k}": (ranks[1] < k) * 1.0 - (ranks[0] < k) for k in TOP}
    gains["tail recall"] = ((ranks[1] == 0) * 1.0 - (ranks[0] == 0))[tail]
    intervals = {metric: bootstrap_interval(gain) for metric, gain in gains.items() if len(gain)}
    intervals["macro-F1"] = bootstrap_macro_f1(labels, ours.argmax(axis=1), theirs.argmax(axis=1))
    rows = [
        {"metric": metric, "plain": found[0][metric], "chosen": found[1][metric]}
        | {"difference": found[1][metric] - found[0][metric], "ci_low": float(low), "ci_high": float(high)}
        for metric, (low, high) in intervals.items()
    ]
    return pd.DataFrame(rows)


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
            encoder = _encoder(config.encoder, artifacts)
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
    encoder = _encoder(classifier.run.manifest["config"]["encoder"], artifacts)
    if encoder.encoder_id != classifier.encoder_id:
        raise CourseError(
            f"{CHAPTER}: the classifier reads vectors of {classifier.encoder_id}, the encoder is now "
            f"{encoder.encoder_id}.\nTrain it again with: python -m {CHAPTER}.{STEP}"
        )
    return encoder


def draw_label_distribution(axes: Axes, per_class: pd.DataFrame) -> None:
    """Draw the long tail: training examples of each class, the most frequent first, the buckets shaded."""
    trained = per_class[per_class["train"] > 0].sort_values("train", ascending=False, kind="stable")
    frequencies, start = trained["train"].to_numpy(), 0
    axes.bar(range(len(frequencies)), frequencies, width=1.0, color="#33658a")
    for bucket in BUCKETS:
        size = int((trained["bucket"] == bucket).sum())
        share = trained.loc[trained["bucket"] == bucket, "train"].sum() / frequencies.sum()
        axes.axvspan(start - 0.5, start + size - 0.5, color=SHADES[bucket], zorder=0)
        if size:
            label = f"{bucket}\n{size} classes\n{share:.0%} of examples"
            axes.text(start + size / 2 - 0.5, frequencies.max(), label, ha="center", va="top", fontsize=9)
        start += size
    axes.set(xlabel="classes, by frequency", ylabel="training examples", xlim=(-0.5, start - 0.5))


def confusion(predictions: pd.DataFrame, *, column: str = "predicted") -> pd.DataFrame:
    """Shares of each true class (rows) that were given each class (columns), both sorted, so that siblings of the
    taxonomy stand together. column: "predicted", or "plain" for plain cross-entropy. Rows add up to 1; the row of a
    class that was only guessed is 0."""
    names = sorted({*predictions["category_path"], *predictions[column]})
    counts = pd.crosstab(predictions["category_path"], predictions[column])
    counts = counts.reindex(index=names, columns=names, fill_value=0)
    return counts.div(counts.sum(axis=1).clip(lower=1), axis=0)


def draw_confusion(axes: Axes, predictions: pd.DataFrame, *, most: int | None = 15, column: str = "predicted") -> None:
    """Draw true classes (rows) against predicted ones, darker for a larger share of the row.

    most: only the classes that are mistaken, or taken for others, most often, with their names; None: all of them as
    one picture, named by the top level of the taxonomy.
    """
    shares = confusion(predictions, column=column)
    if most is not None:
        wrong = predictions[predictions["category_path"] != predictions[column]]
        errors = wrong["category_path"].value_counts().add(wrong[column].value_counts(), fill_value=0)
        names = sorted(errors.sort_index().nlargest(most).index)
        shares = shares.loc[names, names]
    axes.imshow(shares.to_numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if most is not None:
        places, labels = range(len(shares)), [name.rsplit(LEVELS, 1)[-1] for name in shares.index]
    else:
        tops = pd.Series([name.split(LEVELS)[0] for name in shares.index])
        first, sizes = tops.drop_duplicates().index.to_numpy(), tops.groupby(tops, sort=False).size().to_numpy()
        places, labels = first + (sizes - 1) / 2, tops.drop_duplicates().tolist()
        for line in first[1:] - 0.5:
            axes.axhline(line, color="#bbbbbb", linewidth=0.5)
            axes.axvline(line, color="#bbbbbb", linewidth=0.5)
    axes.set_xticks(places, labels, rotation=90, fontsize=7)
    axes.set_yticks(places, labels, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")


def draw_techniques(axes: Axes, results: pd.DataFrame, *, metric: str = "macro-F1", split: str = "test") -> None:
    """Draw one metric of all techniques as bars, the heads side by side; lines mark plain cross-entropy, and a star
    the technique that was chosen on validation."""
    part = results[results["split"] == split]
    names, heads = part["technique"].drop_duplicates().tolist(), part["head"].drop_duplicates().tolist()
    height = 0.8 / len(heads)
    for number, head in enumerate(heads):
        rows = part[part["head"] == head].set_index("technique").loc[names]
        places = np.arange(len(names)) + (number - (len(heads) - 1) / 2) * height
        bars = axes.barh(places, rows[metric], height, label=head, color=f"C{number}")
        if PLAIN in names:
            axes.axvline(rows.loc[PLAIN, metric], color=f"C{number}", linestyle=":", linewidth=1)
        axes.bar_label(
            bars,
            [f"{value:.3f}{' ★' * bool(chosen)}" for value, chosen in rows[[metric, "chosen"]].values],
            fontsize=7,
            padding=2,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}, {split}")
    axes.margins(x=0.12)  # room for the figures
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(heads))


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


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay draws matrices to 0; offsets and the gains of a normalisation have no reason to go there."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _encoder(name: str, artifacts: Artifacts) -> ClipEncoder:
    from chapter03_multimodal.encoder import load_clip_encoder

    if name == FINE_TUNED:
        from chapter03_multimodal.train import clip_folders

        name = str(clip_folders(artifacts)["best"])
    return load_clip_encoder(name, cache=artifacts_root() / "embeddings")


if __name__ == "__main__":
    run_step(main)
