"""Collect the examples to train on: judged queries of a catalogue, or queries made from the catalogue itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from chapter02_two_tower.query_words import query_key
from chapter02_two_tower.spans import catalogue_pairs
from common.catalogue import RELEVANT_GRADE, Catalogue
from common.errors import CourseError
from common.progress import tell
from common.search import Searcher

CATALOGUE_PAIRS = {"smoke": 400, "pocket": 8_000, "full": 50_000}
"""Pairs made from a catalogue without judged training queries, by profile."""


def query_examples(
    catalogue: Catalogue,
    texts: Mapping[str, str],
    keyword: Searcher,
    *,
    made_up: int | None,
    profile: str,
    weak_labels: int,
    validation_share: float,
    seed: int,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return the examples `query_id, query, product_id, grade` by split, and all examples that were made up.

    Grades of 0 are included; a made-up query has <NA>. texts: the products that count, with their texts. keyword: a
    keyword search, the weak teacher of made-up queries. made_up: pairs to make from the catalogue; None: none where
    there are judged training queries, else the number of the profile. See `prepare_data.PrepareConfig` for the others.
    Raises `CourseError` if there is no training query.
    """
    train, val, test = (_judged(catalogue, split, texts) for split in ("train", "val", "test"))
    train = _trainable(train, catalogue)
    if made_up is None:
        made_up = 0 if len(train) else CATALOGUE_PAIRS[profile]
    made = _made_up(catalogue, texts, made_up, keyword, weak_labels, seed) if made_up else train.iloc[:0]
    if len(train) and not (val["grade"] >= RELEVANT_GRADE).any():
        train, val = _hold_out(train, validation_share, seed)
    if len(train):
        train = pd.concat([train, made], ignore_index=True)
    elif len(made):
        train, val = _hold_out(made, validation_share, seed)
    else:
        raise CourseError(
            f"{catalogue.source}: no judged training queries, and no queries could be made from the catalogue; "
            "judge some queries of the split train, or set catalogue_pairs above 0."
        )
    return {"train": train, "val": val, "test": test}, made


def _judged(catalogue: Catalogue, split: str, texts: Mapping[str, str]) -> pd.DataFrame:
    """Return the judgements of a split's queries on products that have a text, in the order of the queries."""
    queries = catalogue.split_queries(split)[["query_id", "query"]]
    judged = queries.merge(catalogue.judgements[["query_id", "product_id", "grade"]], on="query_id")
    return judged[judged["product_id"].isin(texts)].reset_index(drop=True)


def _trainable(judged: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    """Leave out training queries whose words occur in another split too, or that have no relevant product."""
    outside = catalogue.queries[catalogue.queries["split"] != "train"]["query"]
    leaked = judged["query"].map(query_key).isin(set(outside.map(query_key)))
    answered = judged["query_id"].isin(judged[judged["grade"] >= RELEVANT_GRADE]["query_id"])
    for left_out, why in (
        (leaked, "their words stand outside the training split too"),
        (~leaked & ~answered, "they have no exact or substitute product"),
    ):
        if left_out.any():
            tell(f"{judged[left_out]['query_id'].nunique():,} training queries left out: {why}.")
    return judged[~leaked & answered].reset_index(drop=True)


def _made_up(
    catalogue: Catalogue, texts: Mapping[str, str], count: int, keyword: Searcher, weak_labels: int, seed: int
) -> pd.DataFrame:
    """Make examples from the catalogue itself; none has the words of a query of the catalogue, of any split.

    A short query fits more products than the one it was made from. Keyword search finds some of them. It is a weak
    teacher, and the only one that a shop without judges has (Dehghani et al. 2017, "Neural Ranking Models with Weak
    Supervision").
    """
    products = catalogue.products[catalogue.products["product_id"].isin(texts)]
    made = catalogue_pairs(products, count=count, seed=seed, forbidden=catalogue.queries["query"].tolist())
    if weak_labels:
        wordings = made["query"].drop_duplicates().tolist()
        hits = keyword.search(wordings, weak_labels, allowed=[*texts])
        weak = [(query, found) for row, query in enumerate(wordings) for found, _ in hits.row(row)]
        made = pd.concat([made, pd.DataFrame(weak, columns=["query", "product_id"], dtype="str")])
        made = made.drop_duplicates(ignore_index=True)
    number = made.groupby("query", sort=False).ngroup()
    made.insert(0, "query_id", [f"catalogue-{at:06d}" for at in number])
    return made.assign(grade=pd.array([pd.NA] * len(made), dtype="Int64")).astype({"query_id": "str"})


def _hold_out(examples: pd.DataFrame, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hold out a share of the queries for validation; queries of the same words (`query_key`) stay together."""
    keys = examples["query"].map(query_key)
    distinct = list(dict.fromkeys(keys))
    if len(distinct) < 2:
        raise CourseError("there is one training query only; judge a second one, which validation can hold out.")
    size = max(1, round(share * len(distinct)))
    chosen = np.random.default_rng([seed, 0]).choice(len(distinct), size, replace=False)
    held = keys.isin({distinct[at] for at in chosen})
    return examples[~held].reset_index(drop=True), examples[held].reset_index(drop=True)
