"""Measure the learned ranker on the queries of chapters 1 to 3.

`python -m chapter04_catalogue_reranker.evaluate --catalogue pocket_shop`

The last step of the course's thread: the same test queries and the same grades. The earlier chapters' figures are read
from their own evaluations, query by query.
"""

from __future__ import annotations

from dataclasses import dataclass

from chapter01_baseline import evaluate as baseline
from chapter01_baseline.evaluate import EvaluateResult, search_all
from chapter01_baseline.systems import FUSION, FUSION_FEEDBACK, RERANKED_FUSION, RERANKED_FUSION_FEEDBACK
from chapter02_two_tower import evaluate as two_tower
from chapter02_two_tower.evaluate import evaluate_against
from chapter02_two_tower.systems import TWO_TOWERS_BM25_FEEDBACK
from chapter03_multimodal import evaluate as multimodal
from chapter03_multimodal import systems as pictures
from chapter04_catalogue_reranker.search_ranker import learned_ranker
from chapter04_catalogue_reranker.systems import BEST, systems
from common.artifacts import Artifacts
from common.catalogue import load_catalogue
from common.cli import run_step

CHAPTER, STEP = "chapter04_catalogue_reranker", "evaluate"
HEADLINE = "nDCG@10"
EARLIER = (baseline.CHAPTER, two_tower.CHAPTER, multimodal.CHAPTER)

CLAIMS = (
    *((BEST, pictures.BEST, metric) for metric in (HEADLINE, "R@10", "MRR")),
    *(
        (BEST, other, HEADLINE)
        for other in (RERANKED_FUSION, RERANKED_FUSION_FEEDBACK, FUSION, FUSION_FEEDBACK, TWO_TOWERS_BM25_FEEDBACK)
    ),
)
"""The chapter's claims (system, against, metric); their p-values are corrected together (Holm)."""

INSTEAD = f"""Measure categories instead, with: python -m {CHAPTER}.category_ranking
or, of abo and shopify_taxonomy, with: python -m {CHAPTER}.studies.real_text"""


@dataclass(frozen=True)
class EvaluateConfig(multimodal.EvaluateConfig):
    """Measure the learned ranker on the judged test queries of a catalogue, against chapters 1 to 3."""


def main(config: EvaluateConfig) -> EvaluateResult:
    """Measure the learned ranker against all earlier chapters; see `evaluate_against`."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    return evaluate_against(
        EARLIER,
        lambda queries: search_all(systems(artifacts, catalogue), queries),
        chapter=CHAPTER,
        steps={"learned_ranker": (CHAPTER, learned_ranker.STEP)},
        claims=CLAIMS,
        catalogue=catalogue,
        artifacts=artifacts,
        config=config,
        instead=INSTEAD,
    )


if __name__ == "__main__":
    run_step(main)
