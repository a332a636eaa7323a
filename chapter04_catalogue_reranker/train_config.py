"""What can be chosen about the training in three stages, and what each profile chooses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from chapter03_multimodal.clip import POCKET_CLIP
from chapter04_catalogue_reranker.model import Architecture
from common.encoders import MINILM
from common.errors import CourseError
from common.settings import resolve_profile


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
    """How the token vectors become one: their mean, or the first."""
    fusion: Literal["gate", "mean"] = "gate"
    """How text and image become one vector: a learned gate for each dimension, or their mean."""
    inputs: Literal["both", "text", "image"] = "both"
    """What the model is shown of a product."""
    product_length: int | None = None
    """Tokens of a product's text that are read."""
    category_length: int | None = None
    """Tokens of a category path that are read."""
    products: int | None = None
    """Training products at most, drawn with the seed."""
    epochs: tuple[int, int, int] | None = None
    """Times that every product is seen in stages 0, 1 and 2; 0 leaves a stage out."""
    batch_size: int = 64
    """Products a step."""
    learning_rate: tuple[float, float, float] | None = None
    """Peak of AdamW's rate in each stage, after the warm-up; then down a cosine to 0."""
    weight_decay: float = 0.01
    """AdamW's; none on LoRA, LayerNorm and offsets."""
    warm_up: float = 0.05
    """Share of a stage's steps in which the rate rises."""
    contrastive: float = 0.10
    """Weight of the multi-positive InfoNCE beside the listwise softmax; 0 leaves it out."""
    queue: int = 2_042
    """Products of earlier batches that are further keys of the contrastive loss; 0 for none."""
    checkpoint_every: int = 50
    """Steps between checkpoints."""
    track: str | None = None
    """Log to wandb or trackio besides the file."""
    seed: int = 0
    """Of the choice of products, their order, dropout and new weights."""

    def architecture(self) -> Architecture:
        """Of the model; the config must be `resolved`."""
        names = ("text", "vision", "text_pooling", "fusion", "inputs", "product_length", "category_length")
        return Architecture(**{name: getattr(self, name) for name in names})


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {
        "text": MINILM, "vision": POCKET_CLIP, "text_pooling": "mean", "products": 200, "epochs": (4, 1, 1),
        "learning_rate": (1e-3, 2e-4, 2e-4), "product_length": 48, "category_length": 24,
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
"""Of the pocket shop's products 528 are trained with, drawn at random: four for each of its 132 paths on average, as
Shopify's public catalogue has (39,000 products, 10,000 paths). With all 3,267, text alone made no mistake among the
candidates of the validation products."""


def resolved(config: TrainConfig) -> TrainConfig:
    """The config with the profile's defaults filled in. Raises `CourseError` for settings out of range."""
    profile = resolve_profile(config.profile)
    missing = {name: value for name, value in PROFILE_DEFAULTS[profile].items() if getattr(config, name) is None}
    config = replace(config, profile=profile, **missing)
    _check(config)
    return config


def _check(config: TrainConfig) -> None:
    """Refuse what would fail, or train nothing, only after a while."""
    ranges = {
        "products": (2, None), "batch_size": (2, None), "weight_decay": (0, None), "warm_up": (0, 1),
        "contrastive": (0, None), "queue": (0, None), "checkpoint_every": (1, None),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value < low or (high is not None and value > high):
            raise CourseError(
                f"train: {name} is {value}; it must be at least {low}" + (f" and at most {high}" if high else "")
            )
    if len(config.epochs) != 3 or min(config.epochs) < 0 or not any(config.epochs):
        raise CourseError(f"train: epochs is {config.epochs}; give three numbers of at least 0, not all of them 0.")
    if len(config.learning_rate) != 3 or min(config.learning_rate) <= 0:
        raise CourseError(f"train: learning_rate is {config.learning_rate}; give three numbers above 0.")
