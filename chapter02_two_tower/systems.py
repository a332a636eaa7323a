"""What chapter 2 offers to the scoreboard, the demo and the service: its searchers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from chapter01_baseline.choose import load_choices
from chapter01_baseline.systems import first_stages
from chapter02_two_tower.reindex import CHAPTER, Towers, load_both
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.search import Searcher

Found = TypeVar("Found")

NAMES = {
    "MiniLM": "two towers",
    "MiniLM + Rocchio": "two towers + Rocchio",
    "fusion": "two towers + BM25",
    "fusion + feedback": "two towers + BM25 + feedback",
}
"""Chapter 1's systems that have an encoder in them, and what they are called with the towers in its place."""

ABLATIONS = {"stage1": "two towers, stage 1", "control": "two towers, random negatives"}
"""The other models of the training: after random negatives only, and at equal steps without hard negatives."""


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return the searchers of the chapter for `catalogue`, from the simplest to the strongest.

    Raises `MissingArtifact` with the command to run if the towers were not trained, indexed, or their weights chosen.
    """
    indices, towers = load_both(artifacts, catalogue)
    choices = load_choices(artifacts, CHAPTER)
    return with_towers(first_stages(towers.in_place_of_the_baseline(indices), choices))


def ablations(towers: Towers) -> dict[str, Searcher]:
    """Return what the towers are compared with: the approximate index, and the other models of the training."""
    return {"two towers, HNSW": towers.hnsw} | {ABLATIONS[name]: found for name, found in towers.others.items()}


def with_towers(found: Mapping[str, Found]) -> dict[str, Found]:
    """Return what stands under chapter 1's names (`NAMES`) under the chapter's own; what has no encoder is left out."""
    return {ours: found[theirs] for theirs, ours in NAMES.items()}
