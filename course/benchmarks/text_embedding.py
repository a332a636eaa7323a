"""Measure documents a second of our text encoder beside plain `SentenceTransformer.encode` in float32, in one run.

Both get the same slices of the documents in turn, so that other load on the machine affects both. Tokenisation counts;
start-up is reported separately.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.devices import Placement
from common.encoders import TextEncoder, load_text_encoder, packaged_minilm
from common.engines import load_sentence_transformer
from common.errors import CourseError

DOCUMENTS = 2000
SLICES = 5
MAX_LENGTH = 256


def main(documents: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure on `documents`, by default 2,000 of chorus_icecat (title, description, attributes), else of the pocket
    shop.

    Returns one row: name, ours, peer, unit, our_value and peer_value (documents a second, medians over the slices),
    ratio (median of the slices' ratios), cosine (mean over the documents between our vectors and the peer's), note.
    Raises CourseError below 10 documents.
    """
    texts, source = (list(documents), "documents given") if documents is not None else _documents()
    if len(texts) < 2 * SLICES:
        raise CourseError(f"bench text-embedding: {len(texts)} documents are too few; give at least {2 * SLICES}.")
    started = time.perf_counter()
    encoder = load_text_encoder(max_length=MAX_LENGTH)
    loaded = time.perf_counter() - started
    device = encoder.device
    plain = load_sentence_transformer(packaged_minilm(), Placement(device, "torch", "float32", "the peer"), MAX_LENGTH)
    slices = [texts[at::SLICES] for at in range(SLICES)]
    return [_row(encoder, plain, slices, f"{len(texts):,} {source}; loading took {loaded:.1f} s")]


def _row(encoder: TextEncoder, plain: Any, slices: list[list[str]], note: str) -> dict[str, Any]:
    def ours(texts: list[str]) -> np.ndarray:
        return encoder.encode(texts).vectors

    def peer(texts: list[str]) -> np.ndarray:
        return plain.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    for warm_up in (ours, peer):
        warm_up(slices[0][:16])
    rates, cosines = [], []
    for number, texts in enumerate(slices):
        measured = {run: _timed(run, texts) for run in ((ours, peer) if number % 2 == 0 else (peer, ours))}
        rates.append([len(texts) / measured[run][0] for run in (ours, peer)])
        cosines.append((measured[ours][1] * measured[peer][1]).sum(axis=1))
    our_rates, peer_rates = np.array(rates).T
    cosine = np.concatenate(cosines)
    return {
        "name": "text-embedding",
        "ours": f"{encoder.engine} {encoder.precision} on {encoder.device}",
        "peer": "SentenceTransformer.encode float32",
        "unit": "documents/s",
        "our_value": round(float(np.median(our_rates)), 1),
        "peer_value": round(float(np.median(peer_rates)), 1),
        "ratio": round(float(np.median(our_rates / peer_rates)), 2),
        "cosine": round(float(cosine.mean()), 5),
        "note": f"{note}; least cosine {cosine.min():.5f}; {encoder.reason}",
    }


def _timed(run: Any, texts: list[str]) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    vectors = run(texts)
    return time.perf_counter() - started, vectors


def _documents() -> tuple[list[str], str]:
    from common.catalogue import load_catalogue, product_text
    from common.settings import data_home

    home = data_home()
    real = home is not None and (home / "chorus-icecat").is_dir()
    source = "chorus_icecat" if real else "pocket_shop"
    products = load_catalogue(source).products
    products = products.sample(min(DOCUMENTS, len(products)), random_state=0)
    fields = ("title", "description", "attributes")
    return product_text(products, fields), f"documents of {source} ({', '.join(fields)})"
