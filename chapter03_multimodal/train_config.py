"""What can be chosen about the fine-tuning, and what each profile chooses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from chapter03_multimodal.clip import POCKET_CLIP
from chapter03_multimodal.model import Trained
from common.errors import CourseError
from common.settings import resolve_profile


@dataclass(frozen=True)
class TrainConfig:
    """Fine-tune a CLIP on the pictures and texts of a catalogue. None stands for the profile's default
    (`PROFILE_DEFAULTS`, `LEARNING_RATES`)."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = POCKET_CLIP
    """What to start from: "pocket_clip" (packaged), a local folder, or an open_clip name such as
    ViT-B-32/laion2b_s34b_b79k."""
    trained: Trained = "everything"
    """projections, last_blocks, lora or everything."""
    last_blocks: int = 2
    """How many of the last blocks of each tower to train, for that choice."""
    lora_rank: int = 8
    """Rank of the added matrices, for that choice."""
    pictures: int | None = None
    """Training pictures at most, drawn with the seed."""
    epochs: int | None = None
    """Times that every training picture is seen, at most."""
    batch_size: int | None = None
    """Pictures a step at most."""
    learning_rate: float | None = None
    """Peak of AdamW's rate, after the warm-up; then down a cosine to 0. The more is trained, the lower."""
    weight_decay: float = 0.1
    """AdamW's, for matrices alone."""
    warm_up: float = 0.1
    """Share of all steps in which the rate rises."""
    hard_share: float = 0.0
    """Share of a batch that are visual neighbours of others in it. In the pocket shop they gain nothing: what looks
    alike there is often the same for all that its text says."""
    neighbours: int = 8
    """How many neighbours of each picture are mined to draw from; 0 mines none."""
    more_texts: int = 0
    """Texts a batch besides those of its pictures: of neighbours that are not in it, as further negatives."""
    shorten: float = 0.3
    """Share of the texts that are cut short: title only, without the brand, or without the category."""
    patience: int = 3
    """Epochs without a better validation MRR after which training ends."""
    checkpoint_every: int = 40
    """Steps between checkpoints."""
    track: str | None = None
    """Log to wandb or trackio besides the file."""
    seed: int = 0
    """Of the choice of pictures, their order, windows and texts, and new weights."""


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
"""By profile and by what is trained: a large model that has read the web has more to lose."""


def resolved(config: TrainConfig) -> TrainConfig:
    """The config with the profile's defaults filled in. Raises `CourseError` for settings out of range."""
    profile = resolve_profile(config.profile)
    if config.trained not in LEARNING_RATES[profile]:
        raise CourseError(f"train: trained is {config.trained!r}; choose one of {', '.join(LEARNING_RATES[profile])}")
    defaults = PROFILE_DEFAULTS[profile] | {"learning_rate": LEARNING_RATES[profile][config.trained]}
    missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    config = replace(config, profile=profile, **missing)
    _check(config)
    return config


def _check(config: TrainConfig) -> None:
    """Refuse what would fail, or train nothing, only after a while."""
    ranges = {
        "pictures": (2, None), "epochs": (1, None), "batch_size": (2, None), "neighbours": (0, None),
        "more_texts": (0, None), "patience": (1, None), "checkpoint_every": (1, None), "weight_decay": (0, None),
        "learning_rate": (0, None), "warm_up": (0, 1), "hard_share": (0, 1), "shorten": (0, 1),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value < low or (high is not None and value > high):
            raise CourseError(
                f"train: {name} is {value}; it must be at least {low}" + (f" and at most {high}" if high else "")
            )
