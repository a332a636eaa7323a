"""Rerank: a cross-encoder reads query and product together, slowly, and reorders the best 50 hits of a fast searcher.

A bi-encoder makes its vectors before query and product meet; in a cross-encoder every word of one attends to every word
of the other. It costs one pass through the network for each pair, so it can only be a second stage, and it can only
reorder what the first stage found. Source: Nogueira and Cho, "Passage Re-ranking with BERT" (2019).

`chapter01_baseline.rerank` trains the cross-encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from chapter01_baseline.choose import evaluation_judgements
from chapter01_baseline.fusion import choose_weight, convex_fusion
from chapter01_baseline.pair_scorer import PairScorer
from common.artifacts import Artifacts
from common.atomic import read_json
from common.catalogue import Catalogue, product_text
from common.errors import CourseError
from common.search import Hits, Searcher, check_k, check_request, hits_from_rows

RERANK_FIELDS = ("title", "brand", "colour", "material", "category_path", "attributes", "description")
"""What the cross-encoder reads. The description comes last: it is long, repeats the rest, and is what gets cut off."""


class CrossEncoderReranker:
    """Reorder the first `depth` hits of another searcher; itself a `common.search.Searcher`.

    first: the first stage. scorer: runs a cross-encoder over pairs. product_texts: by product id, what the
    cross-encoder reads. weight: share of the cross-encoder in the final score, from 0 (the first stage alone) to 1 (the
    cross-encoder alone); both scores are scaled to [0, 1] within a query (`convex_fusion`).
    Hits below `depth` follow in the order of the first stage, with negative scores.
    """

    def __init__(
        self,
        first: Searcher,
        scorer: PairScorer,
        product_texts: Mapping[str, str],
        *,
        weight: float = 1.0,
        depth: int = 50,
    ) -> None:
        if not 0 <= weight <= 1:
            raise CourseError(f"rerank: weight must be between 0 and 1, not {weight!r}.")
        self.first, self.scorer, self.product_texts = first, scorer, product_texts
        self.weight, self.depth = weight, check_k(depth)

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products of each query; see `common.search.Searcher`."""
        request = check_request(queries, k, allowed, exclude)
        filters = {"allowed": request.allowed, "exclude": request.exclude}
        first = self.first.search(request.queries, max(self.depth, request.k), **filters)
        top = Hits(first.ids[:, : self.depth], first.scores[:, : self.depth])
        reranked = convex_fusion([top, self.score(request.queries, top)], self.depth, weight=self.weight)
        rows = []
        for row in range(len(first)):
            below = [product_id for product_id, _ in first.row(row)[self.depth :]]
            ids, scores = zip(*reranked.row(row), strict=True) if reranked.row(row) else ((), ())
            rows.append(([*ids, *below], [*scores, *(-float(place) for place in range(1, len(below) + 1))]))
        return hits_from_rows(rows, request.k)

    def score(self, queries: Sequence[str], hits: Hits) -> Hits:
        """Return the products of `hits`, ordered by the cross-encoder alone; the scores are its logits."""
        rows = [[product_id for product_id, _ in hits.row(row)] for row in range(len(hits))]
        pairs = [
            (query, self.product_texts[product_id])
            for query, row in zip(queries, rows, strict=True)
            for product_id in row
        ]
        scores = iter(self.scorer.score(pairs))
        return hits_from_rows([(row, [next(scores) for _ in row]) for row in rows], hits.k)


def choose_reranker_weight(
    reranker: CrossEncoderReranker, queries: pd.DataFrame, catalogue: Catalogue, gains: str = "linear"
) -> tuple[float, pd.DataFrame]:
    """Return the best weight of `reranker` for judged `queries` (`query_id, query`), and the curve of all weights."""
    words = queries["query"].tolist()
    top = reranker.first.search(words, reranker.depth)
    rankings = [top, reranker.score(words, top)]
    return choose_weight(rankings, queries["query_id"].tolist(), evaluation_judgements(catalogue), gains=gains)


def rerank_texts(catalogue: Catalogue) -> dict[str, str]:
    """Return, by product id, what the cross-encoder reads of each product."""
    texts = product_text(catalogue.products, RERANK_FIELDS)
    return dict(zip(catalogue.products["product_id"], texts, strict=True))


def load_rerankers(
    firsts: Mapping[str, Searcher], catalogue: Catalogue, artifacts: Artifacts
) -> dict[str, CrossEncoderReranker]:
    """Return the trained cross-encoder on top of each first stage, with the weight chosen for the stage's name.

    A first stage that no weight was chosen for gets 0.5. Raises `MissingArtifact` with the command that trains.
    """
    run = artifacts.current("chapter01_baseline", "rerank")
    # torch and sentence-transformers take seconds to import, and whoever searches without reranking needs neither.
    from chapter01_baseline.cross_encoder import load_cross_encoder

    chosen = read_json(run.path / "rerank.json")
    scorer = PairScorer(load_cross_encoder(run.path / "model", max_length=chosen["max_length"]))
    texts, weights = rerank_texts(catalogue), chosen["weights"]
    return {
        name: CrossEncoderReranker(first, scorer, texts, weight=weights.get(name, 0.5), depth=chosen["depth"])
        for name, first in firsts.items()
    }
