"""Measure a model after every epoch: search the whole catalogue with the validation queries."""

from __future__ import annotations

import numpy as np
import torch

from chapter01_baseline.choose import evaluation_judgements
from chapter02_two_tower.losses import in_batch_negatives_loss
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.training_data import TrainingData, searchable
from common.catalogue import RELEVANT_GRADE, Catalogue
from common.embedding_statistics import embedding_statistics
from common.evaluation import evaluate
from common.search import hits_from_scores

METRICS = ("nDCG@10", "R@10", "R@50", "R@200", "MRR")
BATCH = 64
DEPTH = 200


class Validation:
    """Measure models on the validation queries of a catalogue, searching all its products.

    Judged validation queries have the grades by which chapter 1 made its choices. If there are none, the made-up
    queries of the table `val_pairs` count, and the product that a query was made from is its one relevant product.
    """

    def __init__(self, catalogue: Catalogue, data: TrainingData) -> None:
        self.product_texts = searchable(catalogue.products)
        self.product_ids = [*self.product_texts]
        relevant = data.val_pairs[data.val_pairs["label"] == 1]
        self.queries = data.val_pairs.drop_duplicates("query_id")[["query_id", "query"]].reset_index(drop=True)
        grades = evaluation_judgements(catalogue)
        known = set(grades["query_id"])
        if not set(self.queries["query_id"]) <= known:
            grades = relevant[["query_id", "product_id"]].assign(grade=3)
            self.queries = self.queries[self.queries["query_id"].isin(grades["query_id"])].reset_index(drop=True)
        self.grades = grades[grades["query_id"].isin(self.queries["query_id"])]
        # One pair a query, of the best grade, is enough for a loss, and no query is its own negative.
        best = relevant.sort_values("weight", ascending=False, kind="stable").drop_duplicates("query_id")
        self._pairs = best[best["query_id"].isin(self.queries["query_id"])].sort_values("query_id")

    def __call__(self, model: TwoTowerModel) -> dict[str, float]:
        """Return the figures of the model: `METRICS`, `validation_loss`, embedding statistics."""
        products = model.product.embed([*self.product_texts.values()], desc="embedding products")
        queries = model.query.embed(self.queries["query"].tolist())
        hits = hits_from_scores(queries @ products.T, self.product_ids, DEPTH)
        scores = evaluate(hits, self.queries["query_id"].tolist(), self.grades, metrics=METRICS).mean()
        q, p = self._pair_vectors(queries, products)
        with torch.no_grad():
            loss = self._loss(q, p, float(model.temperature))
        figures = {name: float(value) for name, value in scores.items()}
        return figures | {"validation_loss": loss, **embedding_statistics(q, p, products)}

    def _pair_vectors(self, queries: np.ndarray, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        query_at = {query_id: at for at, query_id in enumerate(self.queries["query_id"])}
        product_at = {product_id: at for at, product_id in enumerate(self.product_ids)}
        rows = [query_at[q] for q in self._pairs["query_id"]]
        return queries[rows], products[[product_at[p] for p in self._pairs["product_id"]]]

    def _loss(self, queries: np.ndarray, positives: np.ndarray, temperature: float) -> float:
        """Compute the in-batch loss over fixed batches, so that epochs compare; relevant products are masked."""
        relevant = self.grades[self.grades["grade"] >= RELEVANT_GRADE]
        pairs = set(zip(relevant["query_id"], relevant["product_id"], strict=True))
        ids = list(zip(self._pairs["query_id"], self._pairs["product_id"], strict=True))
        losses, sizes = [], []
        for start in range(0, len(queries), BATCH):
            part = slice(start, start + BATCH)
            q, p = torch.from_numpy(queries[part]), torch.from_numpy(positives[part])
            known = torch.tensor([[(query, product) in pairs for _, product in ids[part]] for query, _ in ids[part]])
            own = torch.arange(len(q))
            losses.append(float(in_batch_negatives_loss(q, p, own, known=known, temperature=temperature)))
            sizes.append(len(q))
        return float(np.average(losses, weights=sizes))
