"""Define the errors that are meant for people: the command line prints their message and no traceback."""

from __future__ import annotations


class CourseError(Exception):
    """Report what the user can put right. The message names what is wrong (file, column, value) and the fix."""


class MissingArtifact(CourseError):
    """Report that a step lacks an input. The message carries the command that makes it."""
