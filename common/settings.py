"""Read the few settings that come from the environment.

======================  ==================================================================================
``COURSE_PROFILE``      ``smoke``, ``pocket`` (the default) or ``full``
``COURSE_ARTIFACTS``    folder of everything the course makes; default ``artifacts`` in the repository
``COURSE_DATA_HOME``    folder with public data sets that are already on this machine; no default
======================  ==================================================================================

A relative path is taken from the repository root, never from the working directory, which differs between a shell,
papermill and nbval.
"""

from __future__ import annotations

import os
from pathlib import Path

from common.errors import CourseError

PROFILES = ("smoke", "pocket", "full")
DEFAULT_PROFILE = "pocket"


def resolve_profile(name: str | None = None) -> str:
    """Return the profile to use: the argument, else ``COURSE_PROFILE``, else ``pocket``. Raises ``CourseError`` if the
    name is not one of ``PROFILES``. An empty environment variable counts as unset."""
    origin = "profile" if name is not None else "environment variable COURSE_PROFILE"
    chosen = name if name is not None else os.environ.get("COURSE_PROFILE") or DEFAULT_PROFILE
    if chosen not in PROFILES:
        raise CourseError(f"{origin}: unknown profile {chosen!r}; choose one of {', '.join(PROFILES)}")
    return chosen


def repository_root() -> Path:
    """Return the folder that holds ``common``, ``course`` and the chapters, whatever the working directory is."""
    return Path(__file__).resolve().parents[1]


def artifacts_root() -> Path:
    """Return ``COURSE_ARTIFACTS``, else ``artifacts`` in the repository. It need not exist yet."""
    chosen = os.environ.get("COURSE_ARTIFACTS")
    return repository_root() / Path(chosen or "artifacts").expanduser()


def data_home() -> Path | None:
    """Return ``COURSE_DATA_HOME``, None if it is unset. Raises ``CourseError`` if it is set but is no folder."""
    chosen = os.environ.get("COURSE_DATA_HOME")
    if not chosen:
        return None
    folder = repository_root() / Path(chosen).expanduser()
    if not folder.is_dir():
        raise CourseError(f"environment variable COURSE_DATA_HOME: {folder} is no folder; correct it or unset it")
    return folder
