"""Choose on validation queries how much a picture counts beside the text, and then all that chapter 1 chooses.

`python -m chapter03_multimodal.choose`
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from chapter01_baseline.choose import Choices, evaluation_judgements, judged_queries, load_choices, save_choices
from chapter01_baseline.fusion import choose_weight
from chapter01_baseline.reindex import load_indices, save_vectors
from chapter02_two_tower.reindex import Towers, load_towers
from chapter02_two_tower.systems import TWO_TOWERS_BM25_FEEDBACK
from chapter02_two_tower.systems import systems as text_systems
from chapter03_multimodal.joint import JointEncoder, joint_towers
from chapter03_multimodal.reindex import PictureIndices, load_pictures
from common.artifacts import Artifacts
from common.atomic import read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.encoders import Embeddings
from common.errors import CourseError
from common.evaluation import evaluate
from common.index import DenseIndex, DenseSearcher
from common.search import Searcher, hits_from_scores

CHAPTER, STEP = "chapter03_multimodal", "choose"
HEADLINE = "nDCG@10"
SHARES = tuple(np.linspace(0, 1, 21).round(2).tolist())
WITHOUT_JUDGEMENTS = 0.3
TEXTS = TWO_TOWERS_BM25_FEEDBACK
"""The system of chapter 2 whose scores are added to those of the pictures."""
PICTURE_DEPTH = 1_000
"""Hits of each that enter the sum. Many pictures look right; the list must be long enough to hold the text's best."""


@dataclass(frozen=True)
class ChooseConfig:
    """Choose the pictures' share, fusion weight and feedback on the validation queries of a catalogue."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    gains: str = "linear"
    """Gains of nDCG@10, by which the choice is made: linear or esci."""


@dataclass(frozen=True)
class PictureChoices:
    """What was chosen.

    share: of the pictures in the joint vectors. curve: nDCG@10 by share, empty without judgements. picture_weight: of
    the pictures' scores beside those of chapter 2's best (`TEXTS`). rest: the choices of chapter 1 (fusion, feedback),
    made for the joint vectors.
    """

    share: float
    curve: pd.DataFrame
    picture_weight: float
    rest: Choices


def main(config: ChooseConfig) -> PictureChoices:
    """Choose the share, build the index of the joint vectors, and choose fusion and feedback for it.

    A catalogue without judged validation queries gets a share of 0.3 and chapter 1's defaults.
    """
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    towers, pictures = load_towers(artifacts, catalogue), load_pictures(artifacts)
    indices = load_indices(artifacts, catalogue)
    inputs = {
        "text_choices": artifacts.current("chapter02_two_tower", STEP),
        "baseline": indices.run,
        "towers": towers.run,
        "pictures": pictures.run,
    }
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        queries = judged_queries(catalogue, "val")
        share, curve = choose_share(towers, pictures, queries, config.gains)
        weight = choose_picture_weight(text_systems(artifacts, catalogue)[TEXTS], pictures, queries, catalogue, config)
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            write_json(folder / "share.json", {"share": share, "picture_weight": weight})
            curve.to_parquet(folder / "share_curve.parquet", index=False)
            _, embeddings = joint_towers(towers, pictures, share)
            (folder / "joint").mkdir()
            save_vectors(folder / "joint", embeddings, indices.product_ids)
            joint = _joint_of(folder / "joint", towers, pictures, share)
            save_choices(folder, joint.as_indices(indices), config.gains)
    return load_picture_choices(artifacts)


def load_picture_choices(artifacts: Artifacts) -> PictureChoices:
    """Read the current choices; raises `MissingArtifact` with the command that makes them."""
    rest = load_choices(artifacts, CHAPTER)
    curve = rest.curves.pop("share_curve")
    return PictureChoices(curve=curve, rest=rest, **read_json(rest.run.path / "share.json"))


def load_joint_towers(artifacts: Artifacts, catalogue: Catalogue) -> Towers:
    """Return chapter 2's towers with the joint vectors of texts and pictures in their indices.

    Raises `MissingArtifact` with the command to run, and CourseError if towers or pictures have changed since.
    """
    run, share = artifacts.current(CHAPTER, STEP), load_picture_choices(artifacts).share
    return _joint_of(run.path / "joint", load_towers(artifacts, catalogue), load_pictures(artifacts), share)


def choose_share(
    towers: Towers, pictures: PictureIndices, queries: pd.DataFrame, gains: str = "linear"
) -> tuple[float, pd.DataFrame]:
    """Choose the share with the best mean nDCG@10 of exact search on judged validation `queries`.

    Returns it, the smallest of equals, and the curve (share, nDCG@10).
    """
    if queries.empty:
        return WITHOUT_JUDGEMENTS, pd.DataFrame({"share": [], HEADLINE: []})
    grades, ids = evaluation_judgements(towers.catalogue), towers.catalogue.products["product_id"].tolist()
    points = []
    for share in SHARES:
        encoder, embeddings = joint_towers(towers, pictures, share)
        asked = encoder.encode(queries["query"].tolist()).vectors
        hits = hits_from_scores(asked @ embeddings.vectors.T, ids, 10)
        points.append((share, evaluate(hits, queries, grades, metrics=[HEADLINE], gains=gains)[HEADLINE].mean()))
    curve = pd.DataFrame(points, columns=["share", HEADLINE])
    return float(curve.loc[curve[HEADLINE].idxmax(), "share"]), curve


def choose_picture_weight(
    texts: Searcher, pictures: PictureIndices, queries: pd.DataFrame, catalogue: Catalogue, config: ChooseConfig
) -> float:
    """Choose the weight of the pictures' scores beside those of `texts` by nDCG@10 on validation `queries`."""
    if queries.empty:
        return WITHOUT_JUDGEMENTS
    words = queries["query"].tolist()
    hits = [searcher.search(words, PICTURE_DEPTH) for searcher in (texts, pictures.by_text)]
    return choose_weight(hits, queries["query_id"].tolist(), evaluation_judgements(catalogue), gains=config.gains)[0]


def _joint_of(folder: Path, towers: Towers, pictures: PictureIndices, share: float) -> Towers:
    """Load the joint vectors of a run with their query encoder."""
    encoder = JointEncoder(towers.encoder, pictures.encoder, share)
    flat, hnsw = (DenseIndex.load(folder / kind) for kind in ("flat", "hnsw"))
    if flat.encoder_id != encoder.encoder_id:
        raise CourseError(
            f"{CHAPTER}: the joint index in {STEP} was built from other towers or pictures than are there now.\n"
            f"Build it again with: python -m {CHAPTER}.{STEP}"
        )
    vectors = np.load(folder / "embeddings.npy", allow_pickle=False)
    return replace(
        towers,
        encoder=encoder,
        embeddings=Embeddings(vectors, encoder.encoder_id),
        dense=DenseSearcher(encoder, flat),
        hnsw=DenseSearcher(encoder, hnsw),
    )


if __name__ == "__main__":
    run_step(main)
