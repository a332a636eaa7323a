"""What the reranker reads of a catalogue: texts, pictures and paths, and what the frozen towers make of them.

A frozen tower gives the same features in every epoch, so they are made once and kept; only the tower in training runs.
On two cores that is the difference between a second and a minute an epoch.
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
    """N products and C paths as one model sees them. Call `keep` before anything else.

    products: rows with `text` ("" for none) and `image` (path below `folder`, or None). has_text, has_image: bool [N];
    a picture that turns out to be unusable counts as missing from then on. processes: those that `keep` together; all
    else each of them asks for itself.
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
        told = products["image"].notna() & (model.architecture.inputs != "text")
        self.files = [folder / path if there else None for path, there in zip(products["image"], told, strict=True)]
        self.has_text = torch.tensor([bool(text.strip()) for text in self.texts])
        self.has_image = torch.tensor([file is not None for file in self.files])
        architecture, tower = model.architecture, model.text_tower
        self._tokens = tower.tokenise(self.texts, architecture.product_length)
        self._path_tokens = tower.tokenise(self.paths, architecture.category_length)
        self._kept: dict[str, Tensor] = {}
        self._pictures: Pictures | None = None

    def keep(self, stage: int) -> None:
        """Make and keep the features of the towers that are frozen in this stage, and forget the others. Of several
        processes each makes its share and keeps all."""
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
        """Pictures of the rows as the vision tower takes them, [B, 3, S, S]; None while it is frozen, and for a model
        of texts."""
        if "image" in self._kept or self._pictures is None:
            return None
        pixels, usable = self._pictures.take(rows)
        self.has_image[rows] &= torch.from_numpy(usable)
        return self.model.vision_tower.preprocessing.as_input(pixels)

    def text(self, rows: np.ndarray) -> Tensor:
        """Text features [B, Ht] of products; with gradient from a tower in training."""
        if "text" in self._kept:
            return self._kept["text"][rows].to(self.model.device)
        if self.model.architecture.inputs == "image":  # the tower reads paths alone
            return torch.zeros(len(rows), self.model.text_tower.width, device=self.model.device)
        return self.model.text_features([self._tokens[row] for row in rows])

    def image(self, rows: np.ndarray, pixels: Tensor | None) -> Tensor:
        """Image features [B, Hv] of products, from the `pixels` of these rows where the tower is in training."""
        if self.model.architecture.inputs == "text" or not len(rows):  # a CLIP cannot look at no pictures
            return torch.zeros(len(rows), self.model.vision_tower.width, device=self.model.device)
        if pixels is None:
            return self._kept["image"][rows].to(self.model.device)
        return self.model.image_features(pixels.to(self.model.device))

    def path(self, columns: np.ndarray) -> Tensor:
        """Text features [B, Ht] of paths, as `text`."""
        if "path" in self._kept:
            return self._kept["path"][columns].to(self.model.device)
        return self.model.text_features([self._path_tokens[column] for column in columns])

    @torch.no_grad()
    def vectors(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fused vectors of products [B, D] and of all paths [C, D], float32; the model must be in evaluation mode."""
        text = self._kept["text"][rows].numpy() if "text" in self._kept else self._text_features(rows)
        path = self._kept["path"].numpy() if "path" in self._kept else self._path_features(range(len(self.paths)))
        image = self._kept["image"][rows].numpy() if "image" in self._kept else self._image_features(rows)
        device, there = self.model.device, (self.has_text[rows], self.has_image[rows])
        inputs = (torch.from_numpy(text), torch.from_numpy(image), *there)
        products = self.model.fuse(*(tensor.to(device) for tensor in inputs)).fused
        return products.cpu().numpy(), self.model.embed_categories(torch.from_numpy(path).to(device)).cpu().numpy()

    def _of_all(
        self, count: int, make: Callable[[np.ndarray, str | None], np.ndarray | Tensor], desc: str | None = None
    ) -> Tensor:
        """What `make` gives for `count` rows, on the CPU: each process calls it for its share."""
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
