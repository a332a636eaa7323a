"""The quantised kind of index, IVF-PQ: inverted lists of product codes, for when the vectors take too much memory.

k-means cuts the space into `nlist` cells. Of a vector are stored the cell that it lies in and, for what is left when
the cell's centre is taken away, one code word for each of `m` pieces, out of a codebook of 2^nbits words a piece:
m * nbits bits in place of 32 * D. A search looks into the `nprobe` cells nearest to the query and adds up the inner
products of query and code words: the score is the inner product with the *decoded* vector, an estimate of the true
one. Source: Jégou, Douze and Schmid, "Product Quantization for Nearest Neighbor Search" (2011).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from common.errors import CourseError

# Each parameter and the least that it may be.
IVF_PQ_PARAMETERS = {"nlist": 1, "m": 1, "nbits": 1, "nprobe": 1, "seed": 0}
FEWEST_VECTORS = 256
VECTORS_A_CELL = 39  # below this FAISS warns that k-means has too little to go by
# The codebooks need not generalise, the vectors that they are trained on are those that they encode: fewer will do.
VECTORS_A_WORD = 16
NUMBERS_A_PIECE = 4  # one byte for four float32: a sixteenth
MOST_BITS = 8


def ivf_pq_parameters(count: int, dimension: int, chosen: Mapping[str, int]) -> dict[str, int]:
    """All parameters of an index of `count` vectors: what was chosen, and the rest derived from count and dimension.

    nlist: 4 sqrt(count), as far as 39 vectors a cell allow. m: the largest divisor of the dimension that leaves at
    least 4 numbers a piece. nbits: 8, fewer below 4,096 vectors. nprobe: 2 sqrt(nlist). seed: of both k-means, 1234.
    Raises CourseError for fewer than 256 vectors and for a choice that does not fit count or dimension.
    """
    if count < FEWEST_VECTORS:
        raise CourseError(
            f"index kind 'ivf_pq' is trained on at least {FEWEST_VECTORS} vectors, not {count}; use kind 'flat', "
            f"which is exact and takes {count * dimension * 4 / 1e6:.2f} MB."
        )
    divisors = [m for m in range(1, dimension + 1) if dimension % m == 0]
    parameters = {
        "nlist": min(int(4 * math.sqrt(count)), count // VECTORS_A_CELL),
        "m": max((m for m in divisors if dimension // m >= NUMBERS_A_PIECE), default=1),
        "nbits": min(MOST_BITS, (count // VECTORS_A_WORD).bit_length() - 1),
        "seed": 1234,
        **chosen,
    }
    if parameters["m"] not in divisors:
        choices = ", ".join(map(str, divisors))
        raise CourseError(f"index parameter m must divide the dimension {dimension}; choose one of {choices}.")
    if parameters["nbits"] > MOST_BITS:
        raise CourseError(f"index parameter nbits must be at most {MOST_BITS}, not {parameters['nbits']}.")
    if parameters["nlist"] > count:
        raise CourseError(f"index parameter nlist must be at most the number of vectors, {count}.")
    return {"nprobe": min(parameters["nlist"], math.ceil(2 * math.sqrt(parameters["nlist"]))), **parameters}


def ivf_pq_index(vectors: np.ndarray, parameters: Mapping[str, int]) -> Any:
    """A faiss.IndexIVFPQ trained on vectors [N, D] (float32) and holding them; parameters from `ivf_pq_parameters`."""
    import faiss

    dimension = vectors.shape[1]
    cells = faiss.IndexFlatIP(dimension)
    sizes = (parameters[name] for name in ("nlist", "m", "nbits"))
    index = faiss.IndexIVFPQ(cells, dimension, *sizes, faiss.METRIC_INNER_PRODUCT)
    for clustering in (index.cp, index.pq.cp):
        clustering.seed = parameters["seed"]
        clustering.min_points_per_centroid = 1  # how many there are is weighed above: nothing to warn of
    index.train(vectors)
    index.add(vectors)
    index.make_direct_map()  # from a position to its code, for `decode`
    return index


def decode(index: Any, positions: np.ndarray) -> np.ndarray:
    """The vectors [..., D] that the codes at positions [...] stand for; those at -1 mean nothing."""
    found = np.maximum(positions, 0).ravel()
    return index.reconstruct_batch(found).reshape(*positions.shape, index.d)


def ivf_pq_bytes(index: Any) -> int:
    """What the index takes: of each vector its code, its position and where its code is; cell centres; codebooks."""
    positions_and_places = 8 + 8
    centres = index.nlist * index.d * 4
    return index.ntotal * (index.code_size + positions_and_places) + centres + index.pq.centroids.size() * 4
