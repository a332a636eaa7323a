"""What the demo does, as plain functions: a product in, its ranked category paths and its nearest products out.

    state = load_state(artifacts, catalogue)
    answer = rank_product(state, "Oak side table", picture=Path("table.jpg"))
    answer.ranking     # [(category path, probability), ...]
    answer.neighbours  # rank, score, product_id, title, category_path, picture

Nothing here knows of a user interface, and nothing is written. What a person can put right (nothing given, a picture
that cannot be read, a candidate typed twice) is a CourseError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from chapter04_catalogue_reranker.category_ranking import LISTED, TAXONOMY, load_category_ranking
from chapter04_catalogue_reranker.encode import FrozenTowers, encode_categories, encode_products
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import product_text
from chapter04_catalogue_reranker.ranking_metrics import SEPARATOR, levels
from chapter04_catalogue_reranker.reindex import Export, load_export, rank_all_categories
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.search import check_k

MOST = 50
"""Categories, and products, that one question may ask for."""
MOST_CANDIDATES = 500
LONGEST_TEXT = 20_000


@dataclass(frozen=True)
class Calibration:
    """temperature: scores are divided by it before they become probabilities. threshold: the least probability of the
    first path with which it is worth believing."""

    temperature: float = 1.0
    threshold: float = 0.0


@dataclass(frozen=True)
class DemoState:
    """What the demo asks. calibration: by what is ranked, `TAXONOMY` (all paths of the catalogue) or `LISTED`."""

    catalogue: Catalogue
    export: Export
    model: CatalogueReranker
    calibration: dict[str, Calibration]

    @cached_property
    def towers(self) -> FrozenTowers:
        """The model's, for encoding one question after another."""
        return FrozenTowers(self.model)


@dataclass(frozen=True)
class Answer:
    """ranking: category paths with their probabilities among all that were ranked, the likeliest first. note: why not
    to believe the first, else "". shares: how much of the product's vector is its text's ("text") and its picture's
    ("picture"), which add up to 1. neighbours: the nearest products of the catalogue (rank, score, product_id,
    title, category_path, picture; missing texts are empty, picture is a path or None)."""

    ranking: list[tuple[str, float]]
    note: str
    shares: dict[str, float]
    neighbours: pd.DataFrame


def load_state(artifacts: Artifacts, catalogue: Catalogue) -> DemoState:
    """Load the export and its model; raises `MissingArtifact` with the command that makes them."""
    export = load_export(artifacts)
    return DemoState(catalogue, export, export.load_model(), read_calibration(artifacts))


def read_calibration(artifacts: Artifacts) -> dict[str, Calibration]:
    """What the measurement in force (`category_ranking`) fitted; before the first, nothing is calibrated. Where no
    confidence was enough on validation, nothing short of certainty is."""
    try:
        found = load_category_ranking(artifacts).calibration
    except MissingArtifact:
        return {which: Calibration() for which in (TAXONOMY, LISTED)}
    return {
        which: Calibration(facts["temperature"], 1.0 if facts["threshold"] is None else facts["threshold"])
        for which, facts in found.items()
    }


def rank_product(
    state: DemoState,
    title: str | None = None,
    description: str | None = None,
    picture: Path | None = None,
    *,
    candidates: Sequence[str] = (),
    k: int = 10,
    neighbours: int = 8,
) -> Answer:
    """Rank the categories of one product, of which title, description or picture may be missing, but not all.

    candidates: rank these paths only, whether the catalogue has them or not; none: its whole taxonomy. k: how many
    paths to return. neighbours: how many products.

    Raises CourseError if nothing is given, the picture cannot be used, a text is longer than `LONGEST_TEXT`, a
    candidate is empty or given twice, or a number is out of range.
    """
    k, neighbours = _count(k), _count(neighbours)
    paths = checked_candidates(candidates)
    vector, shares = _embed(state, _text(title, description), picture)
    paths, cosines = _by_cosine(state, vector, paths) if paths else _all_by_cosine(state, vector)
    calibration = state.calibration[LISTED if candidates else TAXONOMY]
    ranking = list(zip(paths, _probabilities(state, cosines, calibration), strict=True))[:k]
    note = ""
    if ranking[0][1] < calibration.threshold:
        note = (
            f"The model is not sure: it gives its first path {ranking[0][1]:.0%}, and answers are worth believing from "
            f"{calibration.threshold:.0%} on. Let a person decide."
        )
    return Answer(ranking, note, shares, _neighbours(state, vector, neighbours))


def parse_candidates(lines: str) -> list[str]:
    """Category paths typed one a line; blank lines do not count, nor does the space around ">"."""
    return [SEPARATOR.join(name.strip() for name in line.split(">")) for line in lines.splitlines() if line.strip()]


def checked_candidates(candidates: Sequence[str]) -> list[str]:
    """The candidates as `parse_candidates` writes them. Raises CourseError if one has an empty name or is there twice,
    or if there are more than `MOST_CANDIDATES`."""
    paths = [path for candidate in candidates for path in (parse_candidates(candidate) or [""])]
    for path in paths:
        if not all(levels(path)):
            raise CourseError(f"The candidate {path!r} has an empty name in it; write it as A > B > C.")
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise CourseError(f"The candidate {twice[0]!r} is there more than once; name each once.")
    if len(paths) > MOST_CANDIDATES:
        raise CourseError(f"There are {len(paths):,} candidates; at most {MOST_CANDIDATES} are ranked at once.")
    return paths


def text_gate(model: CatalogueReranker, text: np.ndarray, image: np.ndarray) -> np.ndarray:
    """g of products that have both: the share of the text in each component of their vectors, [N, D].

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


def _embed(state: DemoState, text: str, picture: Path | None) -> tuple[Embeddings, dict[str, float]]:
    """The product's vector [1, D], and the shares of its text and its picture in it."""
    if not text and picture is None:
        raise CourseError("Nothing is given; give a title, a description or a picture of the product.")
    inputs = state.model.architecture.inputs
    if (inputs == "text" and not text) or (inputs == "image" and picture is None):
        raise CourseError(f"This model looks at the {inputs} alone; give one.")
    made = encode_products(state.towers, [text], [picture])
    if made.unusable:
        raise CourseError(f"The picture cannot be used: {made.unusable[0]}. Give another one.")
    if text and picture is not None and inputs == "both":
        share = float(text_gate(state.model, made.text, made.image).mean())
    else:
        share = 0.0 if inputs == "image" or not text else 1.0
    return Embeddings(made.fused, state.export.encoder_id), {"text": share, "picture": 1 - share}


def _by_cosine(state: DemoState, vector: Embeddings, paths: list[str]) -> tuple[list[str], np.ndarray]:
    """The candidates and their cosines, best first."""
    cosines = encode_categories(state.towers, paths) @ vector.vectors[0]
    order = sorted(range(len(paths)), key=lambda at: (-cosines[at], paths[at]))
    return [paths[at] for at in order], cosines[order]


def _all_by_cosine(state: DemoState, vector: Embeddings) -> tuple[list[str], np.ndarray]:
    paths, cosines = rank_all_categories(state.export, vector, len(state.export.categories))
    return paths[0].tolist(), cosines[0]


def _probabilities(state: DemoState, cosines: np.ndarray, calibration: Calibration) -> list[float]:
    """Softmax of scale * cosine / temperature."""
    logits = float(state.model.scale.detach()) * cosines.astype(np.float64) / calibration.temperature
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum()).tolist()


def _neighbours(state: DemoState, vector: Embeddings, k: int) -> pd.DataFrame:
    found = state.export.product_index.search_vectors(vector, k).row(0)
    ids = [product_id for product_id, _ in found]
    facts = state.export.products.set_index("product_id").loc[ids]
    home = Path(state.catalogue.folder or ".")
    return pd.DataFrame(
        {
            "rank": range(1, len(ids) + 1),
            "score": np.array([score for _, score in found], dtype=float),
            "product_id": ids,
            "title": facts["title"].fillna("").tolist(),
            "category_path": facts["category_path"].fillna("").tolist(),
            "picture": pd.Series([None if pd.isna(image) else home / image for image in facts["image"]], dtype=object),
        }
    )


def _count(k: int) -> int:
    if check_k(k) > MOST:
        raise CourseError(f"{k} are too many at once; at most {MOST} are shown.")
    return int(k)
