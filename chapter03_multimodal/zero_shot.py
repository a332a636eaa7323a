"""Classifies pictures without any training: the nearest class name wins.

A model that puts pictures and texts into one space can tell classes apart that nobody labelled, if their names are put
into a sentence as they stand under pictures. One sentence is a matter of luck; the mean of several is steadier: a
prompt ensemble (Radford et al. 2021, arXiv:2103.00020, section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from common.encoders import Embeddings
from common.errors import CourseError

TEMPLATES = (
    "a photo of {}",
    "a product photo of {}",
    "a picture of {} on a plain background",
    "{}, as shown in an online shop",
    "this is one of our {}",
    "{} for sale",
    "{}",
)
"""Sentences in which the name of a product's class may stand under its picture."""


class Encoder(Protocol):
    """What encodes N texts into the space of the pictures: a `ClipEncoder`."""

    def encode(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings: ...


@dataclass(frozen=True)
class Ranking:
    """The classes of each picture, the likeliest first. classes: int64 [N, k], positions in the class vectors. scores:
    float32 [N, k], cosines, falling."""

    classes: np.ndarray
    scores: np.ndarray


def class_name(category_path: str, *, with_parent: bool = False) -> str:
    """The words for a category path: its last level in lower case, or its last two.

    "Home > Garden > Chairs" gives "chairs"; with_parent "garden chairs", for a taxonomy where a level says little by
    itself ("Other") or stands in several places.
    """
    levels = category_path.lower().split(" > ")
    return " ".join(levels[-2:] if with_parent else levels[-1:])


def class_vectors(encoder: Encoder, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> np.ndarray:
    """A vector for each of C class names: float32 [C, D] of length 1.

    Each name is put into every template, the sentences are encoded, and their unit vectors averaged and normalised
    again: the direction of the mean, so that every template has the same say. Classes of the same name have the same
    vector. Raises CourseError if there is no name or no template, or a template has no {} for the name.
    """
    if not names or not templates or any("{}" not in template for template in templates):
        raise CourseError("class_vectors: needs class names, and templates with {} where the name goes.")
    sentences = [template.replace("{}", name) for name in names for template in templates]
    vectors = encoder.encode(sentences).vectors
    means = vectors.reshape(len(names), len(templates), -1).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def classify(image_vectors: np.ndarray, class_vectors: np.ndarray, *, k: int = 5) -> Ranking:
    """Rank the classes for each of N pictures by cosine, the first `k` of them (all, if there are fewer).

    image_vectors [N, D], class_vectors [C, D]: of length 1, from one encoder. Of equal scores the class that stands
    first comes first. Raises CourseError if the vectors differ in dimension.
    """
    if image_vectors.shape[1] != class_vectors.shape[1]:
        raise CourseError(
            f"classify: the pictures' vectors have {image_vectors.shape[1]} dimensions, those of the classes "
            f"{class_vectors.shape[1]}; make both with one encoder."
        )
    scores = image_vectors @ class_vectors.T
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Ranking(classes, np.take_along_axis(scores, classes, axis=1))
