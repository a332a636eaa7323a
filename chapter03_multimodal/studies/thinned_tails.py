"""What do the long-tail techniques bring when the tail is long? Real photos, thinned to one, for the scoreboard.

    python -m chapter03_multimodal.studies.thinned_tails --catalogue grocery_store      # some ten minutes

The pictures that the course draws are so clear that plain cross-entropy has little left to gain. So this is measured
on the photos of grocery_store, by the protocol of the long-tailed CIFAR (Cui et al. 2019, arXiv:1901.05555): training
examples are taken away until the classes follow an exponential profile (`thinned`); validation and test stay as they
are. The encoder is frozen, the label is the whole category path, 81 fine classes.

- Photos: the source's training photos alone, split anew 60/20/20 (`split_photos`). The source's validation photos are
  what `real_photos` measures on, and are not looked at here. Photos of nearly the same pixels share a split; two views
  of one shelf have hashes that differ, and may be parted. So the figures are those of shops that training knows, far
  above those of `real_photos`: what counts is the difference of two classifiers on the same photos, not the level.
- Every technique has the same grid of heads and weight decays, plain cross-entropy too, so that none wins against a
  badly tuned rival; those with a parameter have its values besides (plain 6 trainings, logit adjustment 24). `plain` is
  the plain cross-entropy with the best validation macro-F1; `chosen` the best of all that lose at most `slack` of top-1
  against it. Test is looked at once a draw, for these two.
- All is repeated for several draws of the photos that stay. The figures are means over them. Where nothing is taken
  away (1:1), draws differ by the seed of the training alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import product

import numpy as np
import pandas as pd
import torch

from chapter03_multimodal.categories.classifier import Examples, Fitting, Trial, choose, embed_examples, fit
from chapter03_multimodal.categories.long_tail import (
    ADJUSTED,
    GRIDS,
    PLAIN,
    Technique,
    class_frequencies,
    frequency_buckets,
)
from chapter03_multimodal.categories.metrics import classification_figures, compare_over_draws, macro_f1
from chapter03_multimodal.clip import POCKET_CLIP, load_clip
from chapter03_multimodal.duplicates import audit, near_pairs
from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.prepare_data import MultimodalData, PrepareDataConfig
from chapter03_multimodal.prepare_data import main as prepare_data
from chapter03_multimodal.studies.real_photos import grocery_pairs
from common.artifacts import Artifacts, RunFolder, code_digest, fingerprint, jsonable
from common.atomic import read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.catalogue.splits import split_by_group
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress
from common.settings import artifacts_root

CHAPTER, STEP = "chapter03_multimodal", "studies.thinned_tails"
SOURCE = "grocery_store"
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
FEWEST = 3  # photos of a class: one a split
VALUES = GRIDS | {ADJUSTED: (0.5, 1.0, 1.5, 2.0)}
CLASSIFIERS = {"plain": "plain cross-entropy", "chosen": "chosen technique"}
TABLES = ("draws", "figures", "photos")


@dataclass(frozen=True)
class LongerTailsConfig:
    """Thin the training photos of grocery_store to long tails, and compare the techniques with plain cross-entropy."""

    catalogue: str = SOURCE
    """grocery_store, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = POCKET_CLIP
    """Whose frozen vectors are classified."""
    ratios: tuple[int, ...] = (1, 10, 50)
    """Imbalance ratios: how many photos the most frequent class keeps for one of the rarest."""
    draws: int = 5
    """How often the photos that stay are drawn, for each ratio."""
    heads: tuple[str, ...] = ("linear", "mlp")
    """Heads to train."""
    techniques: tuple[str, ...] = tuple(GRIDS)
    """Techniques to compare with plain cross-entropy, which always takes part."""
    weight_decays: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Tried for every head and technique."""
    slack: float = 0.02
    """Top-1 accuracy that the chosen technique may lose against plain cross-entropy, on validation."""
    fitting: Fitting = field(default_factory=lambda: Fitting(batch_size=128))
    """How a head is trained; the weight decay is that of the grid."""
    seed: int = 0
    """Of the split and the bootstrap; draw number d has the seed `seed` + d, for thinning and training."""


@dataclass(frozen=True)
class LongerTailsResult:
    """What was measured.

    draws: two rows for each ratio and draw, classifier "plain" and "chosen": ratio, draw, n_train (photos left),
    classifier, technique, value (its parameter, NaN: none), head, weight_decay, "val macro-F1", "val top-1",
    "test macro-F1", "test top-1". figures: a row for each ratio and metric, on test, means over the draws: ratio,
    n_queries (test photos), and the columns of `compare_over_draws`. photos: product_id, path, category_path, split,
    and `bound`, whether another photo looks like it, with which it shares the split. board: the columns of the
    scoreboard.
    """

    run: RunFolder
    draws: pd.DataFrame
    figures: pd.DataFrame
    photos: pd.DataFrame
    board: pd.DataFrame


def main(config: LongerTailsConfig) -> LongerTailsResult:
    """Prepare, thin, train, measure, and put the figures on the scoreboard; what was made before is not made again."""
    from chapter03_multimodal.evaluate import EvaluateConfig  # which reads this step's rows
    from chapter03_multimodal.evaluate import main as evaluate

    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    if catalogue.source != SOURCE:
        raise CourseError(f"{STEP}: is measured on the photos of {SOURCE} alone, not on {catalogue.source}.")
    if config.draws < 1 or not config.ratios:
        raise CourseError(f"{STEP}: needs at least one ratio and one draw, not {config.ratios} and {config.draws}.")
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = prepare_data(PrepareDataConfig(catalogue=config.catalogue, profile=config.profile))
    _measure(config, data, artifacts)
    evaluate(EvaluateConfig(catalogue=config.catalogue, profile=config.profile, seed=config.seed))
    return load_longer_tails(artifacts)


def load_longer_tails(artifacts: Artifacts) -> LongerTailsResult:
    """Read the measurement in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return LongerTailsResult(run, **tables, board=pd.read_parquet(run.path / "scoreboard.parquet"))


def scoreboard_rows(artifacts: Artifacts, catalogue: Catalogue) -> pd.DataFrame:
    """The rows of the measurement in force, for `evaluate`."""
    return load_longer_tails(artifacts).board


def _measure(config: LongerTailsConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Measure every ratio and draw, or go on after the last that was finished, and write the tables."""
    recorded = {**asdict(config), "encoder_digest": load_clip(config.encoder).digest}
    inputs = {"prepare_data": data.run}
    if artifacts.reuse(CHAPTER, STEP, config=recorded, inputs=inputs) is not None:
        return
    photos = split_photos(data, config.seed)
    encoder = load_clip_encoder(config.encoder, cache=artifacts_root() / "embeddings")
    examples = embed_examples(replace(data, pairs=photos), encoder)
    key = [STEP, jsonable(recorded), data.run.name, code_digest(CHAPTER)]
    work = artifacts.folder / CHAPTER / "unfinished" / fingerprint(key)
    tasks = [*product(config.ratios, range(config.draws))]
    parts = {(ratio, draw): work / f"{ratio}_{draw}.json" for ratio, draw in tasks}
    missing = {part: path for part, path in parts.items() if not path.is_file()}
    with progress(total=len(missing) * len(_settings(config)), desc="fitting heads", unit="head") as bar:
        for (ratio, draw), path in missing.items():
            write_json(path, measure_draw(examples, ratio, draw, config, bar.update))
    found = [read_json(path) for path in parts.values()]
    figures = _figures(found, examples.part("test")[1], config)
    draws = pd.DataFrame([row for part in found for row in part["rows"]]).astype({"value": float})
    with artifacts.new_run(CHAPTER, STEP, config=recorded, inputs=inputs) as folder:
        for name, table in zip(TABLES, (draws, figures, photos), strict=True):
            table.to_parquet(folder / f"{name}.parquet", index=False)
        _board(figures, data.catalogue).to_parquet(folder / "scoreboard.parquet", index=False)
    shutil.rmtree(work)


def split_photos(data: MultimodalData, seed: int = 0) -> pd.DataFrame:
    """The source's training photos, without the iconic pictures, split anew: the table `photos` of the result.

    A photo's place is drawn by a hash of its name; photos that look alike (`duplicates.audit`) go to the earliest split
    that any of them has. Raises CourseError for a class with fewer than 3 photos.
    """
    pairs = grocery_pairs(data, held_out=0.0)
    photos = pairs[(pairs["split"] == "train") & ~pairs["iconic"]].reset_index(drop=True)
    counts = photos["category_path"].value_counts()
    if len(counts) == 0 or counts.min() < FEWEST:
        few = f"{counts.idxmin()} has {counts.min()}" if len(counts) else "there is none"
        raise CourseError(f"{STEP}: every class needs {FEWEST} training photos or more, and {few}.")
    drawn = photos.assign(split=split_by_group(photos, SHARES, seed))
    found = audit(drawn, photos[["product_id", "path"]], folder=data.catalogue.folder)
    alike = near_pairs(found.hashes)
    bound = np.isin(np.arange(len(photos)), found.hashes.rows[alike[["a", "b"]].to_numpy()])
    table = photos.assign(split=found.splits, bound=bound)
    return table[["product_id", "path", "category_path", "split", "bound"]]


def tail_profile(frequencies: np.ndarray, ratio: float) -> np.ndarray:
    """How many examples each class keeps, int64 [C]: n_i = max(1, round(n_0 ratio^(-i / (C - 1)))), or all that it has.

    frequencies: int64 [C], the most frequent class first. ratio: n_0 by the last class's; 1 leaves everything. Where a
    class has less than the profile asks for, it is not filled up. Raises CourseError for a ratio below 1.

    Source: Cui et al. 2019 (arXiv:1901.05555), section 5.1, whose classes are equally frequent before.
    """
    if ratio < 1:
        raise CourseError(f"an imbalance ratio is at least 1 (as it is), not {ratio}.")
    places = np.arange(len(frequencies)) / max(1, len(frequencies) - 1)
    wanted = np.round(frequencies[0] * float(ratio) ** -places).astype(np.int64)
    return np.minimum(np.maximum(1, wanted), frequencies)


def thinned(labels: np.ndarray, ratio: float, seed: int = 0) -> np.ndarray:
    """The positions of the examples that stay, rising int64, for labels int64 [N], every class 0 to C-1 among them.

    Classes are ordered by their own frequency, ties in an order drawn with the seed; each keeps so many as
    `tail_profile` says, drawn with the seed. With one seed the examples of a longer tail are among those of a shorter.
    """
    rng, frequencies = np.random.default_rng(seed), np.bincount(labels)
    ties = rng.permutation(len(frequencies))
    order = ties[np.argsort(-frequencies[ties], kind="stable")]
    keeps = np.empty_like(frequencies)
    keeps[order] = tail_profile(frequencies[order], ratio)
    shuffled = pd.Series(labels).sample(frac=1, random_state=rng)
    place = shuffled.groupby(shuffled).cumcount()
    return np.sort(shuffled.index[place < keeps[shuffled]].to_numpy())


def measure_draw(
    examples: Examples, ratio: int, draw: int, config: LongerTailsConfig, advance: Callable[[int], object]
) -> dict:
    """Thin, train every setting, choose on validation, and only then look at test, for plain and chosen alone.

    Returns, for JSON, ratio; rows, those of the table `draws`; and, for either classifier, the predicted classes of the
    test photos. advance(1) is called after each training.
    """
    seed = config.seed + draw
    vectors, labels = examples.part("train")
    kept = thinned(labels, ratio, seed)
    trials = _try(vectors[kept], labels[kept], *examples.part("val"), config, seed, advance)
    (test_vectors, test_labels), settings = examples.part("test"), _settings(config)
    rows, predicted = [], {}
    for name, at in choose_both(trials, config.slack).items():
        guesses = trials[at].head.probabilities(test_vectors).argmax(axis=1)
        predicted[name] = guesses.tolist()
        kind, technique, decay = settings[at]
        row = {"ratio": ratio, "draw": draw, "n_train": len(kept), "classifier": name}
        row |= {"technique": technique.name, "value": technique.value, "head": kind, "weight_decay": decay}
        row |= {f"val {metric}": trials[at].figures[metric] for metric in ("macro-F1", "top-1")}
        row |= {"test macro-F1": macro_f1(test_labels, guesses), "test top-1": float((guesses == test_labels).mean())}
        rows.append(row)
    return {"ratio": ratio, "rows": rows, **predicted}


def choose_both(trials: list[Trial], slack: float) -> dict[str, int]:
    """Which trial is "plain" and which is "chosen", as positions. plain: the best macro-F1 of plain cross-entropy;
    chosen: the best of all that lose at most `slack` of top-1 against it (`category_classifier.choose`)."""
    plain = choose([trial for trial in trials if trial.technique.name == PLAIN])
    against = [replace(trial, lost=plain.figures["top-1"] - trial.figures["top-1"]) for trial in trials]
    chosen = choose(against, slack)
    return {"plain": trials.index(plain), "chosen": against.index(chosen)}


def _settings(config: LongerTailsConfig) -> list[tuple[str, Technique, float]]:
    """Head, technique and weight decay of every training of a draw, those of plain cross-entropy first."""
    names = [PLAIN, *(name for name in config.techniques if name != PLAIN)]
    techniques = [Technique(name, value) for name in names for value in VALUES.get(name, (None,))]
    return [
        (head, technique, decay) for technique, head, decay in product(techniques, config.heads, config.weight_decays)
    ]


def _try(
    vectors: np.ndarray,
    labels: np.ndarray,
    val_vectors: np.ndarray,
    val_labels: np.ndarray,
    config: LongerTailsConfig,
    seed: int,
    advance: Callable[[int], object],
) -> list[Trial]:
    """Train every setting and measure it on validation, in the order of `_settings`."""
    buckets, trials = frequency_buckets(class_frequencies(torch.from_numpy(labels))), []
    for kind, technique, decay in _settings(config):
        fitting = replace(config.fitting, weight_decay=decay)
        head = fit(vectors, labels, val_vectors, val_labels, technique, kind, fitting, seed)
        found = classification_figures(head.probabilities(val_vectors), val_labels, buckets)
        trials.append(Trial(head, technique, found))
        advance(1)
    return trials


def _figures(found: list[dict], labels: np.ndarray, config: LongerTailsConfig) -> pd.DataFrame:
    tables = []
    for ratio in config.ratios:
        parts = [part for part in found if part["ratio"] == ratio]
        plain, chosen = (np.array([part[name] for part in parts]) for name in CLASSIFIERS)
        table = compare_over_draws(labels, plain, chosen, seed=config.seed)
        tables.append(table.assign(ratio=ratio, n_queries=len(labels)))
    return pd.concat(tables, ignore_index=True)


def _board(figures: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    """Of each ratio the rows of both classifiers, and of the chosen one what it gains, with the interval of that."""
    rows = []
    for found in figures.to_dict("records"):
        photos = "all photos" if found["ratio"] == 1 else f"photos thinned to 1:{found['ratio']}"
        for value, interval, name, metric in (
            ("plain", "plain", "plain", "fine"),
            ("chosen", "chosen", "chosen", "fine"),
            ("difference", "ci", "chosen", "gain in fine"),
        ):
            row = {"system": f"classifier on {photos}, {CLASSIFIERS[name]}", "metric": f"{metric} {found['metric']}"}
            row |= {"value": found[value], "ci_low": found[f"{interval}_low"], "ci_high": found[f"{interval}_high"]}
            rows.append(row | {"n_queries": found["n_queries"]})
    facts = {"chapter": CHAPTER, "source": catalogue.source, "split": "held-out", "seconds": float("nan")}
    return pd.DataFrame(rows).assign(**facts)


if __name__ == "__main__":
    run_step(main)
