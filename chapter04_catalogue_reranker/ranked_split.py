"""Rank the category paths of a split's products, with the reranker or with a text encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.batches import Candidates
from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import RerankerData
from chapter04_catalogue_reranker.ranking_metrics import MACRO_RECALL, macro_shares, per_product, rank_of_truth
from common.encoders import MINILM, load_text_encoder
from common.errors import CourseError
from common.settings import artifacts_root

LISTED, TAXONOMY = "listed", "taxonomy"


@dataclass(frozen=True)
class Ranked:
    """Hold one system's scores for N products: cosines of the listed candidates [N, K] and of all paths [N, C], and
    the scale that its softmax multiplies cosines by."""

    listed: np.ndarray
    taxonomy: np.ndarray
    scale: float


class RankedSplit:
    """Rank the paths of the products of a split whose true path is among their candidates.

    products: N rows of `RerankerData.products`. lists: their candidates. Raises `CourseError` if there is no product.
    """

    def __init__(self, data: RerankerData, split: str) -> None:
        products = data.products
        self.products = products[(products["split"] == split) & products["true_path"].notna()].reset_index(drop=True)
        if self.products.empty:
            raise CourseError(f"{data.catalogue.source}: the {split} split has no product whose true path is known.")
        self.data = data
        self.lists = Candidates.of(data.candidates, self.products["product_id"].tolist(), data.paths)

    def ranked_by(self, model: CatalogueReranker) -> Ranked:
        """Rank by the fused vectors of a reranker."""
        home = Path(self.data.catalogue.folder or ".")
        images = [None if pd.isna(image) else home / image for image in self.products["image"]]
        products = encode_products(model, self.products["text"].tolist(), images).fused
        return self._ranked(products, encode_categories(model, self.data.paths), float(model.scale.detach()))

    def ranked_zero_shot(self) -> Ranked:
        """Rank by the packaged text encoder as it is: the product's text against the path."""
        encoder = load_text_encoder(MINILM, cache=artifacts_root() / "embeddings")
        products = encoder.encode(self.products["text"].tolist()).vectors
        return self._ranked(products, encoder.encode(self.data.paths).vectors, 1.0)

    def logits(self, ranked: Ranked, among: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return scale times cosine [N, K or C], which of these are candidates, and the column of the true one [N]."""
        if among == LISTED:
            return ranked.scale * ranked.listed, self.lists.listed, self.lists.truth
        return ranked.scale * ranked.taxonomy, np.ones(ranked.taxonomy.shape, dtype=bool), self.lists.labels()

    def figures(self, ranked: Ranked) -> pd.DataFrame:
        """Return one row per product, one column per metric, of its own list and of the whole taxonomy."""
        cosines = Ranked(ranked.listed, ranked.taxonomy, 1.0)
        listed, taxonomy = (per_product(rank_of_truth(*self.logits(cosines, among))) for among in (LISTED, TAXONOMY))
        taxonomy[MACRO_RECALL] = macro_shares(taxonomy["Acc@1"].to_numpy(), self.products["true_path"])
        table = pd.concat([listed.add_prefix(f"{LISTED} "), taxonomy.add_prefix(f"{TAXONOMY} ")], axis=1)
        return table.set_index(self.products["product_id"])

    def _ranked(self, products: np.ndarray, paths: np.ndarray, scale: float) -> Ranked:
        return Ranked(self.lists.scores(products, paths), products @ paths.T, scale)
