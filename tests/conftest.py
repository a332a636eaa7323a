"""What every test shares: no test writes into the repository, asks a hub, or depends on the caller's settings."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.settings import repository_root


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


# `accelerate launch --cpu` starts its processes through mpirun, and only if it is given a file of hosts: without one it
# starts a single process, whatever --num_processes says. --multi_gpu is the way through torch's own launcher, which
# needs neither MPI nor a GPU.
TWO_PROCESSES = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
TWO_PROCESSES += ["--mixed_precision", "no", "--dynamo_backend", "no"]
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # as which containers run


@pytest.fixture
def launch() -> Callable[..., None]:
    """``launch(by, folder, *arguments)``: run python with the arguments in ``folder``, to its end; by: "alone", or as
    two processes on the CPU through "torch" or "mpi"."""

    def run(by: str, folder: Path, *arguments: str) -> None:
        ways = {
            "alone": [],
            "torch": [*TWO_PROCESSES, "--multi_gpu", "--main_process_port", str(_free_port())],
            "mpi": [*TWO_PROCESSES, "--cpu", "--mpirun_hostfile", str(folder / "hosts")],
        }
        if by == "mpi":
            if shutil.which("mpirun") is None:
                pytest.skip("mpirun is not installed")
            (folder / "hosts").write_text("localhost slots=2\n")
        environment = os.environ | {"PYTHONPATH": str(repository_root()), "OMP_NUM_THREADS": "1"} | AS_ROOT
        command = [sys.executable, *ways[by], *arguments]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]

    return run


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
