"""Draw what the cross-encoder learns from: training queries, each with a list of graded products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.catalogue import Catalogue
from common.errors import CourseError
from common.search import Searcher


class GradedList(NamedTuple):
    """A training query with the texts of its products and their grades."""

    query: str
    texts: list[str]
    grades: list[int]


def training_pairs(
    catalogue: Catalogue, first: Searcher, *, queries: int, products_per_query: int, seed: int
) -> pd.DataFrame:
    """Return what the cross-encoder learns from, a sample of the training queries: query_id, query, product_id, grade.

    At most half of a query's products are relevant (grade 2 or 3), drawn at random. The rest are hard negatives: first
    judged ones of grade 0 or 1; then, where these do not suffice, products that `first` ranks 21st to 50th and nobody
    judged (the very first ones would too often be relevant). These count as grade 0.
    Raises CourseError if the catalogue has no judged training queries.
    """
    rng = np.random.default_rng(seed)
    train = catalogue.queries[catalogue.queries["split"] == "train"].sort_values("query_id")
    judged = {query_id: group for query_id, group in catalogue.judgements.groupby("query_id")}
    train = train[train["query_id"].isin(judged)]
    if train.empty:
        raise CourseError(f"rerank: catalogue {catalogue.source} has no judged queries of split 'train' to learn from.")
    train = train.iloc[np.sort(rng.permutation(len(train))[:queries])]
    hits = first.search(train["query"].tolist(), 50)
    rows = []
    for position, (query_id, query) in enumerate(zip(train["query_id"], train["query"], strict=True)):
        group = judged[query_id]
        group = group.iloc[rng.permutation(len(group))]
        positive = group[group["grade"] >= 2][: products_per_query // 2]
        negative = group[group["grade"] < 2][: products_per_query - len(positive)]
        chosen = dict(zip(positive["product_id"], positive["grade"], strict=True))
        chosen |= dict(zip(negative["product_id"], negative["grade"], strict=True))
        known = set(group["product_id"])
        unjudged = [product_id for product_id, _ in hits.row(position)[20:] if product_id not in known]
        missing = products_per_query - len(chosen)
        chosen |= dict.fromkeys([unjudged[i] for i in rng.permutation(len(unjudged))[:missing]], 0)
        rows += [(query_id, query, product_id, grade) for product_id, grade in chosen.items()]
    return pd.DataFrame(rows, columns=["query_id", "query", "product_id", "grade"])


def graded_lists(pairs: pd.DataFrame, product_texts: Mapping[str, str]) -> list[GradedList]:
    """Return the `training_pairs` of each query as one list, in the order of the queries."""
    return [
        GradedList(rows["query"].iloc[0], [product_texts[i] for i in rows["product_id"]], rows["grade"].tolist())
        for _, rows in pairs.groupby("query_id", sort=False)
    ]
