"""Measure the long-tail techniques where the tail is long: on real photos, thinned, for the scoreboard.

    python -m chapter03_multimodal.studies.thinned_tails --catalogue grocery_store      # some ten minutes

The pictures that the course draws are so clear that plain cross-entropy leaves little to gain. So this study uses the
photos of grocery_store and the protocol of the long-tailed CIFAR (Cui et al. 2019, arXiv:1901.05555): training examples
are removed until the classes follow an exponential profile (`thinned`); validation and test stay as they are. The
encoder is frozen, the label is the whole category path, 81 fine classes.

- Photos: the source's training photos alone, split anew 60/20/20 (`split_photos`). The source's validation photos, on
  which `real_photos` measures, are not used. Photos of nearly the same pixels share a split; two views of one shelf
  have different hashes, and may be parted. So the figures are those of shops that training knows, far above those of
  `real_photos`: what counts is the difference of two classifiers on the same photos, not the level.
- Every technique has the same grid of heads and weight decays, plain cross-entropy too, so that none wins against a
  badly tuned baseline. Those with a parameter also have its values (plain 6 trainings, logit adjustment 24). `plain` is
  the plain cross-entropy with the best validation macro-F1; `chosen` the best of all that lose at most `slack` of top-1
  against it. Test is looked at once a draw, for these two.
- Everything is repeated for several draws of the photos that stay. The figures are means over them. Where nothing is
  removed (1:1), draws differ in the seed of the training alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.examples import Examples, embed_examples
from chapter03_multimodal.categories.head import HeadTraining, Trial, choose, run_trial
from chapter03_multimodal.categories.long_tail import ADJUSTED, GRIDS, PLAIN, Technique
from chapter03_multimodal.categories.metrics import compare_over_draws, macro_f1
from chapter03_multimodal.clip import POCKET_CLIP, load_clip
from chapter03_multimodal.duplicates import audit, near_pairs
from chapter03_multimodal.encoder import load_clip_encoder
from chapter03_multimodal.prepare_data import MultimodalData, PrepareDataConfig
from chapter03_multimodal.prepare_data import main as prepare_data
from chapter03_multimodal.studies.grocery_photos import grocery_pairs
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json, write_json
from common.catalogue import load_catalogue
from common.catalogue.splits import split_by_group
from common.cli import run_step
from common.errors import CourseError
from common.progress import progress
from common.scoreboard import read_scoreboard, save_scoreboard
from common.settings import artifacts_root
from common.training import train_and_publish

CHAPTER, STEP = "chapter03_multimodal", "studies.thinned_tails"
SOURCE = "grocery_store"
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
MIN_PHOTOS = 3
"""Of a class: one for each split."""
VALUES = GRIDS | {ADJUSTED: (0.5, 1.0, 1.5, 2.0)}
CLASSIFIERS = {"plain": "plain cross-entropy", "chosen": "chosen technique"}
TABLES = ("draws", "figures", "photos")


@dataclass(frozen=True)
class ThinnedTailsConfig:
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
    """How often the photos that stay are drawn for each ratio."""
    heads: tuple[str, ...] = ("linear", "mlp")
    """Heads to train."""
    techniques: tuple[str, ...] = tuple(GRIDS)
    """Techniques to compare with plain cross-entropy, which always takes part."""
    weight_decays: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Tried for every head and technique."""
    slack: float = 0.02
    """Top-1 accuracy that the chosen technique may lose against plain cross-entropy, on validation."""
    fitting: HeadTraining = field(default_factory=lambda: HeadTraining(batch_size=128))
    """How a head is trained; the weight decay is that of the grid."""
    seed: int = 0
    """Of the split and the bootstrap; draw number d has the seed `seed` + d, for thinning and training."""


@dataclass(frozen=True)
class ThinnedTailsResult:
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


def main(config: ThinnedTailsConfig) -> ThinnedTailsResult:
    """Prepare, thin, train, measure, and save scoreboard rows, or read what was made before."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    if catalogue.source != SOURCE:
        raise CourseError(f"{STEP}: measures on the photos of {SOURCE} alone, not on {catalogue.source}.")
    if config.draws < 1 or not config.ratios:
        raise CourseError(f"{STEP}: needs at least one ratio and one draw, not {config.ratios} and {config.draws}.")
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = prepare_data(PrepareDataConfig(catalogue=config.catalogue, profile=config.profile))
    _measure(config, data, artifacts)
    return load_thinned_tails(artifacts)


def load_thinned_tails(artifacts: Artifacts) -> ThinnedTailsResult:
    """Read the measurement in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    tables = {name: pd.read_parquet(run.path / f"{name}.parquet") for name in TABLES}
    return ThinnedTailsResult(run, **tables, board=read_scoreboard(run.path))


def _measure(config: ThinnedTailsConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Measure every ratio and draw, those of an interrupted run only once, and write the tables."""

    def measure(work: Path) -> None:
        photos = split_photos(data, config.seed)
        encoder = load_clip_encoder(config.encoder, cache=artifacts_root() / "embeddings")
        examples = embed_examples(replace(data, pairs=photos), encoder)
        parts = {part: work / "{}_{}.json".format(*part) for part in product(config.ratios, range(config.draws))}
        missing = {part: path for part, path in parts.items() if not path.is_file()}
        with progress(total=len(missing) * len(_settings(config)), desc="fitting heads", unit="head") as bar:
            for (ratio, draw), path in missing.items():
                write_json(path, measure_draw(examples, ratio, draw, config, bar.update))
        found = [read_json(path) for path in parts.values()]
        figures = _figures(found, examples.of_split("test")[1], config)
        draws = pd.DataFrame([row for part in found for row in part["rows"]]).astype({"value": float})
        for name, table in zip(TABLES, (draws, figures, photos), strict=True):
            table.to_parquet(work / f"{name}.parquet", index=False)
        save_scoreboard(work, _board(figures, data.catalogue.source))

    recorded = {**asdict(config), "encoder_digest": load_clip(config.encoder).digest}
    inputs = {"prepare_data": data.run}
    train_and_publish(artifacts, CHAPTER, STEP, config=recorded, inputs=inputs, train=measure, unpublished=("*.json",))


def split_photos(data: MultimodalData, seed: int = 0) -> pd.DataFrame:
    """Split the source's training photos anew, without the iconic pictures: the table `photos` of the result.

    A hash of a photo's name draws its split; photos that look alike (`duplicates.audit`) go to the earliest split that
    any of them has. Raises CourseError for a class with fewer than 3 photos.
    """
    pairs = grocery_pairs(data, held_out=0.0)
    photos = pairs[(pairs["split"] == "train") & ~pairs["iconic"]].reset_index(drop=True)
    counts = photos["category_path"].value_counts()
    if len(counts) == 0 or counts.min() < MIN_PHOTOS:
        few = f"{counts.idxmin()} has {counts.min()}" if len(counts) else "there is none"
        raise CourseError(f"{STEP}: every class needs {MIN_PHOTOS} training photos or more, and {few}.")
    drawn = photos.assign(split=split_by_group(photos, SHARES, seed))
    found = audit(drawn, photos[["product_id", "path"]], folder=data.catalogue.folder)
    alike = near_pairs(found.hashes)
    bound = np.isin(np.arange(len(photos)), found.hashes.rows[alike[["a", "b"]].to_numpy()])
    table = photos.assign(split=found.splits, bound=bound)
    return table[["product_id", "path", "category_path", "split", "bound"]]


def tail_profile(frequencies: np.ndarray, ratio: float) -> np.ndarray:
    """Return how many examples each class keeps: int64 [C], n_i = max(1, round(n_0 ratio^(-i / (C - 1)))).

    frequencies: int64 [C], the most frequent class first; a class keeps no more than it has. ratio: n_0 divided by the
    last class's n; 1 leaves everything. Raises CourseError for a ratio below 1.

    Source: Cui et al. 2019 (arXiv:1901.05555), section 5.1, whose classes are equally frequent before.
    """
    if ratio < 1:
        raise CourseError(f"an imbalance ratio is at least 1 (as it is), not {ratio}.")
    places = np.arange(len(frequencies)) / max(1, len(frequencies) - 1)
    wanted = np.round(frequencies[0] * float(ratio) ** -places).astype(np.int64)
    return np.minimum(np.maximum(1, wanted), frequencies)


def thinned(labels: np.ndarray, ratio: float, seed: int = 0) -> np.ndarray:
    """Draw the examples that stay: sorted positions, int64, for labels int64 [N] with every class 0 to C-1.

    Classes are ordered by frequency, ties in random order; each keeps as many random examples as `tail_profile` says.
    With one seed, the examples of a longer tail are among those of a shorter one.
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
    examples: Examples, ratio: int, draw: int, config: ThinnedTailsConfig, advance: Callable[[int], object]
) -> dict:
    """Thin the training photos, train every setting, choose on validation, and measure the two choices on test.

    Returns JSON: `ratio`, two `rows` of the result's `draws`, and, by classifier, the predicted classes of the test
    photos. advance(1) is called after each training.
    """
    seed = config.seed + draw
    vectors, labels = examples.of_split("train")
    kept = thinned(labels, ratio, seed)
    train, val = (vectors[kept], labels[kept]), examples.of_split("val")
    test_vectors, test_labels = examples.of_split("test")
    trials, settings = [], _settings(config)
    for kind, technique, decay in settings:
        trials.append(run_trial(train, val, technique, kind, replace(config.fitting, weight_decay=decay), seed=seed))
        advance(1)
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
    """Choose the trials "plain" and "chosen", and return their positions.

    plain: plain cross-entropy with the best macro-F1. chosen: the best of all that lose at most `slack` of top-1
    against it (`choose`).
    """
    plain = choose([trial for trial in trials if trial.technique.name == PLAIN])
    against = [replace(trial, lost=plain.figures["top-1"] - trial.figures["top-1"]) for trial in trials]
    return {"plain": trials.index(plain), "chosen": against.index(choose(against, slack))}


def _settings(config: ThinnedTailsConfig) -> list[tuple[str, Technique, float]]:
    """Return head, technique and weight decay of every training of a draw, those of plain cross-entropy first."""
    names = [PLAIN, *(name for name in config.techniques if name != PLAIN)]
    techniques = [Technique(name, value) for name in names for value in VALUES.get(name, (None,))]
    return [
        (head, technique, decay) for technique, head, decay in product(techniques, config.heads, config.weight_decays)
    ]


def _figures(found: list[dict], labels: np.ndarray, config: ThinnedTailsConfig) -> pd.DataFrame:
    tables = []
    for ratio in config.ratios:
        parts = [part for part in found if part["ratio"] == ratio]
        plain, chosen = (np.array([part[name] for part in parts]) for name in CLASSIFIERS)
        table = compare_over_draws(labels, plain, chosen, seed=config.seed)
        tables.append(table.assign(ratio=ratio, n_queries=len(labels)))
    return pd.concat(tables, ignore_index=True)


def _board(figures: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return, for each ratio, the rows of both classifiers and the gain of the chosen one with its own interval."""
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
    facts = {"chapter": CHAPTER, "source": source, "split": "held-out", "seconds": float("nan")}
    return pd.DataFrame(rows).assign(**facts)


if __name__ == "__main__":
    run_step(main)
