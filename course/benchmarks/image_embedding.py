"""Compare our picture encoder with the plain open_clip loop, in photos a second, on the same photos in one run.

The plain loop opens a batch of files, prepares them one by one, stacks them and encodes them in float32, one step after
another. Both get the same slices of photos in turn, so that other load on the machine affects both. Loading the model
is not measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from chapter03_multimodal.clip import Clip, load_clip, new_clip, save_clip
from chapter03_multimodal.encoder import ClipEncoder, load_clip_encoder
from common.errors import CourseError

ARCHITECTURE = "ViT-B-32"
PHOTOS = 700
SLICES = 5
BATCH = 32
SOURCES = {"magento-luma": "pub/media/catalog/product", "grocery-store": "dataset"}


def main(photos: Sequence[Path] | None = None, *, model: str | None = None) -> list[dict[str, Any]]:
    """Measure on `photos`, by default 700 of luma, else of the grocery store, else of the pocket shop.

    model: as `load_clip` takes it; None: ViT-B-32 with random weights, which is as fast as the trained one.

    Returns one row: name, ours, peer, unit, our_value and peer_value (photos a second, medians over the slices), ratio
    (median of the slices' ratios), cosine (mean over the photos between our vectors and the peer's), note. Raises
    CourseError below 10 photos, or if one cannot be used.
    """
    paths, source = (list(photos), "photos given") if photos is not None else _photos()
    if len(paths) < 2 * SLICES:
        raise CourseError(f"bench image-embedding: {len(paths)} photos are too few; give at least {2 * SLICES}.")
    if model is not None:
        return [_row(load_clip_encoder(model), load_clip(model), paths, f"{len(paths):,} {source}, {Path(model).name}")]
    with tempfile.TemporaryDirectory() as folder:
        save_clip(new_clip(ARCHITECTURE), folder, half=True)
        note = f"{len(paths):,} {source}, {ARCHITECTURE} of random weights"
        return [_row(load_clip_encoder(folder), load_clip(folder), paths, note)]


def plain_loop(clip: Clip, paths: Sequence[Path], device: str = "cpu") -> np.ndarray:
    """Encode photos as the examples of open_clip do: float32 [N, D] of length 1."""
    vectors = []
    for start in range(0, len(paths), BATCH):
        pixels = torch.stack([clip.preprocess(Image.open(path)) for path in paths[start : start + BATCH]])
        with torch.no_grad():
            vectors.append(normalize(clip.model.encode_image(pixels.to(device)), dim=-1).cpu())
    return torch.cat(vectors).numpy()


def _row(encoder: ClipEncoder, clip: Clip, paths: list[Path], note: str) -> dict[str, Any]:
    clip.model.to(encoder.device)

    def ours(photos: Sequence[Path]) -> np.ndarray:
        made = encoder.encode_images(photos)
        if made.unusable:
            at, reason = next(iter(made.unusable.items()))
            raise CourseError(f"bench image-embedding: {photos[at]}: {reason}; give photos that can all be used.")
        return made.vectors

    def peer(photos: Sequence[Path]) -> np.ndarray:
        return plain_loop(clip, photos, encoder.device)

    for warm_up in (ours, peer):
        warm_up(paths[:BATCH])
    rates, our_vectors, peer_vectors = [], [], []
    for number in range(SLICES):
        photos = paths[number::SLICES]
        measured = {run: _timed(run, photos) for run in ((ours, peer) if number % 2 == 0 else (peer, ours))}
        rates.append([len(photos) / measured[run][0] for run in (ours, peer)])
        our_vectors.append(measured[ours][1])
        peer_vectors.append(measured[peer][1])
    our_rates, peer_rates = np.array(rates).T
    one, other = np.concatenate(our_vectors), np.concatenate(peer_vectors)
    cosine = (one * other).sum(axis=1)
    # With random weights all photos have similar vectors, so the cosine must be compared with that of two photos.
    apart = float((one * np.roll(other, 1, axis=0)).sum(axis=1).mean())
    return {
        "name": "image-embedding",
        "ours": f"own encoder, {encoder.precision} on {encoder.device}",
        "peer": "open_clip loop float32",
        "unit": "photos/s",
        "our_value": round(float(np.median(our_rates)), 1),
        "peer_value": round(float(np.median(peer_rates)), 1),
        "ratio": round(float(np.median(our_rates / peer_rates)), 2),
        "cosine": round(float(cosine.mean()), 5),
        "note": f"{note}; least cosine {cosine.min():.5f}, of two photos {apart:.3f}; {encoder.reason}",
    }


def _timed(run: Callable[[Sequence[Path]], np.ndarray], photos: Sequence[Path]) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    vectors = run(photos)
    return time.perf_counter() - started, vectors


def _photos() -> tuple[list[Path], str]:
    from common.catalogue import load_catalogue
    from common.settings import data_home

    home = data_home()
    for source, below in SOURCES.items() if home is not None else ():
        if found := sorted((home / source / below).rglob("*.jpg")):
            return _sample(found), f"photos of {source}"
    catalogue = load_catalogue("pocket_shop")
    found = [Path(catalogue.folder or ".", path) for path in catalogue.images["path"]]
    return _sample(found), "drawings of pocket_shop"


def _sample(found: list[Path]) -> list[Path]:
    chosen = np.random.default_rng(0).permutation(len(found))[:PHOTOS]
    return [found[at] for at in sorted(chosen)]
