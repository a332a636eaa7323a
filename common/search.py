"""Define what every search system of the course has in common.

A `Searcher` turns queries into `Hits`. Keyword search, dense search, fusion, expansion and reranking are each one, so
they compose and are evaluated by the same code.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from common.errors import CourseError

COSINE = "cosine of the two vectors, from -1 to 1"
"""What the scores of a dense searcher measure."""


@dataclass(frozen=True)
class Hits:
    """Hold the best products of each query, best first.

    ids: [Q, k] object array of product ids; a row with fewer than k hits is padded with None on the right.
    scores: [Q, k] float32, descending along a row; -inf where ids is None. Equal scores are in ascending order of
    product id.
    """

    ids: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.scores.shape:
            raise CourseError(f"Hits: ids {self.ids.shape} and scores {self.scores.shape} must both be [queries, k].")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def k(self) -> int:
        return self.ids.shape[1]

    def row(self, position: int) -> list[tuple[str, float]]:
        """Return the hits of one query as (product_id, score), without the padding."""
        pairs = zip(self.ids[position], self.scores[position], strict=True)
        return [(product_id, float(score)) for product_id, score in pairs if product_id is not None]


@runtime_checkable
class Searcher(Protocol):
    """Search: keywords, vectors, pictures, or other searchers."""

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products of each query.

        allowed: only these product ids may be returned, for every query of the call; None allows all.
        exclude: for each query, the product ids that must not be returned (the product that the user looks at, say).
        Raises CourseError if k is not a whole number of at least 1, or exclude has not one entry per query.
        """
        ...


class SearchRequest(NamedTuple):
    """Hold the checked arguments of `Searcher.search`."""

    queries: list
    k: int
    allowed: frozenset[str] | None
    exclude: list[frozenset[str]] | None


def check_k(k: int) -> int:
    """Return k as an int. Raises CourseError unless it is a whole number of at least 1."""
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, numbers.Integral) or k < 1:
        raise CourseError(f"search: k must be a whole number of at least 1, not {k!r}.")
    return int(k)


def check_request(
    queries: Sequence,
    k: int,
    allowed: Collection[str] | None = None,
    exclude: Sequence[Collection[str]] | None = None,
    *,
    texts: bool = True,
) -> SearchRequest:
    """Return the arguments of `Searcher.search` in one normal form. Raises CourseError, naming the invalid argument.
    texts: whether every query must be a str (False for searchers whose queries are pictures or vectors)."""
    if isinstance(queries, str):
        raise CourseError("search: queries must be a list of texts, not one text; write search([query], k).")
    queries = list(queries)
    if texts:
        for position, query in enumerate(queries):
            if not isinstance(query, str):
                raise CourseError(
                    f"search: query {position} is {type(query).__name__}, not a text: {str(query)[:80]!r}."
                )
    if isinstance(allowed, str):
        raise CourseError("search: allowed must be a collection of product ids, not one text.")
    if exclude is not None:
        exclude = list(exclude)
        if len(exclude) != len(queries):
            raise CourseError(
                f"search: exclude has {len(exclude)} entries for {len(queries)} queries; give one per query."
            )
        if any(isinstance(ids, str) for ids in exclude):
            raise CourseError("search: each entry of exclude must be a collection of product ids, not one text.")
        exclude = [frozenset(ids) for ids in exclude]
    return SearchRequest(queries, check_k(k), None if allowed is None else frozenset(allowed), exclude)


def empty_hits(n_queries: int, k: int) -> Hits:
    """Return hits of `n_queries` rows that are all padding."""
    return Hits(np.full((n_queries, k), None, dtype=object), np.full((n_queries, k), -np.inf, dtype=np.float32))


def hits_from_rows(rows: Sequence[tuple[Sequence[str], Sequence[float]]], k: int) -> Hits:
    """Return hits from one (product ids, scores) pair per query, in any order and of any length.

    Each row is put into the course's order, score descending then product id ascending, and cut to k: the result does
    not depend on the order in which a searcher happened to find the products. A score of -inf means "not a hit". The
    product ids of a row must be distinct.
    """
    hits = empty_hits(len(rows), k)
    for row, (ids, scores) in enumerate(rows):
        scores = _checked_scores(scores)
        candidates = np.flatnonzero(_at_least_kth(scores, k))
        ordered = sorted(candidates, key=lambda at, ids=ids, scores=scores: (-scores[at], ids[at]))[:k]
        hits.ids[row, : len(ordered)] = [ids[at] for at in ordered]
        hits.scores[row, : len(ordered)] = scores[ordered]
    return hits


def hits_from_scores(scores: np.ndarray, ids: Sequence[str], k: int, *, id_ranks: np.ndarray | None = None) -> Hits:
    """Return hits from a full score matrix, scores [Q, N] of N products `ids`; -inf means "not a hit".

    The order is that of `hits_from_rows`. id_ranks [N] is the rank of each id in ascending order (`rank_ids(ids)`);
    pass it when you call this often with the same ids.
    """
    scores = _checked_scores(scores)
    ids = np.asarray(ids, dtype=object)
    if scores.ndim != 2 or scores.shape[1] != len(ids):
        raise CourseError(f"search: scores {scores.shape} do not fit {len(ids)} product ids.")
    ranks = rank_ids(ids) if id_ranks is None else id_ranks
    hits = empty_hits(len(scores), k)
    for row, line in enumerate(scores):
        candidates = np.flatnonzero(_at_least_kth(line, k))
        ordered = candidates[np.lexsort((ranks[candidates], -line[candidates]))][:k]
        hits.ids[row, : len(ordered)] = ids[ordered]
        hits.scores[row, : len(ordered)] = line[ordered]
    return hits


def rank_ids(ids: Sequence[str]) -> np.ndarray:
    """Return the rank of each id in ascending order, [N] int64."""
    order = sorted(range(len(ids)), key=lambda at: ids[at])
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.arange(len(ids))
    return ranks


def _checked_scores(scores: Sequence[float]) -> np.ndarray:
    # Rounded to float32 before ordering: scores that are equal in the result must be ordered as equal.
    scores = np.asarray(scores, dtype=np.float32)
    if np.isnan(scores).any():
        raise CourseError(
            "search: a score is not a number (NaN); a searcher must give -inf to products that are not hits."
        )
    return scores


def _at_least_kth(scores: np.ndarray, k: int) -> np.ndarray:
    """Return which scores [N] are hits and at least the k-th largest: the top k, with every tie of the last place."""
    if len(scores) <= k:
        return scores > -np.inf
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    return (scores >= kth) & (scores > -np.inf)
