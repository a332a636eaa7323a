"""Two processes against one: each sees its share of the pictures and texts, and ends with the gradient of the batch."""

from __future__ import annotations

import json
import runpy
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.atomic import read_json, write_json
from common.training_log import read_log

TOY = Path(__file__).with_name("toy.py")
BAD = (2, 9)  # rows of training pictures that are none
RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
BATCHES = {"one bad": [0, 1, 2, 3, 4, 5, 6, 7], "a share of nothing usable": [9, 5, 6]}

# Batches, their losses and gradients and a step after each: alone, without a share anywhere, and by each process of a
# launch. A second training of the same reads its pictures batch by batch.
SCRIPT = """
import json, runpy, sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from chapter03_multimodal import training_pictures
from chapter03_multimodal.batches import Batch
from chapter03_multimodal.losses import batch_loss, clip_loss
from chapter03_multimodal.model import prepare, training_mode
from chapter03_multimodal.training_inputs import TrainingInputs
from chapter03_multimodal.training_pictures import random_windows
from common.devices import choose_placement
from common.processes import Processes

folder, toy, count, batches = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
decoded, encoded, result = [], [], {}
processes, placement = Processes.launched(), replace(choose_placement("torch"), precision="float32")
assert processes.count == count
square = training_pictures.Pictures._square
training_pictures.Pictures._square = lambda pictures, row: decoded.append(int(row)) or square(pictures, row)


def counting(encode):
    return lambda inputs: encoded.append(len(inputs)) or encode(inputs)


def naive_loss(model, inputs, whole):
    pixels, usable = inputs.pictures.take(whole.rows)
    windows = random_windows(pixels[usable], inputs.preprocessing.side, np.random.default_rng(whole.seed))
    batch = whole.only(usable)
    images = normalize(model.encode_image(inputs.preprocessing.as_input(windows)), dim=-1)
    texts = normalize(model.encode_text(inputs.clip.tokenise(batch.texts)), dim=-1)
    return clip_loss(texts, images, batch.known, logit_scale=model.logit_scale)


def shared_loss(model, inputs, whole):
    [ready] = inputs.ready([whole])
    return batch_loss(model, ready, inputs.clip.dimension, placement, processes)


for kept in ("kept", "read each time"):
    training_pictures.IN_MEMORY = 1 << 30 if kept == "kept" else 0
    config, _, clip, data = runpy.run_path(toy)["toy_training"](folder)
    inputs = TrainingInputs(config, clip, data, processes)
    model = training_mode(prepare(clip.model, "everything"))
    model.encode_image, model.encode_text = counting(model.encode_image), counting(model.encode_text)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
    result[f"{kept}: decoded at first"] = torch.tensor(decoded, dtype=torch.long)
    for name, rows in batches.items():
        decoded.clear(), encoded.clear()
        known = torch.eye(len(rows), dtype=torch.bool)
        known[-1, 0] = True
        whole = Batch(np.array(rows), inputs.texts[rows, 0].tolist(), known, seed=5)
        optimizer.zero_grad()
        loss = (shared_loss if count > 1 else naive_loss)(model, inputs, whole)
        if count == 1:
            assert torch.equal(loss, shared_loss(model, inputs, whole)), "alone, it is the naive one to the bits"
        loss.backward()
        processes.average_gradients(model.parameters())
        found = {f"gradient {key}": weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
        found |= {"loss": loss.detach(), "decoded": torch.tensor(decoded, dtype=torch.long)}
        found |= {"encoded": torch.tensor(sum(encoded))}
        result |= {f"{kept}: {name}: {key}": value.clone() for key, value in found.items()}
        optimizer.step()
    result |= {f"{kept}: weight {key}": weight.detach().clone() for key, weight in model.named_parameters()}
    decoded.clear()
    unusable = sorted(inputs.pictures.unusable)
    result[f"{kept}: unusable"] = torch.tensor(unusable)
name = "alone" if count == 1 else processes.rank
save_file({key: value.contiguous() for key, value in result.items()}, folder / f"{name}.safetensors")
"""

# A toy training that ends by itself before so many steps (all processes at the same one), and says how many it took.
UNTIL = """
import runpy, sys
from dataclasses import replace
from pathlib import Path

from chapter03_multimodal import train
from chapter03_multimodal.losses import batch_loss
from common.devices import choose_placement
from common.processes import Processes

folder, toy, most = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
taken, processes = [], Processes.launched()


def stops(*inputs):
    if len(taken) == most:
        raise SystemExit(0)
    taken.append(1)
    return batch_loss(*inputs)


train.batch_loss = stops
train.choose_placement = lambda engine: replace(choose_placement(engine), precision="float32")
try:
    train.fine_tune(*runpy.run_path(toy)["toy_training"](folder), processes)
finally:
    (folder / f"taken-{processes.rank}").write_text(str(len(taken)))
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A folder of a shop and a CLIP, whose shop has two files that are no pictures."""
    made, folder = runpy.run_path(str(TOY)), tmp_path_factory.mktemp("toy")
    made["tiny_folder"](folder / "clip")
    data = made["toy_data"](folder / "shop")
    files = data.pairs.loc[data.pairs["split"] == "train", "path"].to_numpy()
    for row in BAD:
        (folder / "shop" / files[row]).write_bytes(b"no picture")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("by", ["mpi", "torch"])
def test_two_processes_have_the_gradient_of_one(toy, tmp_path, launch, by):
    folder, script = tmp_path / "toy", tmp_path / "script.py"
    shutil.copytree(toy, folder)
    _become_resnet(folder / "clip")
    script.write_text(SCRIPT)
    arguments = (str(script), str(folder), str(TOY))
    launch("alone", tmp_path, *arguments, "1", json.dumps(BATCHES))
    launch(by, tmp_path, *arguments, "2", json.dumps(BATCHES))
    alone, first, second = (load_file(folder / f"{name}.safetensors") for name in ("alone", 0, 1))
    _assert_shared(alone, first, second)
    assert first.keys() == second.keys() == alone.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        scale = float(alone[name].abs().max())
        torch.testing.assert_close(value, alone[name], rtol=1e-4, atol=1e-5 * max(scale, 0.01), msg=name)
        # The comparison would see a missing half: gradients are well above what it lets pass (a key's bias moves
        # all scores of a softmax alike, so that its gradient is nothing but rounding).
        assert scale > 1e-6 or ": gradient" not in name or "k_proj.bias" in name, (name, scale)


@pytest.mark.slow
def test_a_whole_training_of_two_processes_is_that_of_one(toy, tmp_path, launch):
    """Interrupted once on the way; together they write what one process writes, up to rounding."""
    script, logs = tmp_path / "script.py", []
    script.write_text(UNTIL)
    for by, stops in (("alone", [99]), ("torch", [5, 99])):
        folder = tmp_path / by
        shutil.copytree(toy, folder)
        for most in stops:
            launch(by, folder, str(script), str(folder), str(TOY), str(most))
        logs.append(read_log(folder / "work" / "log.jsonl"))  # each line once: one process alone writes
        found = {path.name for path in (folder / "work").iterdir()}
        assert {"epoch_1", "epoch_2", "epoch_3", "best", "best.json", "untrained.json", "parameters.json"} <= found
    assert [int((folder / f"taken-{rank}").read_text()) for rank in (0, 1)] == [8, 8], "on from step 4"
    one, two = logs
    same = ["step", "epoch", "pairs", "skipped", "skipped_pictures", "skipped_batches", "rate"]
    assert one[same].equals(two[same]) and one["skipped"].sum() == len(BAD) * 3
    assert (one["loss"] - two["loss"]).abs().max() < 1e-3 < one["loss"].max()
    best = load_file(folder / "work" / "best" / "open_clip_model.safetensors")
    epoch = read_json(folder / "work" / "best.json")["epoch"]
    kept = load_file(folder / "work" / f"epoch_{epoch}" / "open_clip_model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in best.items())


def _become_resnet(folder: Path) -> None:
    """A tower with batch norms: in training mode, each would scale its share by what stands in it."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    config = read_json(folder / "open_clip_config.json")
    write_json(folder / "open_clip_config.json", config | {"model_cfg": RESNET})
    weights = {name: value.contiguous() for name, value in open_clip.model.CLIP(**RESNET).state_dict().items()}
    for name, value in weights.items():
        if name.endswith("bn3.weight"):
            value.fill_(1)  # begins as 0: no gradient would go further
    save_file(weights, folder / "open_clip_model.safetensors")


def _assert_shared(*parts: dict[str, torch.Tensor]) -> None:
    """Takes the counts out of what one process alone and both of two have found: each did about half of the work."""
    for kept in ("kept", "read each time"):
        alone, *both = (part.pop(f"{kept}: decoded at first").tolist() for part in parts)
        assert len(alone) == (32 if kept == "kept" else 0)
        # Beside its half, each looks at the bad ones of the other for what is wrong with them.
        assert sorted(chain(*both)) == sorted([*alone, *(BAD if alone else ())])
        assert max(map(len, both)) <= 0.6 * len(alone)
        for name, rows in BATCHES.items():
            _, *both = (part.pop(f"{kept}: {name}: decoded").tolist() for part in parts)
            bad = [row for row in rows if row in BAD]
            assert sorted(chain(*both)) == (sorted([*rows, *bad]) if kept != "kept" else []), name
            _, *both = (int(part.pop(f"{kept}: {name}: encoded")) for part in parts)
            done = 2 * len(rows) - 2 * len(bad)  # pictures and their texts
            assert sum(both) == done and max(both) <= (0.6 if len(rows) == 8 else 1) * done, name
