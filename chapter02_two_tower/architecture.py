"""Choose the shape of the two towers."""

from __future__ import annotations

from dataclasses import dataclass

from common.encoders import MINILM
from common.errors import CourseError

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1.0
"""Bounds of a temperature: below them the loss is all rounding, above them all noise."""


@dataclass(frozen=True)
class Architecture:
    """Choose the shape of a `TwoTowerModel`. Raises CourseError for a value that makes no model.

    Sharing one network is the default: on shops with thousands of pairs, not millions, each side learns from the
    other's texts (siamese; Dong et al. 2022, arXiv:2204.07120).
    """

    encoder: str = MINILM
    """Pretrained transformer to start from: "all-MiniLM-L6-v2" (packaged), a hub name, or a local folder."""
    shared: bool = True
    """One network for both towers, which then differ in length only, or one each."""
    pooling: str = "mean"
    """mean of the token vectors, or cls, the first of them."""
    projection: int | None = None
    """Dimension of a linear layer on top (384 or 512); None: none."""
    query_length: int = 32
    """Tokens of a query that are read, special ones included."""
    product_length: int = 64
    """Tokens of a product's text that are read, special ones included."""
    temperature: float = 0.05
    """Divisor of the cosines in the softmax of the loss, 0.01 to 1."""
    learn_temperature: bool = False
    """Train the temperature too, from this value on."""
    train_token_embeddings: bool = False
    """Train the table of word pieces too: half of MiniLM's weights, of which a few thousand pairs touch few."""
    dropout: float = 0.0
    """Probability in every dropout layer."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, and the time of one more forward pass."""

    def __post_init__(self) -> None:
        rules = {
            "pooling": (self.pooling in ("mean", "cls"), "'mean' or 'cls'"),
            "projection": (self.projection is None or self.projection >= 1, "a dimension of at least 1, or None"),
            "query_length": (self.query_length >= 3, "at least 3 tokens"),
            "product_length": (self.product_length >= 3, "at least 3 tokens"),
            "temperature": (
                MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE,
                f"between {MIN_TEMPERATURE} and {MAX_TEMPERATURE}",
            ),
            "dropout": (0 <= self.dropout < 1, "at least 0 and below 1"),
        }
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise CourseError(f"{name} must be {wanted}, not {getattr(self, name)!r}.")
