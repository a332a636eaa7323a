"""What training loses on a busy machine: the rows, the rivals, and where the threads' way of waiting is set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from course.bench import FIELDS
from course.benchmarks import busy_machine


@pytest.mark.parametrize("package", ["common", "course", "chapter01_baseline", "chapter02_two_tower"])
@pytest.mark.parametrize(("given", "used"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_unless_the_reader_says_otherwise(package, given, used):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    code = f"import sys, os, {package}; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [used, "False"]


def test_rows_compare_ways_of_waiting_and_with_being_alone(monkeypatch):
    speeds = {(0, "wait"): 4.0, (0, "spin"): 4.0, (1, "wait"): 2.0, (1, "spin"): 0.5}
    asked = []

    def measure(training, steps, rivals, waiting):
        asked.append((training, steps, rivals, waiting))
        return speeds[rivals, waiting] / len(asked)  # the first round is the best

    monkeypatch.setattr(busy_machine, "measure", measure)
    rows = busy_machine.main(rounds=2, steps={"towers": 5}, rivals=(0, 1))
    assert len(asked) == 8 and all(set(FIELDS) <= set(row) for row in rows)
    alone, beside = rows
    assert (alone["our_value"], alone["peer_value"], alone["share"]) == (4.0, 2.0, 1.0)
    assert beside["name"] == "busy-machine, towers beside 1 busy process"
    assert beside["our_value"] == pytest.approx(2 / 3, abs=0.01) and beside["share"] == pytest.approx(1 / 6, abs=0.001)


def test_rivals_run_meanwhile_and_not_after():
    with busy_machine.busy(2) as started:
        assert len(started) == 2 and all(process.poll() is None for process in started)
    assert all(process.poll() is not None for process in started)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["towers", "cross-encoder"])
def test_a_training_is_timed(training):
    assert busy_machine.measure(training, 1, 0, "wait") > 0
