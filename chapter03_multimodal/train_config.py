"""Configure the fine-tuning: its settings and their defaults in each profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chapter03_multimodal.clip import POCKET_CLIP
from chapter03_multimodal.model import Trained
from common.errors import CourseError
from common.profiles import check_ranges, with_profile_defaults


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a CLIP on the pictures and texts of a catalogue.

    None stands for the profile's default (`PROFILE_DEFAULTS`, `LEARNING_RATES`).
    """

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = POCKET_CLIP
    """Model to start from: "pocket_clip" (packaged), "lite0_minilm" (two towers from packages), "aligned" (what `align`
    made of them on this catalogue), a local folder, or an open_clip name such as ViT-B-32/laion2b_s34b_b79k."""
    trained: Trained = "everything"
    """projections, last_blocks, lora or everything."""
    last_blocks: int = 2
    """Number of last blocks of each tower to train, for that choice."""
    lora_rank: int = 8
    """Rank of the added matrices, for that choice."""
    pictures: int | None = None
    """Most training pictures; which ones is drawn with the seed."""
    epochs: int | None = None
    """Most epochs; each shows every training picture once."""
    batch_size: int | None = None
    """Most pictures a step."""
    learning_rate: float | None = None
    """Peak of AdamW's rate, after the warm-up; it then falls along a cosine to 0. The more is trained, the lower."""
    weight_decay: float = 0.1
    """AdamW's, of matrices only."""
    warm_up: float = 0.1
    """Share of all steps in which the rate rises."""
    hard_share: float = 0.0
    """Share of a batch that are visual neighbours of others in it. In the pocket shop they gain nothing: products that
    look alike there are often the same as far as their texts say."""
    neighbours: int = 8
    """Number of neighbours of each picture to mine and draw from; 0 mines none."""
    shorten: float = 0.3
    """Share of the texts that are shortened: title only, without the brand, or without the category."""
    patience: int = 3
    """Epochs without a better validation MRR after which training ends."""
    checkpoint_every: int = 40
    """Steps between checkpoints."""
    track: str | None = None
    """tensorboard, wandb or trackio, to log there too; None: to the file only."""
    seed: int = 0
    """Seed of the choice of pictures, their order, windows and texts, and of new weights."""


PROFILE_DEFAULTS: dict[str, dict[str, Any]] = {
    "smoke": {"pictures": 256, "epochs": 1, "batch_size": 64},
    "pocket": {"pictures": 10_000, "epochs": 12, "batch_size": 128},
    "full": {"pictures": 1_000_000, "epochs": 10, "batch_size": 256},
}
_SMALL = {"projections": 2e-3, "last_blocks": 2e-3, "lora": 5e-3, "everything": 2e-3}
LEARNING_RATES: dict[str, dict[str, float]] = {
    "smoke": _SMALL,
    "pocket": _SMALL,
    "full": {"projections": 3e-4, "last_blocks": 5e-5, "lora": 2e-4, "everything": 1e-5},
}
"""By profile and by what is trained. They are lower for large models, which have more to lose."""


RANGES: dict[str, tuple[float, float | None]] = {
    "pictures": (2, None), "epochs": (1, None), "batch_size": (2, None), "neighbours": (0, None),
    "patience": (1, None), "checkpoint_every": (1, None), "weight_decay": (0, None),
    "learning_rate": (0, None), "warm_up": (0, 1), "hard_share": (0, 1), "shorten": (0, 1),
}  # fmt: skip


def resolved(config: TrainConfig) -> TrainConfig:
    """Fill in the profile's defaults. Raises `CourseError` for settings that would fail, or train nothing."""
    if config.trained not in _SMALL:
        raise CourseError(f"train: trained is {config.trained!r}; choose one of {', '.join(_SMALL)}")
    rates = {profile: rate[config.trained] for profile, rate in LEARNING_RATES.items()}
    defaults = {profile: sizes | {"learning_rate": rates[profile]} for profile, sizes in PROFILE_DEFAULTS.items()}
    config = with_profile_defaults(config, defaults)
    check_ranges("train", config, RANGES)
    return config
