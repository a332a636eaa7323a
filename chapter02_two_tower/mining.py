"""Mine hard negatives: products that a model ranks high for a query although they are not relevant to it.

A random product teaches a model little: it is far away already. A product among its first hundred that nobody wants
teaches it much. But the nearest of those are often relevant products that no judge has seen. So known relevant products
are left out, and so are products that score as high as a positive (the margin). Source of the idea: Xiong et al. 2021,
"Approximate Nearest Neighbor Negative Contrastive Learning for Dense Text Retrieval"; of the relative margin: Moreira
et al. 2024, "NV-Retriever: Improving text embedding models with effective hard-negative mining".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch

from common.errors import CourseError

SCORES_AT_ONCE = 1 << 24
"""Scores of a block of queries against all products: 64 MB, however large the catalogue is."""
RULES = ("relevant", "absolute_margin", "relative_margin", "beyond_keep")


@dataclass(frozen=True)
class Mined:
    """Hold the negatives that were mined, and count what the rules left out.

    negatives: `query_id, product_id, score, rank`, by query in the given order and then by rank (1: the model's best).
    skipped: `rule, count`, the candidates of all queries that each of `RULES` left out, in this order.
    scores: by "positives", "kept" and each rule the scores, float32, for histograms.
    """

    negatives: pd.DataFrame
    skipped: pd.DataFrame
    scores: dict[str, np.ndarray]


def mine(
    queries: np.ndarray,
    products: np.ndarray,
    product_ids: Sequence[str],
    query_ids: Sequence[str],
    relevant: Mapping[str, Collection[str]],
    positives: Mapping[str, Collection[str]],
    *,
    top: int = 100,
    keep: int = 15,
    absolute_margin: float | None = None,
    relative_margin: float | None = 0.05,
    margin_from: Literal["lowest", "highest"] = "highest",
) -> Mined:
    """Take for each query the `top` products by inner product, leave out what may be relevant, keep the first `keep`.

    queries: float32 [Q, D]. products: float32 [P, D]. relevant: query id -> products known to be relevant, of any
        grade; its positives always count as such. positives: query id -> the products that the margins are
        measured from.
    absolute_margin: leave out products that score above positive - margin. relative_margin: leave out products that
        score above positive - |positive| * margin. None switches a margin off.
    margin_from: the positive that counts. "highest", as in training, leaves out what the model ranks above all of them;
        "lowest" is the careful choice, but leaves nothing if the model misses one of many positives.

    Equal scores rank in the order of `product_ids`. The negatives are those of
    `sentence_transformers.util.mine_hard_negatives` with the same margins, `margin_from="lowest"`, and a `range_max` of
    `top` less the most positives that a query has, by which it looks further down. Raises CourseError for shapes that
    do not fit, vectors that are not finite, repeated ids, and, if there is a margin, a query without a positive in
    `product_ids`.
    """
    queries, products = _checked(queries, query_ids, "query"), _checked(products, product_ids, "product")
    if queries.shape[1] != products.shape[1]:
        raise CourseError(f"mine: queries have {queries.shape[1]} dimensions, products {products.shape[1]}.")
    if top < 1 or keep < 1 or margin_from not in ("lowest", "highest"):
        raise CourseError(
            f"mine: top ({top}) and keep ({keep}) must be at least 1, margin_from ({margin_from}) lowest or highest."
        )
    place = {product_id: at for at, product_id in enumerate(product_ids)}
    goal = _pairs(query_ids, positives, place)
    known = np.concatenate([_keys(pairs, len(place)) for pairs in (goal, _pairs(query_ids, relevant, place))])
    found, scores = best_products(queries, products, min(top, len(products)))
    goal_scores = np.einsum("nd,nd->n", queries[goal[0]], products[goal[1]])
    rejected_by = np.full(found.shape, len(RULES), dtype=np.int8)  # position in RULES; len(RULES): by none
    rejected_by[np.isin(_keys((np.arange(len(queries))[:, None], found), len(place)), known)] = 0
    if absolute_margin is not None or relative_margin is not None:
        positive = _one_positive(goal[0], goal_scores, query_ids, margin_from)[:, None]
        if absolute_margin is not None:
            rejected_by[(rejected_by == len(RULES)) & (scores + absolute_margin > positive)] = 1
        if relative_margin is not None:
            too_near = scores > positive - np.abs(positive) * relative_margin
            rejected_by[(rejected_by == len(RULES)) & too_near] = 2
    left = rejected_by == len(RULES)
    rejected_by[left & (np.cumsum(left, axis=1) > keep)] = 3
    return _mined(rejected_by, found, scores, goal_scores, np.array(product_ids, dtype=object), query_ids)


def best_products(queries: np.ndarray, products: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows [Q, top] of the products with the best inner products, and these scores [Q, top], best first.

    queries: float32 [Q, D]. products: float32 [P, D]. top: at most P. Equal scores are ordered by row.
    """
    found = np.empty((len(queries), top), dtype=np.int64)
    best = np.empty((len(queries), top), dtype=np.float32)
    size = max(1, SCORES_AT_ONCE // len(products))
    for start in range(0, len(queries), size):
        scores = torch.from_numpy(queries[start : start + size]) @ torch.from_numpy(products).T
        values, rows = (part.numpy() for part in scores.topk(top, dim=1))
        order = np.lexsort((rows, -values), axis=1)
        values, rows = np.take_along_axis(values, order, 1), np.take_along_axis(rows, order, 1)
        # Where more products than fit share the last score, topk takes any of them: take the first ones.
        scores = scores.numpy()
        for at in np.flatnonzero(np.count_nonzero(scores >= values[:, -1:], axis=1) > top):
            rows[at] = np.lexsort((np.arange(scores.shape[1]), -scores[at]))[:top]
        found[start : start + size], best[start : start + size] = rows, values
    return found, best


def _checked(vectors: np.ndarray, ids: Sequence[str], what: str) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids) or not len(ids):
        raise CourseError(f"mine: {len(ids)} {what} ids for vectors {vectors.shape}; give one row an id, and some.")
    if len(set(ids)) != len(ids):
        raise CourseError(f"mine: {len(ids) - len(set(ids))} {what} ids are repeated; give each {what} once.")
    if not np.isfinite(vectors).all():
        raise CourseError(f"mine: a {what} vector is not finite (NaN or infinite); look at the model's training log.")
    return vectors


def _pairs(
    query_ids: Sequence[str], products: Mapping[str, Collection[str]], place: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a mapping as rows of queries [N] and of products [N], without products that have no place."""
    found = [
        (row, place[product_id])
        for row, query_id in enumerate(query_ids)
        for product_id in products.get(query_id, ())
        if product_id in place
    ]
    rows, columns = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return rows, columns


def _keys(pairs: tuple[np.ndarray, np.ndarray], n_products: int) -> np.ndarray:
    """Return one number for each pair of rows."""
    return pairs[0] * n_products + pairs[1]


def _one_positive(rows: np.ndarray, scores: np.ndarray, query_ids: Sequence[str], which: str) -> np.ndarray:
    """Return the lowest or highest score [Q] of each query's positives; `rows` [N] are the queries of `scores` [N]."""
    start, choose = (np.inf, np.minimum) if which == "lowest" else (-np.inf, np.maximum)
    chosen = np.full(len(query_ids), start, dtype=np.float32)
    choose.at(chosen, rows, scores)
    without = np.flatnonzero(np.isinf(chosen))
    if len(without):
        raise CourseError(
            f"mine: {len(without):,} queries have no positive among the products, the first is "
            f"{query_ids[without[0]]!r}; leave them out, or mine without a margin."
        )
    return chosen


def _mined(
    rejected_by: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray,
    goal_scores: np.ndarray,
    product_ids: np.ndarray,
    query_ids: Sequence[str],
) -> Mined:
    rows, ranks = np.nonzero(rejected_by == len(RULES))
    negatives = pd.DataFrame(
        {
            "query_id": pd.array(np.array(query_ids, dtype=object)[rows], dtype="str"),
            "product_id": pd.array(product_ids[found[rows, ranks]], dtype="str"),
            "score": scores[rows, ranks].astype(np.float64),
            "rank": ranks + 1,
        }
    )
    by_rule = {rule: scores[rejected_by == number] for number, rule in enumerate(RULES)}
    skipped = pd.DataFrame({"rule": RULES, "count": [len(by_rule[rule]) for rule in RULES]})
    return Mined(negatives, skipped, {"positives": goal_scores, "kept": scores[rows, ranks], **by_rule})
