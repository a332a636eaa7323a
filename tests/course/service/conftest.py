"""The toy service, everything built, and one with nothing built."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from course.service.service import Service

TOY = Path(__file__).with_name("toy_service.py")


@pytest.fixture(scope="session")
def toy() -> dict:
    """What stands in `toy_service.py`, by name."""
    return runpy.run_path(str(TOY))


@pytest.fixture(scope="session")
def toy_service(toy) -> Callable[..., Service]:
    """`toy_service(folder, products=60, max_batch=64, remember=1_000)`."""
    return toy["toy_service"]


@pytest.fixture
def service(toy_service, tmp_path) -> Service:
    """A service of the test's own: it belongs to the event loop of whoever asks it first."""
    return toy_service(tmp_path / "toy")


@pytest.fixture
def empty_service(toy, tmp_path) -> Service:
    """The same with nothing built."""
    return toy["empty_service"](tmp_path / "empty")


@pytest.fixture(scope="session")
def toy_script() -> Path:
    """`python toy_service.py FOLDER PORT [page]` serves the toy service, and prints its address when it is ready."""
    return TOY
