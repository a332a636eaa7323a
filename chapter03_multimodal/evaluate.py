"""Measure search with pictures on the queries of chapters 1 and 2, and compare it with their systems.

`python -m chapter03_multimodal.evaluate --catalogue pocket_shop`

This is the course's thread: the same test queries and the same grades. The figures of the earlier chapters are read
from their own evaluations, query by query.
"""

from __future__ import annotations

from dataclasses import dataclass

from chapter01_baseline.evaluate import EvaluateResult, search_all
from chapter01_baseline.systems import RERANKED_FUSION_FEEDBACK
from chapter02_two_tower.evaluate import evaluate_against
from chapter02_two_tower.systems import TWO_TOWERS, TWO_TOWERS_BM25, TWO_TOWERS_BM25_FEEDBACK, TWO_TOWERS_ROCCHIO
from chapter03_multimodal.systems import BEST, TEXT_IMAGE, TEXT_IMAGE_BM25, TEXT_IMAGE_ROCCHIO, systems
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.cli import run_step

CHAPTER, STEP = "chapter03_multimodal", "evaluate"
EARLIER = ("chapter01_baseline", "chapter02_two_tower")
HEADLINE = "nDCG@10"

CLAIMS = (
    *((BEST, TWO_TOWERS_BM25_FEEDBACK, metric) for metric in (HEADLINE, "R@10", "MRR")),
    *((TEXT_IMAGE, TWO_TOWERS, metric) for metric in (HEADLINE, "R@10", "MRR")),
    (TEXT_IMAGE_ROCCHIO, TWO_TOWERS_ROCCHIO, HEADLINE),
    (TEXT_IMAGE_BM25, TWO_TOWERS_BM25, HEADLINE),
    (BEST, RERANKED_FUSION_FEEDBACK, HEADLINE),
)
"""The chapter's claims (system, against, metric); their p-values are corrected together (Holm)."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure search with pictures on the judged test queries of a catalogue, against chapters 1 and 2."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    split: str = "test"
    """test or val; the earlier chapters must have been evaluated on the same. On val the figures are too good, since
    shares and weights were chosen there."""
    gains: str = "linear"
    """linear or esci, as in the earlier evaluations."""
    seed: int = 0
    """Of the bootstrap and the paired tests."""


def main(config: EvaluateConfig) -> EvaluateResult:
    """Measure the chapter's systems against those of chapters 1 and 2; see `evaluate_against`."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    steps = {step: (CHAPTER, step) for step in ("reindex", "choose")}
    return evaluate_against(
        EARLIER,
        lambda queries: search_all(systems(artifacts, catalogue), queries),
        chapter=CHAPTER,
        steps=steps | {"text_choices": ("chapter02_two_tower", "choose")},
        claims=CLAIMS,
        catalogue=catalogue,
        artifacts=artifacts,
        config=config,
        instead="Pictures and their texts can be measured without queries: python -m chapter03_multimodal.retrieval",
    )


if __name__ == "__main__":
    run_step(main)
