"""Compare the category distributions of queries and products.

The model reads a query as a product that has a text and no picture, and says how probable each category of the
catalogue is for it. It does the same for each product, from its text and its picture, unless the catalogue names the
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
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import CourseError

CHAPTER = "chapter04_catalogue_reranker"


@dataclass(frozen=True)
class Categories:
    """Hold the category distributions of products, and what queries' distributions are computed with.

    towers: encode the queries. vectors: float32 [C, D] of the categories `paths`. product_probs: float32 [N, C], a row
    for each product of the catalogue; each row sums to 1.
    """

    towers: FrozenTowers
    vectors: np.ndarray
    paths: list[str]
    product_probs: np.ndarray

    def of_queries(self, queries: Sequence[str]) -> np.ndarray:
        """Return P(category | query), float32 [Q, C]; a query without words gets the same for all."""
        encoded = encode_products(self.towers, [product_text(query, None) for query in queries], [None] * len(queries))
        return probabilities(encoded.text @ self.vectors.T, float(self.towers.model.scale.detach()))


def category_distributions(
    artifacts: Artifacts, catalogue: Catalogue, queries: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return P(category | query) [Q, C], P(category | product) [N, C] in the catalogue's order, and the C paths."""
    categories = load_categories(artifacts, catalogue)
    return categories.of_queries(queries), categories.product_probs, categories.paths


def load_categories(artifacts: Artifacts, catalogue: Catalogue) -> Categories:
    """Read the model, and the categories that it predicts for the products of `catalogue`, from the current export.

    A product that the export leaves out and whose category the catalogue does not name gets equal probabilities. Raises
    `MissingArtifact` with the command to run if nothing was exported, and CourseError if one split only was exported.
    """
    export = load_export(artifacts)
    if export.run.manifest["config"]["split"] != "all":
        raise CourseError(
            f"{CHAPTER}: the current export is of one split; search needs all products.\n"
            f"Export them with: python -m {CHAPTER}.{STEP}"
        )
    model, paths = export.load_model(), export.categories["category_path"].tolist()
    probs = np.full((len(catalogue.products), len(paths)), 1 / len(paths), dtype=np.float32)
    rows = catalogue_rows(catalogue, export.products["product_id"].tolist())
    probs[rows] = probabilities(export.fused.vectors @ export.category_vectors.vectors.T, float(model.scale.detach()))
    columns = catalogue.products["category_path"].map({path: column for column, path in enumerate(paths)})
    named = np.flatnonzero(columns.notna())
    probs[named] = 0.0
    probs[named, columns.iloc[named].astype(int)] = 1.0
    return Categories(FrozenTowers(model), export.category_vectors.vectors, paths, probs)


def catalogue_rows(catalogue: Catalogue, product_ids: Sequence[str]) -> np.ndarray:
    """Return the rows of these products in the catalogue's table, int64. Raises CourseError for an unknown product."""
    rows = {product_id: row for row, product_id in enumerate(catalogue.products["product_id"])}
    missing = [product_id for product_id in product_ids if product_id not in rows]
    if missing:
        raise CourseError(
            f"{catalogue.source}: the product {missing[0]!r} is not in the catalogue; build the indices again."
        )
    return np.array([rows[product_id] for product_id in product_ids], dtype=np.int64)


def probabilities(cosines: np.ndarray, scale: float) -> np.ndarray:
    """Return softmax(scale * cosines) of each row, float32."""
    return softmax(np.float32(scale) * cosines, axis=1).astype(np.float32)


def entropy(probs: np.ndarray) -> np.ndarray:
    """Return the entropy of each row [Q] in nats; 0 is certainty."""
    return -(probs * np.log(np.maximum(probs, 1e-12))).sum(axis=1)


def top_mass(probs: np.ndarray, k: int = 3) -> np.ndarray:
    """Return the rows with all but their k largest probabilities set to 0, [Q, C]."""
    kept = min(k, probs.shape[1])
    floor = -np.partition(-probs, kept - 1, axis=1)[:, kept - 1 : kept]
    return np.where(probs >= floor, probs, 0.0)
