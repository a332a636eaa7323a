"""Tokenise the texts of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from chapter02_two_tower.batches import Batch
from chapter02_two_tower.model import Tower, TwoTowerModel
from chapter02_two_tower.training_data import TrainingData
from chapter02_two_tower.typos import misspell

Tokens = list[list[int]]


class TrainingTexts:
    """Tokenise the texts of a batch, each of them only once.

    queries: wording by query id. searchable: text of each product that is searched, by its id. products: the same, and
    the texts without their notes, by text id. Queries and products are kept apart: some catalogues number them alike.
    """

    def __init__(self, data: TrainingData, product_texts: Mapping[str, str]) -> None:
        wordings = pd.concat([data.training_pairs, data.notes])[["query_id", "query"]]
        self.queries: dict[str, str] = dict(wordings.itertuples(index=False))
        self.searchable = product_texts
        self.products = {**product_texts, **dict(data.notes[["text_id", "product_text"]].itertuples(index=False))}
        self._query_tokens: dict[str, list[int]] = {}
        self._product_tokens: dict[str, list[int]] = {}

    def tokens(self, model: TwoTowerModel, batch: Batch) -> list[tuple[Tower, Tokens]]:
        """Return the query tower with the tokens of the B queries, and the product tower with those of the C products.

        All models of a training must have one tokeniser and the same lengths.
        """
        queries = _tokenised(model.query, batch.query_ids, self.queries, self._query_tokens)
        misspelt = [row for row, seed in enumerate(batch.typos) if seed]
        wordings = [misspell(self.queries[batch.query_ids[row]], batch.typos[row]) for row in misspelt]
        for row, ids in zip(misspelt, model.query.tokenise(wordings), strict=True):
            queries[row] = ids
        products = _tokenised(model.product, batch.product_ids, self.products, self._product_tokens)
        return [(model.query, queries), (model.product, products)]


def _tokenised(tower: Tower, ids: Sequence[str], texts: Mapping[str, str], cache: dict[str, list[int]]) -> Tokens:
    missing = [key for key in dict.fromkeys(ids) if key not in cache]
    cache.update(zip(missing, tower.tokenise([texts[key] for key in missing]), strict=True))
    return [cache[key] for key in ids]
