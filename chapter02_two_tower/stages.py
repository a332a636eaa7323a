"""What is trained in which stage: from which model, on which positives, against which negatives, at which rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from chapter02_two_tower.mine_hard_negatives import Mined, hard_negatives_of, training_queries
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.train_config import TrainConfig
from chapter02_two_tower.training_data import TrainingData, by_query
from chapter02_two_tower.validation import Validation
from common.errors import CourseError
from common.progress import tell

RATE_OF_WEAK_POSITIVES = 0.1
MOST_SIMILAR = 100
"""Similar queries that are remembered for each: enough for some to be left when others have taken theirs."""
ROWS = 1024  # of queries compared with all others at a time: tens of thousands squared would not fit into memory


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    positives: `query_id, product_id, weight`. kind: of the extra negatives, "random" or "hard". negatives: so many of
    them for every positive. together: so many similar queries share a batch. pairs: positives an epoch. rate: peak of
    the learning rate. falls: whether it comes down to 0 at the end of the stage.
    """

    name: str
    positives: pd.DataFrame
    kind: str
    negatives: int
    together: int
    pairs: int
    epochs: int
    rate: float
    falls: bool
    seed: int


def plan_stages(config: TrainConfig, data: TrainingData) -> list[Stage]:
    """Return the stages to train, in order; the control, which nothing starts from, comes last.

    Raises `CourseError` if there is no such stage or nothing to train on.
    """
    _check(config)
    positives = data.training_pairs[data.training_pairs["label"] == 1]
    notes = data.notes[["query_id"]].assign(product_id=data.notes["text_id"], weight=1.0)
    firm = positives[positives["stage"] == 1]
    of_stage = {1: pd.concat([firm, notes]), 2: firm, 3: positives}
    plan = []
    for number in sorted(set(config.stages)):
        if of_stage[number].empty:
            raise CourseError("there is no positive pair to train on; prepare_data prints what a catalogue has")
        at = number - 1
        rate = config.learning_rate * (RATE_OF_WEAK_POSITIVES if number == 3 else 1)
        stage = Stage(
            name=f"stage{number}",
            positives=of_stage[number],
            kind="random" if number == 1 else "hard",
            negatives=config.negatives[at],
            together=config.similar_queries if number == 2 else 1,
            pairs=min(config.pairs[at], len(of_stage[number])),
            epochs=config.epochs[at],
            rate=rate,
            falls=number > 1 or set(config.stages) == {1},
            seed=config.seed * 10 + number,
        )
        plan.append(stage)
    if config.control and {1, 2} <= set(config.stages) and plan[1].negatives:
        hard = plan[1]
        # As many steps in one epoch: what is compared in the end need not be validated in between.
        once = {"pairs": hard.pairs * hard.epochs, "epochs": 1}
        plan.append(replace(hard, name="control", kind="random", together=1, **once))
    return plan


def stage_negatives(
    stage: Stage, model: TwoTowerModel, validation: Validation, data: TrainingData, config: TrainConfig
) -> tuple[dict[str, list[str]], Mined | None]:
    """Return the products to draw each query's extra negatives from, and what was mined for it.

    Hard ones are what `model` itself ranks high without being relevant, and what a judge called irrelevant.
    """
    if not stage.negatives:
        return {}, None
    pairs = data.training_pairs
    if stage.kind == "random":
        return _pools(stage, pairs[pairs["neg_type"] == "random"], stage.positives), None
    wordings = training_queries(data)
    mined, report = hard_negatives_of(
        data,
        model.query.embed(wordings.tolist()),
        wordings.index.tolist(),
        model.product.embed([*validation.product_texts.values()], desc="embedding products"),
        [*validation.product_texts],
        validation.product_texts,
        relative_margin=config.relative_margin,
        margin_from=config.margin_from,
    )
    pools = pd.concat([mined, pairs[pairs["neg_type"] == "judged"]])
    return _pools(stage, pools, stage.positives), report


def similar_queries(stage: Stage, model: TwoTowerModel, queries: Mapping[str, str]) -> dict[str, list[str]]:
    """For each query of the stage the ones that `model` finds most similar (`MOST_SIMILAR`), the nearest first; none
    are looked for if the stage puts none together. queries: wording by id."""
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


def _pools(stage: Stage, negatives: pd.DataFrame, positives: pd.DataFrame) -> dict[str, list[str]]:
    """The products to draw from, by query; queries whose every candidate is relevant have none, and are told of."""
    found = by_query(negatives.drop_duplicates(["query_id", "product_id"]))
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


def _check(config: TrainConfig) -> None:
    """Refuse what would fail, or train nothing, only after a while."""
    if not config.stages or set(config.stages) - {1, 2, 3}:
        raise CourseError(f"stages are 1, 2 and 3, not {config.stages}")
    chosen = [number - 1 for number in config.stages]
    rules = (
        ("epochs", all(config.epochs[at] >= 1 for at in chosen), "give every stage that is trained 1 or more"),
        ("pairs", all(config.pairs[at] >= 1 for at in chosen), "give every stage that is trained 1 or more"),
        ("negatives", all(count >= 0 for count in config.negatives), "give every stage 0 or more"),
        (
            "similar_queries",
            2 not in config.stages or 1 <= config.similar_queries <= min(config.batch_size, MOST_SIMILAR),
            f"choose 1, which looks for none, up to the batch size, or {MOST_SIMILAR}",
        ),
        ("checkpoint_every", config.checkpoint_every >= 1, "choose 1 or more"),
        ("patience", config.patience >= 1, "choose 1 or more"),
        ("typo_share", 0 <= config.typo_share <= 1, "choose a share between 0 and 1"),
    )
    for name, holds, remedy in rules:
        if not holds:
            raise CourseError(f"train: {name} is {getattr(config, name)}; {remedy}")
    if not config.in_batch and not all(config.negatives[at] for at in chosen):
        raise CourseError("train: without the in-batch loss every stage needs --negatives of 1 or more to learn from")
