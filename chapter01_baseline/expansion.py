"""Expand queries by pseudo-relevance feedback: search once, read the first hits, search again with what they say.

The first hits are assumed to be relevant. If they are, the second search finds products that the shopper's words
missed; if they are not, it amplifies the mistakes of the first. Expect recall to rise and the top ranks to gain or lose
little. Measure before you switch it on, and choose its strength on validation queries (`choose_feedback`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from chapter01_baseline.keyword import KeywordSearcher
from common.encoders import Embeddings
from common.errors import CourseError
from common.evaluation import evaluate
from common.index import DenseSearcher
from common.search import Hits, Searcher, check_request, empty_hits


class RocchioSearcher:
    """Move the query's vector towards the mean vector of its first hits, and search again.

    q' = q + beta * mean(first `n_feedback` hits), normalised. Rocchio also moves away from irrelevant products; the
    first hits name none. Source: Rocchio, "Relevance feedback in information retrieval" (1971); in embedding space:
    Li et al., "Pseudo Relevance Feedback with Deep Language Models and Dense Retrievers" (2021).

    dense: makes both searches. embeddings: the product vectors [N, D] that its index was built from, in the order of
    product_ids. With beta = 0 the ranking is that of `dense`. Raises CourseError if the encoders differ.
    """

    def __init__(
        self,
        dense: DenseSearcher,
        embeddings: Embeddings,
        product_ids: Sequence[str],
        *,
        beta: float = 0.3,
        n_feedback: int = 5,
    ) -> None:
        if embeddings.encoder_id != dense.encoder.encoder_id:
            raise CourseError(
                f"Rocchio: the vectors are of encoder {embeddings.encoder_id}, the queries of "
                f"{dense.encoder.encoder_id}; encode the products again."
            )
        if len(product_ids) != len(embeddings.vectors):
            raise CourseError(f"Rocchio: {len(product_ids)} product ids for {len(embeddings.vectors)} vectors.")
        self.dense, self.vectors = dense, embeddings.vectors
        self.positions = {product_id: at for at, product_id in enumerate(product_ids)}
        self.beta, self.n_feedback = beta, n_feedback

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products of each query (`common.search.Searcher`); feedback obeys the filters, too."""
        request = check_request(queries, k, allowed, exclude)
        if not request.queries:
            return empty_hits(0, request.k)
        filters = {"allowed": request.allowed, "exclude": request.exclude}
        encoded = self.dense.encoder.encode(request.queries)
        first = self.dense.index.search_vectors(encoded, self.n_feedback, **filters)
        moved = np.stack([self._move(encoded.vectors[row], first.ids[row]) for row in range(len(first))])
        hits = self.dense.index.search_vectors(Embeddings(moved, encoded.encoder_id), request.k, **filters)
        blank = [row for row, query in enumerate(request.queries) if not query.strip()]
        hits.ids[blank], hits.scores[blank] = None, -np.inf
        return hits

    def _move(self, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return the query's vector [D] after feedback from its first hits, best first."""
        found = [self.positions[product_id] for product_id in ids if product_id is not None]
        if not found:
            return query
        moved = query + self.beta * self.vectors[found].mean(axis=0)
        return (moved / max(float(np.linalg.norm(moved)), 1e-12)).astype(np.float32)


class RM3Searcher:
    """Add to the query the words that stand out in its first hits (RM3), and search again by BM25.

    Relevance model: p(w | R) = sum over the first `n_feedback` hits D of p(D | q) * tf(w, D) / |D|, where p(D | q) is
    the BM25 score normalised to sum 1. Common words (in more than `common_share` of all products) are left out, and the
    `n_terms` likeliest stay. New weights: (1 - weight) * p(w | q) + weight * p(w | R).
    Source: Lavrenko and Croft, "Relevance-based language models" (SIGIR 2001); Abdul-Jaleel et al., "UMass at TREC
    2004"; BM25 scores as p(D | q) as in Anserini.

    keyword: makes both searches. product_texts: by product id, the text that `keyword` was built from.
    weight: share of the feedback; with 0 the ranking is that of `keyword`, with 1 the query's own words do not count.
    """

    def __init__(
        self,
        keyword: KeywordSearcher,
        product_texts: Mapping[str, str],
        *,
        weight: float = 0.3,
        n_feedback: int = 5,
        n_terms: int = 10,
        common_share: float = 0.1,
    ) -> None:
        if not 0 <= weight <= 1:
            raise CourseError(f"RM3: weight must be between 0 and 1, not {weight!r}.")
        self.keyword, self.product_texts, self.weight = keyword, product_texts, weight
        self.n_feedback, self.n_terms, self.common_share = n_feedback, n_terms, common_share

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products of each query (`common.search.Searcher`); feedback obeys the filters, too."""
        request = check_request(queries, k, allowed, exclude)
        filters = {"allowed": request.allowed, "exclude": request.exclude}
        first = self.keyword.search(request.queries, self.n_feedback, **filters)
        weights = [self.expand(query, first.row(row)) for row, query in enumerate(request.queries)]
        return self.keyword.search_terms(weights, request.k, **filters)

    def expand(self, query: str, feedback: Sequence[tuple[str, float]]) -> dict[str, float]:
        """Return the token weights of the expanded query (sum 1). feedback: (product id, BM25 score) of first hits."""
        own = _shares(Counter(self.keyword.tokenize(query)))
        model = self.relevance_model(feedback)
        if not own or not model:
            return own
        return {
            token: (1 - self.weight) * own.get(token, 0.0) + self.weight * model.get(token, 0.0)
            for token in own | model
            if self.weight < 1 or token in model
        }

    def relevance_model(self, feedback: Sequence[tuple[str, float]]) -> dict[str, float]:
        """Return p(w | R) of the `n_terms` likeliest words (sum 1); ties are broken by the word itself."""
        totals: Counter[str] = Counter()
        belief = _shares(dict(feedback))
        for product_id, share in belief.items():
            for token, likelihood in _shares(Counter(self.keyword.tokenize(self.product_texts[product_id]))).items():
                totals[token] += share * likelihood
        limit = self.common_share * len(self.keyword.product_ids)
        rare = [(token, p) for token, p in totals.items() if self.keyword.document_frequency(token) <= limit]
        return _shares(dict(sorted(rare, key=lambda item: (-item[1], item[0]))[: self.n_terms]))


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Divide counts by their sum."""
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def choose_feedback(
    build: Callable[..., Searcher],
    grid: Iterable[Mapping[str, float]],
    queries: Sequence[str],
    query_ids: Sequence[str],
    judgements: pd.DataFrame,
    *,
    depth: int,
    gains: str = "linear",
) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the settings of `grid` with the best mean nDCG@10 on validation queries, and the table of all of them.

    build: makes a searcher of settings, for instance `lambda **s: RM3Searcher(keyword, texts, **s)`. The first of
    equally good settings wins: put "no feedback" first, so that feedback is only switched on if it gains something.
    """
    rows = []
    for settings in grid:
        hits = build(**settings).search(queries, depth)
        scores = evaluate(hits, query_ids, judgements, metrics=["nDCG@10"], gains=gains)
        rows.append({**settings, "nDCG@10": float(scores["nDCG@10"].mean())})
    if not rows:
        raise CourseError("choose_feedback: the grid is empty; give at least one mapping of settings.")
    table = pd.DataFrame(rows)
    best = rows[int(np.argmax(table["nDCG@10"].round(9)))]
    return {name: value for name, value in best.items() if name != "nDCG@10"}, table
