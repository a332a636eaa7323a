"""Fine-tuning on a toy shop: it learns, it goes on after a kill to the same bits, and it says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from chapter03_multimodal import train
from chapter03_multimodal.clip import load_clip
from chapter03_multimodal.losses import batch_loss
from chapter03_multimodal.prepare_data import PrepareDataConfig
from chapter03_multimodal.prepare_data import main as prepare_data
from chapter03_multimodal.train import clip_folders, fine_tune, load_training
from chapter03_multimodal.train_config import LEARNING_RATES, TrainConfig, resolved
from chapter03_multimodal.training_inputs import TrainingInputs
from chapter03_multimodal.validation import Validation
from common.devices import choose_placement
from common.errors import CourseError
from common.training_log import read_log
from tests.chapter03_multimodal import toy
from tests.chapter03_multimodal.toy import tiny_folder, toy_data, toy_training


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the work folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    fine_tune(*toy_training(folder))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "open_clip_model.safetensors")


def without_seconds(log: Path) -> list[dict]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same_run(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir() if path.name.startswith("epoch_") or path.name == "best")
    assert names and names == sorted(p.name for p in other.iterdir() if p.name.startswith("epoch_") or p.name == "best")
    return without_seconds(one / "log.jsonl") == without_seconds(other / "log.jsonl") and all(
        torch.equal(value, weights(other / name)[key]) for name in names for key, value in weights(one / name).items()
    )


def test_every_epoch_leaves_its_model_and_its_lines(whole):
    log = read_log(whole / "work" / "log.jsonl")
    batches, epochs = log[log["rate"].notna()], log[log["MRR"].notna()]
    assert batches.groupby("epoch").size().to_dict() == {1: 4, 2: 4, 3: 4}
    assert batches["step"].tolist() == list(range(1, 13)) and epochs["epoch"].tolist() == [1, 2, 3]
    assert (batches["pairs"] == 8).all() and (batches["skipped"] == 0).all()
    figures = {"loss", "gradient_norm", "scale", "validation_loss", "text_to_image_R@1", "image_to_text_MRR"}
    assert figures <= set(log) and epochs["skipped_batches"].tolist() == [0, 0, 0]
    best = json.loads((whole / "work" / "best.json").read_text())
    assert best["MRR"] == epochs["MRR"].max()
    kept = weights(whole / "work" / f"epoch_{best['epoch']}")
    assert all(torch.equal(value, kept[key]) for key, value in weights(whole / "work" / "best").items())
    open_clip.create_model_and_transforms(f"local-dir:{whole / 'work' / 'best'}")


def test_it_learns(tmp_path):
    fine_tune(*toy_training(tmp_path, epochs=12))
    losses = read_log(tmp_path / "work" / "log.jsonl")["loss"].dropna()
    assert losses.iloc[-4:].mean() < 0.7 * losses.iloc[:4].mean()
    untrained, best = (json.loads((tmp_path / "work" / f"{name}.json").read_text()) for name in ("untrained", "best"))
    assert best["MRR"] > untrained["MRR"] + 0.2 and best["validation_loss"] < untrained["validation_loss"]


def test_the_same_run_twice_is_the_same_and_the_comparison_can_fail(whole, tmp_path):
    fine_tune(*toy_training(tmp_path / "same"))
    assert same_run(whole / "work", tmp_path / "same" / "work")
    fine_tune(*toy_training(tmp_path / "other", seed=1))
    assert not same_run(whole / "work", tmp_path / "other" / "work")


class Killed(Exception):
    pass


@pytest.mark.parametrize(("steps", "changes"), [(5, {}), (8, {"trained": "lora"})])
def test_stopped_between_two_checkpoints_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, steps, changes):
    fine_tune(*toy_training(tmp_path / "whole", **changes))
    calls = []

    def stops(*inputs):
        calls.append(1)
        if len(calls) > steps:
            raise Killed
        return batch_loss(*inputs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "batch_loss", stops)
        fine_tune(*toy_training(tmp_path / "broken", **changes))
    fine_tune(*toy_training(tmp_path / "broken", **changes))
    assert same_run(tmp_path / "whole" / "work", tmp_path / "broken" / "work")


@pytest.mark.slow
@pytest.mark.parametrize("lines", [2, 7, 10])
def test_killed_at_any_step_it_goes_on_to_the_same_bits(whole, tmp_path, lines):
    """Killed once the log has so many lines: before the first checkpoint, and within the second epoch and the third."""
    (tmp_path / "clip").symlink_to(whole / "clip")
    log, command = tmp_path / "work" / "log.jsonl", [sys.executable, toy.__file__, tmp_path, "{}"]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not log.is_file() or log.read_bytes().count(b"\n") < lines:
        assert child.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "work" / "best.json").exists()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert same_run(whole / "work", tmp_path / "work")


@pytest.mark.parametrize("trained", ["projections", "last_blocks"])
def test_the_other_choices_train_as_well(tmp_path, trained):
    fine_tune(*toy_training(tmp_path, trained=trained, last_blocks=1, epochs=1, hard_share=0.0))
    before, after = weights(tmp_path / "clip"), weights(tmp_path / "work" / "best")
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {"visual.proj", "text_projection", "logit_scale"} <= moved
    assert ("visual.transformer.resblocks.0.mlp.c_fc.weight" in moved) == (trained == "last_blocks")
    assert "token_embedding.weight" not in moved
    counts = json.loads((tmp_path / "work" / "parameters.json").read_text())
    assert counts["trained"] == sum(after[key].numel() for key in moved) < counts["all"]


def test_bad_pictures_are_left_out_and_counted(tmp_path, capsys):
    """Files that went bad after the data were prepared: those of a whole batch, and one of another batch."""
    config, work, clip, data = toy_training(tmp_path, epochs=1, neighbours=0)
    inputs = TrainingInputs(config, clip, data)
    first, second = inputs.batches(inputs.neighbours()).epoch(0)[:2]
    for row in [*first.rows, second.rows[0]]:
        inputs.pictures.paths[row].write_bytes(b"no picture" if row % 2 else b"")
    fine_tune(config, work, clip, data)
    log = read_log(work / "log.jsonl")
    steps = log[log["MRR"].isna()]
    assert steps["pairs"].tolist() == [0, 7, 8, 8] and steps["skipped"].tolist() == [8, 1, 0, 0]
    assert steps["loss"].isna().tolist() == [True, False, False, False]
    epoch = log[log["MRR"].notna()].iloc[0]
    assert (epoch["skipped_pictures"], epoch["skipped_batches"]) == (9, 1)
    assert "9 pictures could not be used, the first: " in capsys.readouterr().err


def test_a_loss_that_is_not_a_number_stops_with_earlier_epochs_kept(tmp_path, monkeypatch):
    calls = []

    def breaks(*inputs):
        calls.append(1)
        return batch_loss(*inputs) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(train, "batch_loss", breaks)
    with pytest.raises(CourseError, match=r"loss nan .* at step 6; .*\n.*lower --learning-rate"):
        fine_tune(*toy_training(tmp_path))
    assert torch.isfinite(weights(tmp_path / "work" / "epoch_1")["visual.proj"]).all()
    assert not (tmp_path / "work" / "best.json").exists()


def test_it_ends_early_when_validation_does_not_improve(tmp_path, monkeypatch):
    figures = iter([0.1, 0.3, 0.5, 0.4, 0.5, 0.9])  # the first is that of the untrained model
    monkeypatch.setattr(Validation, "__call__", lambda self, clip: {"MRR": next(figures)})
    fine_tune(*toy_training(tmp_path, epochs=8, patience=2))
    best = json.loads((tmp_path / "work" / "best.json").read_text())
    assert best == {"epoch": 2, "MRR": 0.5}, "the first of equals is kept, and epoch 5 never came"


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 1}, {"hard_share": 1.5}, {"shorten": -0.1}, {"patience": 0}, {"trained": "some"}],
)
def test_settings_that_make_no_sense_are_refused_before_training(wrong):
    with pytest.raises(CourseError, match=f"train: {next(iter(wrong))} is"):
        resolved(TrainConfig(profile="smoke", **wrong))


def test_the_profile_and_what_is_trained_choose_the_rest():
    config = resolved(TrainConfig(profile="pocket", trained="projections"))
    assert (config.epochs, config.batch_size, config.learning_rate) == (12, 128, 2e-3)
    assert resolved(TrainConfig(profile="full")).learning_rate == 1e-5
    assert resolved(TrainConfig(profile="full", learning_rate=1.0, epochs=2)).epochs == 2
    assert all(rates["everything"] <= rates["projections"] for rates in LEARNING_RATES.values())


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_pictures_is_an_error_with_a_reason(tmp_path, split):
    data = toy_data(tmp_path / "shop")
    less = replace(data, pairs=data.pairs[data.pairs["split"] != split])
    config = resolved(TrainConfig(profile="smoke"))
    with pytest.raises(CourseError, match=r"two pictures.*(\n|.)*prepare_data prints"):
        fine_tune(config, tmp_path / "work", load_clip(tiny_folder(tmp_path / "clip")), less)


def test_the_notebook_s_loop_takes_the_module_s_steps(whole):
    """The cell runs as it stands, on the toy data; it asserts itself that its losses are those of the log."""
    notebook = json.loads(Path(train.__file__).with_name("02_fine_tuning.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if "training-loop" in c["metadata"].get("tags", ())]
    assert len(cells) == 1 and len(cells[0].splitlines()) <= 20
    config, work, clip, data = toy_training(whole)
    inputs, log = TrainingInputs(config, clip, data), read_log(work / "log.jsonl")
    maker = inputs.batches(np.load(work / "neighbours.npy"))
    given = {"config": config, "clip": clip, "inputs": inputs, "maker": maker, "log": log}
    given |= {"placement": choose_placement("torch"), "choose_weights": train.prepare}
    names = vars(train) | given
    exec(cells[0], names)
    assert names["losses"] == log["loss"].tolist()[: len(names["losses"])] and len(names["losses"]) == 3
    with pytest.raises(AssertionError):
        exec(cells[0], vars(train) | given | {"log": log.assign(loss=log["loss"] * 1.0000001)})


def test_validation_leaves_unreadable_pictures_out(tmp_path):
    clip, data = load_clip(tiny_folder(tmp_path / "clip")), toy_data(tmp_path / "shop")
    held_out = data.pairs[data.pairs["split"] == "val"]
    whole = Validation(held_out, tmp_path / "shop")
    (tmp_path / "shop" / held_out["path"].iloc[3]).write_bytes(b"")
    images, texts, rows = whole.vectors(clip)
    assert len(images) == len(texts) == len(held_out) - 1 and 3 not in rows
    rest = Validation(held_out.drop(held_out.index[3]), tmp_path / "shop")
    assert whole(clip) == pytest.approx(rest(clip))


def test_the_step_writes_a_run_and_reads_it_again(photo_shop, photo_shop_artifacts, tiny_clip):
    source = str(photo_shop.folder)
    prepare_data(PrepareDataConfig(catalogue=source))
    config = TrainConfig(catalogue=source, encoder=str(tiny_clip), pictures=40, epochs=2, batch_size=20)
    result = train.main(config)
    assert result.run.name == train.main(config).run.name == load_training(photo_shop_artifacts).run.name
    folders = clip_folders(photo_shop_artifacts)
    assert list(folders) == ["best", "epoch_1", "epoch_2"] and not list(result.run.path.glob("last"))
    best = load_clip(folders["best"])
    assert best.digest == load_clip(folders[f"epoch_{result.best['epoch']}"]).digest
    assert result.untrained.keys() < result.best.keys() and len(result.log) == 2 * 2 + 2
    assert result.parameters["trained"] == result.parameters["all"]
    rows = pd.read_parquet(result.run.path / "training_pairs.parquet")
    neighbours = np.load(result.run.path / "neighbours.npy", allow_pickle=False)
    assert len(rows) == len(neighbours) == 40 and neighbours.max() < 40
    groups = rows["group_id"].to_numpy()
    assert ((neighbours < 0) | (groups[neighbours] != groups[:, None])).all()
