"""Validate a CLIP: held-out pictures and texts search for each other, before training and after every epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from chapter03_multimodal.clip import Clip
from chapter03_multimodal.encoder import ClipEncoder
from chapter03_multimodal.losses import clip_loss
from chapter03_multimodal.retrieval_metrics import mean_of_directions, retrieval_metrics
from common.devices import choose_placement
from common.embedding_statistics import embedding_statistics
from common.errors import CourseError

BATCH = 128


class Validation:
    """Measures any CLIP on the pairs of one split.

    pairs: M rows with `path, text, group_id`, without empty texts. folder: of the catalogue; the paths start there.
    """

    def __init__(self, pairs: pd.DataFrame, folder: Path) -> None:
        if len(pairs) < 2:
            raise CourseError(
                f"validation needs two pictures that have a text, or more; there are {len(pairs)}. "
                "prepare_data prints how many each split has."
            )
        self.pairs, self.paths = pairs.reset_index(drop=True), [folder / path for path in pairs["path"]]

    def __call__(self, clip: Clip) -> dict[str, float]:
        """Return Recall@1, 5, 10 and MRR of both directions, `MRR` (their mean), loss and statistics of the vectors.

        Pairs whose picture cannot be read any more are left out.
        """
        images, texts, rows = self.vectors(clip)
        pairs = self.pairs.iloc[rows]
        means = retrieval_metrics(images, texts, pairs["text"].tolist()).mean()
        figures = {name: float(value) for name, value in means.items()} | {"MRR": mean_of_directions(means)}
        loss = _loss(images, texts, pairs, clip.model.logit_scale.item())
        return figures | {"validation_loss": loss, **embedding_statistics(texts, images, images)}

    def vectors(self, clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encode the usable pictures and their texts: float32 [N, D] each, of length 1, and their rows [N]."""
        encoder = ClipEncoder(clip, choose_placement("torch"))
        images = encoder.encode_images(self.paths)
        return images.vectors, encoder.encode(self.pairs["text"].iloc[images.rows].tolist()).vectors, images.rows


@torch.no_grad()
def _loss(images: np.ndarray, texts: np.ndarray, pairs: pd.DataFrame, logit_scale: float) -> float:
    """Compute the loss over fixed batches, so that epochs can be compared."""
    groups, words = pd.factorize(pairs["group_id"])[0], pd.factorize(pairs["text"])[0]
    losses, sizes = [], []
    for start in range(0, len(pairs), BATCH):
        part = slice(start, start + BATCH)
        known = (groups[part, None] == groups[part]) | (words[part, None] == words[part])
        t, i = torch.from_numpy(texts[part]), torch.from_numpy(images[part])
        losses.append(float(clip_loss(t, i, torch.from_numpy(known), logit_scale=logit_scale)))
        sizes.append(len(t))
    return float(np.average(losses, weights=sizes))
