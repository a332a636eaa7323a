"""Errors that are meant for people: the command line prints their message and no traceback."""

from __future__ import annotations


class CourseError(Exception):
    """Something the reader can put right. The message names what is wrong (file, column, value) and the fix."""


class MissingArtifact(CourseError):
    """A step lacks an input. The message carries the command that makes it."""
