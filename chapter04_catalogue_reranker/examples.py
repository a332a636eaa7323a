"""Choose the products of a training, and measure a model on them.

A training learns from products whose true path is known and that say something to its model. On validation products it
measures the rank of the true path; on training products it collects confusions, the wrong paths that come first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.batches import Candidates
from chapter04_catalogue_reranker.inputs import Inputs
from chapter04_catalogue_reranker.prepare_data import RerankerData
from chapter04_catalogue_reranker.ranking_metrics import rank_of_truth, ranking_figures
from chapter04_catalogue_reranker.train_config import TrainConfig
from common.errors import CourseError


def choose_products(products: pd.DataFrame, config: TrainConfig) -> pd.DataFrame:
    """Return the rows to train and to validate with: those with a true path and an input that the model reads.

    products: as in `RerankerData`. Raises `CourseError` if a split has too few.
    """
    has_text, has_image = products["text"] != "", products["image"].notna()
    has_input = {"both": has_text | has_image, "text": has_text, "image": has_image}[config.inputs]
    usable = products[has_input & products["true_path"].notna()]
    train, val = usable[usable["split"] == "train"], usable[usable["split"] == "val"]
    if len(train) < 2 or not len(val):
        raise CourseError(
            f"train: needs two products or more to train with and one to validate with; there are {len(train)} and "
            f"{len(val)} that have a true path and {config.inputs.replace('both', 'a text or an image')}. "
            "prepare_data prints how many each split has."
        )
    if len(train) > config.products:
        train = train.sample(config.products, random_state=config.seed).sort_index()
    return pd.concat([train, val], ignore_index=True)


@dataclass(frozen=True)
class Examples:
    """Hold the products of a training: a table of N, their candidate lists, and the rows of train and val.

    paths: all category paths, C.
    """

    products: pd.DataFrame
    lists: Candidates
    train: np.ndarray
    val: np.ndarray
    paths: list[str]

    @classmethod
    def of(cls, data: RerankerData, config: TrainConfig) -> Examples:
        """Choose the products of a training and collect their lists. Raises `CourseError` if there are too few."""
        products = choose_products(data.products, config)
        lists = Candidates.of(data.candidates, products["product_id"].tolist(), data.paths)
        train, val = (np.flatnonzero(products["split"] == split) for split in ("train", "val"))
        return cls(products, lists, train, val, data.paths)

    def validation_figures(self, inputs: Inputs) -> dict[str, float]:
        """Measure how the model ranks the candidates of the validation products ("Acc@1", ...), and all paths
        ("taxonomy Acc@1", ...)."""
        products, paths = inputs.vectors(self.val)
        lists = Candidates(self.lists.paths[self.val], self.lists.listed[self.val], self.lists.truth[self.val])
        everything = np.ones((len(products), len(paths)), dtype=bool)
        taxonomy = ranking_figures(rank_of_truth(products @ paths.T, everything, lists.labels()))
        listed = ranking_figures(rank_of_truth(lists.scores(products, paths), lists.listed, lists.truth))
        return listed | {f"taxonomy {name}": value for name, value in taxonomy.items()}

    def confusions(self, inputs: Inputs) -> pd.DataFrame:
        """Return the training products whose first path of all is wrong, with that path: product_id, category_path."""
        products, paths = inputs.vectors(self.train)
        first = (products @ paths.T).argmax(axis=1)
        wrong = first != self.lists.labels()[self.train]
        ids = self.products["product_id"].to_numpy()[self.train[wrong]]
        return pd.DataFrame({"product_id": ids, "category_path": [self.paths[at] for at in first[wrong]]})
