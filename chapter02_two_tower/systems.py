"""Offer chapter 2's searchers, by name, to the scoreboard, the demo and the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from chapter01_baseline.choose import load_choices
from chapter01_baseline.systems import FUSION, FUSION_FEEDBACK, MINILM, MINILM_ROCCHIO, first_stages
from chapter01_baseline.systems import SCORES as BASELINE_SCORES
from chapter02_two_tower.reindex import CHAPTER, Towers, load_both
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.search import Searcher

Found = TypeVar("Found")

TWO_TOWERS, TWO_TOWERS_ROCCHIO = "two towers", "two towers + Rocchio"
TWO_TOWERS_BM25, TWO_TOWERS_BM25_FEEDBACK = "two towers + BM25", "two towers + BM25 + feedback"
TWO_TOWERS_HNSW = "two towers, HNSW"
STAGE_1, RANDOM_NEGATIVES = "two towers, stage 1", "two towers, random negatives"

NAMES = {
    MINILM: TWO_TOWERS,
    MINILM_ROCCHIO: TWO_TOWERS_ROCCHIO,
    FUSION: TWO_TOWERS_BM25,
    FUSION_FEEDBACK: TWO_TOWERS_BM25_FEEDBACK,
}
"""Chapter 1's systems that use an encoder, and their names with the towers in its place."""
SCORES = {ours: BASELINE_SCORES[theirs] for theirs, ours in NAMES.items()}
"""What the scores of each system measure, from the simplest to the strongest."""

ABLATIONS = {"stage1": STAGE_1, "control": RANDOM_NEGATIVES}
"""The other models of the training: the one before stage 2, and the control."""


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return the searchers of the chapter for `catalogue`, from the simplest to the strongest.

    Raises `MissingArtifact` with the command to run if the towers were not trained, indexed, or their weights chosen.
    """
    indices, towers = load_both(artifacts, catalogue)
    choices = load_choices(artifacts, CHAPTER)
    return with_towers(first_stages(towers.as_indices(indices), choices))


def ablations(towers: Towers) -> dict[str, Searcher]:
    """Return searchers to compare the towers with: the approximate index, and the other models of the training."""
    return {TWO_TOWERS_HNSW: towers.hnsw} | {ABLATIONS[name]: found for name, found in towers.others.items()}


def with_towers(found: Mapping[str, Found]) -> dict[str, Found]:
    """Rename chapter 1's systems to this chapter's (`NAMES`); systems without an encoder are left out."""
    return {ours: found[theirs] for theirs, ours in NAMES.items()}
