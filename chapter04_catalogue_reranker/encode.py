"""Encode many products and categories, for evaluation, export and the demo.

No gradient, no dropout, and half precision in the towers where the machine computes in it natively. A bad picture gives
a reason, never an error.

    products = encode_products(model, ["Title: oak chair"], [Path("chair.jpg")])
    categories = encode_categories(model, ["Living room > Chairs", "Garden > Chairs"])
    products.fused @ categories.T                  # cosines
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chapter02_two_tower.model import FrozenTower
from chapter03_multimodal.encoder import BATCH
from chapter03_multimodal.training_pictures import Pictures
from chapter04_catalogue_reranker.lora import merged
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.towers import VisionTower
from common.devices import choose_placement
from common.errors import CourseError
from common.prefetch import prefetch
from common.progress import progress

ROWS_A_PROJECTION = 4096


@dataclass(frozen=True)
class ImageFeatures:
    """Hold the features of N pictures, float32 [N, Hv], zeros where there is no usable picture; has_image: bool [N];
    unusable: position to reason, for the pictures that were named and cannot be used."""

    features: np.ndarray
    has_image: np.ndarray
    unusable: dict[int, str]


@dataclass(frozen=True)
class EncodedProducts:
    """Hold the vectors of N products as in `ProductVectors`, float32 arrays [N, D]; has_text, has_image: bool [N];
    unusable: position to reason, for the pictures that were named and cannot be used."""

    fused: np.ndarray
    text: np.ndarray
    image: np.ndarray
    has_text: np.ndarray
    has_image: np.ndarray
    unusable: dict[int, str]

    def __len__(self) -> int:
        return len(self.fused)


class FrozenTowers:
    """Copy a model's towers for inference, LoRA merged. Make one to encode often, as search does.

    It copies each tower when it is first needed.
    """

    def __init__(self, model: CatalogueReranker) -> None:
        self.model = model

    @cached_property
    def _text(self) -> FrozenTower:
        return merged(self.model.text_tower).at(self.model.architecture.product_length).frozen()

    @cached_property
    def _vision(self) -> tuple[VisionTower, str, torch.dtype, torch.dtype]:
        """Return the tower, its device, and the precisions of its weights and of autocast."""
        placement = choose_placement("torch")
        half, device = getattr(torch, placement.precision), placement.device
        # A CPU is fastest with everything in half precision. A GPU affords autocast, which keeps sums in float32.
        weights = half if device == "cpu" else torch.float32
        return merged(self.model.vision_tower).to(device, weights), device, weights, half

    def text_features(self, texts: Sequence[str], length: int, desc: str | None = None) -> np.ndarray:
        """Return features float32 [N, Ht] of N texts, before the projection. Reads up to `length` tokens, and encodes
        equal texts once."""
        return self._text.embed(self.model.text_tower.tokenise(texts, length), desc=desc)

    def image_features(self, paths: Sequence[Path | None], desc: str | None = None) -> ImageFeatures:
        """Return the features of N picture files, before the projection; None for a product without one.

        Encodes a file that is named several times once. Reads the next batch while it encodes one.
        """
        first: dict[str, int] = {}
        known = [-1 if path is None else first.setdefault(os.fspath(path), len(first)) for path in paths]
        source, tower = np.array(known, dtype=np.int64), self.model.vision_tower
        features = np.zeros((len(first) + 1, tower.width), dtype=np.float32)  # the last row: no picture
        usable = np.zeros(len(first) + 1, dtype=bool)
        if not first:
            return ImageFeatures(features[source], usable[source], {})
        running, device, weights, half = self._vision
        pictures = Pictures([Path(path) for path in first], tower.preprocessing, tower.preprocessing.side)
        batches = np.split(np.arange(len(first)), range(BATCH[device], len(first), BATCH[device]))
        with progress(total=len(first), desc=desc, unit="picture", shown=bool(desc)) as bar:
            for rows, (pixels, good) in prefetch(batches, pictures.take):
                if good.any():
                    inputs = tower.preprocessing.as_input(pixels[good]).to(device, weights)
                    with torch.inference_mode(), torch.autocast(device, half, enabled=device == "cuda"):
                        features[rows[good]] = _finite(running(inputs))
                usable[rows] = good
                bar.update(len(rows))
        unusable = {at: pictures.unusable[row] for at, row in enumerate(source.tolist()) if row in pictures.unusable}
        return ImageFeatures(features[source], usable[source], unusable)


def encode_products(
    model: CatalogueReranker | FrozenTowers,
    texts: Sequence[str],
    images: Sequence[Path | None],
    desc: str | None = None,
) -> EncodedProducts:
    """Return the vectors of N products of one text ("" for none) and at most one picture each, in their order.

    A missing text or picture does not count, as in `CatalogueReranker.fuse`; an unusable picture is missing. Equal
    texts and equal paths are encoded once. desc: label of the progress bars; without it none is shown. Raises
    `CourseError` if the numbers of texts and images differ, or if a vector is not finite.
    """
    if len(texts) != len(images):
        raise CourseError(f"encode_products: {len(texts)} texts and {len(images)} images; give None for no image.")
    towers = _frozen(model)
    model, length = towers.model, towers.model.architecture.product_length
    text_rows = towers.text_features(texts, length, desc and f"{desc}: texts")
    pictures = towers.image_features(images, desc and f"{desc}: pictures")
    has_text = np.array([bool(text.strip()) for text in texts], dtype=bool)
    shape = (len(texts), model.architecture.dimension)
    vectors = {name: np.empty(shape, dtype=np.float32) for name in ("fused", "text", "image")}
    for rows in _slices(len(texts)):
        parts = (text_rows[rows], pictures.features[rows], has_text[rows], pictures.has_image[rows])
        with torch.inference_mode():
            made = model.fuse(*(torch.from_numpy(part).to(model.device) for part in parts))
        for name, array in vectors.items():
            array[rows] = _finite(getattr(made, name))
    return EncodedProducts(**vectors, has_text=has_text, has_image=pictures.has_image, unusable=pictures.unusable)


def encode_categories(
    model: CatalogueReranker | FrozenTowers, paths: Sequence[str], desc: str | None = None
) -> np.ndarray:
    """Return vectors float32 [C, D] of category paths. Raises `CourseError` if one is not finite."""
    towers = _frozen(model)
    model = towers.model
    features = towers.text_features(paths, model.architecture.category_length, desc)
    vectors = np.empty((len(paths), model.architecture.dimension), dtype=np.float32)
    for rows in _slices(len(paths)):
        with torch.inference_mode():
            vectors[rows] = _finite(model.embed_categories(torch.from_numpy(features[rows]).to(model.device)))
    return vectors


def _frozen(model: CatalogueReranker | FrozenTowers) -> FrozenTowers:
    return model if isinstance(model, FrozenTowers) else FrozenTowers(model)


def _slices(count: int) -> list[slice]:
    return [slice(start, start + ROWS_A_PROJECTION) for start in range(0, count, ROWS_A_PROJECTION)]


def _finite(vectors: Tensor) -> np.ndarray:
    if not bool(torch.isfinite(vectors).all()):
        raise CourseError("the model gave vectors that are not numbers; train again from an earlier checkpoint.")
    return vectors.cpu().numpy()
