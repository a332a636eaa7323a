"""Compute what the frozen towers of a CLIP see in pictures and read in texts, once, before the projections.

While towers do not change, neither do their features. Training the projections on kept features takes seconds where the
towers take minutes an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from chapter03_multimodal.clip import Clip
from chapter03_multimodal.training_pictures import ImagePreprocessing, Pictures
from common.devices import choose_placement
from common.embedding_cache import EmbeddingCache
from common.prefetch import prefetch
from common.progress import progress

BATCH = 64
CHUNK = 2048
"""Pictures whose features are kept on disk together: a kill loses no more than these."""


def projections(clip: Clip) -> nn.ModuleDict:
    """Return the live projections of a CLIP whose towers come from timm and transformers: "image" and "text"."""
    return nn.ModuleDict({"image": clip.model.visual.head, "text": clip.model.text.proj})


@torch.inference_mode()
def picture_features(clip: Clip, paths: Sequence[Path], cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of N picture files before the projection, float32 [N, F], and which are usable, bool [N].

    A picture that cannot be read has zeros. cache: folder where features are kept by the content of their file.
    """
    trunk, width = clip.model.visual.trunk, clip.model.visual.trunk.num_features
    device = choose_placement("torch").device
    preprocessing = ImagePreprocessing.of(clip)
    pictures = Pictures(paths, preprocessing, preprocessing.side)
    keys, kept = pictures.contents(), EmbeddingCache(cache / clip.digest, width)
    features, usable = np.zeros((len(paths), width), dtype=np.float32), np.ones(len(paths), dtype=bool)
    missing = kept.fill(keys, features)
    trunk.to(device)
    with progress(total=len(paths), initial=len(paths) - len(missing), desc="looking", unit="picture") as bar:
        for chunk in np.split(missing, range(CHUNK, len(missing), CHUNK)):
            batches = np.split(chunk, range(BATCH, len(chunk), BATCH))
            for rows, (pixels, readable) in prefetch(batches, pictures.take):
                if len(rows):
                    features[rows] = trunk(preprocessing.as_input(pixels).to(device)).cpu().numpy()
                    features[rows[~readable]], usable[rows] = 0, readable
                bar.update(len(rows))
            good = chunk[usable[chunk]]
            kept.add([keys[row] for row in good], features[good])
    trunk.cpu()
    return features, usable


@torch.inference_mode()
def text_features(clip: Clip, texts: Sequence[str]) -> np.ndarray:
    """Return the features of N texts before the projection, float32 [N, F]. Equal texts are read once."""
    tower, device = clip.model.text, choose_placement("torch").device
    tower.to(device)
    distinct = sorted(set(texts), key=len)  # of about one length in a batch: little padding
    found: dict[str, np.ndarray] = {}
    with progress(total=len(distinct), desc="reading", unit="text") as bar:
        for start in range(0, len(distinct), BATCH):
            part = distinct[start : start + BATCH]
            tokens = clip.tokenise(part).to(device)
            mask = (tokens != tower.config.pad_token_id).long()
            pooled = tower.pooler(tower.transformer(input_ids=tokens, attention_mask=mask), mask)
            found |= dict(zip(part, pooled.cpu().numpy(), strict=True))
            bar.update(len(part))
    tower.cpu()
    return np.stack([found[text] for text in texts])
