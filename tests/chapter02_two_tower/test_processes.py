"""Two processes against one: negatives are gathered, and each ends with the gradient of the whole batch."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from chapter02_two_tower.model import Architecture, TwoTowerModel
from common.training_log import read_log
from tests.chapter02_two_tower import toy

# The batch, its loss and two optimizer steps: run alone, and by each process of a launch.
SCRIPT = """
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from chapter02_two_tower.cached_loss import cached_backward
from chapter02_two_tower.losses import in_batch_negatives_loss
from chapter02_two_tower.model import Tower, TwoTowerModel
from common.processes import Processes

folder, cached = Path(sys.argv[1]), sys.argv[2] == "cached"
processes = Processes.launched()
assert processes.count == (2 if cached else 1)
rank = processes.rank if cached else "alone"
things = ["usb cable", "black leather chair", "hp toner", "27 inch monitor", "garden hose 20 m", "lamp", "rug"]
texts = [f"{thing} with {'more ' * at}words" for at in (3, 1) for thing in things]
positives = torch.tensor([2, 0, 1, 3, 6, 5, 4])
known = torch.zeros(7, 14, dtype=torch.bool)
known[0, 9] = known[3, 0] = True
embedded = []
embed_chunk = Tower.embed_chunk
Tower.embed_chunk = lambda tower, tokens: embedded.append(len(tokens)) or embed_chunk(tower, tokens)


def train(name):
    model = TwoTowerModel.load(folder / name)
    parts = [(model.query, model.query.tokenise(things)), (model.product, model.product.tokenise(texts))]

    def loss_of(vectors):
        return in_batch_negatives_loss(*vectors, positives, known=known, temperature=model.temperature)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
    result = {}
    for step in range(2):
        optimizer.zero_grad()
        if cached:
            loss = cached_backward(parts, loss_of, rows_a_chunk=2, processes=processes)
        else:
            loss = loss_of([tower(tokens) for tower, tokens in parts])
            loss.backward()
        result[f"loss {step}"] = loss.detach().clone()
        result |= {f"gradient {step} {n}": w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
        optimizer.step()
    result |= {f"weight {name}": weight.detach().clone() for name, weight in model.named_parameters()}
    result["texts embedded"] = torch.tensor(sum(embedded))
    save_file(result, folder / f"{name}-{rank}.safetensors")
    embedded.clear()


train("shared")
train("apart")
"""


@pytest.mark.slow
@pytest.mark.parametrize("by", ["mpi", "torch"])
def test_two_processes_have_the_gradient_of_one(tiny_encoder, tmp_path, launch, by):
    for name, shared in (("shared", True), ("apart", False)):
        architecture = Architecture(encoder=str(tiny_encoder), projection=16, shared=shared, learn_temperature=True)
        model = TwoTowerModel.build(architecture, seed=0)
        with torch.no_grad():  # wide enough for the vectors to differ
            for weight in model.parameters():
                weight.mul_(2 if weight.ndim > 1 else 1)
        model.save(tmp_path / name)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch("alone", tmp_path, str(script), str(tmp_path), "plain")
    launch(by, tmp_path, str(script), str(tmp_path), "cached")
    for name in ("shared", "apart"):
        assert_alike(*(load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in ("alone", 0, 1)))


@pytest.mark.slow
def test_a_whole_training_of_two_processes_is_that_of_one(tiny_encoder, tmp_path, launch):
    """Through every stage, checkpoint and log: both write what one process writes, up to the rounding of bfloat16."""
    logs = []
    for by in ("alone", "torch"):
        folder = tmp_path / by
        folder.mkdir()
        (folder / "encoder").symlink_to(tiny_encoder)
        launch(by, folder, toy.__file__, str(folder), '{"cached": true}')
        logs.append(read_log(folder / "work" / "log.jsonl"))
    one, two = logs
    assert one[["step", "stage", "epoch"]].equals(two[["step", "stage", "epoch"]])
    assert (one["loss"] - two["loss"]).abs().max() < 1e-3 < one["loss"].max()


def assert_alike(alone, first, second):
    # Each process did about half of the work, twice in each of two steps: once without graph, once with.
    counts = [int(part.pop("texts embedded")) for part in (first, second)]
    assert sum(counts) == 2 * 2 * (7 + 14)
    assert max(counts) <= 0.6 * sum(counts)
    assert first.keys() == second.keys() == alone.keys() - {"texts embedded"}  # the same weights have no gradient
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        scale = float(alone[name].abs().max())
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5 * max(scale, 0.01), msg=name)
        # The comparison would see a missing half: gradients are far larger than what it lets pass (a key's bias moves
        # all scores of a softmax alike, so that its gradient is nothing but rounding).
        assert scale > 1e-5 or not name.startswith("gradient") or "key.bias" in name, (name, scale)
