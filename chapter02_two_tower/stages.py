"""Plan the stages of a training, with their positives, negatives and learning rates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from chapter02_two_tower.train_config import TrainConfig
from chapter02_two_tower.training_data import TrainingData
from common.errors import CourseError
from common.profiles import check_ranges

CONTROL = "control"
RATE_OF_WEAK_POSITIVES = 0.1
WARMUP = 0.1
MOST_SIMILAR = 100
"""Similar queries that are kept for each query, so that some are left when others have taken theirs."""


@dataclass(frozen=True)
class Stage:
    """Describe one stage of training.

    positives: `query_id, product_id, weight`. kind: of the extra negatives, "random" or "hard". negatives: their number
    for each positive. together: number of similar queries that share a batch. pairs: positives an epoch. rate: peak of
    the learning rate. warmup, decay: see `common.training.warmup_schedule`. A stage that another one follows does not
    decay: of some hundred steps in all, none should be lost at a low rate.
    """

    name: str
    positives: pd.DataFrame
    kind: str
    negatives: int
    together: int
    pairs: int
    epochs: int
    rate: float
    warmup: float
    decay: Literal["linear", "none"]
    seed: int


def plan_stages(config: TrainConfig, data: TrainingData) -> list[Stage]:
    """Return the stages to train, in order. The control comes last; no stage starts from it.

    config: `resolved`. Raises `CourseError` for settings out of range, and if there is nothing to train on.
    """
    _check(config)
    positives = data.training_pairs[data.training_pairs["label"] == 1]
    notes = data.notes[["query_id"]].assign(product_id=data.notes["text_id"], weight=1.0)
    first = positives[positives["stage"] == 1]
    of_stage = {1: pd.concat([first, notes]), 2: first, 3: positives}
    plan = []
    for number in sorted(set(config.stages)):
        if of_stage[number].empty:
            raise CourseError("there is no positive pair to train on; prepare_data prints what a catalogue has")
        pairs, epochs = min(config.pairs[number - 1], len(of_stage[number])), config.epochs[number - 1]
        stage = Stage(
            name=f"stage{number}",
            positives=of_stage[number],
            kind="random" if number == 1 else "hard",
            negatives=config.negatives[number - 1],
            together=config.similar_queries if number == 2 else 1,
            pairs=pairs,
            epochs=epochs,
            rate=config.learning_rate * (RATE_OF_WEAK_POSITIVES if number == 3 else 1),
            warmup=_warmup(pairs, epochs, config.batch_size),
            decay="linear" if number > 1 or set(config.stages) == {1} else "none",
            seed=config.seed * 10 + number,
        )
        plan.append(stage)
    if config.control and {1, 2} <= set(config.stages) and plan[1].negatives:
        pairs = plan[1].pairs * plan[1].epochs  # in one epoch, for nothing is validated in between
        warmup = _warmup(pairs, 1, config.batch_size)
        plan.append(replace(plan[1], name=CONTROL, kind="random", together=1, pairs=pairs, epochs=1, warmup=warmup))
    return plan


def _warmup(pairs: int, epochs: int, batch_size: int) -> float:
    """Return `WARMUP`, but one step of a stage of few steps, and none of a stage of one step."""
    total = epochs * max(1, pairs // batch_size)
    return max(WARMUP, 1 / total) if total > 1 else 0.0


def _check(config: TrainConfig) -> None:
    """Refuse settings that would fail, or train nothing, only after a while."""
    if not config.stages or set(config.stages) - {1, 2, 3}:
        raise CourseError(f"stages are 1, 2 and 3, not {config.stages}")
    trained = [number - 1 for number in config.stages]
    for name in ("epochs", "pairs"):
        if any(getattr(config, name)[at] < 1 for at in trained):
            raise CourseError(f"train: {name} is {getattr(config, name)}; give every stage that is trained 1 or more")
    if any(count < 0 for count in config.negatives):
        raise CourseError(f"train: negatives is {config.negatives}; give every stage 0 or more")
    if not config.in_batch and not all(config.negatives[at] for at in trained):
        raise CourseError("train: without the in-batch loss every stage needs --negatives of 1 or more to learn from")
    check_ranges("train", config, {"checkpoint_every": (1, None), "patience": (1, None), "typo_share": (0, 1)})
    if 2 in config.stages:
        check_ranges("train", config, {"similar_queries": (1, min(config.batch_size, MOST_SIMILAR))})
