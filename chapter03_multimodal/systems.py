"""Offer chapter 3's searchers, by name, to the scoreboard, the demo and the service."""

from __future__ import annotations

from chapter01_baseline.fusion import FusedSearcher
from chapter01_baseline.reindex import load_indices
from chapter01_baseline.systems import FUSED, FUSION, MINILM, MINILM_ROCCHIO, first_stages
from chapter02_two_tower.systems import systems as text_systems
from chapter03_multimodal.choose import PICTURE_DEPTH, TEXTS, load_joint_towers, load_picture_choices
from chapter03_multimodal.reindex import load_pictures
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.search import COSINE, Searcher

CLIP = "CLIP, text to image"
TEXT_IMAGE, TEXT_IMAGE_ROCCHIO = "text + image", "text + image + Rocchio"
TEXT_IMAGE_BM25, BEST = "text + image + BM25", "text + image + BM25 + feedback"

NAMES = {MINILM: TEXT_IMAGE, MINILM_ROCCHIO: TEXT_IMAGE_ROCCHIO, FUSION: TEXT_IMAGE_BM25}
"""Chapter 1's systems that use an encoder, and their names with the joint vectors in its place."""

JOINT = "weighted mean of the cosines of query and text, and of query and picture"
SCORES = {CLIP: COSINE, TEXT_IMAGE: JOINT, TEXT_IMAGE_ROCCHIO: JOINT, TEXT_IMAGE_BM25: FUSED, BEST: FUSED}
"""What the scores of each system measure, from the simplest to the strongest."""


def systems(artifacts: Artifacts, catalogue: Catalogue) -> dict[str, Searcher]:
    """Return the searchers of the chapter for `catalogue`, from the simplest to the strongest.

    `BEST` adds the scores of chapter 2's best, with its feedback, to those of the pictures (0 for a product without
    one). Raises `MissingArtifact` with the command to run if pictures or joint vectors were not indexed or chosen.
    """
    indices, choices = load_indices(artifacts, catalogue), load_picture_choices(artifacts)
    joint, clip = load_joint_towers(artifacts, catalogue), load_pictures(artifacts).by_text
    stages = first_stages(joint.as_indices(indices), choices.rest)
    pair = [text_systems(artifacts, catalogue)[TEXTS], clip]
    best = FusedSearcher(pair, "convex", weight=choices.picture_weight, depth=PICTURE_DEPTH)
    return {CLIP: clip} | {ours: stages[theirs] for theirs, ours in NAMES.items()} | {BEST: best}
