"""Does a product belong where the shopper is looking? The category distributions of queries and products, compared.

A query is read as a product that has a text and no picture, and the chapter's model says how probable each category of
the catalogue is for it; the same for the product, from its text and its picture, unless the catalogue names the
product's category itself. The agreement of both,

    P(category | query) . P(category | product)

is the probability that they are of one category, if each is drawn from its own distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from chapter04_catalogue_reranker.encode import FrozenTowers, encode_products
from chapter04_catalogue_reranker.prepare_data import product_text
from chapter04_catalogue_reranker.reindex import STEP, load_export
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue
from common.errors import CourseError

CHAPTER = "chapter04_catalogue_reranker"


@dataclass(frozen=True)
class Categories:
    """run: the export they are of. towers: read the queries. vectors: float32 [C, D] of the categories `paths`.
    product_probs: float32 [N, C], by product of the catalogue; each row adds up to 1."""

    run: RunFolder
    towers: FrozenTowers
    vectors: np.ndarray
    paths: list[str]
    product_probs: np.ndarray

    def of_queries(self, queries: Sequence[str]) -> np.ndarray:
        """P(category | query), float32 [Q, C]; a query without a word gets the same for all."""
        asked = encode_products(self.towers, [product_text(query, None) for query in queries], [None] * len(queries))
        return probabilities(asked.text @ self.vectors.T, float(self.towers.model.scale.detach()))


def category_distributions(
    artifacts: Artifacts, catalogue: Catalogue, queries: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """P(category | query) [Q, C], P(category | product) [N, C] in the catalogue's order, and the C paths."""
    categories = load_categories(artifacts, catalogue)
    return categories.of_queries(queries), categories.product_probs, categories.paths


def load_categories(artifacts: Artifacts, catalogue: Catalogue) -> Categories:
    """Read the model and what it says of the products of `catalogue` from the export in force.

    A product that the export leaves out and whose category the catalogue does not name has equal probabilities. Raises
    `MissingArtifact` with the command to run if nothing was exported, and CourseError if it is of one split only.
    """
    export = load_export(artifacts)
    if export.run.manifest["config"]["split"] != "all":
        raise CourseError(
            f"{CHAPTER}: the export in force is of one split; search needs all products.\n"
            f"Export them with: python -m {CHAPTER}.{STEP}"
        )
    model, paths = export.load_model(), export.categories["category_path"].tolist()
    probs = np.full((len(catalogue.products), len(paths)), 1 / len(paths), dtype=np.float32)
    rows = catalogue_rows(catalogue, export.products["product_id"].tolist())
    probs[rows] = probabilities(export.fused.vectors @ export.category_vectors.vectors.T, float(model.scale.detach()))
    known = {path: column for column, path in enumerate(paths)}
    columns = catalogue.products["category_path"].map(known)
    named = np.flatnonzero(columns.notna())
    probs[named] = 0.0
    probs[named, columns.iloc[named].astype(int)] = 1.0
    return Categories(export.run, FrozenTowers(model), export.category_vectors.vectors, paths, probs)


def catalogue_rows(catalogue: Catalogue, product_ids: Sequence[str]) -> np.ndarray:
    """The rows of these products in the catalogue's table, int64. Raises CourseError for one that is not there."""
    place = {product_id: row for row, product_id in enumerate(catalogue.products["product_id"])}
    missing = [product_id for product_id in product_ids if product_id not in place]
    if missing:
        raise CourseError(
            f"{catalogue.source}: the product {missing[0]!r} is not in the catalogue; build indices anew."
        )
    return np.array([place[product_id] for product_id in product_ids], dtype=np.int64)


def probabilities(cosines: np.ndarray, scale: float) -> np.ndarray:
    """softmax(scale * cosines) of each row, float32."""
    return softmax(np.float32(scale) * cosines, axis=1).astype(np.float32)


def entropy(probs: np.ndarray) -> np.ndarray:
    """Of each row [Q] in nats, 0 for certainty."""
    return -(probs * np.log(np.maximum(probs, 1e-12))).sum(axis=1)


def first_mass(probs: np.ndarray, first: int = 3) -> np.ndarray:
    """Each row with all but its `first` largest probabilities set to 0, [Q, C]."""
    kept = min(first, probs.shape[1])
    floor = -np.partition(-probs, kept - 1, axis=1)[:, kept - 1 : kept]
    return np.where(probs >= floor, probs, 0.0)
