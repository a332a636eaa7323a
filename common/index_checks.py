"""Check what an index is built from and searched with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.encoders import Embeddings
from common.errors import CourseError
from common.quantised_index import IVF_PQ_PARAMETERS, ivf_pq_parameters

HNSW_DEFAULTS = {"M": 32, "ef_construction": 200, "ef_search": 100}
KINDS: dict[str, dict[str, int]] = {
    "flat": {},
    "hnsw": {"M": 2, "ef_construction": 1, "ef_search": 1},
    "ivf_pq": IVF_PQ_PARAMETERS,
}
"""The parameters of each kind of index, with the minimum of each."""


def checked_parameters(kind: str, parameters: dict[str, int], shape: tuple[int, int]) -> dict[str, int]:
    """Return all parameters of an index of vectors of this shape [N, D]. Raises CourseError for one that the kind does
    not have, or that is too small."""
    known = KINDS[kind]
    for name, value in parameters.items():
        if name not in known:
            raise CourseError(f"index kind {kind!r} has no parameter {name!r}; it has {', '.join(known) or 'none'}.")
        if isinstance(value, bool) or not isinstance(value, int) or value < known[name]:
            raise CourseError(f"index parameter {name} must be a whole number of at least {known[name]}.")
    if kind == "ivf_pq":
        return ivf_pq_parameters(*shape, parameters)
    return {**HNSW_DEFAULTS, **parameters} if kind == "hnsw" else {}


def checked_products(embeddings: Embeddings, ids: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return vectors (float32) and product ids. Raises CourseError if one cannot be indexed under the other."""
    vectors, ids = np.asarray(embeddings.vectors, dtype=np.float32), list(ids)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise CourseError(f"index: {len(ids)} product ids for embeddings {vectors.shape}; give one id a row.")
    if not all(isinstance(product_id, str) for product_id in ids):
        raise CourseError("index: product ids must be str; cast the column product_id to str.")
    if len(set(ids)) != len(ids):
        raise CourseError(f"index: {len(ids) - len(set(ids))} product ids are repeated; remove the duplicates.")
    if not np.isfinite(vectors).all():
        raise CourseError("index: an embedding is not finite (NaN or infinite); look at the text it was made from.")
    return vectors, ids


def check_embeddings(embeddings: Embeddings, encoder_id: str, dimension: int) -> None:
    """Raise CourseError if the embeddings are of another encoder or dimension than those of an index."""
    if embeddings.encoder_id != encoder_id:
        raise CourseError(
            f"this index holds embeddings of {encoder_id!r}, not of {embeddings.encoder_id!r}; load that encoder, or "
            "build the index again with yours."
        )
    if embeddings.vectors.ndim != 2 or embeddings.vectors.shape[1] != dimension:
        raise CourseError(f"embeddings {embeddings.vectors.shape} do not fit an index of dimension {dimension}.")
