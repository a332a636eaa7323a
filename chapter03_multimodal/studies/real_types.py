"""Measure the long-tail techniques on a tail that nobody made: the types of a real shop's products, off their photos.

    python -m chapter03_multimodal.prepare_data --catalogue fashion_products --text title
    python -m chapter03_multimodal.studies.real_types

The label is the last level of the category path, the type: the source files one type under several sub-categories, and
no photo shows which. The pictures' features are those of the frozen tower before any projection (`picture_features`).
Splits are those of `prepare_data`: products of one title or photo share a split, and so do photos that look alike.

- Every technique has the same heads and weight decays, plain cross-entropy too, each with every `weights` of the
  nearest photo: what a class scores then also counts how near the most similar of its training photos is
  (`nearest_photos`). A class of five photos teaches a head little, but one look-alike among them is enough here. It is
  an idea beside the techniques, so three classifiers are reported.
- `plain` is the plain cross-entropy with the best validation macro-F1, without nearest photos; `technique` the best of
  all without them; `chosen` the best of all. The last two lose at most `slack` of top-1 against `plain` on validation.
  Test is looked at once, for these three.
- Intervals draw groups of products (one title or one photo), not single ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.examples import Examples, number_classes
from chapter03_multimodal.categories.head import HeadTraining, LabelledVectors, Trial, choose, run_trial
from chapter03_multimodal.categories.long_tail import BUCKETS, EFFECTIVE, GRIDS, PLAIN, Technique, label_buckets
from chapter03_multimodal.categories.metrics import buckets_of, class_counts, classification_figures, compare_over_draws
from chapter03_multimodal.clip import LITE0_MINILM, Clip, load_clip
from chapter03_multimodal.frozen_features import picture_features
from chapter03_multimodal.prepare_data import MultimodalData, load_multimodal_data
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.category_path import split_path
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress
from common.scoreboard import read_scoreboard, save_scoreboard
from common.settings import artifacts_root

CHAPTER, STEP = "chapter03_multimodal", "studies.real_types"
VALUES = GRIDS | {EFFECTIVE: (0.9, 0.99, 0.999)}
CLASSIFIERS = {
    "plain": "types, plain cross-entropy",
    "technique": "types, best technique",
    "chosen": "types, best technique and nearest photo",
}
TABLES = ("validation", "figures", "buckets", "per_class", "confusions")
BLOCK = 512


@dataclass(frozen=True)
class RealTypesConfig:
    """Compare the long-tail techniques with plain cross-entropy on the types of a real shop."""

    catalogue: str = "fashion_products"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    heads: tuple[str, ...] = ("linear",)
    """Heads to train."""
    techniques: tuple[str, ...] = tuple(GRIDS)
    """Techniques to compare with plain cross-entropy, which always takes part."""
    weight_decays: tuple[float, ...] = (0.3, 1.0)
    """Tried for every head and technique."""
    weights: tuple[float, ...] = (0.0, 8.0, 16.0, 32.0)
    """Of the nearest photo's cosine beside the log-probability; 0 (always tried): the head alone."""
    slack: float = 0.02
    """Top-1 accuracy that a choice may lose against plain cross-entropy, on validation."""
    fitting: HeadTraining = field(default_factory=lambda: HeadTraining(epochs=8))
    """How a head is trained; the weight decay is that of the grid."""
    seed: int = 0
    """Of the trainings and the bootstrap."""


@dataclass(frozen=True)
class RealTypesResult:
    """What was measured.

    validation: a row for each training and weight: technique, value (its parameter, NaN: none), head, weight_decay,
    weight, role (plain, technique and chosen, joined by "+"; "" for the rest), and the `classification_figures`.
    figures: on test, `compare_over_draws` of "technique" and of "chosen" (column classifier) against plain, with
    n_queries. buckets: classifier, bucket, classes and products (that test has) and macro-F1. per_class: type, train
    (photos), bucket, n (test photos), and F1 of the three classifiers, NaN for a class that test has not. confusions:
    of the chosen classifier, the most frequent first: type, predicted, n, share (of the type's test photos). board: the
    columns of the scoreboard.
    """

    run: RunFolder
    validation: pd.DataFrame
    figures: pd.DataFrame
    buckets: pd.DataFrame
    per_class: pd.DataFrame
    confusions: pd.DataFrame
    board: pd.DataFrame


def main(config: RealTypesConfig) -> RealTypesResult:
    """Train every setting, choose on validation, look at test once; or read what was made before."""
    if 0 not in config.weights:
        raise CourseError(f"{STEP}: weights must contain 0, the head alone; got {config.weights}.")
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, clip = load_multimodal_data(artifacts, catalogue), load_clip(LITE0_MINILM)
    recorded, inputs = {**asdict(config), "encoder_digest": clip.digest}, {"prepare_data": data.run}
    if artifacts.reuse(CHAPTER, STEP, config=recorded, inputs=inputs) is None:
        examples, groups = type_examples(data, clip, artifacts_root() / "embeddings" / "frozen_features")
        with artifacts.new_run(CHAPTER, STEP, config=recorded, inputs=inputs) as folder:
            tables = measure(examples, groups, config)
            for name, table in tables.items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
            save_scoreboard(folder, _board(tables["figures"], tables["buckets"], catalogue.source))
    return load_real_types(artifacts)


def load_real_types(artifacts: Artifacts) -> RealTypesResult:
    """Read the measurement in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return RealTypesResult(run, **tables, board=read_scoreboard(run.path))


def type_examples(data: MultimodalData, clip: Clip, cache: Path) -> tuple[Examples, np.ndarray]:
    """Return the usable photos of products with a type, labelled by it, and the group of each test photo, str [n].

    cache: see `picture_features`.
    """
    table, folder = data.pairs[data.pairs["category_path"].notna()], Path(data.catalogue.folder or ".")
    features, usable = picture_features(clip, [folder / path for path in table["path"]], cache)
    left_out = {"no category": len(data.pairs) - len(table), "unusable picture": int((~usable).sum())}
    table = table[usable].reset_index(drop=True)
    table["category_path"] = [split_path(path)[-1] for path in table["category_path"]]
    table, classes = number_classes(table[["product_id", "path", "group_id", "category_path", "split"]])
    groups = table.loc[table["split"] == "test", "group_id"].to_numpy()
    return Examples(table, features[usable], classes, left_out), groups


def nearest_photos(vectors: np.ndarray, known: LabelledVectors) -> np.ndarray:
    """Return the cosine of each vector [N, D] to the nearest training example of each class: float32 [N, C].

    known: vectors [M, D] and labels [M], every class 0 to C-1 occurs.
    """
    order = np.argsort(known[1], kind="stable")
    starts = np.searchsorted(known[1][order], np.arange(known[1].max() + 1))
    ours, theirs = _unit(vectors), _unit(known[0][order])
    blocks = [
        np.maximum.reduceat(ours[at : at + BLOCK] @ theirs.T, starts, axis=1) for at in range(0, len(ours), BLOCK)
    ]
    return np.concatenate(blocks)


def scores(trial: Trial, vectors: np.ndarray, near: np.ndarray, weight: float) -> np.ndarray:
    """Return log-probability + weight * cosine of the nearest photo, [N, C]."""
    return np.log(np.maximum(trial.head.probabilities(vectors), np.finfo(np.float32).tiny)) + weight * near


def choose_three(trials: Sequence[Trial], weights: Sequence[float], slack: float) -> dict[str, int]:
    """Choose "plain", "technique" and "chosen" by validation figures (see the module), and return their positions.

    weights: that of each trial's nearest photo.
    """
    alone = [at for at, weight in enumerate(weights) if weight == 0]
    plain = choose([trials[at] for at in alone if trials[at].technique.name == PLAIN])
    against = [replace(trial, lost=plain.figures["top-1"] - trial.figures["top-1"]) for trial in trials]
    best = {"plain": plain, "technique": choose([against[at] for at in alone], slack), "chosen": choose(against, slack)}
    places = {id(trial): at for offered in (trials, against) for at, trial in enumerate(offered)}
    return {name: places[id(trial)] for name, trial in best.items()}


def measure(examples: Examples, groups: np.ndarray, config: RealTypesConfig) -> dict[str, pd.DataFrame]:
    """Train every setting, choose, and measure the three choices on test: the tables of the result by name."""
    train, val = examples.of_split("train"), examples.of_split("val")
    known = nearest_photos(val[0], train)
    buckets, trials, rows = label_buckets(train[1]), [], []
    settings = _settings(config)
    with progress(total=len(settings), desc="fitting heads", unit="head") as bar:
        for kind, technique, decay in settings:
            fitting = replace(config.fitting, weight_decay=decay)
            trial = run_trial(train, val, technique, kind, fitting, seed=config.seed)
            row = {"technique": technique.name, "value": technique.value, "head": kind, "weight_decay": decay}
            for weight in config.weights:
                found = classification_figures(scores(trial, val[0], known, weight), val[1], buckets)
                trials.append(replace(trial, figures=found))
                rows.append(row | {"weight": weight} | found)
            bar.update(1)
    validation = pd.DataFrame(rows).astype({"value": float})
    roles = choose_three(trials, validation["weight"], config.slack)
    validation["role"] = ["+".join(role for role, at in roles.items() if at == row) for row in range(len(rows))]
    test = examples.of_split("test")
    near = nearest_photos(test[0], train)
    predicted = {
        role: scores(trials[at], test[0], near, validation["weight"][at]).argmax(axis=1) for role, at in roles.items()
    }
    per_class = _per_class(examples, predicted)
    return {
        "validation": validation,
        "figures": _figures(test[1], predicted, groups, config.seed),
        "buckets": _bucket_f1(per_class),
        "per_class": per_class,
        "confusions": _confusions(examples.names(), test[1], predicted["chosen"]),
    }


def _settings(config: RealTypesConfig) -> list[tuple[str, Technique, float]]:
    """Return head, technique and weight decay of every training, those of plain cross-entropy first."""
    names = [PLAIN, *(name for name in config.techniques if name != PLAIN)]
    techniques = [Technique(name, value) for name in names for value in VALUES.get(name, (None,))]
    return [
        (head, technique, decay) for technique, head, decay in product(techniques, config.heads, config.weight_decays)
    ]


def _figures(labels: np.ndarray, predicted: dict[str, np.ndarray], groups: np.ndarray, seed: int) -> pd.DataFrame:
    tables = [
        compare_over_draws(labels, predicted["plain"][None], predicted[name][None], groups=groups, seed=seed).assign(
            classifier=name, n_queries=len(labels)
        )
        for name in ("technique", "chosen")
    ]
    return pd.concat(tables, ignore_index=True)


def _per_class(examples: Examples, predicted: dict[str, np.ndarray]) -> pd.DataFrame:
    names, train, test = examples.names(), examples.of_split("train")[1], examples.of_split("test")[1]
    counts = np.bincount(test, minlength=len(names))
    table = pd.DataFrame({"type": names, "train": np.bincount(train, minlength=len(names))})
    table["bucket"] = buckets_of(np.arange(len(names)), label_buckets(train))
    table["n"] = counts
    for name, guesses in predicted.items():
        n, guessed, hits = (np.pad(found, (0, len(names) - len(found))) for found in class_counts(test, guesses))
        table[name] = np.where(counts > 0, 2 * hits / np.maximum(n + guessed, 1), np.nan)
    return table


def _bucket_f1(per_class: pd.DataFrame) -> pd.DataFrame:
    occurs = per_class[per_class["n"] > 0]
    rows = [
        {"classifier": name, "bucket": bucket, "classes": int((occurs["bucket"] == bucket).sum())}
        | {"products": int(occurs.loc[occurs["bucket"] == bucket, "n"].sum())}
        | {"macro-F1": float(occurs.loc[occurs["bucket"] == bucket, name].mean())}
        for name, bucket in product(CLASSIFIERS, BUCKETS)
    ]
    return pd.DataFrame(rows)


def _confusions(names: list[str], labels: np.ndarray, predicted: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"type": np.array(names)[labels], "predicted": np.array(names)[predicted]})
    wrong = table[table["type"] != table["predicted"]].value_counts().rename("n").reset_index()
    wrong = wrong.sort_values(["n", "type", "predicted"], ascending=[False, True, True], ignore_index=True)
    return wrong.assign(share=wrong["n"] / wrong["type"].map(table["type"].value_counts()).astype(float))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _board(figures: pd.DataFrame, buckets: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return the rows of the three classifiers, and the gains of two of them over plain with their own intervals."""
    rows = []
    for found in figures.to_dict("records"):
        for value, interval, name, metric in (
            ("plain", "plain", "plain", "type"),
            ("chosen", "chosen", found["classifier"], "type"),
            ("difference", "ci", found["classifier"], "gain in type"),
        ):
            row = {"system": CLASSIFIERS[name], "metric": f"{metric} {found['metric']}", "value": found[value]}
            row |= {"ci_low": found[f"{interval}_low"], "ci_high": found[f"{interval}_high"]}
            rows.append(row | {"n_queries": found["n_queries"]})
    for found in buckets.to_dict("records"):
        metric = f"type macro-F1, {found['bucket']}"
        row = {"system": CLASSIFIERS[found["classifier"]], "metric": metric, "value": found["macro-F1"]}
        rows.append(row | {"n_queries": found["products"]})
    facts = {"chapter": CHAPTER, "source": source, "split": "test", "seconds": float("nan")}
    board = pd.DataFrame(rows).drop_duplicates(["system", "metric"])  # plain is in both comparisons
    return board.assign(**facts).dropna(subset="value")


def print_summary(config: RealTypesConfig) -> None:
    """Measure and print the tables."""
    result = main(config)
    shown = ["technique", "value", "head", "weight_decay", "weight", "macro-F1", "top-1", "tail recall", "role"]
    best = result.validation.sort_values("macro-F1", ascending=False, kind="stable")
    best = best.drop_duplicates(["technique", "value", "weight"])
    print("Validation, the best decay of each technique and weight\n" + best[shown].round(3).to_string(index=False))
    print("\nTest\n" + result.figures.round(3).to_string(index=False))
    print("\n" + result.buckets.round(3).to_string(index=False))
    print("\nMost frequent confusions\n" + result.confusions.head(15).round(2).to_string(index=False))


if __name__ == "__main__":
    run_step(print_summary)
