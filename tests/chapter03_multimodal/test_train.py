"""Fine-tuning on a toy shop: it learns, it goes on after a kill to the same bits, and it says what is wrong.

Run as a script (`python test_train.py FOLDER '{"seed": 1}'`) it is the training that a test kills.
"""

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
from PIL import Image
from safetensors.torch import load_file, save_file

from chapter03_multimodal import train
from chapter03_multimodal.clip import load_clip
from chapter03_multimodal.prepare_data import MultimodalData, PrepareDataConfig
from chapter03_multimodal.prepare_data import main as prepare_data
from chapter03_multimodal.train import TrainConfig, Training, clip_folders, load_training, schedule
from chapter03_multimodal.train_config import LEARNING_RATES, resolved
from chapter03_multimodal.training_pictures import ImagePreprocessing, Pictures, prefetch, random_windows
from chapter03_multimodal.validation import Validation
from common.artifacts import RunFolder
from common.atomic import write_json
from common.catalogue import Catalogue
from common.errors import CourseError
from common.training_log import read_log

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 40, 200), "grey": (120, 120, 120)}
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_folder(folder: Path) -> Path:
    """A CLIP of one layer a tower with random weights, as open_clip loads it."""
    torch.manual_seed(0)
    preprocess = {"mean": (0.5, 0.4, 0.5), "std": (0.5, 0.5, 0.2), "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(folder / "open_clip_config.json", {"model_cfg": TINY, "preprocess_cfg": preprocess})
    weights = {name: value.contiguous() for name, value in open_clip.model.CLIP(**TINY).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def toy_data(folder: Path, count: int = 48) -> MultimodalData:
    """`count` pictures of one colour above another one, with a text that names both; every third is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        upper, lower = list(COLOURS)[number % 4], list(COLOURS)[number // 4 % 4]
        shades = np.array([COLOURS[upper]] * 10 + [COLOURS[lower]] * 10, dtype=np.int64)[:, None, :]
        noise = np.random.default_rng(number).integers(-25, 26, (20, 24, 3))
        if not (folder / f"{number}.png").exists():  # several processes may read them
            Image.fromarray(np.clip(shades + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"product_id": f"p{number}", "title": f"{upper} on {lower}", "brand": f"brand{number % 5}"})
    products = pd.DataFrame(rows)
    images = pd.DataFrame({"product_id": products["product_id"], "path": [f"{n}.png" for n in range(count)]})
    catalogue = Catalogue.from_tables("toy", products=products, images=images.assign(position=0), folder=folder)
    pairs = images.assign(
        text=products["title"] + ". " + products["brand"],
        group_id=products["product_id"],
        category_path=pd.NA,
        split=["val" if number % 3 == 2 else "train" for number in range(count)],
    )
    return MultimodalData(RunFolder(folder, {"run": "toy"}), catalogue, pairs, pairs[:0], pairs[:0])


def toy_training(folder: Path, **changes) -> Training:
    """A `Training` of the toy shop in `folder`/work; the same in every process."""
    if not (folder / "clip").is_dir():
        tiny_folder(folder / "clip")
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 2e-3, "checkpoint_every": 3, "neighbours": 4}
    config = resolved(TrainConfig(profile="smoke", **(settings | {"more_texts": 2, "patience": 5} | changes)))
    return Training(config, folder / "work", load_clip(folder / "clip"), toy_data(folder / "shop"))


if __name__ == "__main__":
    toy_training(Path(sys.argv[1]), **json.loads(sys.argv[2])).run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the work folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    toy_training(folder).run()
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
    toy_training(tmp_path, epochs=12).run()
    losses = read_log(tmp_path / "work" / "log.jsonl")["loss"].dropna()
    assert losses.iloc[-4:].mean() < 0.7 * losses.iloc[:4].mean()
    untrained, best = (json.loads((tmp_path / "work" / f"{name}.json").read_text()) for name in ("untrained", "best"))
    assert best["MRR"] > untrained["MRR"] + 0.2 and best["validation_loss"] < untrained["validation_loss"]


def test_the_same_run_twice_is_the_same_and_the_comparison_can_fail(whole, tmp_path):
    toy_training(tmp_path / "same").run()
    assert same_run(whole / "work", tmp_path / "same" / "work")
    toy_training(tmp_path / "other", seed=1).run()
    assert not same_run(whole / "work", tmp_path / "other" / "work")


class Killed(Exception):
    pass


@pytest.mark.parametrize(("steps", "changes"), [(5, {}), (8, {"trained": "lora"})])
def test_stopped_between_two_checkpoints_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, steps, changes):
    toy_training(tmp_path / "whole", **changes).run()
    broken, calls = toy_training(tmp_path / "broken", **changes), []

    def stops(*inputs):
        calls.append(1)
        if len(calls) > steps:
            raise Killed
        return Training.loss(broken, *inputs)

    monkeypatch.setattr(broken, "loss", stops)
    with pytest.raises(Killed):
        broken.run()
    toy_training(tmp_path / "broken", **changes).run()
    assert same_run(tmp_path / "whole" / "work", tmp_path / "broken" / "work")


@pytest.mark.slow
@pytest.mark.parametrize("lines", [2, 7, 10])
def test_killed_at_any_step_it_goes_on_to_the_same_bits(whole, tmp_path, lines):
    """Killed once the log has so many lines: before the first checkpoint, and within the second epoch and the third."""
    (tmp_path / "clip").symlink_to(whole / "clip")
    log, command = tmp_path / "work" / "log.jsonl", [sys.executable, __file__, tmp_path, "{}"]
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
    toy_training(tmp_path, trained=trained, last_blocks=1, epochs=1, hard_share=0.0, more_texts=0).run()
    before, after = weights(tmp_path / "clip"), weights(tmp_path / "work" / "best")
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {"visual.proj", "text_projection", "logit_scale"} <= moved
    assert ("visual.transformer.resblocks.0.mlp.c_fc.weight" in moved) == (trained == "last_blocks")
    assert "token_embedding.weight" not in moved
    counts = json.loads((tmp_path / "work" / "parameters.json").read_text())
    assert counts["trained"] == sum(after[key].numel() for key in moved) < counts["all"]


def test_bad_pictures_are_left_out_and_counted(tmp_path):
    """Files that went bad after the data were prepared: those of a whole batch, and one of another batch."""
    training = toy_training(tmp_path, epochs=1, neighbours=0)
    first, second = training.batches().epoch(0)[:2]
    for row in [*first.rows, second.rows[0]]:
        training.pictures.paths[row].write_bytes(b"no picture" if row % 2 else b"")
    training = Training(training.config, training.work, training.clip, replace_paths(training, tmp_path))
    training.run()
    log = read_log(tmp_path / "work" / "log.jsonl")
    steps = log[log["MRR"].isna()]
    assert steps["pairs"].tolist() == [0, 7, 8, 8] and steps["skipped"].tolist() == [8, 1, 0, 0]
    assert steps["loss"].isna().tolist() == [True, False, False, False]
    epoch = log[log["MRR"].notna()].iloc[0]
    assert (epoch["skipped_pictures"], epoch["skipped_batches"]) == (9, 1)
    assert len(training.pictures.unusable) == 9
    assert any("not an image" in reason for reason in training.pictures.unusable.values())


def replace_paths(training: Training, folder: Path) -> MultimodalData:
    """The data as they were prepared, though files have changed since."""
    fresh = toy_data(folder / "fresh")
    catalogue = replace(fresh.catalogue, folder=training.pictures.paths[0].parent)
    return replace(fresh, catalogue=catalogue)


def test_a_loss_that_is_not_a_number_stops_with_earlier_epochs_kept(tmp_path, monkeypatch):
    training, calls = toy_training(tmp_path), []

    def breaks(*inputs):
        calls.append(1)
        return Training.loss(training, *inputs) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(training, "loss", breaks)
    with pytest.raises(CourseError, match=r"loss nan .* at step 6; .*\n.*lower --learning-rate"):
        training.run()
    assert torch.isfinite(weights(tmp_path / "work" / "epoch_1")["visual.proj"]).all()
    assert not (tmp_path / "work" / "best.json").exists()


def test_it_ends_early_when_validation_does_not_improve(tmp_path, monkeypatch):
    training = toy_training(tmp_path, epochs=8, patience=2)
    figures = iter([0.1, 0.3, 0.5, 0.4, 0.5, 0.9])  # the first is that of the untrained model
    monkeypatch.setattr(training, "validation", lambda clip: {"MRR": next(figures)})
    training.run()
    best = json.loads((tmp_path / "work" / "best.json").read_text())
    assert best == {"epoch": 2, "MRR": 0.5}, "the first of equals is kept, and epoch 5 never came"


@pytest.mark.parametrize(("total", "warm_up", "rise"), [(50, 0.1, 5), (50, 0.0, 0), (1, 0.1, 0), (4, 0.75, 3)])
def test_the_schedule_warms_up_and_comes_down(total, warm_up, rise):
    rates = schedule(total, warm_up)
    assert len(rates) == total and rates[rise] == rates.max() == 1.0
    assert rates[:rise].tolist() == pytest.approx([(step + 1) / rise for step in range(rise)])
    assert (np.diff(rates[rise:]) < 0).all() and rates.min() > 0
    if total == 50:
        assert rates[-1] < 0.01 and rates[rise + (total - rise) // 2] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("total", "warm_up"), [(10, 1.0), (2, 0.8), (1, 0.9)])
def test_a_warm_up_as_long_as_the_training_is_refused(total, warm_up):
    with pytest.raises(CourseError, match="leaves nothing"):
        schedule(total, warm_up)


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
        Training(config, tmp_path / "work", load_clip(tiny_folder(tmp_path / "clip")), less).run()


def test_a_picture_seen_whole_is_what_the_evaluation_transform_makes_of_it(tmp_path):
    clip = load_clip(tiny_folder(tmp_path / "clip"))
    data, preprocessing = toy_data(tmp_path / "shop", 6), ImagePreprocessing.of(clip)
    paths = [tmp_path / "shop" / path for path in data.pairs["path"]]
    pixels, usable = Pictures(paths, preprocessing, preprocessing.side).take(np.arange(6))
    wanted = torch.stack([clip.preprocess(Image.open(path)) for path in paths])
    assert usable.all()
    torch.testing.assert_close(preprocessing.as_input(pixels), wanted)


def test_pictures_read_batch_by_batch_are_those_in_memory(tmp_path, monkeypatch):
    preprocessing = ImagePreprocessing.of(load_clip(tiny_folder(tmp_path / "clip")))
    paths = [tmp_path / "shop" / path for path in toy_data(tmp_path / "shop", 6).pairs["path"]]
    paths[2].write_bytes(b"")
    Image.new("RGB", (600, 2)).save(paths[3])
    kept = Pictures(paths, preprocessing, 18)
    monkeypatch.setattr("chapter03_multimodal.training_pictures.IN_MEMORY", 0)
    lazy = Pictures(paths, preprocessing, 18)
    assert not lazy.unusable, "nothing was read yet"
    rows = np.array([5, 2, 0, 3])
    for one, other in zip(kept.take(rows), lazy.take(rows), strict=True):
        assert np.array_equal(one, other)
    assert lazy.take(rows)[1].tolist() == [True, False, True, False]
    assert kept.unusable == lazy.unusable and "50 times as long as wide" in kept.unusable[3]
    paths[1].write_bytes(paths[0].read_bytes())
    paths[4].unlink()
    contents = lazy.contents()
    assert contents[0] == contents[1] and len(set(contents)) == 5


def test_windows_are_cuts_of_the_picture_mirrored_or_not():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 9, 9, 3)).astype(np.uint8)
    windows = random_windows(pixels, 8, np.random.default_rng(1))
    seen = set()
    for picture, window in zip(pixels, windows, strict=True):
        cuts = {
            (down, right, mirrored): picture[down : down + 8, right : right + 8][:, :: -1 if mirrored else 1]
            for down in range(2)
            for right in range(2)
            for mirrored in (False, True)
        }
        found = [where for where, cut in cuts.items() if np.array_equal(cut, window)]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) == 8, "every cut comes up"
    assert np.array_equal(random_windows(pixels, 8, np.random.default_rng(1)), windows)


@pytest.mark.parametrize("share", [slice(0, 0), slice(0, 3), slice(3, 7)])
def test_the_windows_of_a_share_are_those_among_all(share):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 12, 12, 3)).astype(np.uint8)
    whole = random_windows(pixels, 8, np.random.default_rng(1))
    own = random_windows(pixels[share], 8, np.random.default_rng(1), share=share, of=7)
    assert np.array_equal(own, whole[share])


@pytest.mark.parametrize("in_memory", [0, 1 << 30])
def test_one_process_alone_loads_the_usable_pictures_of_a_batch(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr("chapter03_multimodal.training_pictures.IN_MEMORY", in_memory)
    toy_data(tmp_path / "shop")
    (tmp_path / "shop" / "3.png").write_bytes(b"no picture")
    training = toy_training(tmp_path, more_texts=3)
    whole = next(batch for batch in training.batches().epoch(0) if 2 in batch.rows)  # row 2 is 3.png
    read = training.agreed(prefetch([whole], training.read))
    [(_, (batch, usable, pixels, tokens))] = prefetch(read, training.load)
    assert usable.tolist() == [row != 2 for row in whole.rows]
    seen = training.pictures.take(batch.rows)[0]
    windows = random_windows(seen, training.preprocessing.side, np.random.default_rng(whole.seed))
    assert torch.equal(pixels, training.preprocessing.as_input(windows))
    assert batch.texts == whole.only(usable).texts and torch.equal(tokens, training.clip.tokenise(batch.texts))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_looking_ahead_changes_nothing_but_the_time(count):
    assert list(prefetch(range(count), lambda item: item * item)) == [(item, item * item) for item in range(count)]


def test_an_error_while_loading_ahead_is_not_lost():
    with pytest.raises(ZeroDivisionError):
        list(prefetch([1, 0, 2], lambda item: 1 // item))


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
