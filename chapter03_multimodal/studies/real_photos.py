"""The chapter on photos that nobody drew: figures for two public shops, for the scoreboard.

    python -m chapter03_multimodal.studies.real_photos --catalogue grocery_store      # trains two models: some minutes
    python -m chapter03_multimodal.studies.real_photos --catalogue luma

**grocery_store** has one clean ("iconic") picture and one description of each of its products, the fine classes, and
photos of them from shops. Three models: `CLIP, from scratch`, new random weights trained on the shop; `CLIP,
zero-shot`, the encoder as it is; `CLIP, fine-tuned`, the encoder trained on the shop in just the same way.

- The source's validation photos are what is measured on, once (its test photos are not part of every copy, and are not
  looked at). Whatever is chosen, the epoch of a model, the epoch and the weight decay of a probe, is chosen on a tenth
  of the training photos, held out by a hash of their names.
- A photo's text is what `prepare_data` says of it, its class, coarse class and department. The descriptions, which ask
  "text to photo", are trained on by no model; one is cut where the model stops reading.
- The validation photos show 60 of the 81 fine classes (37 of the 43 coarse ones). An absent class is no query of "text
  to photo" and "name to photo": there is nothing to be found. Its description and its iconic picture stay among the
  answers of "photo to text" and "photo to iconic", and its name among the classes to choose from. Macro-F1 is the mean
  over the classes that occur.

**luma** says which products go together (links "related" and "crosssell"), and not which do not: negatives are sampled
(`outfit_pairs.add_negatives`). A compatibility head on the encoder's frozen vectors is cross-validated, five folds by
product, beside the cosine of the vectors themselves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch

from chapter02_two_tower.train import link_or_copy
from chapter03_multimodal.categories.classifier import LEVELS, Fitting, Head, fit
from chapter03_multimodal.categories.metrics import macro_f1
from chapter03_multimodal.clip import POCKET_CLIP, Clip, load_clip, save_clip
from chapter03_multimodal.encoder import ClipEncoder, load_clip_encoder
from chapter03_multimodal.outfits.compatibility import (
    CompatibilityConfig,
    PairData,
    cross_validate,
    load_pair_data,
    train_head,
)
from chapter03_multimodal.outfits.export_embeddings import ExportConfig
from chapter03_multimodal.outfits.export_embeddings import main as export_embeddings
from chapter03_multimodal.outfits.head import FrozenScorer, HeadScorer
from chapter03_multimodal.outfits.metrics import FROZEN, draw_questions, fill_in_the_blank
from chapter03_multimodal.outfits.pairs import product_folds
from chapter03_multimodal.prepare_data import MultimodalData, PrepareDataConfig
from chapter03_multimodal.prepare_data import main as prepare_data
from chapter03_multimodal.retrieval import FINE_TUNED, ZERO_SHOT
from chapter03_multimodal.studies.class_retrieval import class_retrieval, classification
from chapter03_multimodal.train import Training
from chapter03_multimodal.train_config import TrainConfig, resolved
from chapter03_multimodal.zero_shot import class_vectors
from common.artifacts import Artifacts, RunFolder, code_digest, fingerprint, jsonable
from common.catalogue import Catalogue, load_catalogue
from common.catalogue.splits import split_by_group
from common.cli import run_step
from common.errors import CourseError
from common.settings import artifacts_root
from common.statistics import summarise

CHAPTER, STEP = "chapter03_multimodal", "studies.real_photos"
SCRATCH = "CLIP, from scratch"
SOURCES = ("grocery_store", "luma")
FOLDERS = {SCRATCH: "from_scratch", FINE_TUNED: "fine_tuned"}
COARSE = 2  # levels of a category path that name a coarse class
DECAYS = (0.3, 1.0, 3.0)
PROBE_BATCH = 128  # a few thousand photos are few steps an epoch with the classifier's own 512
FOLDS = 5
EVERY_PICTURE = 1_000_000
HEAD = "head"


@dataclass(frozen=True)
class RealPhotosConfig:
    """Measure the chapter on real photos: grocery_store (search and classes) or luma (what goes together)."""

    catalogue: str = "grocery_store"
    """grocery_store or luma."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = POCKET_CLIP
    """What is measured as it is and fine-tuned; its architecture is trained from scratch too."""
    epochs: int = 10
    """Times that each model sees every training photo, at most; the best on the held-out photos is kept."""
    batch_size: int = 64
    """Photos a step."""
    scratch_rate: float = 1e-3
    """Peak learning rate from scratch."""
    fine_tuning_rate: float = 5e-4
    """Peak learning rate of fine-tuning."""
    held_out: float = 0.1
    """Share of the training photos to choose on."""
    seed: int = 0
    """Of held-out photos, weights, batches, folds and the bootstrap."""


@dataclass(frozen=True)
class RealPhotosResult:
    """run: its folder holds, for grocery_store, the trained models (`from_scratch/`, `fine_tuned/`) with their logs.
    board: a row a system and metric, the columns of the scoreboard."""

    run: RunFolder
    board: pd.DataFrame


def main(config: RealPhotosConfig) -> RealPhotosResult:
    """Prepare, train, measure, and put the figures on the scoreboard; what was made before is made no second time."""
    from chapter03_multimodal.evaluate import EvaluateConfig  # which reads this step's rows
    from chapter03_multimodal.evaluate import main as evaluate

    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    if catalogue.source not in SOURCES:
        raise CourseError(f"real_photos: {catalogue.source} is none of {', '.join(SOURCES)}; use evaluate for others")
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = prepare_data(PrepareDataConfig(catalogue=config.catalogue, profile=config.profile))
    make = _luma if catalogue.source == "luma" else _grocery_store
    make(config, data, artifacts)
    evaluate(EvaluateConfig(catalogue=config.catalogue, profile=config.profile, seed=config.seed))
    return load_real_photos(artifacts)


def load_real_photos(artifacts: Artifacts) -> RealPhotosResult:
    """Read the measurement in force; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    return RealPhotosResult(run, pd.read_parquet(run.path / "scoreboard.parquet"))


def scoreboard_rows(artifacts: Artifacts, catalogue: Catalogue) -> pd.DataFrame:
    """The rows of the measurement in force, for `evaluate`."""
    return load_real_photos(artifacts).board


def _grocery_store(config: RealPhotosConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Train from scratch and fine-tune, or go on where that was interrupted, and measure the three models."""
    start, inputs = load_clip(config.encoder), {"prepare_data": data.run}
    recorded = {**asdict(config), "encoder_digest": start.digest}
    if artifacts.reuse(CHAPTER, STEP, config=recorded, inputs=inputs) is not None:
        return
    data = replace(data, pairs=grocery_pairs(data, config.held_out, config.seed))
    key = [STEP, jsonable(recorded), data.run.name, code_digest(CHAPTER)]
    work = artifacts.folder / CHAPTER / "unfinished" / fingerprint(key)
    starts = {SCRATCH: with_new_weights(start, work / "new_weights", config.seed), FINE_TUNED: start}
    for system, clip in starts.items():
        _train(config, system, clip, data, work / FOLDERS[system])
    trained = {system: work / name / "best" for system, name in FOLDERS.items()}
    models = {SCRATCH: trained[SCRATCH], ZERO_SHOT: config.encoder, FINE_TUNED: trained[FINE_TUNED]}
    rows = {}
    for system, model in models.items():
        encoder = load_clip_encoder(str(model), cache=artifacts_root() / "embeddings")
        rows[system] = measure_classes(encoder, data, config.seed)
    with artifacts.new_run(CHAPTER, STEP, config=recorded, inputs=inputs) as folder:
        _board(rows, data.catalogue, "val").to_parquet(folder / "scoreboard.parquet", index=False)
        data.pairs.to_parquet(folder / "pairs.parquet", index=False)
        for name in FOLDERS.values():
            shutil.copytree(work / name / "best", folder / name, copy_function=link_or_copy)
            shutil.copyfile(work / name / "log.jsonl", folder / f"{name}.jsonl")
    shutil.rmtree(work)


def grocery_pairs(data: MultimodalData, held_out: float, seed: int = 0) -> pd.DataFrame:
    """The pairs of a grocery_store for training, choosing and measuring: columns as in `data.pairs`, and `iconic`.

    split: "train"; "val", the share `held_out` of the source's training photos, by a hash of the name; "test", the
    source's validation photos. The iconic pictures are in "train", so that each class has a training picture; the
    source's own test photos are in none.
    """
    kinds = {
        product_id: json.loads(attributes)["kind"]
        for product_id, attributes in data.catalogue.products[["product_id", "attributes"]].itertuples(index=False)
    }
    pairs = data.pairs[data.pairs["split"] != "test"].reset_index(drop=True)
    pairs["iconic"] = pairs["product_id"].map(kinds) == "iconic"
    drawn = split_by_group(pairs, {"train": 1 - held_out, "val": held_out}, seed)
    measured = pairs["split"] == "val"
    pairs["split"] = drawn.mask(pairs["iconic"], "train").mask(measured, "test")
    return pairs


def with_new_weights(clip: Clip, folder: Path, seed: int = 0) -> Clip:
    """An untrained model of the same architecture and the same way to see pictures, written to `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**clip.config["model_cfg"])
    save_clip(replace(clip, model=model), folder)
    return load_clip(folder)


def training_config(config: RealPhotosConfig, system: str) -> TrainConfig:
    """Both models are trained alike but for the peak of the rate. No neighbours are mined: what random weights hold for
    alike is no lesson."""
    return resolved(
        TrainConfig(
            catalogue=config.catalogue,
            profile=config.profile,
            encoder=config.encoder,
            pictures=EVERY_PICTURE,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.scratch_rate if system == SCRATCH else config.fine_tuning_rate,
            hard_share=0.0,
            neighbours=0,
            patience=config.epochs,
            seed=config.seed,
        )
    )


def _train(config: RealPhotosConfig, system: str, clip: Clip, data: MultimodalData, work: Path) -> None:
    if not (work / "best.json").is_file():  # the last that a training writes
        Training(training_config(config, system), work, clip, data).run()


def measure_classes(encoder: ClipEncoder, data: MultimodalData, seed: int = 0) -> pd.DataFrame:
    """All figures of one model on a grocery_store: metric, value, ci_low, ci_high, n_queries.

    data: with the pairs of `grocery_pairs`. Searches are named "query to answer": the queries are descriptions
    ("text"), names in an ensemble of prompts ("name") or photos. Classes, fine and coarse, are told by the same prompts
    and by a linear probe on the frozen vectors.
    """
    folder = data.catalogue.folder or "."
    pictures = encoder.encode_images([Path(folder, path) for path in data.pairs["path"]], desc="embedding photos")
    pairs, vectors = data.pairs.iloc[pictures.rows].reset_index(drop=True), pictures.vectors
    tables = [_searches(encoder, data.catalogue, pairs, vectors, seed)]
    for name, level in (("fine", None), ("coarse", COARSE)):
        paths = pairs["category_path"].map(lambda path, level=level: LEVELS.join(path.split(LEVELS)[:level]))
        tables.append(_classes(encoder, pairs.assign(category_path=paths), vectors, name, seed))
    return pd.concat(tables, ignore_index=True)


def spoken_name(path: str) -> str:
    """What a class of the shop is called: its own name, with that of its coarse class behind it where that says more.

    "Fruit > Apple > Pink Lady" gives "pink lady apple", "Fruit > Melon > Watermelon" and "Fruit > Lime" the last level.
    """
    _, coarse, *fine = path.lower().split(LEVELS)
    name = fine[-1] if fine else coarse
    return name if coarse in name else f"{name} {coarse}"


def _searches(
    encoder: ClipEncoder, catalogue: Catalogue, pairs: pd.DataFrame, vectors: np.ndarray, seed: int
) -> pd.DataFrame:
    classes = pairs["category_path"].to_numpy(dtype=object)
    photos, iconic = (pairs["split"] == "test").to_numpy(), pairs["iconic"].to_numpy()
    told = catalogue.products.dropna(subset=["description"])
    texts = encoder.encode(told["description"].tolist()).vectors, told["category_path"].tolist()
    every = sorted(set(classes))
    names = class_vectors(encoder, [spoken_name(path) for path in every]), every
    shown, clean = (vectors[photos], classes[photos]), (vectors[iconic], classes[iconic])
    tables = []
    for name, asking, asked in (
        ("text to photo", texts, shown),
        ("name to photo", names, shown),
        ("photo to text", shown, texts),
        ("photo to iconic", shown, clean),
    ):
        found = class_retrieval(*asking, *asked)
        if asking is shown:
            found = found.drop(columns="MAP")  # one right answer a photo: it is MRR
        tables.append(summarise(found.add_prefix(f"{name} "), seed=seed))
    return pd.concat(tables, ignore_index=True)


def _classes(encoder: ClipEncoder, pairs: pd.DataFrame, vectors: np.ndarray, level: str, seed: int) -> pd.DataFrame:
    """Top-1, top-5 and macro-F1 of prompts and of a linear probe on the measured photos."""
    names = sorted(pairs["category_path"].unique())
    labels = pairs["category_path"].map({name: at for at, name in enumerate(names)}).to_numpy(dtype=np.int64)
    train, val, test = ((pairs["split"] == split).to_numpy() for split in ("train", "val", "test"))
    prompts = class_vectors(encoder, [spoken_name(name) for name in names])
    probe = linear_probe(vectors[train], labels[train], vectors[val], labels[val], seed)
    scores = {"prompts": vectors[test] @ prompts.T, "linear probe": probe.probabilities(vectors[test])}
    tables = []
    for way, found in scores.items():
        table = classification(found, labels[test], seed=seed)
        tables.append(table.assign(metric=[f"{level} {metric} ({way})" for metric in table["metric"]]))
    return pd.concat(tables, ignore_index=True)


def linear_probe(
    vectors: np.ndarray, labels: np.ndarray, held_vectors: np.ndarray, held_labels: np.ndarray, seed: int = 0
) -> Head:
    """A linear classifier on frozen vectors; epoch and weight decay are chosen by macro-F1 on the held-out ones."""
    fittings = [Fitting(batch_size=PROBE_BATCH, weight_decay=decay) for decay in DECAYS]
    heads = [fit(vectors, labels, held_vectors, held_labels, fitting=fitting, seed=seed) for fitting in fittings]
    return max(heads, key=lambda head: macro_f1(held_labels, head.probabilities(held_vectors).argmax(axis=1)))


def _luma(config: RealPhotosConfig, data: MultimodalData, artifacts: Artifacts) -> None:
    """Export the encoder's vectors, and cross-validate heads on them."""
    export_embeddings(ExportConfig(model=config.encoder, catalogue=config.catalogue, profile=config.profile))
    pair_data, inputs = load_pair_data(artifacts, data.catalogue)
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        rows = measure_compatibility(pair_data, CompatibilityConfig(catalogue=config.catalogue, seed=config.seed))
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            _board(rows, data.catalogue, "cross-validated").to_parquet(folder / "scoreboard.parquet", index=False)


def measure_compatibility(
    data: PairData, config: CompatibilityConfig, *, folds: int = FOLDS
) -> dict[str, pd.DataFrame]:
    """AUC and FITB of the frozen encoder and of the head, by system: metric, value, ci_low, ci_high, n_queries.

    AUC: of pairs of which the head has seen neither item, and, "one or both unseen", at least not both
    (`compatibility.cross_validate`; n_queries counts pairs). FITB: over the outfits, here lists of recommendations, of
    such products (n_queries). Intervals by a bootstrap over lists.
    """
    aucs, _ = cross_validate(data, config, folds=folds)
    aucs["metric"] = ["AUC" if tested == "both unseen" else f"AUC, {tested}" for tested in aucs["tested"]]
    answered = fill_in_by_fold(data, config, folds=folds).groupby("outfit").mean()
    blanks = summarise(answered, seed=config.seed).rename(columns={"metric": "system"}).assign(metric="FITB")
    found = pd.concat([aucs.rename(columns={"n": "n_queries"}), blanks], ignore_index=True)
    columns = ["metric", "value", "ci_low", "ci_high", "n_queries"]
    return {f"compatibility, {system}": found.loc[found["system"] == system, columns] for system in (FROZEN, HEAD)}


def fill_in_by_fold(data: PairData, config: CompatibilityConfig, *, folds: int = FOLDS) -> pd.DataFrame:
    """How each question was answered, by whom had never seen its products: outfit, and a column a system, 0 to 1.

    The folds and heads are those of `cross_validate`. What is asked about, and the distractors, are products of one
    fold that stand in a pair.
    """
    fold_of = product_folds(data.embeddings.ids, data.facts, folds, config.seed)
    places = np.stack([data.pairs[end].map(fold_of) for end in ("a_id", "b_id")], axis=1)
    paired, parts = {*data.pairs["a_id"], *data.pairs["b_id"]}, []
    for fold in range(folds):
        inside = places == fold
        items = [item for item in data.embeddings.ids if fold_of[item] == fold and item in paired]
        tested = data.pairs[inside.all(axis=1)]
        asked = draw_questions(tested, items, data.facts, widen=True, seed=config.seed + fold)
        if asked.table.empty:
            continue
        head = train_head(data.embeddings, data.pairs[~inside.any(axis=1)], data.facts, config)
        scorers = {FROZEN: FrozenScorer(data.embeddings), HEAD: HeadScorer(head, data.embeddings)}
        answers = {name: fill_in_the_blank(scorer, asked) for name, scorer in scorers.items()}
        parts.append(pd.DataFrame({"outfit": asked.table["outfit_id"], **answers}))
    if not parts:
        raise CourseError("no list of recommendations has enough products of one fold to ask about; use fewer folds")
    return pd.concat(parts, ignore_index=True)


def _board(rows: Mapping[str, pd.DataFrame], catalogue: Catalogue, split: str) -> pd.DataFrame:
    facts = {"chapter": CHAPTER, "source": catalogue.source, "split": split, "seconds": float("nan")}
    return pd.concat([table.assign(system=system, **facts) for system, table in rows.items()], ignore_index=True)


if __name__ == "__main__":
    run_step(main)
