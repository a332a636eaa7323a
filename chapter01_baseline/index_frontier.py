"""Measure what an HNSW index gives up in recall and gains in latency, beside the exact index."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex
from common.search import check_k


def measure_frontier(
    index_flat: DenseIndex,
    index_hnsw: DenseIndex,
    embeddings: Embeddings,
    ef_search: Sequence[int] = (50, 100, 150, 200),
    k: int = 10,
) -> pd.DataFrame:
    """Return one row for the flat index, and one for each ef_search of the HNSW index.

    embeddings: the queries' [Q, D]. Columns: kind, ef_search (0 for flat), recall_at_k (mean share of the exact k
    nearest that were found; a product as near as the k-th counts as found), milliseconds_per_query (median over the
    queries, asked one by one: the time of the search itself), memory_mb. Raises CourseError if the two indices do not
    hold the same products.
    """
    k = check_k(k)
    if index_flat.kind != "flat" or index_flat.encoder_id != index_hnsw.encoder_id:
        raise CourseError("frontier: give a flat index and an HNSW index of the same encoder.")
    if not np.array_equal(index_flat.ids, index_hnsw.ids) or not len(index_flat) or not len(embeddings):
        raise CourseError("frontier: both indices must hold the same products, and there must be queries.")
    k = min(k, len(index_flat))
    worst = index_flat.search_vectors(embeddings, k).scores[:, -1]
    rows = [_point(index_flat, embeddings, worst, k, 0)]
    before = index_hnsw.ef_search
    try:
        for effort in ef_search:
            index_hnsw.ef_search = effort
            rows.append(_point(index_hnsw, embeddings, worst, k, effort))
    finally:
        index_hnsw.ef_search = before
    return pd.DataFrame(rows)


def _point(index: DenseIndex, embeddings: Embeddings, worst: np.ndarray, k: int, effort: int) -> dict[str, object]:
    seconds, recalls = [], []
    vectors = index.vectors
    index.nearest(embeddings.vectors[:1], k)  # the first call pays for threads and pages
    for query, least in zip(embeddings.vectors, worst, strict=True):
        query = np.ascontiguousarray(query[None], dtype=np.float32)
        started = time.perf_counter()
        found = index.nearest(query, k)[0]
        seconds.append(time.perf_counter() - started)
        found = found[found >= 0]
        recalls.append(np.mean(np.append(vectors[found] @ query[0] >= least - 1e-5, [False] * (k - len(found)))))
    return {
        "kind": index.kind,
        "ef_search": effort,
        "recall_at_k": float(np.mean(recalls)),
        "milliseconds_per_query": float(np.median(seconds) * 1000),
        "memory_mb": index.memory_mb,
    }
