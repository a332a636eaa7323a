"""Processes: two that share a batch end with the gradient of one that has all of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from common.processes import ALONE, Processes

# Two encoders and a scale that the loss itself uses, a weight that one process alone has a gradient for, and one that
# none has; run alone, and by each process of a launch. Of a single row the first process has no share.
SCRIPT = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from common.processes import Processes

folder, processes = Path(sys.argv[1]), Processes.launched()
assert processes.count == int(sys.argv[2])
result = {}
for rows in (7, 2, 1):
    torch.manual_seed(rows)
    queries, products = torch.randn(rows, 5), torch.randn(2 * rows, 5)
    towers = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    scale, last, idle = (torch.nn.Parameter(torch.tensor(value)) for value in (2.0, 1.0, 1.0))
    own, own_products = processes.share(rows), processes.share(2 * rows)
    vectors = towers[0](queries[own])
    if own.stop == rows:
        vectors = torch.cat([vectors[:-1], vectors[-1:] * last])
    vectors = processes.gather(vectors, rows), processes.gather(towers[1](products[own_products]), 2 * rows)
    loss = cross_entropy(scale * vectors[0] @ vectors[1].T, torch.arange(rows))
    loss.backward()
    weights = {f"{tower}.{name}": w for tower in (0, 1) for name, w in towers[tower].named_parameters()}
    weights |= {"scale": scale, "last": last, "idle": idle}
    processes.average_gradients(weights.values())
    assert idle.grad is None
    result |= {f"{rows} {name}": weight.grad for name, weight in weights.items() if weight is not idle}
    result |= {f"{rows} loss": loss.detach(), f"{rows} queries": vectors[0].detach()}
result["main"] = torch.tensor(processes.from_main(lambda: 3 + processes.rank))
processes.wait()
name = "alone" if processes.count == 1 else processes.rank
save_file({name: tensor.contiguous() for name, tensor in result.items()}, folder / f"{name}.safetensors")
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", ["mpi", "torch"])
def test_two_processes_have_the_gradient_of_one(tmp_path, launch, by):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch("alone", tmp_path, str(script), str(tmp_path), "1")
    launch(by, tmp_path, str(script), str(tmp_path), "2")
    alone, first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("alone", 0, 1))
    assert alone.keys() == first.keys() == second.keys()
    assert int(alone["main"]) == 3
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        torch.testing.assert_close(value, alone[name], msg=name)


@given(rows=st.integers(0, 50), count=st.integers(1, 9))
def test_shares_are_all_rows_once_and_nearly_equal(rows, count):
    shares = [range(rows)[Processes(rank, count).share(rows)] for rank in range(count)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_alone_changes_nothing():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = gradient = torch.tensor([3.0, 4.0])
    ALONE.average_gradients([weight])
    assert weight.grad is gradient
    assert ALONE.gather(weight, 2) is weight
    assert ALONE.sum(weight) is weight
    assert ALONE.from_main(lambda: "made") == "made"
    assert ALONE.is_main
    assert ALONE.share(5) == slice(0, 5)


def test_what_no_launcher_started_is_alone(monkeypatch):
    assert Processes.launched() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Processes.launched() is ALONE


def test_accelerate_on_a_cpu_without_mpi_is_told(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert Processes.launched() is ALONE
    assert "--multi_gpu" in capsys.readouterr().err
