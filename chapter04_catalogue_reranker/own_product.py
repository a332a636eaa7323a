"""Rank the categories of a product of your own: a text, a picture or both in, category paths and near products out.

ranker = load_product_ranker(artifacts)
answer = rank_product(ranker, "Oak side table", picture=Path("table.jpg"))
answer.ranking     # [(category path, probability), ...]
answer.neighbours  # [(product id, cosine), ...]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from chapter04_catalogue_reranker.category_ranking import LISTED, TAXONOMY, load_category_ranking
from chapter04_catalogue_reranker.encode import FrozenTowers, encode_categories, encode_products
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import product_text
from chapter04_catalogue_reranker.reindex import Export, load_export, rank_all_categories
from common.artifacts import Artifacts
from common.category_path import join_path, split_path
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.search import check_k

MOST = 50
"""Categories, and products, that one question may ask for."""
MOST_CANDIDATES = 500
LONGEST_TEXT = 20_000
"""Characters."""


@dataclass(frozen=True)
class Calibration:
    """temperature: divides the scores before they become probabilities. threshold: the least probability of the first
    path at which an answer can be trusted."""

    temperature: float = 1.0
    threshold: float = 0.0


@dataclass(frozen=True)
class ProductRanker:
    """The export and its model. calibration: by what is ranked, `TAXONOMY` (all paths of the catalogue) or `LISTED`."""

    export: Export
    model: CatalogueReranker
    calibration: dict[str, Calibration]

    @cached_property
    def towers(self) -> FrozenTowers:
        """The model's towers, for encoding one question after another."""
        return FrozenTowers(self.model)


@dataclass(frozen=True)
class RankedCategories:
    """ranking: category paths with their probabilities among all that were ranked, the likeliest first. note: why the
    first should not be trusted, else "". shares: the shares of the text ("text") and of the picture ("picture") in the
    product's vector, which add up to 1. neighbours: the ids of the nearest products of the catalogue, with cosines."""

    ranking: list[tuple[str, float]]
    note: str
    shares: dict[str, float]
    neighbours: list[tuple[str, float]]


def load_product_ranker(artifacts: Artifacts) -> ProductRanker:
    """Load the export and its model; raises `MissingArtifact` with the command that makes them."""
    export = load_export(artifacts)
    return ProductRanker(export, export.load_model(), read_calibration(artifacts))


def read_calibration(artifacts: Artifacts) -> dict[str, Calibration]:
    """Read what the current `category_ranking` fitted; without one, nothing is calibrated.

    If no probability was high enough to trust on validation, the threshold is 1.
    """
    try:
        found = load_category_ranking(artifacts).calibration
    except MissingArtifact:
        return {which: Calibration() for which in (TAXONOMY, LISTED)}
    return {
        which: Calibration(facts["temperature"], 1.0 if facts["threshold"] is None else facts["threshold"])
        for which, facts in found.items()
    }


def rank_product(
    ranker: ProductRanker,
    title: str | None = None,
    description: str | None = None,
    picture: Path | None = None,
    *,
    candidates: Sequence[str] = (),
    k: int = 10,
    neighbours: int = 8,
) -> RankedCategories:
    """Rank the categories of one product. Title, description or picture may be missing, but not all of them.

    candidates: rank only these paths, whether or not the catalogue has them; none: its whole taxonomy. k: how many
    paths to return. neighbours: how many products.

    Raises CourseError if nothing is given, the picture cannot be used, a text is longer than `LONGEST_TEXT`, a
    candidate is empty or given twice, or a number is out of range.
    """
    k, neighbours = _count(k), _count(neighbours)
    paths = checked_candidates(candidates)
    vector, shares = _embed(ranker, _text(title, description), picture)
    paths, cosines = _by_cosine(ranker, vector, paths) if paths else _all_by_cosine(ranker, vector)
    calibration = ranker.calibration[LISTED if candidates else TAXONOMY]
    ranking = list(zip(paths, _probabilities(ranker, cosines, calibration), strict=True))[:k]
    note = ""
    if ranking[0][1] < calibration.threshold:
        note = (
            f"The model is not sure: it gives its first path {ranking[0][1]:.0%}, and answers can be trusted from "
            f"{calibration.threshold:.0%} on. Let a person decide."
        )
    near = ranker.export.product_index.search_vectors(vector, neighbours).row(0)
    return RankedCategories(ranking, note, shares, near)


def checked_candidates(candidates: Sequence[str]) -> list[str]:
    """Return the candidates without spare space around their levels.

    Raises CourseError if a level is empty, a candidate is given twice, or there are more than `MOST_CANDIDATES`.
    """
    paths = [join_path(name.strip() for name in candidate.split(">")) for candidate in candidates]
    for path in paths:
        if not all(split_path(path)):
            raise CourseError(f"The candidate {path!r} has an empty name in it; write it as A > B > C.")
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise CourseError(f"The candidate {twice[0]!r} is there more than once; name each once.")
    if len(paths) > MOST_CANDIDATES:
        raise CourseError(f"There are {len(paths):,} candidates; at most {MOST_CANDIDATES} are ranked at once.")
    return paths


def text_gate(model: CatalogueReranker, text: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return g of products that have both: the share of the text in each component of their vectors, [N, D].

    text, image: [N, D], the vectors of either modality.
    """
    if model.architecture.fusion == "mean":
        return np.full(text.shape, 0.5, dtype=np.float32)
    both = torch.from_numpy(np.concatenate([text, image], axis=1)).to(model.device)
    with torch.inference_mode():
        return torch.sigmoid(model.gate(both)).cpu().numpy()


def _text(title: str | None, description: str | None) -> str:
    longest = max(len(part or "") for part in (title, description))
    if longest > LONGEST_TEXT:
        raise CourseError(f"A text has {longest:,} characters; say it in at most {LONGEST_TEXT:,}.")
    return product_text(title, description)


def _embed(ranker: ProductRanker, text: str, picture: Path | None) -> tuple[Embeddings, dict[str, float]]:
    """Return the product's vector [1, D], and the shares of its text and its picture in it."""
    if not text and picture is None:
        raise CourseError("Nothing is given; give a title, a description or a picture of the product.")
    inputs = ranker.model.architecture.inputs
    if (inputs == "text" and not text) or (inputs == "image" and picture is None):
        raise CourseError(f"This model looks at the {inputs} alone; give one.")
    made = encode_products(ranker.towers, [text], [picture])
    if made.unusable:
        raise CourseError(f"The picture cannot be used: {made.unusable[0]}. Give another one.")
    if text and picture is not None and inputs == "both":
        share = float(text_gate(ranker.model, made.text, made.image).mean())
    else:
        share = 0.0 if inputs == "image" or not text else 1.0
    return Embeddings(made.fused, ranker.export.encoder_id), {"text": share, "picture": 1 - share}


def _by_cosine(ranker: ProductRanker, vector: Embeddings, paths: list[str]) -> tuple[list[str], np.ndarray]:
    """Return the candidates and their cosines, best first."""
    cosines = encode_categories(ranker.towers, paths) @ vector.vectors[0]
    order = sorted(range(len(paths)), key=lambda at: (-cosines[at], paths[at]))
    return [paths[at] for at in order], cosines[order]


def _all_by_cosine(ranker: ProductRanker, vector: Embeddings) -> tuple[list[str], np.ndarray]:
    paths, cosines = rank_all_categories(ranker.export, vector, len(ranker.export.categories))
    return paths[0].tolist(), cosines[0]


def _probabilities(ranker: ProductRanker, cosines: np.ndarray, calibration: Calibration) -> list[float]:
    """Return the softmax of scale * cosine / temperature."""
    logits = float(ranker.model.scale.detach()) * cosines.astype(np.float64) / calibration.temperature
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum()).tolist()


def _count(k: int) -> int:
    if check_k(k) > MOST:
        raise CourseError(f"{k} are too many at once; at most {MOST} are shown.")
    return int(k)
