"""Make the constellation: a map of the catalogue's embeddings to fly through, in one file for any browser.

`python -m chapter04_catalogue_reranker.constellation.map --catalogue pocket_shop`

Products with similar embeddings lie side by side; clusters are categories, and a misclassified product is a star of the
wrong colour. `layout` computes the places, `page` makes the page, `drawing` a flat picture.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.constellation.layout import lay_out, neighbours, stars
from chapter04_catalogue_reranker.constellation.page import Sky, page_digest, render
from chapter04_catalogue_reranker.reindex import load_export
from common.artifacts import Artifacts, RunFolder
from common.atomic import atomic_write
from common.catalogue import load_catalogue
from common.cli import run_step
from common.encoders import Embeddings
from common.errors import CourseError

CHAPTER, STEP = "chapter04_catalogue_reranker", "constellation.map"


@dataclass(frozen=True)
class ConstellationConfig:
    """Lay the exported embeddings out in three dimensions and make the page to fly through."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Split of the exported products to show. The model learned from train: fewer of these are misclassified."""
    products: int = 5_000
    """Most products, drawn at random. Up to 5,000 have a thumbnail each; beyond, none has."""
    seed: int = 0
    """Seed of the draw and of the layout."""


@dataclass(frozen=True)
class Constellation:
    """Hold a map. run: its folder holds `constellation.html` and `points.parquet`. page: path of the former. points:
    one row per product, in the page's order: the columns of the export (product_id, title, category_path,
    predicted_path, split, image, ...); x, y, z, its place in the page; map_x, map_y, its place in the flat picture of
    `draw_map`."""

    run: RunFolder
    page: Path
    points: pd.DataFrame


def main(config: ConstellationConfig) -> Constellation:
    """Make the page and its points, or return the result of an earlier run from the same embeddings."""
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
    """Read the current map; raises `MissingArtifact` with the command that makes it."""
    run = artifacts.current(CHAPTER, STEP)
    return Constellation(run, run.path / "constellation.html", pd.read_parquet(run.path / "points.parquet"))


def drawn_rows(splits: pd.Series, split: str, most: int, seed: int) -> np.ndarray:
    """Return the rows to show, ascending: of `split` ("all": every one), at most `most`, drawn without replacement.
    Raises `CourseError` if there is none."""
    rows = np.flatnonzero(np.full(len(splits), True) if split == "all" else splits == split)
    if not len(rows):
        there = ", ".join(sorted(set(splits.dropna()))) or "none"
        raise CourseError(f"constellation: no exported product is of split {split!r}; there are: {there}.")
    return np.sort(np.random.default_rng(seed).choice(rows, min(most, len(rows)), replace=False))


def build(
    table: pd.DataFrame, vectors: Embeddings, catalogue_folder: Path | None, *, seed: int, name: str = "catalogue"
) -> tuple[pd.DataFrame, str]:
    """Return the points, as in `Constellation`, and the text of the page.

    table: N products (product_id, title, category_path, predicted_path, split, image; all but the id may be missing).
    vectors: their embeddings [N, D]. catalogue_folder: where `image` paths start. name: of the catalogue, for the
    page's title.
    """
    if len(table) != len(vectors):
        raise CourseError(f"constellation: {len(table)} products but {len(vectors)} embeddings; give one for each.")
    places, flat = (lay_out(vectors.vectors, seed=seed, dimensions=d) for d in (3, 2))
    points = table.assign(x=places[:, 0], y=places[:, 1], z=places[:, 2], map_x=flat[:, 0], map_y=flat[:, 1])
    sky = Sky(name, points, neighbours(vectors.vectors), stars(places, table["category_path"]))
    return points, render(sky, catalogue_folder)


if __name__ == "__main__":
    run_step(main)
