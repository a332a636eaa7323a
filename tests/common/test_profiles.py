from __future__ import annotations

from dataclasses import dataclass

import pytest

from common.errors import CourseError
from common.profiles import check_ranges, with_profile_defaults

DEFAULTS = {"smoke": {"epochs": 1, "size": 8}, "pocket": {"epochs": 3, "size": 64}}


@dataclass(frozen=True)
class Config:
    profile: str | None = None
    epochs: int | None = None
    size: int | None = None


def test_what_is_not_given_comes_from_the_profile(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    assert with_profile_defaults(Config(size=0), DEFAULTS) == Config("smoke", 1, 0)
    assert with_profile_defaults(Config("pocket"), DEFAULTS) == Config("pocket", 3, 64)
    with pytest.raises(CourseError, match="unknown profile 'tiny'"):
        with_profile_defaults(Config("tiny"), DEFAULTS)


@pytest.mark.parametrize(("epochs", "message"), [(0, "at least 1$"), (9, "at least 1 and at most 8"), (8, None)])
def test_ranges_name_the_field(epochs, message):
    ranges = {"epochs": (1, None if epochs == 0 else 8)}
    if message is None:
        check_ranges("train", Config(epochs=epochs), ranges)
        return
    with pytest.raises(CourseError, match=rf"train: epochs is {epochs}; it must be {message}"):
        check_ranges("train", Config(epochs=epochs), ranges)
