"""Digest files."""

from __future__ import annotations

from hashlib import file_digest
from pathlib import Path


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits. Raises `OSError` if it cannot be read."""
    with Path(path).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
