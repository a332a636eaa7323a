"""Provide the pooled towers with pretrained token embeddings, and with a pool of products to measure a search in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import torch

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter02_two_tower.training_data import TrainingData
from common.catalogue import Catalogue, product_text
from common.encoders import pretrained_tokens
from common.errors import CourseError
from common.evaluation import evaluate
from common.search import hits_from_scores

POOL_METRICS = ("nDCG@10", "R@10", "MRR")

Embed = Callable[[Sequence[str]], np.ndarray]
"""Turn N texts into vectors, float32 [N, D], each of length 1."""


@dataclass(frozen=True)
class TokenTable:
    """Hold the packaged MiniLM's tokeniser and one pretrained vector for each token, without its network.

    matrix: float32 [V, D] (30,522 tokens, 384 dimensions), never trained here. unknown: the id that stands for a text
    without a token. The vectors were pretrained together with the six layers of a transformer, which are missing here.
    """

    matrix: torch.Tensor
    tokenizer: object
    unknown: int

    def tokenise(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Return the first `max_length` token ids of each text, at least one, without [CLS] and [SEP]."""
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids[:max_length] or [self.unknown] for encoding in encoded]

    def words(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens that the ids stand for."""
        return [self.tokenizer.id_to_token(int(at)) for at in ids]


@cache
def load_token_table() -> TokenTable:
    """Read the token embeddings of the packaged MiniLM (47 MB), nothing else of it."""
    matrix, tokenizer = pretrained_tokens()
    return TokenTable(torch.from_numpy(matrix), tokenizer, tokenizer.token_to_id("[UNK]"))


@dataclass(frozen=True)
class Pool:
    """Hold queries, and the products among which they search.

    queries: `query_id, query`. product_ids, product_texts: [P]. judgements: `query_id, product_id, grade`, of these
    queries; every product with a grade above 0 is in the pool.
    """

    queries: pd.DataFrame
    product_ids: list[str]
    product_texts: list[str]
    judgements: pd.DataFrame

    def measure(self, embed_queries: Embed, embed_products: Embed) -> pd.DataFrame:
        """Return the metrics of every query (`POOL_METRICS`) when the pool is ranked by cosine."""
        scores = embed_queries(self.queries["query"].tolist()) @ embed_products(self.product_texts).T
        hits = hits_from_scores(scores, self.product_ids, 200)
        return evaluate(hits, self.queries["query_id"].tolist(), self.judgements, metrics=POOL_METRICS)


def validation_pool(catalogue: Catalogue, data: TrainingData, *, size: int, queries: int, seed: int) -> Pool:
    """Make the pool of the validation queries in `data.val_pairs`.

    Judged queries have the grades by which chapter 1 made its choices; for a made-up query the product it was made from
    is relevant. See `make_pool` for `size`, `queries` and `seed`. Raises `CourseError` if there is no validation query.
    """
    validation = data.val_pairs.drop_duplicates("query_id")[["query_id", "query"]]
    grades = evaluation_judgements(catalogue)
    if not set(validation["query_id"]) <= set(grades["query_id"]):
        relevant = data.val_pairs[data.val_pairs["label"] == 1]
        grades = relevant[["query_id", "product_id"]].assign(grade=3)
    return make_pool(catalogue, validation, grades, size=size, queries=queries, seed=seed)


def pool_of_test_queries(catalogue: Catalogue, *, size: int, queries: int, seed: int) -> Pool:
    """Make the pool of the judged test queries. Raises `CourseError` if the catalogue has none."""
    test, grades = judged_queries(catalogue, "test"), evaluation_judgements(catalogue)
    return make_pool(catalogue, test, grades, size=size, queries=queries, seed=seed)


def make_pool(
    catalogue: Catalogue, candidates: pd.DataFrame, grades: pd.DataFrame, *, size: int, queries: int, seed: int
) -> Pool:
    """Draw a pool of at most `queries` of the `candidates` (`query_id, query`) and of `size` products.

    All products with a grade above 0 are in it, others are drawn at random; a smaller catalogue is in it whole. A
    smaller pool is easier: compare systems in the same pool only. Raises `CourseError` if no query has a grade.
    """
    rng = np.random.default_rng(seed)
    judged = candidates[candidates["query_id"].isin(grades["query_id"])].sort_values("query_id")
    if judged.empty:
        raise CourseError(f"{catalogue.source}: no judged query to measure the pooled towers on; choose a catalogue")
    chosen = judged.iloc[np.sort(rng.permutation(len(judged))[:queries])].reset_index(drop=True)
    grades = grades[grades["query_id"].isin(chosen["query_id"])].reset_index(drop=True)
    wanted = catalogue.products["product_id"].isin(grades.loc[grades["grade"] > 0, "product_id"]).to_numpy(copy=True)
    others = rng.permutation(np.flatnonzero(~wanted))[: max(0, size - int(wanted.sum()))]
    wanted[others] = True
    products = catalogue.products[wanted]
    return Pool(chosen[["query_id", "query"]], products["product_id"].tolist(), product_text(products), grades)
