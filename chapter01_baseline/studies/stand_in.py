"""Embed the products and queries of a text-only pocket shop in minutes, up to a million products.

MiniLM takes half an hour for a million products on a processor with native bfloat16, and hours on others. Its stand-in
is the mean of its pretrained *token* embeddings, each weighted by its inverse document frequency, after Arora et al.
2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings": no network is run.

The stand-in finds other products than MiniLM (about a third of the ten nearest are the same), so nothing here says how
good a search is. It serves to test an index, for which it is somewhat harder. Over the pocket shop's 4,500 products the
1st, 10th and 100th best scores of a query are 0.54, 0.43 and 0.32 (MiniLM: 0.53, 0.44, 0.32), and HNSW32 built with
efConstruction 400 has a recall@10 of 0.958 at efSearch 32 and 0.988 at 64 (MiniLM: 0.971, 0.993); over 100,000,
HNSW32-SQ8 has 0.922 at 64 (MiniLM: 0.946). Without the weights all products lie close together, far from the queries,
and the recall of the same graph is far lower. `--encoder all-MiniLM-L6-v2` measures MiniLM itself, at small sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.artifacts import fingerprint
from common.atomic import atomic_folder
from common.catalogue import load_catalogue, product_text
from common.encoders import MINILM_SHA256, load_text_encoder, pretrained_tokens
from common.pocket_shop.facts import draw_facts
from common.pocket_shop.queries import KINDS, draw_queries
from common.pocket_shop.shop import VERSION
from common.pocket_shop.text import write_products
from common.progress import progress
from common.settings import artifacts_root

STAND_IN = "stand-in"
FORMAT = 2
SHOPPERS, PRODUCTS = "shoppers", "products"  # whose texts are searched for
CHUNK = 50_000  # products embedded at once, 77 MB of vectors; the stand-in takes its weights from the first chunk
QUERY_SHOP, QUERIES_PER_KIND = 4_500, 160  # products of a shop that queries are drawn from, and queries drawn

Encode = Callable[[Sequence[str]], np.ndarray]
"""N texts to float32 [N, D], each of length 1."""


class TokenMean:
    """Embed a text as the weighted mean of its pretrained token embeddings, of length 1: the stand-in for the encoder.

    A token's weight is log((1 + S) / (1 + texts with it)) over a sample of S texts; a token that no text of the sample
    has weighs most.
    """

    def __init__(self, sample: Sequence[str]) -> None:
        self._matrix, self._tokenizer = pretrained_tokens()
        texts_with = np.zeros(len(self._matrix))
        for tokens in self._tokens(sample):
            texts_with[np.unique(tokens)] += 1
        self._weights = np.log((1 + len(sample)) / (1 + texts_with)).astype(np.float32)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of N texts, float32 [N, 384]; a text without tokens counts as one unknown token."""
        import torch
        from torch.nn.functional import embedding_bag, normalize

        tokens = self._tokens(texts)
        ids = torch.from_numpy(np.concatenate(tokens))
        starts = torch.from_numpy(np.cumsum([0, *map(len, tokens[:-1])]))
        weights = torch.from_numpy(self._weights)[ids]
        total = embedding_bag(ids, torch.from_numpy(self._matrix), starts, mode="sum", per_sample_weights=weights)
        return normalize(total, dim=-1).numpy()

    def _tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        unknown = self._tokenizer.token_to_id("[UNK]")
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids or [unknown], dtype=np.int64) for encoding in encoded]


@dataclass(frozen=True)
class ShopVectors:
    """products: float32 [N, D], memory-mapped. queries: float32 [Q, D]. All of length 1. digest: equal for equal
    vectors. folder: where they are; what is built from them is kept beside them."""

    products: np.ndarray
    queries: np.ndarray
    digest: str
    folder: Path


def shop_vectors(size: int, count: int, encoder: str = STAND_IN, seed: int = 0, queries: str = SHOPPERS) -> ShopVectors:
    """Return the vectors of a pocket shop of `size` products and of `count` queries; they are made once, then read.

    encoder: "stand-in" (`TokenMean`), or a model as in `common.encoders.load_text_encoder`. seed: of the queries.
    queries: "shoppers" (`shop_queries`) or "products" (`other_products`). Raises CourseError for a size below 400.
    """
    model = None if encoder == STAND_IN else load_text_encoder(encoder, cache=artifacts_root() / "embeddings")
    recipe = {
        "format": FORMAT,
        "shop": VERSION,
        "size": size,
        "queries": count,
        "seed": seed,
        "encoder": model.encoder_id if model else f"{STAND_IN} of {MINILM_SHA256}",
    }
    digest = f"{size}-{fingerprint(recipe)}"
    folder = artifacts_root() / "index_at_scale" / digest
    if not (folder / "vectors").is_dir():
        with atomic_folder(folder / "vectors") as staging:
            encode = (lambda texts: model.encode(texts, desc="embedding").vectors) if model else None
            asked = {SHOPPERS: shop_queries(count, seed), PRODUCTS: other_products(count, seed)}
            _write_vectors(staging, size, asked, encode)
    products = np.load(folder / "vectors" / "products.npy", mmap_mode="r", allow_pickle=False)
    return ShopVectors(
        products, np.load(folder / "vectors" / f"queries-{queries}.npy", allow_pickle=False), digest, folder
    )


def _write_vectors(folder: Path, size: int, asked: dict[str, list[str]], encode: Encode | None) -> None:
    """Embed chunk by chunk, so that texts and vectors of all products are never in memory at once."""
    products = load_catalogue("pocket_shop", size=size, photos=False, queries_per_kind=0).products
    file = None
    for start in progress(range(0, size, CHUNK), desc="embedding products"):
        texts = product_text(products.iloc[start : start + CHUNK])
        encode = encode or TokenMean(texts).encode
        vectors = encode(texts)
        if file is None:
            shape = (size, vectors.shape[1])
            file = np.lib.format.open_memmap(folder / "products.npy", mode="w+", dtype=np.float32, shape=shape)
        file[start : start + len(vectors)] = vectors
    file.flush()
    for name, queries in asked.items():
        np.save(folder / f"queries-{name}.npy", encode(queries), allow_pickle=False)


def shop_queries(count: int, seed: int = 0) -> list[str]:
    """Draw `count` different queries in random order, in shoppers' words and of all kinds of the pocket shop.

    They are drawn over small shops of other seeds than the indexed one: shoppers ask for what a shop may have, and no
    query depends on the indexed products.
    """
    per_kind = min(QUERIES_PER_KIND, math.ceil(count / len(KINDS)))

    def drawn(shop: int) -> Sequence[str]:
        return draw_queries(draw_facts(QUERY_SHOP, seed=shop), per_kind, seed=shop)[0]["query"]

    return _different(drawn, count, seed)


def other_products(count: int, seed: int = 0) -> list[str]:
    """Draw the texts of `count` different products of other shops, in random order: queries for "similar products"."""
    return _different(
        lambda shop: product_text(write_products(draw_facts(QUERY_SHOP, seed=shop), seed=shop)), count, seed
    )


def _different(drawn: Callable[[int], Sequence[str]], count: int, seed: int) -> list[str]:
    """Return `count` different texts in random order, `drawn` from one shop after the other."""
    found: dict[str, None] = {}
    shops = iter(range(1_000_000 * (seed + 1), 1_000_000 * (seed + 2)))
    while len(found) < count:
        found |= dict.fromkeys(drawn(next(shops)))
    return np.random.default_rng(seed).permutation(list(found))[:count].tolist()
