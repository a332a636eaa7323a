"""What every test shares: no test writes into the repository, asks a hub, or depends on the caller's settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _settings_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One artifacts folder for the session: what one test builds (a catalogue), the next may read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_ARTIFACTS", str(tmp_path_factory.mktemp("artifacts")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("COURSE_PROFILE", raising=False)
        yield


@pytest.fixture
def artifacts_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty artifacts folder of the test's own, in force while it runs."""
    root = tmp_path / "artifacts"
    monkeypatch.setenv("COURSE_ARTIFACTS", str(root))
    return root


PAUSABLE = """
import sys, time
from pathlib import Path

def pause():
    print("ready", flush=True)
    time.sleep(600)

folder = Path(sys.argv[1])
"""


@pytest.fixture
def kill_at_pause() -> Callable[[str, Path], None]:
    """``kill_at_pause(script, folder)``: run ``script`` in a process until it calls ``pause()``, then SIGKILL it there.

    The script has ``folder`` and ``pause``; nothing else may go to its standard output.
    """

    def run(script: str, folder: Path) -> None:
        command = [sys.executable, "-c", PAUSABLE + textwrap.dedent(script), str(folder)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n", "the script ended before its pause"
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait(timeout=30)
            child.stdout.close()
        assert child.returncode == -signal.SIGKILL

    return run
