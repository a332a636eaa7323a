"""Compute the shop's ceiling: the score of a perfect reader who knows the text only, or the text and the picture.

An oracle understands every word of a query and reads every product without error, but it knows only the facts that the
text tells (and, with eyes, those that the photo shows). Where a fact is hidden it assumes what is usual for such
products and ranks by expected gain. No system that sees the same can be expected to do better.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.catalogue import Catalogue
from common.pocket_shop.facts import PLAIN
from common.pocket_shop.intents import Constraint, Intent, constraint_misses, expected_gain, leaf_relations
from common.pocket_shop.shop import load_facts, load_intents
from common.search import Hits, hits_from_rows

VISIBLE = ("colour", "material", "pattern")
_LINEAR_GAINS = (0.0, 1.0, 2.0, 3.0)


def knows(facts: pd.DataFrame, kind: str, *, picture: bool) -> np.ndarray:
    """Return for which products `[N]` a reader knows the fact `kind`, from the text or (`picture`) the photo."""
    if kind == "price_below":
        return np.ones(len(facts), bool)
    told = facts["tells_features" if kind == "feature" else f"tells_{kind}"].to_numpy(bool)
    if kind == "pattern":
        # A text that says nothing of a pattern may have a plain product or a silent one.
        told = told & (facts["pattern"].to_numpy() != PLAIN)
    return told | facts["has_photo"].to_numpy(bool) if picture and kind in VISIBLE else told


def oracle_scores(intent: Intent, facts: pd.DataFrame, *, picture: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the products (row numbers) that can have a gain for `intent`, best first, and their expected gains."""
    relation = leaf_relations(intent.leaf)[facts["leaf"].to_numpy()]
    rows = np.flatnonzero(relation)
    table = facts.iloc[rows]
    chances = [_miss_chances(constraint, table, picture) for constraint in intent.constraints]
    scores = np.array(
        [
            expected_gain([chance[i] for chance in chances], int(relation[row]), _LINEAR_GAINS)
            for i, row in enumerate(rows)
        ]
    )
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def _miss_chances(constraint: Constraint, table: pd.DataFrame, picture: bool) -> list[list[tuple[float, float]]]:
    """List for every product the possible misses of a constraint with their probabilities."""
    misses = constraint_misses(constraint, table)
    known = knows(table, constraint.kind, picture=picture)
    leaf = table["leaf"].to_numpy()
    usual = {code: _distribution(misses[(leaf == code) & ~known]) for code in np.unique(leaf[~known])}
    return [[(float(miss), 1.0)] if sure else usual[code] for miss, sure, code in zip(misses, known, leaf, strict=True)]


def _distribution(values: np.ndarray) -> list[tuple[float, float]]:
    found, counts = np.unique(values, return_counts=True)
    return [(float(value), float(count / len(values))) for value, count in zip(found, counts, strict=True)]


def oracle_hits(catalogue: Catalogue, query_ids: Sequence[str], *, k: int, picture: bool) -> Hits:
    """Return the oracle's best `k` products for queries of a pocket shop catalogue."""
    facts, intents = load_facts(catalogue), load_intents(catalogue)
    ids = facts["product_id"].to_numpy()
    rows = []
    for query_id in query_ids:
        ranked, scores = oracle_scores(intents[query_id], facts, picture=picture)
        rows.append((ids[ranked[:k]].tolist(), scores[:k].tolist()))
    return hits_from_rows(rows, k)
