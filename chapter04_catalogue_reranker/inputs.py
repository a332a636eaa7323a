"""Provide the inputs of a training: texts, pictures and paths, and the features of frozen towers.

A frozen tower gives the same features in every epoch, so they are computed once and kept; only the tower in training
runs. On two cores that is the difference between a second and a minute an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from chapter03_multimodal.training_pictures import Pictures
from chapter04_catalogue_reranker.encode import FrozenTowers
from chapter04_catalogue_reranker.model import CatalogueReranker
from common.processes import ALONE, Processes

FROZEN = {0: ("text", "image"), 1: ("image",), 2: ("text",)}
"""The towers that stay as they are, by stage."""


class Inputs:
    """Provide features of N products and C paths to one model. Call `keep` before anything else.

    products: rows with `text` ("" for none) and `image` (path below `folder`, or None). has_text, has_image: bool [N];
    a picture that turns out to be unusable counts as missing from then on. processes: those that call `keep` together;
    each calls all other methods for itself.
    """

    def __init__(
        self,
        model: CatalogueReranker,
        products: pd.DataFrame,
        paths: Sequence[str],
        folder: Path,
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.processes = model, processes
        self.texts, self.paths = products["text"].tolist(), list(paths)
        with_image = products["image"].notna() & (model.architecture.inputs != "text")
        self.files = [folder / path if read else None for path, read in zip(products["image"], with_image, strict=True)]
        self.has_text = torch.tensor([bool(text.strip()) for text in self.texts])
        self.has_image = torch.tensor([file is not None for file in self.files])
        architecture, tower = model.architecture, model.text_tower
        self._tokens = tower.tokenise(self.texts, architecture.product_length)
        self._path_tokens = tower.tokenise(self.paths, architecture.category_length)
        self._kept: dict[str, Tensor] = {}
        self._pictures: Pictures | None = None

    def keep(self, stage: int) -> None:
        """Compute and keep the features of the towers that are frozen in this stage, and drop all others. Each of
        several processes computes its share and keeps all."""
        self._kept, frozen = {}, FROZEN[stage]
        if "text" in frozen:
            self._kept["text"] = self._of_all(len(self.texts), self._text_features, "reading texts")
            self._kept["path"] = self._of_all(len(self.paths), self._path_features)
        if "image" in frozen:
            self._kept["image"] = self._of_all(len(self.files), self._image_features, "looking at pictures")
            self.has_image = self._of_all(len(self.files), lambda rows, _: self.has_image[rows].float()).bool()
        elif self._pictures is None and self.model.architecture.inputs != "text":
            preprocessing = self.model.vision_tower.preprocessing
            files = [file or Path() for file in self.files]
            self._pictures = Pictures(files, preprocessing, preprocessing.side, self.processes)

    def pixels(self, rows: np.ndarray) -> Tensor | None:
        """Read the pictures of the rows as input of the vision tower, [B, 3, S, S]; None while it is frozen, and for a
        model of texts."""
        if "image" in self._kept or self._pictures is None:
            return None
        pixels, usable = self._pictures.take(rows)
        self.has_image[rows] &= torch.from_numpy(usable)
        return self.model.vision_tower.preprocessing.as_input(pixels)

    def text(self, rows: np.ndarray) -> Tensor:
        """Return text features [B, Ht] of products; with gradient from a tower in training."""
        if "text" in self._kept:
            return self._kept["text"][rows].to(self.model.device)
        if self.model.architecture.inputs == "image":  # the text tower reads paths only
            return torch.zeros(len(rows), self.model.text_tower.width, device=self.model.device)
        return self.model.text_features([self._tokens[row] for row in rows])

    def image(self, rows: np.ndarray, pixels: Tensor | None) -> Tensor:
        """Return image features [B, Hv] of products; from the `pixels` of these rows if the tower is in training."""
        if self.model.architecture.inputs == "text" or not len(rows):  # a CLIP refuses an empty batch
            return torch.zeros(len(rows), self.model.vision_tower.width, device=self.model.device)
        if pixels is None:
            return self._kept["image"][rows].to(self.model.device)
        return self.model.image_features(pixels.to(self.model.device))

    def path(self, columns: np.ndarray) -> Tensor:
        """Return text features [B, Ht] of paths; with gradient from a tower in training."""
        if "path" in self._kept:
            return self._kept["path"][columns].to(self.model.device)
        return self.model.text_features([self._path_tokens[column] for column in columns])

    @torch.no_grad()
    def vectors(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of products [B, D] and of all paths [C, D], float32, of a model in evaluation mode."""
        text = self._kept["text"][rows].numpy() if "text" in self._kept else self._text_features(rows)
        path = self._kept["path"].numpy() if "path" in self._kept else self._path_features(range(len(self.paths)))
        image = self._kept["image"][rows].numpy() if "image" in self._kept else self._image_features(rows)
        device = self.model.device
        inputs = (torch.from_numpy(text), torch.from_numpy(image), self.has_text[rows], self.has_image[rows])
        products = self.model.fuse(*(tensor.to(device) for tensor in inputs)).fused
        return products.cpu().numpy(), self.model.embed_categories(torch.from_numpy(path).to(device)).cpu().numpy()

    def _of_all(
        self, count: int, make: Callable[[np.ndarray, str | None], np.ndarray | Tensor], desc: str | None = None
    ) -> Tensor:
        """Return the results of `make` for `count` rows, on the CPU; each process calls it for its share."""
        own = make(np.arange(count)[self.processes.share(count)], desc if self.processes.is_main else None)
        if self.processes.count == 1:
            return torch.as_tensor(own)
        return self.processes.gather(torch.as_tensor(own).to(self.model.device), count).cpu()

    def _text_features(self, rows: np.ndarray, desc: str | None = None) -> np.ndarray:
        texts = [self.texts[row] for row in rows]
        return FrozenTowers(self.model).text_features(texts, self.model.architecture.product_length, desc)

    def _path_features(self, columns: Sequence[int] | np.ndarray, desc: str | None = None) -> np.ndarray:
        paths = [self.paths[column] for column in columns]
        return FrozenTowers(self.model).text_features(paths, self.model.architecture.category_length, desc)

    def _image_features(self, rows: np.ndarray, desc: str | None = None) -> np.ndarray:
        files = [self.files[row] for row in rows]
        found = FrozenTowers(self.model).image_features(files, desc)
        self.has_image[rows] = torch.from_numpy(found.has_image)
        return found.features
