"""Run a service in a process of its own: start it, wait until it is ready, and end it whatever happens."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import CourseError

READY = re.compile(r"^listening on (http://\S+)$", re.MULTILINE)
LONGEST_START, LONGEST_STOP = 300.0, 15.0
"""Seconds."""
LOOK_AGAIN = 0.05
LOG_SHOWN = 2_000
"""Characters of the end of its log that an error shows."""


@dataclass(frozen=True)
class ServiceProcess:
    """url: http://host:port. log: the file of all that the process prints."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path


@contextmanager
def serving(command: Sequence[str], *, longest_start: float = LONGEST_START) -> Iterator[ServiceProcess]:
    """Run `command`, yield it once it prints `listening on http://host:port`, and stop it at the end.

    It gets the caller's environment without the token. Raises CourseError, with the end of its output, if it ends
    before it listens, or does not listen within `longest_start` seconds.
    """
    environment = {name: value for name, value in os.environ.items() if name != "COURSE_API_TOKEN"}
    with tempfile.TemporaryDirectory(prefix="course-service-") as folder:
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            yield ServiceProcess(process, _url(process, log, longest_start), log)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> int:
    """Ask the process to end, kill it if it does not, and return its exit code."""
    process.terminate()
    try:
        return process.wait(LONGEST_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _url(process: subprocess.Popen[bytes], log: Path, longest: float) -> str:
    until = time.monotonic() + longest
    while (ready := READY.search(log.read_text(errors="replace"))) is None:
        if process.poll() is not None:
            raise CourseError(f"the service ended before it listened, with code {process.returncode}:\n{_end_of(log)}")
        if time.monotonic() > until:
            raise CourseError(f"the service did not listen within {longest:g} s:\n{_end_of(log)}")
        time.sleep(LOOK_AGAIN)
    return ready[1]


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_SHOWN:].strip()
