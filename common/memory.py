"""Measure how much memory this process has taken."""

import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """Return the most memory that this process had resident, in bytes. Linux's own figure is used where there is one:
    `getrusage` may report the peak of the process that started this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
