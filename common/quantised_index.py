"""Compress an index with IVF-PQ (inverted lists, product quantisation), for when the vectors take too much memory.

k-means divides the space into `nlist` cells. A vector is stored as its cell and, for its difference from the cell's
centre, one code word for each of `m` subvectors, out of a codebook of 2^nbits words: m * nbits bits instead of 32 * D.
A search visits the `nprobe` cells nearest to the query and adds up the inner products of query and code words: the
score is the inner product with the *decoded* vector, an estimate of the true one. Source: Jégou, Douze and Schmid,
"Product Quantization for Nearest Neighbor Search" (2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.errors import CourseError

# Each parameter and its minimum.
IVF_PQ_PARAMETERS = {"nlist": 1, "m": 1, "nbits": 1, "nprobe": 1, "seed": 0}
MIN_VECTORS = 256
MIN_VECTORS_PER_CELL = 39  # with fewer FAISS warns that k-means has too little data
# Fewer suffice for codebooks: they encode the vectors that they are trained on and need not generalise.
VECTORS_PER_CODE_WORD = 16
NUMBERS_PER_SUBVECTOR = 4  # one byte for four float32 is a sixteenth
MAX_BITS = 8


def ivf_pq_parameters(count: int, dimension: int, chosen: Mapping[str, int]) -> dict[str, int]:
    """Return all parameters of an index of `count` vectors; what is not chosen is derived from count and dimension.

    nlist: 4 sqrt(count), as far as 39 vectors per cell allow. m: the largest divisor of the dimension that leaves at
    least 4 numbers per subvector. nbits: 8, fewer below 4,096 vectors. nprobe: 2 sqrt(nlist). seed: of both k-means,
    1234. Raises CourseError for fewer than 256 vectors and for a choice that does not fit count or dimension.
    """
    if count < MIN_VECTORS:
        raise CourseError(
            f"index kind 'ivf_pq' is trained on at least {MIN_VECTORS} vectors, not {count}; use kind 'flat', "
            f"which is exact and takes {count * dimension * 4 / 1e6:.2f} MB."
        )
    divisors = [m for m in range(1, dimension + 1) if dimension % m == 0]
    parameters = {
        "nlist": min(int(4 * math.sqrt(count)), count // MIN_VECTORS_PER_CELL),
        "m": max((m for m in divisors if dimension // m >= NUMBERS_PER_SUBVECTOR), default=1),
        "nbits": min(MAX_BITS, (count // VECTORS_PER_CODE_WORD).bit_length() - 1),
        "seed": 1234,
        **chosen,
    }
    if parameters["m"] not in divisors:
        choices = ", ".join(map(str, divisors))
        raise CourseError(f"index parameter m must divide the dimension {dimension}; choose one of {choices}.")
    if parameters["nbits"] > MAX_BITS:
        raise CourseError(f"index parameter nbits must be at most {MAX_BITS}, not {parameters['nbits']}.")
    if parameters["nlist"] > count:
        raise CourseError(f"index parameter nlist must be at most the number of vectors, {count}.")
    return {"nprobe": min(parameters["nlist"], math.ceil(2 * math.sqrt(parameters["nlist"]))), **parameters}


def ivf_pq_index(vectors: np.ndarray, parameters: Mapping[str, int]) -> Any:
    """Train a faiss.IndexIVFPQ on vectors [N, D] (float32) and fill it; parameters from `ivf_pq_parameters`."""
    import faiss

    dimension = vectors.shape[1]
    cells = faiss.IndexFlatIP(dimension)
    sizes = (parameters[name] for name in ("nlist", "m", "nbits"))
    index = faiss.IndexIVFPQ(cells, dimension, *sizes, faiss.METRIC_INNER_PRODUCT)
    for clustering in (index.cp, index.pq.cp):
        clustering.seed = parameters["seed"]
        clustering.min_points_per_centroid = 1  # the numbers were checked above: no warnings
    index.train(vectors)
    index.add(vectors)
    index.make_direct_map()  # maps a position to its code, for `decode`
    return index


def decode(index: Any, positions: np.ndarray) -> np.ndarray:
    """Return the vectors [..., D] of the codes at positions [...]; those at -1 mean nothing."""
    found = np.maximum(positions, 0).ravel()
    return index.reconstruct_batch(found).reshape(*positions.shape, index.d)


def ivf_pq_bytes(index: Any) -> int:
    """Return the bytes of an index: code, position and place in its list for each vector, cell centres, codebooks."""
    positions_and_places = 8 + 8
    centres = index.nlist * index.d * 4
    return index.ntotal * (index.code_size + positions_and_places) + centres + index.pq.centroids.size() * 4
