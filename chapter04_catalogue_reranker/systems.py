"""What chapter 4 offers to the scoreboard, the demo and the service: the learned ranker."""

from __future__ import annotations

from chapter04_catalogue_reranker.search_ranker.learned_ranker import load_ranker
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.search import Searcher

BEST = "learned ranker"


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return the chapter's searcher for `catalogue`.

    Raises `MissingArtifact` with the command to run if it was not trained, or something that it reads is not there.
    """
    return {BEST: load_ranker(artifacts, catalogue)}
