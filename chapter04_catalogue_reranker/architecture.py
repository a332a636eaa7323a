"""Describe the shape of a catalogue reranker."""

from __future__ import annotations

from dataclasses import dataclass

from chapter03_multimodal.clip import POCKET_CLIP
from common.encoders import MINILM
from common.errors import CourseError


@dataclass(frozen=True)
class Architecture:
    """Describe the shape of a `CatalogueReranker`. Raises `CourseError` for a value that makes no model.

    text, vision: the pretrained towers, as `TextTower.load` and `VisionTower.load` take them. text_pooling: "mean" or
    "cls". fusion: "gate", learned for every component, or "mean", one half each. inputs: what the model reads of a
    product: "both", or "text" or "image" alone. hidden, dimension: of the projections. product_length,
    category_length: in tokens, special ones included. text_lora_rank, vision_lora_rank: alpha is twice the rank.
    lora_dropout: in LoRA, during training. text_dropout, image_dropout: shares of products that training shows without
    their text or without their picture, never without both.
    """

    text: str = MINILM
    vision: str = POCKET_CLIP
    text_pooling: str = "mean"
    fusion: str = "gate"
    inputs: str = "both"
    hidden: int = 1024
    dimension: int = 512
    product_length: int = 256
    category_length: int = 128
    text_lora_rank: int = 8
    vision_lora_rank: int = 4
    lora_dropout: float = 0.05
    text_dropout: float = 0.05
    image_dropout: float = 0.02

    def __post_init__(self) -> None:
        rules = {
            "text_pooling": (self.text_pooling in ("mean", "cls"), "'mean' or 'cls'"),
            "fusion": (self.fusion in ("gate", "mean"), "'gate' or 'mean'"),
            "inputs": (self.inputs in ("both", "text", "image"), "'both', 'text' or 'image'"),
            "product_length": (self.product_length >= 3, "at least 3 tokens"),
            "category_length": (self.category_length >= 3, "at least 3 tokens"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "at least 0 and below 1"),
            "text_dropout": (0 <= self.text_dropout < 1, "at least 0 and below 1"),
            "image_dropout": (0 <= self.image_dropout < 1 - self.text_dropout, "at least 0, and below 1 with text's"),
        }
        for name in ("hidden", "dimension", "text_lora_rank", "vision_lora_rank"):
            rules[name] = (getattr(self, name) >= 1, "at least 1")
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise CourseError(f"{name} must be {wanted}, not {getattr(self, name)!r}.")
