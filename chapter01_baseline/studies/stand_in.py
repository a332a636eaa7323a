"""Vectors by the million: the products of a text-only pocket shop and what is searched there, embedded in minutes.

MiniLM takes half an hour for a million products where the processor knows bfloat16, and hours elsewhere. What stands in
for it is the mean of its pretrained *token* embeddings, each weighted by its inverse document frequency, after Arora et
al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings": no network is run. It finds other products than
MiniLM does (about a third of the ten nearest are the same), so nothing here says how good a search is. It is somewhat
harder for an index, which is what it is for: over the pocket shop's 4,500 products the 1st, 10th and 100th best scores
of a query are 0.54, 0.43 and 0.32 (MiniLM: 0.53, 0.44, 0.32), and HNSW32 built with efConstruction 400 has a recall@10
of 0.958 at efSearch 32 and 0.988 at 64 (MiniLM: 0.971, 0.993); over 100,000, HNSW32-SQ8 has 0.922 at 64 (MiniLM:
0.946). Without the weights all products lie close together and the queries elsewhere, and the same graph reaches far
less. `--encoder all-MiniLM-L6-v2` shows MiniLM itself at sizes that one can wait for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import fingerprint
from common.atomic import atomic_folder
from common.catalogue import load_catalogue, product_text
from common.encoders import MINILM_SHA256, load_text_encoder, packaged_minilm
from common.pocket_shop.facts import draw_facts
from common.pocket_shop.queries import KINDS, draw_queries
from common.pocket_shop.shop import VERSION
from common.pocket_shop.text import write_products
from common.progress import progress
from common.settings import artifacts_root

STAND_IN = "stand-in"
FORMAT = 2
SHOPPERS, PRODUCTS = "shoppers", "products"  # whose texts are searched for
CHUNK = 50_000  # products embedded at once: 77 MB of vectors; the first chunk gives the stand-in its weights
QUERY_SHOP, QUERIES_PER_KIND = 4_500, 160  # the shop over which queries are drawn, and how many of them it has
TOKEN_MATRIX = "embeddings.word_embeddings.weight"

Encode = Callable[[Sequence[str]], np.ndarray]
"""N texts to float32 [N, D], each of length 1."""


class TokenMean:
    """The weighted mean of the pretrained token embeddings of a text, of length 1: the stand-in for the encoder.

    A token's weight is log((1 + S) / (1 + texts with it)) over a sample of S texts, and what no text of the sample has
    weighs most.
    """

    def __init__(self, sample: Sequence[str]) -> None:
        self._matrix, self._tokenizer = pretrained_tokens()
        texts_with = np.zeros(len(self._matrix))
        for tokens in self._tokens(sample):
            texts_with[np.unique(tokens)] += 1
        self._weights = np.log((1 + len(sample)) / (1 + texts_with)).astype(np.float32)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of N texts, float32 [N, 384]; a text without any token is read as one that is unknown."""
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


def pretrained_tokens() -> tuple[np.ndarray, Any]:
    """MiniLM's token embeddings, float32 [30522, 384], and its tokeniser; nothing else of it is read."""
    from safetensors import safe_open
    from tokenizers import Tokenizer

    folder = packaged_minilm()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        name = next(name for name in weights.keys() if name.endswith(TOKEN_MATRIX))  # noqa: SIM118
        return weights.get_tensor(name).astype(np.float32), tokenizer


@dataclass(frozen=True)
class ShopVectors:
    """products: float32 [N, D], on the disk until it is read. queries: float32 [Q, D]. All of length 1. digest: equal
    for equal vectors. folder: where they are; what is built from them is kept beside them."""

    products: np.ndarray
    queries: np.ndarray
    digest: str
    folder: Path


def shop_vectors(size: int, count: int, encoder: str = STAND_IN, seed: int = 0, queries: str = SHOPPERS) -> ShopVectors:
    """The vectors of a pocket shop of `size` products, made once and then read, and of `count` queries.

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
    """Embed chunk by chunk: neither the texts nor the vectors of all products are ever in memory."""
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
    """`count` different queries in random order, in shoppers' words and of all the kinds that the pocket shop knows.

    They are drawn over small shops of other seeds than the indexed one: shoppers ask for what a shop may have, and a
    query asks for nothing that only the indexed products could tell.
    """
    per_kind = min(QUERIES_PER_KIND, math.ceil(count / len(KINDS)))

    def drawn(shop: int) -> Sequence[str]:
        return draw_queries(draw_facts(QUERY_SHOP, seed=shop), per_kind, seed=shop)[0]["query"]

    return _different(drawn, count, seed)


def other_products(count: int, seed: int = 0) -> list[str]:
    """The texts of `count` different products of such other shops, in random order: what "similar products" is asked
    with."""
    return _different(
        lambda shop: product_text(write_products(draw_facts(QUERY_SHOP, seed=shop), seed=shop)), count, seed
    )


def _different(drawn: Callable[[int], Sequence[str]], count: int, seed: int) -> list[str]:
    """`count` different ones of the texts that are `drawn` of one shop after the other, in random order."""
    found: dict[str, None] = {}
    shops = iter(range(1_000_000 * (seed + 1), 1_000_000 * (seed + 2)))
    while len(found) < count:
        found |= dict.fromkeys(drawn(next(shops)))
    return np.random.default_rng(seed).permutation(list(found))[:count].tolist()
