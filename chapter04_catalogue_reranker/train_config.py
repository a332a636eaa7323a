"""Describe the settings of the training in three stages, and the defaults of each profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from chapter03_multimodal.clip import POCKET_CLIP
from chapter04_catalogue_reranker.architecture import Architecture
from common.encoders import MINILM
from common.errors import CourseError
from common.profiles import check_ranges, with_profile_defaults


@dataclass(frozen=True)
class TrainConfig:
    """Train the catalogue reranker in three stages: projections and fusion, then the text tower's LoRA, then the
    vision tower's. None stands for the profile's default (`PROFILE_DEFAULTS`)."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    text: str | None = None
    """Text tower: "all-MiniLM-L6-v2" (packaged), a hub name or a folder."""
    vision: str | None = None
    """Vision tower: "pocket_clip" (packaged), a hub name or a folder."""
    text_pooling: Literal["mean", "cls"] | None = None
    """Pooling of the token vectors: their mean, or the first."""
    fusion: Literal["gate", "mean"] = "gate"
    """Fusion of text and image: a learned gate for each dimension, or their mean."""
    inputs: Literal["both", "text", "image"] = "both"
    """Modalities of a product that the model reads."""
    product_length: int | None = None
    """Tokens of a product's text that the model reads."""
    category_length: int | None = None
    """Tokens of a category path that the model reads."""
    products: int | None = None
    """Most training products, drawn with the seed."""
    epochs: tuple[int, int, int] | None = None
    """Epochs of stages 0, 1 and 2; 0 leaves a stage out."""
    batch_size: int = 64
    """Products in a batch."""
    learning_rate: tuple[float, float, float] | None = None
    """Peak learning rate of each stage, after the warm-up; then it falls along a cosine to 0."""
    weight_decay: float = 0.01
    """AdamW's weight decay; none on LoRA, LayerNorm and biases."""
    warmup: float = 0.05
    """Share of a stage's steps in which the learning rate rises."""
    contrastive: float = 0.10
    """Weight of the multi-positive InfoNCE beside the listwise loss; 0 leaves it out."""
    queue: int = 2_042
    """Products of earlier batches that serve as further keys of the contrastive loss; 0 for none."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    track: str | None = None
    """tensorboard, wandb or trackio, to log there too; None: to the file only."""
    seed: int = 0
    """Seed of the choice of products, their order, dropout and new weights."""

    def architecture(self) -> Architecture:
        """Return the model's architecture; the config must be `resolved`."""
        names = ("text", "vision", "text_pooling", "fusion", "inputs", "product_length", "category_length")
        return Architecture(**{name: getattr(self, name) for name in names})


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "text": MINILM, "vision": POCKET_CLIP, "text_pooling": "mean", "products": 64, "epochs": (2, 1, 1),
        "learning_rate": (1e-3, 2e-4, 2e-4), "product_length": 24, "category_length": 12,
    },
    "pocket": {
        "text": MINILM, "vision": POCKET_CLIP, "text_pooling": "mean", "products": 528, "epochs": (30, 2, 6),
        "learning_rate": (1e-3, 2e-4, 2e-4), "product_length": 64, "category_length": 24,
    },
    "full": {
        "text": "BAAI/bge-base-en-v1.5", "vision": "google/siglip2-base-patch16-256", "text_pooling": "cls",
        "products": 1_000_000, "epochs": (1, 2, 1), "learning_rate": (2e-4, 2e-4, 2e-4),
        "product_length": 256, "category_length": 128,
    },
}  # fmt: skip
"""Training draws 528 of the pocket shop's products: four for each of its 132 paths on average, as in Shopify's public
catalogue (39,000 products, 10,000 paths). With all 3,267, text alone made no mistake among the candidates of the
validation products."""
RANGES = {
    "products": (2, None), "batch_size": (2, None), "weight_decay": (0, None), "warmup": (0, 1),
    "contrastive": (0, None), "queue": (0, None), "checkpoint_every": (1, None),
}  # fmt: skip
"""Least and greatest values of numbers, by field."""


def resolved(config: TrainConfig) -> TrainConfig:
    """Return the config with its profile's defaults filled in. Raises `CourseError` for settings out of range."""
    config = with_profile_defaults(config, PROFILE_DEFAULTS)
    check_ranges("train", config, RANGES)
    if len(config.epochs) != 3 or min(config.epochs) < 0 or not any(config.epochs):
        raise CourseError(f"train: epochs is {config.epochs}; give three numbers of at least 0, not all of them 0.")
    if len(config.learning_rate) != 3 or min(config.learning_rate) <= 0:
        raise CourseError(f"train: learning_rate is {config.learning_rate}; give three numbers above 0.")
    return config
