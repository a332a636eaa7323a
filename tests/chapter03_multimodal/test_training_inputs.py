"""Pictures and batches as training gets them: transformed as for evaluation, cut at random, bad files set aside."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from chapter03_multimodal.clip import load_clip
from chapter03_multimodal.training_inputs import TrainingInputs
from chapter03_multimodal.training_pictures import ImagePreprocessing, Pictures, contents, random_windows
from tests.chapter03_multimodal.toy import tiny_folder, toy_data, toy_training


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
    found = contents(lazy.paths)
    assert found[0] == found[1] and len(set(found)) == 5


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
    config, _, clip, data = toy_training(tmp_path)
    inputs = TrainingInputs(config, clip, data)
    batches = inputs.batches(inputs.neighbours()).epoch(0)
    whole = next(batch for batch in batches if 2 in batch.rows)  # row 2 is 3.png
    [ready] = inputs.ready([whole])
    assert ready.usable.tolist() == [row != 2 for row in whole.rows] and ready.skipped == 1
    seen = inputs.pictures.take(ready.batch.rows)[0]
    windows = random_windows(seen, inputs.preprocessing.side, np.random.default_rng(whole.seed))
    assert torch.equal(ready.pixels, inputs.preprocessing.as_input(windows))
    assert ready.batch.texts == whole.only(ready.usable).texts
    assert torch.equal(ready.tokens, clip.tokenise(ready.batch.texts))
