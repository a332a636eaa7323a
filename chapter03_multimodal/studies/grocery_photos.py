"""Measure a CLIP on the photos of grocery_store: search between photos, names and descriptions, and classification.

The shop has one clean ("iconic") picture and one description of each of its products, the fine classes, and photos of
them from shops.

- The source's validation photos are measured on; its test photos are not part of every copy, and are not used. Every
  choice (a model's epoch, a probe's epoch and weight decay) is made on a tenth of the training photos, held out by a
  hash of their names, but for one: the side of the pictures was taken after six probes had been seen on the photos
  that are measured.
- A photo's text is what `prepare_data` says of it: its class, coarse class and department. No model is trained on the
  descriptions, the queries of "text to photo"; a long one is cut where the model stops reading.
- The validation photos show 60 of the 81 fine classes (37 of the 43 coarse ones). An absent class is no query of "text
  to photo" and "name to photo": there is nothing to find. Its description and iconic picture stay among the answers of
  "photo to text" and "photo to iconic", and its name among the classes to choose from. Macro-F1 is the mean over the
  classes that occur.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.head import Head, HeadTraining, fit
from chapter03_multimodal.categories.metrics import macro_f1
from chapter03_multimodal.encoder import ClipEncoder
from chapter03_multimodal.prepare_data import MultimodalData
from chapter03_multimodal.studies.class_retrieval import class_retrieval, classification
from chapter03_multimodal.zero_shot import class_vectors
from common.catalogue import SPLITS, Catalogue
from common.catalogue.splits import split_by_group
from common.category_path import join_path, split_path
from common.statistics import summarise

LEVELS = {"fine": None, "coarse": 2}
"""How many levels of a category path name a class; None: all."""
WEIGHT_DECAYS = (0.3, 1.0, 3.0)
PROBE_BATCH = 128
"""With the classifier's 512, a few thousand photos would be few steps an epoch."""


def grocery_pairs(data: MultimodalData, held_out: float, seed: int = 0) -> pd.DataFrame:
    """Return the pairs of a grocery_store for training, choosing and measuring: columns as `data.pairs`, and `iconic`.

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


def measure_classes(encoder: ClipEncoder, data: MultimodalData, vectors: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Compute all figures of one model on a grocery_store: metric, value, ci_low, ci_high, n_queries.

    data: with the pairs of `grocery_pairs`. vectors: float32 [M, D] of length 1, what the model says of their photos.
    encoder: reads the texts. Searches are named "query to answer"; queries are descriptions ("text"), names in an
    ensemble of prompts ("name") or photos. Fine and coarse classes are predicted by the same prompts and by a linear
    probe on the vectors.
    """
    tables = [_search_figures(encoder, data.catalogue, data.pairs, vectors, seed)]
    for name, pairs in _levels(data.pairs):
        tables += [_prompt_figures(encoder, pairs, vectors, name, seed), _probe_figures(pairs, vectors, name, seed)]
    return pd.concat(tables, ignore_index=True)


def measure_probes(pairs: pd.DataFrame, features: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Compute the figures of linear probes for fine and coarse classes alone; columns as in `measure_classes`.

    pairs: M rows of `grocery_pairs`. features: float32 [M, F], of any length.
    """
    tables = [_probe_figures(of_level, features, name, seed) for name, of_level in _levels(pairs)]
    return pd.concat(tables, ignore_index=True)


def prompt_name(path: str) -> str:
    """Return the name of a class for prompts: its own, followed by that of its coarse class where that adds a word.

    "Fruit > Apple > Pink Lady" gives "pink lady apple", "Fruit > Melon > Watermelon" and "Fruit > Lime" the last level.
    """
    _, coarse, *fine = split_path(path.lower())
    name = fine[-1] if fine else coarse
    return name if coarse in name else f"{name} {coarse}"


def linear_probe(
    vectors: np.ndarray, labels: np.ndarray, val_vectors: np.ndarray, val_labels: np.ndarray, seed: int = 0
) -> Head:
    """Train a linear classifier on frozen vectors; held-out macro-F1 chooses epoch and weight decay."""
    fittings = [HeadTraining(batch_size=PROBE_BATCH, weight_decay=decay) for decay in WEIGHT_DECAYS]
    heads = [fit(vectors, labels, val_vectors, val_labels, fitting=fitting, seed=seed) for fitting in fittings]
    return max(heads, key=lambda head: macro_f1(val_labels, head.probabilities(val_vectors).argmax(axis=1)))


def _search_figures(
    encoder: ClipEncoder, catalogue: Catalogue, pairs: pd.DataFrame, vectors: np.ndarray, seed: int
) -> pd.DataFrame:
    classes = pairs["category_path"].to_numpy(dtype=object)
    is_photo, is_iconic = (pairs["split"] == "test").to_numpy(), pairs["iconic"].to_numpy()
    described = catalogue.products.dropna(subset=["description"])
    texts = encoder.encode(described["description"].tolist()).vectors, described["category_path"].tolist()
    every = sorted(set(classes))
    names = class_vectors(encoder, [prompt_name(path) for path in every]), every
    photos, iconic = (vectors[is_photo], classes[is_photo]), (vectors[is_iconic], classes[is_iconic])
    tables = []
    for name, queries, answers in (
        ("text to photo", texts, photos),
        ("name to photo", names, photos),
        ("photo to text", photos, texts),
        ("photo to iconic", photos, iconic),
    ):
        found = class_retrieval(*queries, *answers)
        if queries is photos:
            found = found.drop(columns="MAP")  # with one right answer a photo, it equals MRR
        tables.append(summarise(found.add_prefix(f"{name} "), seed=seed))
    return pd.concat(tables, ignore_index=True)


def _levels(pairs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the pairs with their fine and with their coarse class as the category path."""
    paths = pairs["category_path"].map(split_path)
    return [(name, pairs.assign(category_path=paths.str[:end].map(join_path))) for name, end in LEVELS.items()]


def _prompt_figures(
    encoder: ClipEncoder, pairs: pd.DataFrame, vectors: np.ndarray, level: str, seed: int
) -> pd.DataFrame:
    names, labels = _labels(pairs)
    test = (pairs["split"] == "test").to_numpy()
    prompts = class_vectors(encoder, [prompt_name(name) for name in names])
    return _named(classification(vectors[test] @ prompts.T, labels[test], seed=seed), level, "prompts")


def _probe_figures(pairs: pd.DataFrame, vectors: np.ndarray, level: str, seed: int) -> pd.DataFrame:
    _, labels = _labels(pairs)
    train, val, test = ((pairs["split"] == split).to_numpy() for split in SPLITS)
    probe = linear_probe(vectors[train], labels[train], vectors[val], labels[val], seed)
    return _named(classification(probe.probabilities(vectors[test]), labels[test], seed=seed), level, "linear probe")


def _labels(pairs: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Return the names of the classes and the number of each pair's class among them, int64 [M]."""
    numbers, names = pd.factorize(pairs["category_path"], sort=True)
    return list(names), numbers.astype(np.int64)


def _named(table: pd.DataFrame, level: str, way: str) -> pd.DataFrame:
    return table.assign(metric=[f"{level} {metric} ({way})" for metric in table["metric"]])
