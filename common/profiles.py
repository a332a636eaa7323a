"""Fill a step's config from its profile, and check the ranges of its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from common.errors import CourseError
from common.settings import resolve_profile

Config = TypeVar("Config")


def with_profile_defaults(config: Config, defaults: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return the config with its profile resolved and every None replaced by that profile's default.

    config: a frozen dataclass with a field `profile`. defaults: by profile, the values of fields.
    Raises `CourseError` for an unknown profile.
    """
    profile = resolve_profile(config.profile)
    missing = {name: value for name, value in defaults[profile].items() if getattr(config, name) is None}
    return replace(config, profile=profile, **missing)


def check_ranges(step: str, config: Any, ranges: Mapping[str, tuple[float, float | None]]) -> None:
    """Raise `CourseError`, naming the field, if a value is out of its range. ranges: by field, the least value and the
    greatest; None sets no upper limit."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value < low or (high is not None and value > high):
            limit = "" if high is None else f" and at most {high}"
            raise CourseError(f"{step}: {name} is {value}; it must be at least {low}{limit}")
