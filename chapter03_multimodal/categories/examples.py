"""Turn a catalogue's pictures into labelled embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.catalogue import SPLITS
from common.category_path import join_path, split_path
from common.errors import CourseError

if TYPE_CHECKING:
    from chapter03_multimodal.encoder import ClipEncoder
    from chapter03_multimodal.prepare_data import MultimodalData


@dataclass(frozen=True)
class Examples:
    """The labelled pictures of a catalogue.

    table: a row a picture with product_id, path, category_path (the label), split and label (its number). vectors:
    float32 [N, D], of its rows. classes: those of the training split, in alphabetical order; a label from len(classes)
    on is a class without a training example. left_out: how many pictures have no category or could not be read.
    """

    table: pd.DataFrame
    vectors: np.ndarray
    classes: list[str]
    left_out: dict[str, int]

    def of_split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors [n, D] and labels [n] of a split."""
        rows = (self.table["split"] == split).to_numpy()
        return self.vectors[rows], self.table["label"].to_numpy()[rows]

    def names(self) -> list[str]:
        """Return the class of every label number, those without a training example at the end."""
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
    table["category_path"] = [join_path(split_path(path)[:level]) for path in table["category_path"]]
    for split in SPLITS:
        if not (table["split"] == split).any():
            raise CourseError(f"no picture of the {split} split has a category; a classifier needs some in each split.")
    table, classes = number_classes(table)
    return Examples(table, pictures.vectors, classes, left_out)


def number_classes(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the table with the `label` of each `category_path`, and the classes of the training split in order."""
    classes = sorted(table.loc[table["split"] == "train", "category_path"].unique())
    absent = sorted(set(table["category_path"]) - set(classes))
    numbers = {name: number for number, name in enumerate([*classes, *absent])}
    return table.assign(label=table["category_path"].map(numbers).astype(np.int64)), classes
