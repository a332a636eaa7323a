"""What chapter 3 offers to the scoreboard, the demo and the service: its searchers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from chapter01_baseline.fusion import FusedSearcher
from chapter01_baseline.reindex import load_indices
from chapter01_baseline.systems import first_stages
from chapter02_two_tower.systems import systems as text_systems
from chapter03_multimodal.choose import PICTURE_DEPTH, TEXTS, load_joint_towers, load_picture_choices
from chapter03_multimodal.reindex import load_pictures
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.search import Searcher

Found = TypeVar("Found")

CLIP = "CLIP, text to image"
BEST = "text + image + BM25 + feedback"
NAMES = {"MiniLM": "text + image", "MiniLM + Rocchio": "text + image + Rocchio", "fusion": "text + image + BM25"}
"""Chapter 1's systems that have an encoder in them, and what they are called with the joint vectors in its place."""


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return the searchers of the chapter for `catalogue`, from the simplest to the strongest.

    `BEST` is chapter 2's best, feedback and all, whose scores are added to those of the pictures (0 for a product
    without one). Raises `MissingArtifact` with the command to run if pictures or joint vectors were not indexed or
    chosen.
    """
    indices, choices = load_indices(artifacts, catalogue), load_picture_choices(artifacts)
    joint, clip = load_joint_towers(artifacts, catalogue), load_pictures(artifacts).by_text
    found = under_our_names(first_stages(joint.in_place_of_the_baseline(indices), choices.rest))
    pair = [text_systems(artifacts, catalogue)[TEXTS], clip]
    best = FusedSearcher(pair, "convex", weight=choices.picture_weight, depth=PICTURE_DEPTH)
    return {CLIP: clip} | found | {BEST: best}


def under_our_names(found: Mapping[str, Found]) -> dict[str, Found]:
    """Return what stands under chapter 1's names (`NAMES`) under the chapter's own; the others are left out."""
    return {ours: found[theirs] for theirs, ours in NAMES.items()}
