"""The constellation: the catalogue as the reranker sees it, a map of stars to fly through, in one file for any browser.

`python -m chapter04_catalogue_reranker.constellation.map --catalogue pocket_shop`

Products whose embeddings are alike lie side by side; clusters are categories, and a misclassified product is a star of
the wrong colour. `chapter04_catalogue_reranker.constellation.page` makes the page.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.constellation.page import Sky, departments_of, page_digest, render
from chapter04_catalogue_reranker.ranking_metrics import SEPARATOR, levels
from chapter04_catalogue_reranker.reindex import load_export
from common.artifacts import Artifacts, RunFolder
from common.atomic import atomic_write
from common.catalogue import load_catalogue
from common.cli import run_step
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAPTER, STEP = "chapter04_catalogue_reranker", "constellation.map"
COMPONENTS = 64
NEAR_IN_LAYOUT = 30
PAIRS_A_NEIGHBOUR = 3.5  # PaCMAP's: the neighbour itself, 0.5 mid-near pairs and 2 further ones
FEWEST_TO_LAY_OUT = 16  # PaCMAP needs four neighbours and further products that are none
NEAREST = 10
NIGHT = "#070b18"


@dataclass(frozen=True)
class ConstellationConfig:
    """Lay the exported embeddings out in three dimensions and make the page one can fly through."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Which of the exported products to show. Those of train were learned from: fewer of them are misclassified."""
    products: int = 5_000
    """At most this many, drawn at random. Up to 5,000 have a thumbnail each; beyond, none has."""
    seed: int = 0
    """Of the draw and of the layout."""


@dataclass(frozen=True)
class Constellation:
    """run: its folder holds `constellation.html` and `points.parquet`. page: the former. points: a row a product, in
    the page's order: what the export says of it (product_id, title, category_path, predicted_path, split, image, ...);
    x, y, z, its place in the page; map_x, map_y, its place in the flat picture of `draw_map`."""

    run: RunFolder
    page: Path
    points: pd.DataFrame


def main(config: ConstellationConfig) -> Constellation:
    """Make the page and its points, or read them if they were made from the same embeddings before."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = {"reindex": artifacts.current(CHAPTER, "reindex")}
    recorded = {**asdict(config), "page": page_digest()}
    if artifacts.reuse(CHAPTER, STEP, config=recorded, inputs=inputs) is None:
        export = load_export(artifacts)
        rows = drawn_rows(export.products["split"], config.split, config.products, config.seed)
        vectors = Embeddings(export.fused.vectors[rows], export.encoder_id)
        table = export.products.iloc[rows].reset_index(drop=True)
        points, page = build(table, vectors, catalogue.folder, seed=config.seed, name=catalogue.source)
        with artifacts.new_run(CHAPTER, STEP, config=recorded, inputs=inputs) as folder:
            points.to_parquet(folder / "points.parquet", index=False)
            with atomic_write(folder / "constellation.html") as temporary:
                temporary.write_text(page, encoding="utf-8")
    return load_constellation(artifacts)


def load_constellation(artifacts: Artifacts) -> Constellation:
    """Read the map in force; raises `MissingArtifact` with the command that makes it."""
    run = artifacts.current(CHAPTER, STEP)
    return Constellation(run, run.path / "constellation.html", pd.read_parquet(run.path / "points.parquet"))


def drawn_rows(splits: pd.Series, split: str, most: int, seed: int) -> np.ndarray:
    """Which rows to show, ascending: those of `split` ("all": every one), at most `most`, drawn without replacement.
    Raises CourseError if there is none."""
    rows = np.flatnonzero(np.full(len(splits), True) if split == "all" else splits == split)
    if not len(rows):
        there = ", ".join(sorted(set(splits.dropna()))) or "none"
        raise CourseError(f"constellation: no exported product is of split {split!r}; there are: {there}.")
    return np.sort(np.random.default_rng(seed).choice(rows, min(most, len(rows)), replace=False))


def build(
    table: pd.DataFrame, vectors: Embeddings, catalogue_folder: Path | None, *, seed: int, name: str = "catalogue"
) -> tuple[pd.DataFrame, str]:
    """The points, as in `Constellation`, and the text of the page, from a table of N products (product_id, title,
    category_path, predicted_path, split, image; all but the id may be missing) and their embeddings [N, D], in order.

    catalogue_folder: where `image` paths start. name: of the catalogue, for the page's title.
    """
    if len(table) != len(vectors):
        raise CourseError(f"constellation: {len(table)} products but {len(vectors)} embeddings; give one for each.")
    places, flat = (lay_out(vectors.vectors, seed=seed, dimensions=d) for d in (3, 2))
    points = table.assign(x=places[:, 0], y=places[:, 1], z=places[:, 2], map_x=flat[:, 0], map_y=flat[:, 1])
    sky = Sky(name, points, neighbours(vectors.vectors), stars(places, table["category_path"]))
    return points, render(sky, catalogue_folder)


def lay_out(vectors: np.ndarray, *, seed: int, dimensions: int = 3) -> np.ndarray:
    """Places float32 [N, dimensions] for vectors [N, D], such that who is near in cosine similarity lies near.

    The vectors are brought to length 1, on which the Euclidean neighbours are those of the cosine; PCA keeps up to 64
    components; PaCMAP lays these out with 30 neighbours each, fewer where there are not enough products. The result is
    turned so that it is widest along x, then y, and brought into the ball of radius 1 around its median (`evened`).
    Equal input and seed give an equal result on one machine.

    PaCMAP has no counterpart of UMAP's `min_dist`: how tightly neighbours pack follows from its loss. Below 16 products
    there is no neighbourhood to keep, and the first principal components are the map. Distances between far parts mean
    little, and the axes nothing. Raises CourseError if there is no vector, or one is not finite.
    Source: Wang et al., "Understanding How Dimension Reduction Tools Work" (2021).
    """
    from sklearn.decomposition import PCA

    if not len(vectors) or not np.isfinite(vectors).all():
        raise CourseError("constellation: there must be at least one vector, and all of them finite.")
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    count, width = len(vectors), min(COMPONENTS, vectors.shape[1], len(vectors) - 1)
    places = np.zeros((count, dimensions))
    if np.ptp(vectors, axis=0).any():  # else all products are one and the same, and so is their place
        components = PCA(width, random_state=seed).fit_transform(vectors)
        if count >= FEWEST_TO_LAY_OUT:
            places = PCA(dimensions).fit_transform(_pacmap(components.astype(np.float32), seed, dimensions))
        else:
            places[:, :width] = components[:, :dimensions]
    return evened(places - np.median(places, axis=0)).astype(np.float32)


def evened(places: np.ndarray) -> np.ndarray:
    """Places [N, d] in the ball of radius 1, in the same directions, and so far out that each shell has its share of
    products: the one of rank n from the middle at the radius (n / N) ** (1 / d), equal radii at the same.

    A trained model leaves some categories nothing in common with the others, and PaCMAP throws these so far out that
    all the rest would be a spot. Who is near whom, and the order of the radii, stays.
    """
    radii = np.linalg.norm(places, axis=1)
    ranks = np.searchsorted(np.sort(radii), radii, side="right")
    wanted = np.where(radii > 0, (ranks / len(places)) ** (1 / places.shape[1]), 0)
    return places * (wanted / np.maximum(radii, 1e-12))[:, None]


def neighbours(vectors: np.ndarray, k: int = NEAREST) -> np.ndarray:
    """The k nearest others of each product by cosine similarity, nearest first: int64 [N, min(k, N - 1)] positions.

    vectors: [N, D]. Of equally near ones the earlier comes first.
    """
    vectors = np.float32(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
    count = len(vectors)
    if count < 2:
        return np.zeros((count, 0), dtype=np.int64)
    ids = [f"{row:09d}" for row in range(count)]  # in the order of the rows, which decides ties
    embeddings = Embeddings(vectors, "constellation")
    hits = DenseIndex.build(embeddings, ids).search_vectors(
        embeddings, min(k, count - 1), exclude=[{product_id} for product_id in ids]
    )
    return hits.ids.astype(np.int64)


def stars(points: np.ndarray, paths: Sequence[str | None]) -> pd.DataFrame:
    """The category stars: of every path prefix the mean place of its products, one row each, with path, level (1: the
    department), x, y (and z, if points [N, 2 or 3] have it) and n, the number of products; by level, largest first."""
    axes = list("xyz"[: points.shape[1]])
    names = [levels(path) if isinstance(path, str) and path else [] for path in paths]
    member = [(row, depth) for row, parts in enumerate(names) for depth in range(1, len(parts) + 1)]
    prefixes = [SEPARATOR.join(names[row][:depth]) for row, depth in member]
    rows = pd.DataFrame({"path": prefixes, "level": [depth for _, depth in member]})
    rows[axes] = points[np.array([row for row, _ in member], dtype=np.int64)].astype(np.float64)
    found = rows.groupby(["path", "level"], sort=True).agg(**{a: (a, "mean") for a in axes}, n=(axes[0], "size"))
    return found.reset_index().sort_values(["level", "n"], ascending=[True, False], kind="stable", ignore_index=True)


def draw_map(
    axes: Axes, points: np.ndarray, paths: Sequence[str | None], highlighted: np.ndarray | None = None
) -> None:
    """Draw the flat map: a dot a product in the colour of its department, the departments' names where most of their
    products are, and a legend beside.

    points: [N, 2], of `lay_out` with two dimensions. paths: category paths [N]; None is drawn grey. highlighted: bool
    [N], products that get a ring, for one the misclassified.
    """
    department, names, colours = departments_of(paths)
    for number in np.argsort(np.bincount(department, minlength=len(names)))[::-1]:
        part = points[department == number]
        label = f"{names[number]} ({len(part):,})"
        axes.scatter(*part.T, s=5, color=colours[number], alpha=0.75, linewidths=0, label=label)
    if highlighted is not None and highlighted.any():
        ringed, label = points[highlighted], f"highlighted ({int(highlighted.sum()):,})"
        axes.scatter(*ringed.T, s=16, facecolors="none", edgecolors="white", linewidths=0.5, label=label)
    axes.set(facecolor=NIGHT, xticks=[], yticks=[], aspect="equal")
    axes.margins(0.06)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=True, fontsize=8, markerscale=2.5)
    legend.get_frame().set(facecolor=NIGHT, edgecolor="none")
    for text in legend.get_texts():
        text.set_color("white")
    middles = np.array([np.median(points[department == number], axis=0) for number in range(len(names))])
    for name, colour, place in zip(names, colours, _apart(axes, middles, names), strict=True):
        box = {"boxstyle": "round,pad=0.25", "facecolor": NIGHT, "edgecolor": colour, "linewidth": 0.6, "alpha": 0.85}
        axes.text(*place, name, color="white", fontsize=LABEL_POINTS, ha="center", va="center", bbox=box)


LABEL_POINTS = 8
LABEL_WIDTH, LABEL_HEIGHT = 0.62, 2.3  # of a letter and of a line with its box, in units of the font size


def _apart(axes: Axes, places: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Places [K, 2] moved up and down until the labels there overlap no more, or hardly."""
    axes.apply_aspect()
    pixels = axes.transData.transform(places)
    size = LABEL_POINTS * axes.figure.dpi / 72
    widths = np.array([(len(name) * LABEL_WIDTH + 1.5) * size for name in names])
    for _ in range(200):
        moved = False
        for a, b in zip(*np.triu_indices(len(names), 1), strict=True):
            overlap = LABEL_HEIGHT * size - abs(pixels[a, 1] - pixels[b, 1])
            if overlap > 0.01 and abs(pixels[a, 0] - pixels[b, 0]) < (widths[a] + widths[b]) / 2:
                upper, lower = (a, b) if pixels[a, 1] >= pixels[b, 1] else (b, a)
                pixels[upper, 1] += overlap / 2
                pixels[lower, 1] -= overlap / 2
                moved = True
        if not moved:
            break
    return axes.transData.inverted().transform(pixels)


def _pacmap(components: np.ndarray, seed: int, dimensions: int) -> np.ndarray:
    import pacmap

    fitting = int((len(components) - 1) / PAIRS_A_NEIGHBOUR)
    with _pacmap_manners():
        layout = pacmap.PaCMAP(
            n_components=dimensions, n_neighbors=min(NEAR_IN_LAYOUT, fitting), apply_pca=False, random_state=seed
        )
        return layout.fit_transform(components, init="pca")


@contextmanager
def _pacmap_manners() -> Iterator[None]:
    """PaCMAP warns of its own seed and of three dimensions, and leaves FAISS with a single thread."""
    import faiss

    log, threads = logging.getLogger("pacmap.pacmap"), faiss.omp_get_max_threads()
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
        faiss.omp_set_num_threads(threads)


if __name__ == "__main__":
    run_step(main)
