"""Complete the look: suggest varied items that go with all the items already chosen, the context.

1. Average the context's vectors in the head's space, where what goes together is near.
2. Search an index of that space for the `pool` nearest candidates, never the context itself or a variant of it.
3. Keep to the wanted category while searching: a filter afterwards could leave nothing of a pool of shirts for someone
   who looks for shoes.
4. Score each candidate with each item of the context, and average: the mean vector cannot tell an item that suits all
   of the context from one that suits half of it very well.
5. Rerank by maximal marginal relevance (MMR): each next item is relevant and unlike those already chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd

from chapter03_multimodal.outfits.compatibility import load_compatibility
from chapter03_multimodal.outfits.embeddings import ItemEmbeddings
from chapter03_multimodal.outfits.export_embeddings import load_export
from chapter03_multimodal.outfits.head import CompatibilityHead, HeadScorer
from chapter03_multimodal.outfits.pairs import ItemFacts
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.category_path import prefixes_of
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex


@dataclass(frozen=True)
class Look:
    """items: `product_id, score` (mean probability or cosine of going with the context), in the order of choice, which
    MMR makes differ from that of the scores. note: why there are fewer items than asked for, else empty."""

    items: pd.DataFrame
    note: str = ""

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class LookFinder:
    """What completing a look needs: a head on its embeddings, what is known of the items, and an index of the head's
    space. Make one with `build`, or with `load_look_finder`."""

    scorer: HeadScorer
    facts: ItemFacts
    index: DenseIndex

    @classmethod
    def build(cls, head: CompatibilityHead, embeddings: ItemEmbeddings, facts: ItemFacts) -> LookFinder:
        """Project the items and index them. facts: may hold predicted categories where none is known."""
        scorer = HeadScorer(head, embeddings)
        projected = Embeddings(scorer.projected, f"{embeddings.encoder_id} under a compatibility head")
        return cls(scorer, facts, DenseIndex.build(projected, embeddings.ids))

    @property
    def embeddings(self) -> ItemEmbeddings:
        return self.scorer.embeddings


def load_look_finder(artifacts: Artifacts, catalogue: Catalogue) -> LookFinder:
    """Read the head and the embeddings in force; raises `MissingArtifact` with the command that makes them, and
    CourseError if the embeddings are of another encoder than the head was trained on."""
    embeddings = load_export(artifacts).embeddings
    head = load_compatibility(artifacts).head(embeddings)
    return LookFinder.build(head, embeddings, ItemFacts.of(catalogue.products))


def complete_look(
    finder: LookFinder,
    context_ids: Sequence[str],
    *,
    gap_category: str | None = None,
    k: int = 5,
    pool: int = 100,
    use_mmr: bool = True,
    mmr_lambda: float = 0.7,
) -> Look:
    """Suggest up to k items that go with all items of the context, by the steps that the module describes.

    context_ids: the items already chosen, in any order. gap_category: the missing category, a path or the start of one
    ("Clothing > Shoes" includes all below it); None: any. pool: how many candidates are scored. use_mmr: False gives
    the k best scores. mmr_lambda: the weight of relevance, 1 for relevance alone, 0 for variety alone.

    Never returns the context or a variant of it (same group). If nothing is left, `Look.items` is empty and `Look.note`
    says why. Raises `CourseError` for unknown ids, an unknown category, and numbers out of range.
    """
    context = list(dict.fromkeys(context_ids))
    _check(context, k, pool, mmr_lambda)
    rows = finder.embeddings.rows(context)
    allowed = None if gap_category is None else _of_category(finder, gap_category)
    excluded = set().union(*(finder.facts.variants(item) for item in context))
    candidates = _candidates(finder, rows, pool, allowed, excluded)
    if not candidates:
        return Look(_table([], np.zeros(0)), _nothing_left(gap_category, allowed))
    scores = mean_scores(finder.scorer, candidates, context)
    best = np.argsort(-scores, kind="stable")
    candidates, scores = [candidates[at] for at in best], scores[best]
    if use_mmr:
        # By the encoder's vectors: in the head's space all good candidates are near each other, as they should be.
        vectors = finder.embeddings.vectors[finder.embeddings.rows(candidates)]
        chosen = mmr(scores, vectors @ vectors.T, k, mmr_lambda)
    else:
        chosen = list(range(min(k, len(candidates))))
    found = _table([candidates[at] for at in chosen], scores[chosen])
    return Look(found, "" if len(found) == k else f"only {len(found)} items to choose from, {k} were asked for")


def mean_scores(scorer: HeadScorer, candidates: Sequence[str], context: Sequence[str]) -> np.ndarray:
    """Return the mean score [C] of each of C candidates with all items of the context."""
    pairs = scorer([item for _ in candidates for item in context], [item for item in candidates for _ in context])
    return pairs.reshape(len(candidates), len(context)).mean(axis=1)


def mmr(relevance: np.ndarray, similarity: np.ndarray, k: int, mmr_lambda: float) -> list[int]:
    """Choose k candidates by maximal marginal relevance; return their positions in the order of choice. Each maximises

        mmr_lambda * relevance_i  -  (1 - mmr_lambda) * max over chosen j of similarity_ij

    where the maximum over none is 0. mmr_lambda weighs relevance, as in the paper; some libraries weigh diversity by
    it. Of equal candidates the first is chosen, so give them best first.

    relevance: [C]. similarity: [C, C], on the same scale as relevance, as a probability and a cosine roughly are.

    Source: Carbonell & Goldstein 1998, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and
    Producing Summaries".
    """
    nearest, free = np.zeros(len(relevance)), np.ones(len(relevance), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < min(k, len(relevance)):
        gain = np.where(free, mmr_lambda * relevance - (1 - mmr_lambda) * nearest, -np.inf)
        best = int(gain.argmax())
        nearest = np.maximum(nearest, similarity[best]) if chosen else similarity[best].astype(np.float64)
        free[best] = False
        chosen.append(best)
    return chosen


def _candidates(
    finder: LookFinder, rows: np.ndarray, pool: int, allowed: list[str] | None, excluded: set[str]
) -> list[str]:
    """Search for the items nearest to the mean of the context, whose length does not change their order."""
    mean = finder.scorer.projected[rows].mean(axis=0, keepdims=True)
    hits = finder.index.search_vectors(
        Embeddings(mean, finder.index.encoder_id), pool, allowed=allowed, exclude=[excluded]
    )
    return [item for item in hits.ids[0] if item is not None]


def _of_category(finder: LookFinder, category: str) -> list[str]:
    categories = finder.facts.categories
    found = [item for item in finder.embeddings.ids if category in prefixes_of(categories.get(item, ""))]
    if not found and not any(category in prefixes_of(path) for path in categories.values()):
        near = get_close_matches(category, sorted({*categories.values()}), n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise CourseError(f"There is no category {category!r}{hint} Give a path or the start of one.")
    return found


def _nothing_left(category: str | None, allowed: list[str] | None) -> str:
    if allowed is None:
        return "nothing to choose from: every item is in the look already, or a variant of one that is"
    if not allowed:
        return f"nothing to choose from: no item of category {category!r} has a usable picture"
    return (
        f"nothing to choose from: all {len(allowed)} items of category {category!r} are in the look, or variants of it"
    )


def _table(items: Sequence[str], scores: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"product_id": pd.Series(list(items), dtype="str"), "score": scores.astype(np.float64)})


def _check(context: Sequence[str], k: int, pool: int, mmr_lambda: float) -> None:
    if not context:
        raise CourseError("The context is empty; give at least one item that is there already.")
    if not 1 <= k <= pool:
        raise CourseError(f"k={k} items out of a pool of {pool} cannot be given; k is at least 1 and at most the pool.")
    if not 0 <= mmr_lambda <= 1:
        raise CourseError(f"mmr_lambda={mmr_lambda} cannot be; it weighs relevance and lies between 0 and 1.")
