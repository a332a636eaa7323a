"""Measure the costs of a search: milliseconds a query, memory of the index, products embedded a second."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from chapter01_baseline.reindex import Indices
from chapter01_baseline.systems import MINILM
from chapter02_two_tower.reindex import Towers
from chapter02_two_tower.systems import TWO_TOWERS
from common.catalogue import product_text
from common.encoders import Embeddings, TextEncoder
from common.index import DenseIndex

WARM_UP = 3


def costs(
    indices: Indices, towers: Towers, queries: Sequence[str], *, products: int = 512, k: int = 200
) -> pd.DataFrame:
    """Measure the costs of MiniLM and the towers, a row an index (Flat and HNSW).

    queries: searched one by one, not in a batch, for k hits each. products: number of products that are embedded to
    measure the rate.
    Columns: system; index; dimension; encode_ms, search_ms and total_ms (median over queries), p95_ms (of the total);
    memory_mb (vectors and graph, 10^6 bytes); products_per_second. No embedding cache takes part. Milliseconds compare
    within one call, on one machine.
    """
    texts = product_text(indices.catalogue.products.head(products))
    compared = {
        MINILM: (indices, indices.encoder, indices.encoder),
        TWO_TOWERS: (towers, towers.query_encoder, towers.product_encoder),
    }
    rows = []
    for system, (found, of_queries, of_products) in compared.items():
        rate = products_per_second(of_products, texts)
        for index in (found.dense.index, found.hnsw.index):
            seconds = seconds_per_query(of_queries, index, queries, k)
            measured = _in_milliseconds(seconds) | {"memory_mb": index.memory_mb, "products_per_second": rate}
            rows.append({"system": system, "index": index.kind, "dimension": index.dimension, **measured})
    return pd.DataFrame(rows)


def seconds_per_query(encoder: TextEncoder, index: DenseIndex, queries: Sequence[str], k: int) -> np.ndarray:
    """Measure the seconds of each of Q queries, [Q, 2]: to encode it, and to search its k nearest products.

    The first queries run once before, so that one-time work is not counted.
    """
    encoder = encoder.with_memory(None)
    warm_and_timed = [*queries[:WARM_UP], *queries]
    seconds = np.empty((len(warm_and_timed), 2))
    for row, query in enumerate(warm_and_timed):
        started = time.perf_counter()
        vectors = encoder.encode([query]).vectors
        encoded = time.perf_counter()
        index.search_vectors(Embeddings(vectors, index.encoder_id), k)
        seconds[row] = encoded - started, time.perf_counter() - encoded
    return seconds[len(warm_and_timed) - len(queries) :]


def products_per_second(encoder: TextEncoder, texts: Sequence[str]) -> float:
    """Measure how many different texts an encoder embeds in a second, in one call."""
    encoder, texts = encoder.with_memory(None), list(dict.fromkeys(texts))
    encoder.encode(texts[:WARM_UP])
    started = time.perf_counter()
    encoder.encode(texts)
    return len(texts) / (time.perf_counter() - started)


def _in_milliseconds(seconds: np.ndarray) -> dict[str, float]:
    encode, search = np.median(seconds, axis=0) * 1000
    total = seconds.sum(axis=1) * 1000
    return {
        "encode_ms": encode,
        "search_ms": search,
        "total_ms": np.median(total),
        "p95_ms": np.quantile(total, 0.95),
    }
