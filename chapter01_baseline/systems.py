"""What chapter 1 offers to the scoreboard, the demo and the service: its searchers by name."""

from __future__ import annotations

from chapter01_baseline.choose import DEPTH, Choices, feedback_searchers, load_choices
from chapter01_baseline.fusion import FusedSearcher
from chapter01_baseline.reindex import Indices, load_indices
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.errors import MissingArtifact
from common.search import Searcher

FIRST_STAGES = (
    "BM25",
    "BM25 + RM3",
    "MiniLM",
    "MiniLM + Rocchio",
    "reciprocal rank fusion",
    "fusion",
    "fusion + feedback",
)
RERANKED = ("fusion", "fusion + feedback")
"""The first stages whose best hits the cross-encoder reorders."""


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return every searcher of the chapter that is built for `catalogue`, from the simplest to the strongest.

    Raises `MissingArtifact` with the command to run if there are no indices. The reranked fusion is there once the
    cross-encoder is trained.
    """
    indices, choices = load_indices(artifacts, catalogue), load_choices(artifacts)
    found = first_stages(indices, choices)
    try:
        # The cross-encoder is the one heavy part; imported only when asked for.
        from chapter01_baseline.rerank import load_rerankers

        rerankers = load_rerankers({name: found[name] for name in RERANKED}, catalogue, artifacts)
    except MissingArtifact:
        return found
    return found | {f"reranked {name}": reranker for name, reranker in rerankers.items()}


def first_stages(indices: Indices, choices: Choices) -> dict[str, Searcher]:
    """Return the searchers that need no training: words, vectors, each with feedback, and their fusions."""
    pair = [indices.keyword, indices.dense]
    feedback = feedback_searchers(indices)
    again = [feedback["rm3"](**choices.rm3), feedback["rocchio"](**choices.rocchio)]
    rrf = FusedSearcher(pair, "rrf", depth=DEPTH)
    fusion = FusedSearcher(pair, "convex", weight=choices.fusion_weight, depth=DEPTH)
    with_feedback = FusedSearcher(again, "convex", weight=choices.feedback_fusion_weight, depth=DEPTH)
    searchers = (indices.keyword, again[0], indices.dense, again[1], rrf, fusion, with_feedback)
    return dict(zip(FIRST_STAGES, searchers, strict=True))


def fused_stages(catalogue: Catalogue, artifacts: Artifacts) -> dict[str, Searcher]:
    """Return the first stages that are reranked (`RERANKED`)."""
    found = first_stages(load_indices(artifacts, catalogue), load_choices(artifacts))
    return {name: found[name] for name in RERANKED}
