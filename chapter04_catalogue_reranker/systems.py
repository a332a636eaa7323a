"""Offer chapter 4's searcher, the learned ranker, to the scoreboard, the demo and the service."""

from __future__ import annotations

from chapter04_catalogue_reranker.search_ranker.learned_ranker import load_ranker
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.search import Searcher

BEST = "learned ranker"
SCORES = {BEST: "for the order alone: weighted score of chapter 3's best system, plus what the trees add"}
"""What the scores of each system measure."""


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return the chapter's searcher for `catalogue`.

    Raises `MissingArtifact` with the command to run if it was not trained, or something that it reads is not there.
    """
    return {BEST: load_ranker(artifacts, catalogue)}
