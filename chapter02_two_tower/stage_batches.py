"""Make the batches of a stage, from negatives and similar queries that its first model finds and that are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from chapter02_two_tower.batches import BatchMaker
from chapter02_two_tower.mine_hard_negatives import hard_negatives_of
from chapter02_two_tower.mining import Mined
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.stages import MOST_SIMILAR, Stage
from chapter02_two_tower.train_config import TrainConfig
from chapter02_two_tower.training_data import TrainingData, by_query, known_relevant, training_queries
from chapter02_two_tower.training_texts import TrainingTexts
from common.atomic import read_json, write_json
from common.errors import CourseError
from common.progress import tell

NEGATIVES, SIMILAR, SKIPPED = "negatives.json", "similar_queries.json", "skipped.parquet"
ROWS = 1024  # of queries compared with all others at a time: tens of thousands squared would not fit into memory


def mine_once(
    stage: Stage,
    model: TwoTowerModel,
    folder: Path,
    texts: TrainingTexts,
    data: TrainingData,
    config: TrainConfig,
) -> None:
    """Write the negatives and the similar queries of a stage into its folder, unless they are there.

    A resumed stage must draw from the same ones.
    """
    if (folder / NEGATIVES).is_file():
        return
    pools, mined = stage_negatives(stage, model, texts, data, config)
    folder.mkdir(parents=True, exist_ok=True)
    if mined is not None:
        mined.skipped.to_parquet(folder / SKIPPED, index=False)
    write_json(folder / SIMILAR, similar_queries(stage, model, texts.queries))
    write_json(folder / NEGATIVES, pools)


def stage_batches(stage: Stage, folder: Path, data: TrainingData, config: TrainConfig) -> BatchMaker:
    """Return the maker of a stage's batches, which draw from what `mine_once` wrote into its folder."""
    return BatchMaker(
        positives=stage.positives,
        negatives=read_json(folder / NEGATIVES),
        relevant=known_relevant(data.relevant),
        batch_size=config.batch_size,
        negatives_per_positive=stage.negatives,
        pairs=stage.pairs,
        typo_share=config.typo_share,
        together=stage.together,
        similar=read_json(folder / SIMILAR),
        seed=stage.seed,
    )


def stage_negatives(
    stage: Stage, model: TwoTowerModel, texts: TrainingTexts, data: TrainingData, config: TrainConfig
) -> tuple[dict[str, list[str]], Mined | None]:
    """Return the products to draw each query's extra negatives from, and the report of mining if there was any.

    Hard negatives are products that `model` itself ranks high although they are not relevant, and products that a judge
    called irrelevant. Raises `CourseError` if no query has a negative.
    """
    if not stage.negatives:
        return {}, None
    pairs = data.training_pairs
    if stage.kind == "random":
        return _pools(stage, pairs[pairs["neg_type"] == "random"]), None
    wordings = training_queries(data)
    table, mined = hard_negatives_of(
        data,
        model.query.embed(wordings.tolist()),
        wordings.index.tolist(),
        model.product.embed([*texts.searchable.values()], desc="embedding products"),
        [*texts.searchable],
        texts.searchable,
        relative_margin=config.relative_margin,
        margin_from=config.margin_from,
    )
    return _pools(stage, pd.concat([table, pairs[pairs["neg_type"] == "judged"]])), mined


def similar_queries(stage: Stage, model: TwoTowerModel, queries: Mapping[str, str]) -> dict[str, list[str]]:
    """Return for each query of the stage the `MOST_SIMILAR` ones that `model` puts nearest to it, nearest first.

    queries: wording by id. Empty for a stage that puts no similar queries together.
    """
    if stage.together == 1:
        return {}
    ids = sorted(stage.positives["query_id"].unique())
    vectors = model.query.embed([queries[query_id] for query_id in ids])
    most, nearest = min(MOST_SIMILAR, len(ids) - 1), []
    for start in range(0, len(ids), ROWS):
        scores = vectors[start : start + ROWS] @ vectors.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -np.inf  # the query itself
        nearest.extend(np.argsort(-scores, axis=1, kind="stable")[:, :most].tolist())
    return {query_id: [ids[at] for at in row] for query_id, row in zip(ids, nearest, strict=True)}


def _pools(stage: Stage, negatives: pd.DataFrame) -> dict[str, list[str]]:
    """Return the products to draw from by query, and say how many queries have none."""
    found = by_query(negatives.drop_duplicates(["query_id", "product_id"]))
    positives = stage.positives
    judged = positives[~positives["query_id"].str.startswith("note-")]["query_id"].unique()
    without = [query_id for query_id in judged if query_id not in found]
    if len(without) == len(judged):
        raise CourseError(
            f"{stage.name}: every candidate of every query is relevant or too near to a positive, so there is nothing "
            "to draw negatives from; lower --relative-margin, or add products."
        )
    if without:
        tell(f"{stage.name}: {len(without):,} queries have no negatives of their own, the first is {without[0]}")
    return found
