"""Train heads that predict a product's category from its picture's frozen embedding, and choose one of them.

`python -m chapter03_multimodal.categories.classifier --catalogue pocket_shop`

The pictures are encoded once. Plain cross-entropy is tuned first, and every technique of `long_tail` then takes its
place, all else equal; validation decides which one is used. Test is looked at once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.examples import Examples, embed_examples
from chapter03_multimodal.categories.head import Head, HeadTraining, Trial, choose, run_trial
from chapter03_multimodal.categories.long_tail import GRIDS, PLAIN, Technique, label_buckets
from chapter03_multimodal.categories.metrics import (
    buckets_of,
    class_counts,
    classification_figures,
    compare_classifiers,
)
from chapter03_multimodal.reindex import FINE_TUNED, encoder_of
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress
from common.scoreboard import save_scoreboard

if TYPE_CHECKING:
    from chapter03_multimodal.encoder import ClipEncoder

CHAPTER, STEP = "chapter03_multimodal", "categories.classifier"
TABLES = ("results", "comparison", "per_class", "predictions", "absent")


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
    fitting: HeadTraining = field(default_factory=HeadTraining)
    """How a head is trained."""
    seed: int = 0
    """Of weights, order and dropout."""


@dataclass(frozen=True)
class CategoryClassifier:
    """The chosen head, and what is known about it and the others.

    classes: category paths, in the order of the head's logits. encoder_id: whose vectors it reads. results: a row for
    each head, technique and split (val, test): `classification_figures`, the `value` of the technique, whether it was
    `chosen`, and n. comparison: on test, the chosen head against plain cross-entropy in the same head, by
    `compare_classifiers`. per_class: on test, category_path, train (examples), bucket ("absent" for a class that
    training has not seen), n, predicted, precision, recall, f1; the last three are NaN for a class that test has not.
    predictions: a row for each test picture: product_id, path, category_path, predicted, plain (what plain
    cross-entropy says), probability. absent: category_path, split, n. left_out: pictures without category, and
    unusable ones.
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
        """Return the `k` most probable categories of each picture as (category path, probability), best first.

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
    """Train every head with every technique, choose on validation, look at test once; or read what was made before."""
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
            chosen = choose(trials, config.slack)
            tables = measure(examples, trials, chosen)
            _save(folder, tables, examples, chosen, encoder.encoder_id)
            save_scoreboard(folder, _scoreboard_rows(tables, chosen, catalogue.source))
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


def try_techniques(examples: Examples, config: ClassifierConfig) -> list[Trial]:
    """Train every head with every technique and keep the best of each, plain cross-entropy first; test is not touched.

    The weight decay is tuned for plain cross-entropy and then used for all, so that no technique wins against a badly
    tuned baseline; each technique's own parameter is tuned over `GRIDS`. `choose` decides both.
    """
    others = [name for name in config.techniques if name != PLAIN]
    total = len(config.heads) * (len(config.weight_decays) + sum(len(GRIDS[name]) for name in others))
    train, val, kept = examples.of_split("train"), examples.of_split("val"), []
    with progress(total=total, desc="fitting heads", unit="head") as bar:

        def attempt(kind: str, technique: Technique, decay: float, plain: Trial | None = None) -> Trial:
            fitting = replace(config.fitting, weight_decay=decay)
            trial = run_trial(train, val, technique, kind, fitting, seed=config.seed, plain=plain)
            bar.update(1)
            return trial

        for kind in config.heads:
            tuned = {decay: attempt(kind, Technique(), decay) for decay in config.weight_decays}
            plain = choose([*tuned.values()])
            decay = next(decay for decay, trial in tuned.items() if trial is plain)
            kept.append(plain)
            for name in others:
                tries = [attempt(kind, Technique(name, value), decay, plain) for value in GRIDS[name]]
                kept.append(choose(tries, config.slack))
    return kept


def measure(examples: Examples, trials: Sequence[Trial], chosen: Trial) -> dict[str, pd.DataFrame]:
    """Measure every trial on val and test, and return the tables of `CategoryClassifier` by name."""
    vectors, labels = examples.of_split("test")
    plain = next(t for t in trials if t.technique.name == PLAIN and t.head.shape["kind"] == chosen.head.shape["kind"])
    ours, baseline = (trial.head.probabilities(vectors) for trial in (chosen, plain))
    table = examples.table
    absent = table[table["label"] >= len(examples.classes)].groupby(["category_path", "split"], as_index=False)
    return {
        "results": _results(examples, trials, chosen),
        "comparison": compare_classifiers(labels, ours, baseline, label_buckets(examples.of_split("train")[1])),
        "per_class": _per_class(examples, ours.argmax(axis=1)),
        "predictions": _predictions(examples, ours, baseline),
        "absent": absent.size().rename(columns={"size": "n"}),
    }


def _save(folder: Path, tables: dict[str, pd.DataFrame], examples: Examples, chosen: Trial, encoder_id: str) -> None:
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    tables["results"].to_csv(folder / "results.csv", index=False)
    tables["per_class"].to_csv(folder / "per_class_f1.csv", index=False)
    chosen.head.save(folder)
    facts = {"classes": examples.classes, "encoder_id": encoder_id, "left_out": examples.left_out}
    write_json(folder / "labels.json", facts)


def _scoreboard_rows(tables: dict[str, pd.DataFrame], chosen: Trial, source: str) -> pd.DataFrame:
    """Return the rows of plain cross-entropy and of the chosen technique; `comparison` has their paired interval."""
    systems = {"plain": "classifier, plain cross-entropy", "chosen": f"classifier, {chosen.technique.name}"}
    rows = tables["comparison"].melt(id_vars="metric", value_vars=list(systems), var_name="system")
    named = rows.assign(system=rows["system"].map(systems), metric="category " + rows["metric"])
    facts = {"chapter": CHAPTER, "source": source, "split": "test", "n_queries": len(tables["predictions"])}
    return named.assign(ci_low=float("nan"), ci_high=float("nan"), seconds=float("nan"), **facts)


def _results(examples: Examples, trials: Sequence[Trial], chosen: Trial) -> pd.DataFrame:
    buckets, rows = label_buckets(examples.of_split("train")[1]), []
    for split in ("val", "test"):
        vectors, labels = examples.of_split(split)
        for trial in trials:
            row = {"head": trial.head.shape["kind"], "technique": trial.technique.name, "value": trial.technique.value}
            row |= {"chosen": trial is chosen, "split": split, "n": len(labels)}
            rows.append(row | classification_figures(trial.head.probabilities(vectors), labels, buckets))
    return pd.DataFrame(rows).astype({"value": float})


def _per_class(examples: Examples, predicted: np.ndarray) -> pd.DataFrame:
    names = examples.names()
    train, test = examples.of_split("train")[1], examples.of_split("test")[1]
    n, guessed, hits = (np.pad(counts, (0, len(names) - len(counts))) for counts in class_counts(test, predicted))
    occurs = n > 0
    return pd.DataFrame(
        {
            "category_path": names,
            "train": np.bincount(train, minlength=len(names)),
            "bucket": buckets_of(np.arange(len(names)), label_buckets(train)),
            "n": n,
            "predicted": guessed,
            "precision": np.where(occurs, hits / np.maximum(guessed, 1), np.nan),
            "recall": np.where(occurs, hits / np.maximum(n, 1), np.nan),
            "f1": np.where(occurs, 2 * hits / np.maximum(n + guessed, 1), np.nan),
        }
    )


def _predictions(examples: Examples, ours: np.ndarray, baseline: np.ndarray) -> pd.DataFrame:
    table, names = examples.table[examples.table["split"] == "test"], np.array(examples.classes)
    return table[["product_id", "path", "category_path"]].assign(
        predicted=names[ours.argmax(axis=1)], plain=names[baseline.argmax(axis=1)], probability=ours.max(axis=1)
    )


if __name__ == "__main__":
    run_step(main)
