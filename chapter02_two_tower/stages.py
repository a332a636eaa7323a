"""What is trained in which stage: from which model, on which positives, against which negatives, at which rate."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from chapter02_two_tower.mine_hard_negatives import Mined, hard_negatives_of, training_queries
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.train_config import TrainConfig
from chapter02_two_tower.training_data import TrainingData, by_query
from chapter02_two_tower.validation import Validation
from common.errors import CourseError

RATE_OF_WEAK_POSITIVES = 0.1


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    positives: `query_id, product_id, weight`. kind: of the extra negatives, "random" or "hard". negatives: so many of
    them for every positive. pairs: positives an epoch. rate: peak of the learning rate. falls: whether it comes down to
    0 at the end of the stage.
    """

    name: str
    positives: pd.DataFrame
    kind: str
    negatives: int
    pairs: int
    epochs: int
    rate: float
    falls: bool
    seed: int


def plan_stages(config: TrainConfig, data: TrainingData) -> list[Stage]:
    """Return the stages to train, in order; the control, which nothing starts from, comes last.

    Raises `CourseError` if there is no such stage or nothing to train on.
    """
    if not config.stages or set(config.stages) - {1, 2, 3}:
        raise CourseError(f"stages are 1, 2 and 3, not {config.stages}")
    positives = data.training_pairs[data.training_pairs["label"] == 1]
    notes = data.notes[["query_id"]].assign(product_id=data.notes["text_id"], weight=1.0)
    firm = positives[positives["stage"] == 1]
    of_stage = {1: pd.concat([firm, notes]), 2: firm, 3: positives}
    plan = []
    for number in sorted(set(config.stages)):
        at = number - 1
        rate = config.learning_rate * (RATE_OF_WEAK_POSITIVES if number == 3 else 1)
        stage = Stage(
            name=f"stage{number}",
            positives=of_stage[number],
            kind="random" if number == 1 else "hard",
            negatives=config.negatives[at],
            pairs=min(config.pairs[at], len(of_stage[number])),
            epochs=config.epochs[at],
            rate=rate,
            falls=number > 1 or set(config.stages) == {1},
            seed=config.seed * 10 + number,
        )
        plan.append(stage)
    if config.control and {1, 2} <= set(config.stages):
        hard = plan[1]
        plan.append(Stage(**(vars(hard) | {"name": "control", "kind": "random"})))
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
        return by_query(pairs[pairs["neg_type"] == "random"]), None
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
        seed=stage.seed,
    )
    pools = pd.concat([mined, pairs[pairs["neg_type"] == "judged"]])
    return by_query(pools.drop_duplicates(["query_id", "product_id"])), report
