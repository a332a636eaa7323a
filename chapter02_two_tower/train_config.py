"""What can be chosen about a training, and what each profile chooses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from chapter02_two_tower.model import Architecture
from common.encoders import MINILM
from common.settings import resolve_profile


@dataclass(frozen=True)
class TrainConfig:
    """Train the two towers in three stages. None stands for the profile's default (`PROFILE_DEFAULTS`)."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = MINILM
    """What to start from: "all-MiniLM-L6-v2" (packaged), a hub name, or a local folder."""
    shared: bool = True
    """One encoder for both towers, or one each."""
    pooling: str = "mean"
    """mean or cls: what of the encoder's output is the vector."""
    projection: int | None = None
    """Dimension of a linear layer on top (384 or 512); None: none."""
    query_length: int = 32
    """Tokens of a query that are read."""
    product_length: int = 64
    """Tokens of a product's text that are read."""
    dimensions: tuple[int, ...] = ()
    """Shorter prefixes of the vectors that should rank well too (Matryoshka), such as 64 128."""
    temperature: float = 0.05
    """Of the in-batch loss; cosines are divided by it."""
    learn_temperature: bool = False
    """Train the temperature too."""
    in_batch: float = 1.0
    """Weight of the in-batch negatives loss."""
    contrastive: float = 0.0
    """Weight of the contrastive loss on pairs."""
    triplet: float = 0.0
    """Weight of the triplet loss."""
    stages: tuple[int, ...] = (1, 2, 3)
    """Which of the stages to train."""
    control: bool = True
    """Repeat stage 2 with random negatives in random batches, for comparison."""
    pairs: tuple[int, int, int] | None = None
    """Positive pairs an epoch, in each of the three stages."""
    epochs: tuple[int, int, int] | None = None
    """Epochs at most in each stage."""
    negatives: tuple[int, int, int] = (0, 2, 0)
    """Extra negatives drawn for every positive in each stage, besides the other products of the batch."""
    similar_queries: int = 8
    """In stage 2, so many similar queries follow each other in a batch: the products of each are hard negatives of the
    others."""
    batch_size: int = 64
    """Positive pairs a step."""
    learning_rate: float = 5e-5
    """Peak of AdamW's rate; warmed up over a tenth of a stage's steps, then falling to 0 in a line, but in stage 1,
    which stays level if another stage follows."""
    patience: int = 2
    """Epochs without a better validation nDCG@10 after which a stage ends."""
    relative_margin: float = 0.05
    """A mined negative must score below (1 - this) times the positive."""
    margin_from: Literal["lowest", "highest"] = "highest"
    """Which of a query's positives that is. With many positives the lowest leaves hardly a negative."""
    typo_share: float = 0.15
    """Share of the training queries that get a typing error."""
    guide: bool = True
    """Leave out of the in-batch negatives what chapter 1's encoder scores above the positive: likely relevant."""
    cached: bool = False
    """Embed a batch in chunks, twice (GradCache): memory for large batches, at more time."""
    train_token_embeddings: bool = False
    """Train the table of word pieces too: half of MiniLM's weights, of which a few thousand pairs touch few."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    checkpoint_every: int = 40
    """Steps between checkpoints."""
    track: str | None = None
    """Log to wandb or trackio besides the file."""
    seed: int = 0
    """Of new layers, the order of the pairs and the draw of negatives."""


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"pairs": (128, 128, 64), "epochs": (1, 1, 1)},
    "pocket": {"pairs": (5120, 1600, 960), "epochs": (1, 2, 1)},
    "full": {"pairs": (400_000, 400_000, 100_000), "epochs": (3, 3, 1)},
}


def resolved(config: TrainConfig) -> TrainConfig:
    """The config with the profile's defaults filled in."""
    profile = resolve_profile(config.profile)
    missing = {name: value for name, value in PROFILE_DEFAULTS[profile].items() if getattr(config, name) is None}
    return replace(config, profile=profile, **missing)


def architecture(config: TrainConfig) -> Architecture:
    """The model that the config describes."""
    names = (
        "encoder", "shared", "pooling", "projection", "query_length", "product_length", "temperature",
        "learn_temperature", "train_token_embeddings", "gradient_checkpointing",
    )  # fmt: skip
    return Architecture(**{name: getattr(config, name) for name in names})
