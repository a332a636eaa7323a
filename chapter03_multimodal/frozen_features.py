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
from chapter03_multimodal.encoder import PREPARATION
from chapter03_multimodal.training_pictures import ImagePreprocessing, Pictures, contents
from common.devices import choose_placement
from common.embedding_cache import EmbeddingCache
from common.prefetch import prefetch
from common.progress import progress

BATCH = 64
CHUNK = 2048
"""Pictures or texts whose features are kept on disk together: a kill loses no more than these."""


def projections(clip: Clip) -> nn.ModuleDict:
    """Return the live projections of a CLIP whose towers come from timm and transformers: "image" and "text"."""
    return nn.ModuleDict({"image": clip.model.visual.head, "text": clip.model.text.proj})


@torch.inference_mode()
def picture_features(clip: Clip, paths: Sequence[Path], cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of N picture files before the projection, float32 [N, F], and which are usable, bool [N].

    A picture that cannot be read has zeros. cache: folder where features are kept by the content of their file.
    """
    trunk, width = clip.model.visual.trunk, clip.model.visual.trunk.num_features
    device, preprocessing = choose_placement("torch").device, ImagePreprocessing.of(clip)
    keys, kept = contents(paths), EmbeddingCache(cache / f"{clip.digest}-{PREPARATION}" / "pictures", width)
    features, usable = np.zeros((len(paths), width), dtype=np.float32), np.ones(len(paths), dtype=bool)
    missing = kept.fill(keys, features)
    pictures = Pictures([paths[row] for row in missing], preprocessing, preprocessing.side)
    trunk.to(device)
    with progress(total=len(paths), initial=len(paths) - len(missing), desc="looking", unit="picture") as bar:
        for start in range(0, len(missing), CHUNK):
            chunk = range(start, min(start + CHUNK, len(missing)))
            batches = [np.arange(at, min(at + BATCH, chunk.stop)) for at in chunk[::BATCH]]
            for places, (pixels, readable) in prefetch(batches, pictures.take):
                rows = missing[places]
                features[rows] = trunk(preprocessing.as_input(pixels).to(device)).cpu().numpy()
                features[rows[~readable]], usable[rows] = 0, readable
                bar.update(len(rows))
            good = [row for row in missing[chunk.start : chunk.stop] if usable[row]]
            kept.add([keys[row] for row in good], features[good])
    trunk.cpu()
    return features, usable


@torch.inference_mode()
def text_features(clip: Clip, texts: Sequence[str], cache: Path) -> np.ndarray:
    """Return the features of N texts before the projection, float32 [N, F]. Equal texts are read once.

    cache: folder where features are kept.
    """
    tower, device = clip.model.text, choose_placement("torch").device
    distinct = sorted(set(texts), key=lambda text: (len(text), text))  # of about one length in a batch: little padding
    kept = EmbeddingCache(cache / f"{clip.digest}-{PREPARATION}" / "texts", tower.config.hidden_size)
    features = np.zeros((len(distinct), tower.config.hidden_size), dtype=np.float32)
    missing = kept.fill(distinct, features)
    tower.to(device)
    with progress(total=len(distinct), initial=len(distinct) - len(missing), desc="reading", unit="text") as bar:
        for chunk in (missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)):
            for rows in (chunk[start : start + BATCH] for start in range(0, len(chunk), BATCH)):
                tokens = clip.tokenise([distinct[row] for row in rows]).to(device)
                mask = (tokens != tower.config.pad_token_id).long()
                pooled = tower.pooler(tower.transformer(input_ids=tokens, attention_mask=mask), mask)
                features[rows] = pooled.cpu().numpy()
                bar.update(len(rows))
            kept.add([distinct[row] for row in chunk], features[chunk])
    tower.cpu()
    places = {text: row for row, text in enumerate(distinct)}
    return features[[places[text] for text in texts]]
