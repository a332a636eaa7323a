"""Configure a training; profiles choose its size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from chapter02_two_tower.architecture import Architecture
from common.profiles import with_profile_defaults


@dataclass(frozen=True)
class TrainConfig:
    """Train the two towers in three stages. None stands for the profile's default (`PROFILE_DEFAULTS`)."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    architecture: Annotated[Architecture, tyro.conf.arg(prefix_name=False)] = field(default_factory=Architecture)
    """The towers to train."""
    dimensions: tuple[int, ...] = ()
    """Shorter prefixes of the vectors that should rank well too (Matryoshka), such as 64 128."""
    in_batch: float = 1.0
    """Weight of the in-batch negatives loss."""
    contrastive: float = 0.0
    """Weight of the contrastive loss on pairs."""
    triplet: float = 0.0
    """Weight of the triplet loss."""
    stages: tuple[int, ...] = (1, 2, 3)
    """Stages to train."""
    control: bool = True
    """Repeat stage 2 with random negatives in random batches, for comparison."""
    pairs: tuple[int, int, int] | None = None
    """Positive pairs an epoch, in each of the three stages."""
    epochs: tuple[int, int, int] | None = None
    """Epochs at most in each stage."""
    negatives: tuple[int, int, int] = (0, 2, 0)
    """Extra negatives drawn for every positive in each stage, besides the other products of the batch."""
    similar_queries: int = 8
    """Size of the groups of similar queries in the batches of stage 2: the products of each query are hard negatives of
    the others. 1 groups none."""
    batch_size: int = 64
    """Positive pairs a step."""
    learning_rate: float = 5e-5
    """Peak learning rate of AdamW. It warms up over a tenth of a stage's steps, then falls to 0 in a straight line; in
    stage 1 it stays at the peak if another stage follows."""
    patience: int = 2
    """Epochs without a better validation nDCG@10 after which a stage ends."""
    relative_margin: float = 0.05
    """A mined negative must score below (1 - relative_margin) times the positive."""
    margin_from: Literal["lowest", "highest"] = "highest"
    """The positive of a query that the margin is measured from. The lowest of many leaves hardly a negative."""
    typo_share: float = 0.15
    """Share of the training queries that get a typing error."""
    guide: bool = True
    """Mask in-batch negatives that chapter 1's encoder scores above the positive: they are likely relevant."""
    cached: bool = False
    """Embed a batch in chunks, twice (GradCache): large batches fit into memory, but a step takes longer."""
    checkpoint_every: int = 40
    """Steps between checkpoints."""
    track: str | None = None
    """tensorboard, wandb or trackio, to log there too; None: to the file only."""
    seed: int = 0
    """Seed of new layers, the order of the pairs and the draw of negatives."""


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"pairs": (64, 64, 64), "epochs": (1, 1, 1)},
    "pocket": {"pairs": (5120, 1600, 960), "epochs": (1, 2, 1)},
    "full": {"pairs": (400_000, 400_000, 100_000), "epochs": (3, 3, 1)},
}


def resolved(config: TrainConfig) -> TrainConfig:
    """Fill in the profile's defaults."""
    return with_profile_defaults(config, PROFILE_DEFAULTS)
