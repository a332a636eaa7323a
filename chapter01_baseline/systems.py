"""Offer chapter 1's searchers, by name, to the scoreboard, the demo and the service."""

from __future__ import annotations

from chapter01_baseline.choose import DEPTH, Choices, feedback_searchers, load_choices
from chapter01_baseline.fusion import FusedSearcher
from chapter01_baseline.reindex import Indices, load_indices
from chapter01_baseline.reranker import load_rerankers
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import MissingArtifact
from common.search import COSINE, Searcher

BM25, BM25_RM3 = "BM25", "BM25 + RM3"
MINILM, MINILM_ROCCHIO = "MiniLM", "MiniLM + Rocchio"
RECIPROCAL_RANK_FUSION = "reciprocal rank fusion"
FUSION, FUSION_FEEDBACK = "fusion", "fusion + feedback"
RERANKED_FUSION, RERANKED_FUSION_FEEDBACK = "reranked fusion", "reranked fusion + feedback"

RERANKED = {FUSION: RERANKED_FUSION, FUSION_FEEDBACK: RERANKED_FUSION_FEEDBACK}
"""The first stages whose best hits the cross-encoder reorders, and the names of the reranked systems."""

FUSED = "weighted mean of two scores, each scaled to 0 to 1 over what it retrieved"
RERANKED_SCORE = "weighted mean of the first stage's and the cross-encoder's score, each scaled to 0 to 1"
SCORES = {
    BM25: "BM25: the sum of what the query's words weigh in the product's text, 0 or more",
    BM25_RM3: "BM25 of the expanded query, its words weighted to add up to 1",
    MINILM: COSINE,
    MINILM_ROCCHIO: COSINE,
    RECIPROCAL_RANK_FUSION: "sum over both rankings of 1 / (60 + rank)",
    FUSION: FUSED,
    FUSION_FEEDBACK: FUSED,
    RERANKED_FUSION: RERANKED_SCORE,
    RERANKED_FUSION_FEEDBACK: RERANKED_SCORE,
}
"""What the scores of each system measure. The keys are all the chapter's systems, the simplest first."""


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return every searcher of the chapter that is built for `catalogue`, from the simplest to the strongest.

    The reranked systems are there once the cross-encoder is trained. Raises `MissingArtifact` with the command to run
    if there are no indices.
    """
    found = first_stages(load_indices(artifacts, catalogue), load_choices(artifacts))
    try:
        rerankers = load_rerankers({name: found[name] for name in RERANKED}, catalogue, artifacts)
    except MissingArtifact:
        return found
    return found | {RERANKED[name]: reranker for name, reranker in rerankers.items()}


def first_stages(indices: Indices, choices: Choices) -> dict[str, Searcher]:
    """Return the searchers that need no training: words, vectors, each with feedback, and their fusions."""
    pair = [indices.keyword, indices.dense]
    feedback = feedback_searchers(indices)
    again = [feedback["rm3"](**choices.rm3), feedback["rocchio"](**choices.rocchio)]
    return {
        BM25: indices.keyword,
        BM25_RM3: again[0],
        MINILM: indices.dense,
        MINILM_ROCCHIO: again[1],
        RECIPROCAL_RANK_FUSION: FusedSearcher(pair, "rrf", depth=DEPTH),
        FUSION: FusedSearcher(pair, "convex", weight=choices.fusion_weight, depth=DEPTH),
        FUSION_FEEDBACK: FusedSearcher(again, "convex", weight=choices.feedback_fusion_weight, depth=DEPTH),
    }
