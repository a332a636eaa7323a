from __future__ import annotations

import subprocess
import sys

import numpy as np

from common.memory import peak_memory


def test_the_peak_is_in_bytes_and_stays():
    held = np.ones(50_000_000)
    size = held.nbytes
    assert size < peak_memory() < 64e9
    del held
    assert peak_memory() > size


def test_a_child_does_not_report_what_its_parent_once_held():
    held = np.ones(100_000_000)
    script = "from common.memory import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 1e6 < int(child.stdout) < held.nbytes
