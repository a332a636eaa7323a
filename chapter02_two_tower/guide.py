"""Mask likely relevant products that nobody judged, with another encoder as a guide.

In-batch negatives count as irrelevant because nobody judged them. If the guide scores such a product above the query's
own positive, the product is probably relevant, and the loss leaves it out (Solatorio, "GISTEmbed: Guided In-sample
Selection of Training Negatives for Text Embedding Fine-tuning", 2024). The negatives drawn for a query always stay:
mined ones were filtered by a margin, random ones rarely fit, and the errors of the guide on them are worth learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from chapter01_baseline.reindex import Indices
from chapter02_two_tower.batches import Batch
from chapter02_two_tower.losses import guide_mask
from chapter02_two_tower.training_data import TrainingData, by_query


@dataclass(frozen=True)
class Guide:
    """Hold the guide's vectors of all training queries and products.

    query_ids, product_ids: row by id. queries [Q, D] and products [P, D]: float32, L2-normalised. irrelevant: query id
    -> products that a judge found irrelevant; no guide overrules a judge.
    """

    query_ids: dict[str, int]
    queries: np.ndarray
    product_ids: dict[str, int]
    products: np.ndarray
    irrelevant: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, indices: Indices, data: TrainingData) -> Guide:
        """Take chapter 1's encoder as the guide: its product vectors are there already.

        Encodes the queries, in each of several processes on its own GPU (so start the processes first).
        """
        queries = pd.concat([data.training_pairs, data.notes]).drop_duplicates("query_id")
        wordings = queries.set_index("query_id")["query"]
        place = {product_id: at for at, product_id in enumerate(indices.product_ids)}
        # The guide reads the product with its note: it only has to know whether the product fits.
        place |= {text: place[of] for text, of in zip(data.notes["text_id"], data.notes["product_id"], strict=True)}
        return cls(
            query_ids={query_id: at for at, query_id in enumerate(wordings.index)},
            queries=indices.encoder.encode(wordings.tolist()).vectors,
            product_ids=place,
            products=indices.embeddings.vectors,
            irrelevant=by_query(data.training_pairs[data.training_pairs["neg_type"] == "judged"], frozenset),
        )

    def mark(self, batch: Batch) -> Batch:
        """Return the batch with likely relevant products marked as known; negatives drawn for a row stay negatives."""
        queries = self.queries[[self.query_ids[query_id] for query_id in batch.query_ids]]
        products = self.products[[self.product_ids[product_id] for product_id in batch.product_ids]]
        likely = guide_mask(torch.from_numpy(queries), torch.from_numpy(products), batch.positives)
        for row, query_id in enumerate(batch.query_ids):
            judged = self.irrelevant.get(query_id, frozenset())
            likely[row, [at for at, product_id in enumerate(batch.product_ids) if product_id in judged]] = False
        row, place = (batch.own_negatives >= 0).nonzero(as_tuple=True)
        likely[row, batch.own_negatives[row, place]] = False
        return replace(batch, known=batch.known | likely)
