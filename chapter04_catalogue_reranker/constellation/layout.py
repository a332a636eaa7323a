"""Lay embeddings out as places on a map: PCA, PaCMAP, even shells, neighbours and category stars."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd

from common.category_path import join_path, split_path
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex

COMPONENTS = 64
NEAR_IN_LAYOUT = 30
PAIRS_A_NEIGHBOUR = 3.5  # PaCMAP's: the neighbour itself, 0.5 mid-near pairs and 2 further ones
FEWEST_TO_LAY_OUT = 16  # PaCMAP needs four neighbours, and further products that are none
NEAREST = 10


def lay_out(vectors: np.ndarray, *, seed: int, dimensions: int = 3) -> np.ndarray:
    """Return places float32 [N, dimensions] for vectors [N, D]: similar vectors (by cosine) get near places.

    The vectors are scaled to length 1, where Euclidean neighbours are cosine neighbours; PCA keeps up to 64 components;
    PaCMAP lays these out with 30 neighbours each, fewer for few products. The result is rotated to be widest along x,
    then y, and fitted into the ball of radius 1 around its median (`evened`). Equal input and seed give an equal result
    on one machine.

    PaCMAP has no counterpart of UMAP's `min_dist`: its loss determines how tightly neighbours pack. Below 16 products
    the first principal components are the map. Distances between far parts mean little, and the axes nothing. Raises
    `CourseError` if there is no vector, or one is not finite.
    Source: Wang et al., "Understanding How Dimension Reduction Tools Work" (2021).
    """
    from sklearn.decomposition import PCA

    if not len(vectors) or not np.isfinite(vectors).all():
        raise CourseError("constellation: there must be at least one vector, and all of them finite.")
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    count, width = len(vectors), min(COMPONENTS, vectors.shape[1], len(vectors) - 1)
    places = np.zeros((count, dimensions))
    if np.ptp(vectors, axis=0).any():  # else all products are equal and share one place
        components = PCA(width, random_state=seed).fit_transform(vectors)
        if count >= FEWEST_TO_LAY_OUT:
            places = PCA(dimensions).fit_transform(_pacmap(components.astype(np.float32), seed, dimensions))
        else:
            places[:, :width] = components[:, :dimensions]
    return evened(places - np.median(places, axis=0)).astype(np.float32)


def evened(places: np.ndarray) -> np.ndarray:
    """Move places [N, d] along their directions until they fill the ball of radius 1 evenly.

    The product of rank n from the middle gets the radius (n / N) ** (1 / d); equal radii stay equal. A trained model
    leaves some categories nothing in common with the others, and PaCMAP puts these so far out that all others would be
    a spot. Neighbourhoods and the order of the radii stay.
    """
    radii = np.linalg.norm(places, axis=1)
    ranks = np.searchsorted(np.sort(radii), radii, side="right")
    wanted = np.where(radii > 0, (ranks / len(places)) ** (1 / places.shape[1]), 0)
    return places * (wanted / np.maximum(radii, 1e-12))[:, None]


def neighbours(vectors: np.ndarray, k: int = NEAREST) -> np.ndarray:
    """Return the k nearest others of each product by cosine, nearest first: positions, int64 [N, min(k, N - 1)].

    vectors: [N, D]. Of equally near products the earlier comes first.
    """
    vectors = np.float32(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
    count = len(vectors)
    if count < 2:
        return np.zeros((count, 0), dtype=np.int64)
    ids = [f"{row:09d}" for row in range(count)]  # the order of the ids decides ties
    embeddings = Embeddings(vectors, "constellation")
    hits = DenseIndex.build(embeddings, ids).search_vectors(
        embeddings, min(k, count - 1), exclude=[{product_id} for product_id in ids]
    )
    return hits.ids.astype(np.int64)


def stars(points: np.ndarray, paths: Sequence[str | None]) -> pd.DataFrame:
    """Return the category stars: the mean place of the products under every path prefix, one row each.

    points: [N, 2 or 3]. Columns: path, level (1: the department), x, y (and z), and n, the number of products;
    sorted by level, the largest first.
    """
    axes = list("xyz"[: points.shape[1]])
    names = [split_path(path) if isinstance(path, str) and path else [] for path in paths]
    member = [(row, depth) for row, parts in enumerate(names) for depth in range(1, len(parts) + 1)]
    prefixes = [join_path(names[row][:depth]) for row, depth in member]
    rows = pd.DataFrame({"path": prefixes, "level": [depth for _, depth in member]})
    rows[axes] = points[np.array([row for row, _ in member], dtype=np.int64)].astype(np.float64)
    found = rows.groupby(["path", "level"], sort=True).agg(**{a: (a, "mean") for a in axes}, n=(axes[0], "size"))
    return found.reset_index().sort_values(["level", "n"], ascending=[True, False], kind="stable", ignore_index=True)


def _pacmap(components: np.ndarray, seed: int, dimensions: int) -> np.ndarray:
    import pacmap

    fitting = int((len(components) - 1) / PAIRS_A_NEIGHBOUR)
    with _undisturbed():
        layout = pacmap.PaCMAP(
            n_components=dimensions, n_neighbors=min(NEAR_IN_LAYOUT, fitting), apply_pca=False, random_state=seed
        )
        return layout.fit_transform(components, init="pca")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Silence PaCMAP's warnings of its own seed and of three dimensions, and restore the FAISS threads that it sets."""
    import faiss

    log, threads = logging.getLogger("pacmap.pacmap"), faiss.omp_get_max_threads()
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
        faiss.omp_set_num_threads(threads)
