"""What the pooled towers work with: pretrained token embeddings, and a pool of products to measure a search in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import torch

from chapter01_baseline.choose import evaluation_judgements, judged_queries
from chapter01_baseline.studies.stand_in import pretrained_tokens
from chapter02_two_tower.training_data import TrainingData
from common.catalogue import Catalogue, product_text
from common.errors import CourseError
from common.evaluation import evaluate
from common.search import hits_from_scores

POOL_METRICS = ("nDCG@10", "R@10", "MRR")

Embed = Callable[[Sequence[str]], np.ndarray]
"""N texts to float32 [N, D], each of length 1."""


@dataclass(frozen=True)
class TokenTable:
    """The packaged MiniLM's vocabulary without its network: a tokeniser and one pretrained vector for each token.

    matrix: float32 [V, D] (30,522 tokens, 384 dimensions), never trained here. unknown: the id that stands for a text
    without a token. These vectors were pretrained *under* a transformer, to be made sense of by six layers of it.
    """

    matrix: torch.Tensor
    tokenizer: object
    unknown: int

    def tokenise(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """The first `max_length` token ids of each text, at least one; without [CLS] and [SEP], which are no words."""
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids[:max_length] or [self.unknown] for encoding in encoded]

    def words(self, ids: Sequence[int]) -> list[str]:
        """The tokens that the ids stand for."""
        return [self.tokenizer.id_to_token(int(at)) for at in ids]


@cache
def load_token_table() -> TokenTable:
    """Read the token embeddings of the packaged MiniLM (47 MB), nothing else of it."""
    matrix, tokenizer = pretrained_tokens()
    return TokenTable(torch.from_numpy(matrix), tokenizer, tokenizer.token_to_id("[UNK]"))


@dataclass(frozen=True)
class Pool:
    """Queries and the products they are searched in.

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
    """The pool of the validation queries in `data.val_pairs`.

    Judged queries are measured by the grades that chapter 1 chose by; made-up ones by the product they were made from.
    See `make_pool` for `size`, `queries` and `seed`. Raises `CourseError` if there is no validation query.
    """
    asked = data.val_pairs.drop_duplicates("query_id")[["query_id", "query"]]
    grades = evaluation_judgements(catalogue)
    if not set(asked["query_id"]) <= set(grades["query_id"]):
        relevant = data.val_pairs[data.val_pairs["label"] == 1]
        grades = relevant[["query_id", "product_id"]].assign(grade=3)
    return make_pool(catalogue, asked, grades, size=size, queries=queries, seed=seed)


def pool_of_test_queries(catalogue: Catalogue, *, size: int, queries: int, seed: int) -> Pool:
    """The pool of the judged test queries. Raises `CourseError` if the catalogue has none."""
    asked = judged_queries(catalogue, "test")
    return make_pool(catalogue, asked, evaluation_judgements(catalogue), size=size, queries=queries, seed=seed)


def make_pool(
    catalogue: Catalogue, asked: pd.DataFrame, grades: pd.DataFrame, *, size: int, queries: int, seed: int
) -> Pool:
    """At most `queries` of the queries `asked` (`query_id, query`), all products with a grade above 0 for them, and
    others drawn at random until there are `size` (a catalogue that is smaller is in the pool whole).

    A smaller pool is easier: compare systems in the same pool only. Raises `CourseError` if no query has a grade.
    """
    rng = np.random.default_rng(seed)
    asked = asked[asked["query_id"].isin(grades["query_id"])].sort_values("query_id")
    if asked.empty:
        raise CourseError(f"{catalogue.source}: no judged query to measure the pooled towers on; choose a catalogue")
    asked = asked.iloc[np.sort(rng.permutation(len(asked))[:queries])].reset_index(drop=True)
    grades = grades[grades["query_id"].isin(asked["query_id"])].reset_index(drop=True)
    wanted = catalogue.products["product_id"].isin(grades.loc[grades["grade"] > 0, "product_id"]).to_numpy(copy=True)
    others = rng.permutation(np.flatnonzero(~wanted))[: max(0, size - int(wanted.sum()))]
    wanted[others] = True
    products = catalogue.products[wanted]
    return Pool(asked[["query_id", "query"]], products["product_id"].tolist(), product_text(products), grades)
