from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import CourseError
from common.settings import PROFILES, artifacts_root, data_home, repository_root, resolve_profile


def test_profile_is_the_argument_then_the_environment_then_pocket(monkeypatch):
    assert resolve_profile() == "pocket"
    monkeypatch.setenv("COURSE_PROFILE", "full")
    assert resolve_profile() == "full"
    assert resolve_profile("smoke") == "smoke"
    monkeypatch.setenv("COURSE_PROFILE", "")
    assert resolve_profile() == "pocket"


def test_unknown_profile_names_its_origin_and_the_choices(monkeypatch):
    with pytest.raises(CourseError, match="profile: unknown profile 'tiny'; choose one of smoke, pocket, full"):
        resolve_profile("tiny")
    with pytest.raises(CourseError):
        resolve_profile("")
    monkeypatch.setenv("COURSE_PROFILE", "Pocket")
    with pytest.raises(CourseError, match="COURSE_PROFILE"):
        resolve_profile()
    assert set(PROFILES) == {"smoke", "pocket", "full"}


def test_places_do_not_depend_on_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COURSE_ARTIFACTS")
    assert (repository_root() / "common" / "settings.py").is_file()
    assert artifacts_root() == repository_root() / "artifacts"
    monkeypatch.setenv("COURSE_ARTIFACTS", "elsewhere")
    assert artifacts_root() == repository_root() / "elsewhere"
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "here"))
    assert artifacts_root() == tmp_path / "here"
    monkeypatch.setenv("COURSE_ARTIFACTS", "~/there")
    assert artifacts_root() == Path.home() / "there"


def test_data_home_is_unset_or_a_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_DATA_HOME", raising=False)
    assert data_home() is None
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path))
    assert data_home() == tmp_path
    monkeypatch.setenv("COURSE_DATA_HOME", str(tmp_path / "absent"))
    with pytest.raises(CourseError, match=r"COURSE_DATA_HOME: .*absent is no folder"):
        data_home()
