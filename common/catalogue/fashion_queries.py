"""Draw queries over fashion_products: the pocket shop's seven kinds, in shoppers' words, with the truth for each.

A query is kept if it has a product of grade 3 and between `RELEVANT_RANGE` products of grade 2 or 3. No two queries
share their words or what they ask for. What a shopper may say is in `common.catalogue.fashion_drafts`, the grades are
in `common.catalogue.fashion_intents`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from common.catalogue.contract import RELEVANT_GRADE
from common.catalogue.fashion_drafts import MAKERS, RELEVANT_RANGE, Shopper
from common.catalogue.splits import QUERY_FRACTIONS
from common.catalogue.text import normalise_query
from common.pocket_shop.queries import KINDS
from common.progress import tell

PATIENCE = 500
"""Drafts in a row that give no new query, before the generator takes what it has of a kind."""


def draw_fashion_queries(facts: pd.DataFrame, count: int, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw up to `count` queries over the products in `facts` (see `fashion_facts.fashion_facts`), equally many of each
    kind where there are as many.

    Returns `queries` (`query_id, query, kind, split, intent`) and `truth` (`query_id, product_id, grade` above 0; an
    absent pair has grade 0). A remark says how many queries were made if they are fewer.
    """
    shopper = Shopper(facts, np.random.default_rng(seed))
    rows, truth, seen = [], [], set()
    for number, kind in enumerate(KINDS):
        wanted = count // len(KINDS) + (number < count % len(KINDS))
        for intent, words, phrase, graded in _drafts(shopper, kind, wanted, seen):
            query_id = f"q{len(rows):05d}"
            rows.append((query_id, words, kind, phrase, intent.to_json()))
            ids = facts["product_id"].to_numpy()[graded[0]]
            truth.append(pd.DataFrame({"query_id": query_id, "product_id": ids, "grade": graded[1].astype("int64")}))
    if len(rows) < count:
        tell(f"fashion_products: {len(facts):,} products give {len(rows):,} queries, not {count:,}")
    queries = pd.DataFrame(rows, columns=["query_id", "query", "kind", "phrase", "intent"])
    queries["split"] = _split_phrases(queries, seed)
    none = pd.DataFrame({"query_id": [], "product_id": [], "grade": []})
    return queries.drop(columns="phrase"), pd.concat(truth or [none], ignore_index=True)


def _drafts(shopper: Shopper, kind: str, wanted: int, seen: set) -> Iterator[tuple]:
    """Yield up to `wanted` new queries of a kind that are worth asking, each with the graded rows."""
    kept = failed = 0
    known = shopper.uses if kind == "use-case" else shopper.nouns
    while known and kept < wanted and failed < PATIENCE:
        failed += 1
        draft = MAKERS[kind](shopper)
        if draft is None:
            continue
        intent, words, phrase = draft
        graded = shopper.grader.grade(intent)
        if intent in seen or normalise_query(words) in seen or not worth_asking(graded[1]):
            continue
        seen |= {intent, normalise_query(words)}
        kept, failed = kept + 1, 0
        yield intent, words, phrase, graded


def worth_asking(grades: np.ndarray) -> bool:
    """Return whether a query with these grades has an exact answer and a number of relevant ones within the range."""
    low, high = RELEVANT_RANGE
    return bool((grades == 3).any()) and low <= int((grades >= RELEVANT_GRADE).sum()) <= high


def _split_phrases(queries: pd.DataFrame, seed: int) -> pd.Series:
    """Split within each kind, so that all are represented alike. Queries of one phrase stay together: the words, or of
    a use-case what it is for."""
    rng = np.random.default_rng(seed)
    bounds = np.cumsum(list(QUERY_FRACTIONS.values()))[:-1]
    split_of: dict[str, str] = {}
    for _, phrases in queries.groupby("kind", sort=False)["phrase"]:
        shuffled = rng.permutation(phrases.unique())
        parts = np.split(shuffled, np.round(bounds * len(shuffled)).astype(int))
        split_of |= {phrase: name for name, part in zip(QUERY_FRACTIONS, parts, strict=True) for phrase in part}
    return queries["phrase"].map(split_of)
