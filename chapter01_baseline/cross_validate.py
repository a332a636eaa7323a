"""Honest figures where there are only development queries: choose on four fifths of them, search the last fifth.

The Chorus judgements are such a case: 68 queries, no split. Weights chosen on the queries they are measured on would
flatter themselves; every query here is searched with settings that were chosen without it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from chapter01_baseline.choose import DEPTH, Choices, choose_on, evaluation_judgements
from chapter01_baseline.fusion import choose_weight
from chapter01_baseline.reindex import Indices
from chapter01_baseline.rerank import CrossEncoderReranker
from chapter01_baseline.systems import first_stages
from common.search import Hits, empty_hits

FOLDS = 5


def cross_validated_hits(
    queries: pd.DataFrame, indices: Indices, reranker: CrossEncoderReranker | None, *, seed: int, gains: str = "linear"
) -> dict[str, Hits]:
    """Return the first 200 hits of every system for judged `queries`, each found with settings chosen on other folds.

    `reranker` is put on top of the fusion ("reranked fusion"), its weight chosen in the same way; None leaves it out.
    """
    folds = np.random.default_rng(seed).permutation(len(queries)) % FOLDS
    hits: dict[str, Hits] = {}
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), queries[folds != fold]
        chosen, _ = choose_on(outside, indices, gains)
        searchers = first_stages(indices, Choices(run=indices.run, curves={}, **chosen))
        if reranker is not None:
            reranker.first = searchers["fusion"]
            reranker.weight = _reranker_weight(reranker, outside, indices, gains)
            searchers["reranked fusion"] = reranker
        words = queries["query"].iloc[inside].tolist()
        for name, searcher in searchers.items():
            found = searcher.search(words, DEPTH)
            whole = hits.setdefault(name, empty_hits(len(queries), DEPTH))
            whole.ids[inside], whole.scores[inside] = found.ids, found.scores
    return hits


def _reranker_weight(reranker: CrossEncoderReranker, queries: pd.DataFrame, indices: Indices, gains: str) -> float:
    words = queries["query"].tolist()
    top = reranker.first.search(words, reranker.depth)
    rankings = [top, reranker.score(words, top)]
    grades = evaluation_judgements(indices.catalogue)
    return choose_weight(rankings, queries["query_id"].tolist(), grades, gains=gains)[0]
