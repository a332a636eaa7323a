"""The loop that notebook 3 shows takes the steps of the module, to the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import chapter02_two_tower
from chapter02_two_tower.guide import Guide
from chapter02_two_tower.train import train_stages
from common.devices import choose_placement
from common.training_log import read_log
from tests.chapter02_two_tower.toy import toy_training

NOTEBOOK = Path(chapter02_two_tower.__file__).with_name("03_training.ipynb")


def code_cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def random_guide(texts, seed=0) -> Guide:
    """A guide that knows nothing: it marks about half of a batch."""
    places = [{key: at for at, key in enumerate(named)} for named in (texts.queries, texts.products)]
    rng = np.random.default_rng(seed)
    queries, products = (rng.standard_normal((len(place), 8)).astype(np.float32) for place in places)
    return Guide(places[0], queries, places[1], products, {})


@pytest.mark.parametrize("learn_temperature", [False, True])
def test_the_loop_of_the_notebook_is_that_of_the_module(tmp_path, capsys, learn_temperature):
    [at] = [at for at, cell in enumerate(code_cells()) if "training-loop" in cell["metadata"].get("tags", [])]
    source = "".join(code_cells()[at]["source"])
    assert len(source.splitlines()) <= 20
    setup = [line for cell in code_cells()[:at] for line in "".join(cell["source"]).splitlines()]
    names: dict = {}
    exec("\n".join(line for line in setup if line.startswith(("from ", "import "))), names)

    changes = {"stages": (1,), "control": False, "pairs": (40, 1, 1), "typo_share": 0.3, "dimensions": (16,)}
    training = toy_training(tmp_path, learn_temperature=learn_temperature, **changes)
    stage, model, maker, texts = training.start()
    guide = random_guide(texts)
    train_stages(training.config, training.data, training.validation, training.work, guide=guide)
    log = read_log(training.work / "log.jsonl")
    placement = choose_placement("torch")
    names |= {"config": training.config, "stage": stage, "maker": maker, "texts": texts, "guide": guide}
    exec(
        source,
        names | {"model": model.to(placement.device), "placement": placement, "batches": log[log["loss"].notna()]},
    )
    assert capsys.readouterr().out.splitlines()[-1] == "the same 4 losses as the module's"
    # The comparison can fail: without the guide it is another training.
    names["guide"] = random_guide(texts, seed=1)
    start = training.start()[1].to(placement.device)
    with torch.random.fork_rng(), pytest.raises(AssertionError):
        exec(source, names | {"model": start, "placement": placement, "batches": log[log["loss"].notna()]})
