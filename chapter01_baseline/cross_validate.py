"""Measure on development queries without bias: choose on four fifths of them, search the last fifth.

The Chorus judgements need it: 68 queries, no split. Weights measured on the queries that they were chosen on look
better than they are; here every query is searched with settings that were chosen without it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from chapter01_baseline.choose import DEPTH, Choices, choose_on
from chapter01_baseline.reindex import Indices
from chapter01_baseline.reranker import CrossEncoderReranker, choose_reranker_weight
from chapter01_baseline.systems import FUSION, RERANKED_FUSION, first_stages
from common.search import Hits, empty_hits

FOLDS = 5


def cross_validated_hits(
    queries: pd.DataFrame, indices: Indices, reranker: CrossEncoderReranker | None, *, seed: int, gains: str = "linear"
) -> dict[str, Hits]:
    """Return the first 200 hits of every system for judged `queries`, each found with settings chosen on other folds.

    `reranker` is put on top of the fusion (`RERANKED_FUSION`), its weight chosen in the same way; None leaves it out.
    """
    folds = np.random.default_rng(seed).permutation(len(queries)) % FOLDS
    hits: dict[str, Hits] = {}
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), queries[folds != fold]
        chosen, _ = choose_on(outside, indices, gains)
        searchers = first_stages(indices, Choices(run=indices.run, curves={}, **chosen))
        if reranker is not None:
            reranker.first = searchers[FUSION]
            reranker.weight, _ = choose_reranker_weight(reranker, outside, indices.catalogue, gains)
            searchers[RERANKED_FUSION] = reranker
        words = queries["query"].iloc[inside].tolist()
        for name, searcher in searchers.items():
            found = searcher.search(words, DEPTH)
            whole = hits.setdefault(name, empty_hits(len(queries), DEPTH))
            whole.ids[inside], whole.scores[inside] = found.ids, found.scores
    return hits
