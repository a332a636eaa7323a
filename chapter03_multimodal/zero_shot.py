"""Classify pictures without any training: the nearest class name wins.

A model that puts pictures and texts into one space can tell apart classes that nobody labelled, if their names are put
into sentences such as stand under pictures. The result depends on the sentence; a prompt ensemble, the mean of several,
is more stable (Radford et al. 2021, arXiv:2103.00020, section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.category_path import leaf_of
from common.errors import CourseError

if TYPE_CHECKING:
    from chapter03_multimodal.encoder import ClipEncoder

TEMPLATES = (
    "a photo of {}",
    "a product photo of {}",
    "a picture of {} on a plain background",
    "{}, as shown in an online shop",
    "this is one of our {}",
    "{} for sale",
    "{}",
)
"""Sentences that may stand under the picture of a product; {} is the name of its class."""


@dataclass(frozen=True)
class Ranking:
    """The classes of each picture, the likeliest first.

    classes: int64 [N, k], positions in the class vectors. scores: float32 [N, k], cosines, falling.
    """

    classes: np.ndarray
    scores: np.ndarray


def class_name(category_path: str) -> str:
    """Return the name of a category: its last level in lower case ("Home > Garden > Chairs" gives "chairs")."""
    return leaf_of(category_path).lower()


def class_vectors(encoder: ClipEncoder, names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> np.ndarray:
    """Encode C class names: float32 [C, D] of length 1.

    Each name is put into every template. The unit vectors of the sentences are averaged and normalised again, so that
    every template has the same weight. Classes of the same name have the same vector. Raises CourseError if there is no
    name or no template, or a template has no {} for the name.
    """
    if not names or not templates or any("{}" not in template for template in templates):
        raise CourseError("class_vectors: needs class names, and templates with {} where the name goes.")
    sentences = [template.replace("{}", name) for name in names for template in templates]
    vectors = encoder.encode(sentences).vectors
    means = vectors.reshape(len(names), len(templates), -1).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def classify(image_vectors: np.ndarray, class_vectors: np.ndarray, *, k: int = 5) -> Ranking:
    """Rank the classes for each of N pictures by cosine and return the first `k` (all, if there are fewer).

    image_vectors [N, D], class_vectors [C, D]: of length 1, from one encoder. Classes with equal scores keep their
    order. Raises CourseError if the vectors differ in dimension.
    """
    if image_vectors.shape[1] != class_vectors.shape[1]:
        raise CourseError(
            f"classify: the pictures' vectors have {image_vectors.shape[1]} dimensions, those of the classes "
            f"{class_vectors.shape[1]}; make both with one encoder."
        )
    scores = image_vectors @ class_vectors.T
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return Ranking(classes, np.take_along_axis(scores, classes, axis=1))
