"""Loading and saving CLIP models: the same as open_clip does, but silent, offline and from safetensors only."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from chapter03_multimodal import clip as clips
from chapter03_multimodal.clip import CONFIG, POCKET_CLIP, WEIGHTS, load_clip, new_clip, save_clip
from common.atomic import read_json, write_json
from common.encoders import packaged_minilm
from common.errors import CourseError


@pytest.fixture
def copied(tiny_clip, tmp_path) -> Path:
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_clip, tmp_path / "model"))


@pytest.fixture
def published(tiny_clip, monkeypatch) -> dict:
    """The tiny architecture under the name "tiny" in open_clip's register, with one set of weights, "some_tag"; what
    is asked of the hub stands in the dictionary, under "asked"."""
    seen: dict = {"source": {"hf_hub": "owner/tiny/", "mean": (0.1, 0.2, 0.3), "resize_mode": "longest"}, "asked": []}

    def download(repository, file):
        seen["asked"].append((repository, file))
        return str(tiny_clip / WEIGHTS)

    model_cfg = read_json(tiny_clip / CONFIG)["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", model_cfg)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"some_tag": seen["source"]})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return seen


def weights_of(clip):
    return clip.model.state_dict()


def assert_equal_weights(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert torch.equal(value, second[name]), name


def a_picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))


def test_a_folder_loads_as_open_clip_loads_it(tiny_clip):
    clip = load_clip(str(tiny_clip))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip}")
    assert_equal_weights(weights_of(clip), model.state_dict())
    assert {value.dtype for value in weights_of(clip).values()} == {torch.float32}
    assert not clip.model.training and model.training
    assert torch.equal(clip.preprocess(a_picture()), preprocess(a_picture()))
    texts = ["a blue chair", ""]
    assert torch.equal(clip.tokenise(texts), open_clip.get_tokenizer(f"local-dir:{tiny_clip}")(texts))
    assert clip.tokenise(texts).shape == (2, 16)
    with torch.inference_mode():
        assert clip.model.encode_text(clip.tokenise(texts)).shape == (2, clip.dimension) == (2, 16)


def test_loading_is_silent_and_leaves_no_trace(tiny_clip, monkeypatch, capfd):
    monkeypatch.setattr(logging.root, "handlers", [])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_clip(tiny_clip)
    assert logging.root.handlers == []
    assert logging.root.manager.disable == logging.NOTSET
    assert tuple(capfd.readouterr()) == ("", "")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_saved_comes_back_bit_by_bit(tiny_clip, tmp_path):
    clip = load_clip(tiny_clip)
    with torch.no_grad():
        clip.model.logit_scale.mul_(1.1)
    save_clip(clip, tmp_path / "saved")
    again = load_clip(tmp_path / "saved")
    assert_equal_weights(weights_of(again), weights_of(clip))
    assert torch.equal(again.preprocess(a_picture()), clip.preprocess(a_picture()))
    assert again.digest != clip.digest and again.name == "saved"
    save_clip(again, tmp_path / "twice")
    assert load_clip(tmp_path / "twice").digest == again.digest
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'saved'}")
    assert_equal_weights(model.state_dict(), weights_of(clip))
    assert torch.equal(preprocess(a_picture()), clip.preprocess(a_picture()))


def test_half_takes_half_the_room_and_loads_as_float32(tiny_clip, tmp_path):
    clip = load_clip(tiny_clip)
    save_clip(clip, tmp_path / "model")
    whole = (tmp_path / "model" / WEIGHTS).stat().st_size
    save_clip(clip, tmp_path / "model", half=True)  # in the place of the other
    assert (tmp_path / "model" / WEIGHTS).stat().st_size < 0.51 * whole
    assert {value.dtype for value in load_file(tmp_path / "model" / WEIGHTS).values()} == {torch.float16}
    assert_equal_weights(
        weights_of(load_clip(tmp_path / "model")),
        {name: value.half().float() for name, value in weights_of(clip).items()},
    )


def test_the_digest_tells_weights_and_config_apart(tiny_clip, copied):
    first = load_clip(tiny_clip).digest
    assert load_clip(copied).digest == first
    config = read_json(copied / CONFIG)
    write_json(copied / CONFIG, config | {"preprocess_cfg": config["preprocess_cfg"] | {"resize_mode": "longest"}})
    second = load_clip(copied).digest
    weights = load_file(copied / WEIGHTS)
    weights["visual.proj"][0, 0] += 1e-6
    save_file(weights, copied / WEIGHTS)
    assert len({first, second, load_clip(copied).digest}) == 3


def test_a_tokeniser_with_files_is_saved_with_the_model(copied, tmp_path):
    config = read_json(copied / CONFIG)
    text = config["model_cfg"]["text_cfg"] | {"hf_tokenizer_name": "owner/tokeniser"}
    write_json(copied / CONFIG, config | {"model_cfg": config["model_cfg"] | {"text_cfg": text}})
    for path in packaged_minilm().glob("*token*"):
        shutil.copy(path, copied)
    clip = load_clip(copied)
    save_clip(clip, tmp_path / "saved")
    texts = ["a wooden chair", "größe"]
    assert torch.equal(load_clip(tmp_path / "saved").tokenise(texts), clip.tokenise(texts))
    assert not torch.equal(clip.tokenise(texts), open_clip.SimpleTokenizer(context_length=16)(texts))


def no_config(folder):
    (folder / CONFIG).unlink()


def foreign_config(folder):
    write_json(folder / CONFIG, {"architectures": ["CLIPModel"]})


def impossible_config(folder):
    config = read_json(folder / CONFIG)
    config["model_cfg"]["vision_cfg"]["no_such_option"] = 1
    write_json(folder / CONFIG, config)


def text_tower_of_the_hub(folder):
    config = read_json(folder / CONFIG)
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "owner/model"
    write_json(folder / CONFIG, config)


def another_width(folder):
    config = read_json(folder / CONFIG)
    config["model_cfg"]["vision_cfg"]["width"] = 48
    write_json(folder / CONFIG, config)


def another_image_size(folder):
    """open_clip would interpolate the position embeddings without a word."""
    config = read_json(folder / CONFIG)
    config["model_cfg"]["vision_cfg"]["image_size"] = 64
    write_json(folder / CONFIG, config)


def another_depth(folder):
    config = read_json(folder / CONFIG)
    config["model_cfg"]["text_cfg"]["layers"] = 3
    write_json(folder / CONFIG, config)


def cut_short(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def empty_weights(folder):
    (folder / WEIGHTS).write_bytes(b"")


def no_weights(folder):
    (folder / WEIGHTS).unlink()


def only_a_pickle(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "open_clip_pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def two_of_other_names(folder):
    shutil.copy(folder / WEIGHTS, folder / "a.safetensors")
    (folder / WEIGHTS).rename(folder / "b.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_config, f"{CONFIG}: there is no such file"),
        (foreign_config, "no 'model_cfg' with embed_dim"),
        (impossible_config, "cannot build this model.*no_such_option"),
        (text_tower_of_the_hub, "its text tower needs the hub"),
        (another_width, "do not fit"),
        (another_image_size, "do not fit.*visual.positional_embedding"),
        (another_depth, r"do not fit.*transformer\.resblocks\.2"),
        (cut_short, "cut short or damaged"),
        (empty_weights, "cut short or damaged"),
        (no_weights, f"has no {WEIGHTS}"),
        (only_a_pickle, "open_clip_pytorch_model.bin is a pickle"),
        (two_of_other_names, f"name the right one {WEIGHTS}"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(copied, damage, message):
    damage(copied)
    with pytest.raises(CourseError, match=message):
        load_clip(copied)


def test_a_pickle_beside_the_weights_is_not_read(copied, tiny_clip):
    (copied / WEIGHTS).rename(copied / "weights.safetensors")  # a name that open_clip would rank behind the pickle
    (copied / "open_clip_pytorch_model.bin").write_bytes(b"no model")
    assert load_clip(copied).digest == load_clip(tiny_clip).digest


def test_without_its_weights_the_packaged_model_says_how_to_make_it(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setattr(clips, "__file__", str(tmp_path / "clip.py"))
    with pytest.raises(CourseError, match=r"python -m chapter03_multimodal\.studies\.pretrain"):
        load_clip()
    shutil.copytree(tiny_clip, tmp_path / POCKET_CLIP)
    assert load_clip().name == POCKET_CLIP
    (tmp_path / POCKET_CLIP / WEIGHTS).unlink()
    with pytest.raises(CourseError, match="is not there"):
        load_clip()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B32/laion2b_s34b_b79k", "no architecture of open_clip.*near it are: ViT-B-32,"),
        ("qqqq/laion2b", r"list_models\(\) has them all"),
        ("tiny/no_tag", "knows no weights 'no_tag' of tiny; it knows: some_tag"),
        ("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "its text tower needs the hub"),
        ("nowhere", "no folder with a model and no open_clip name"),
        ("./runs/best", "no folder with a model"),
        ("a/b/c", "no folder with a model"),
        ("", "has no|no such file"),
    ],
)
def test_a_name_that_is_no_model_is_refused(published, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CourseError, match=message):
        load_clip(name)
    assert published["asked"] == []


def test_public_weights_come_as_safetensors_with_their_own_transform(published, tiny_clip, tmp_path):
    clip = load_clip("tiny/some-tag")  # open_clip takes either spelling
    assert published["asked"] == [("owner/tiny", WEIGHTS)]
    assert_equal_weights(weights_of(clip), weights_of(load_clip(tiny_clip)))
    assert clip.config["preprocess_cfg"]["mean"] == (0.1, 0.2, 0.3)
    assert clip.preprocess(Image.new("RGB", (64, 16))).shape == (3, 32, 32)
    save_clip(clip, tmp_path / "saved")
    assert load_clip(tmp_path / "saved").digest == clip.digest


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        ("owner/tiny/open_clip_pytorch_model.bin", ("owner/tiny", WEIGHTS)),
        ("owner/tiny/some_model.bin", ("owner/tiny", "some_model.safetensors")),
    ],
)
def test_a_pickle_on_the_hub_is_asked_for_as_safetensors(published, where, asked):
    published["source"]["hf_hub"] = where
    load_clip("tiny/some_tag")
    assert published["asked"] == [asked]


def test_the_activation_is_that_of_the_weights(published, tmp_path):
    """open_clip would build GELU and warn."""
    plain = load_clip("tiny/some_tag")
    published["source"]["quick_gelu"] = True
    quick = load_clip("tiny/some_tag")
    assert any(isinstance(part, open_clip.transformer.QuickGELU) for part in quick.model.modules())
    assert not any(isinstance(part, open_clip.transformer.QuickGELU) for part in plain.model.modules())
    assert quick.digest != plain.digest
    save_clip(quick, tmp_path / "saved")
    again = load_clip(tmp_path / "saved")
    assert any(isinstance(part, open_clip.transformer.QuickGELU) for part in again.model.modules())


def test_what_cannot_be_fetched_says_so(published, monkeypatch, tmp_path):
    def offline(repository, file):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(CourseError, match=r"cannot be fetched from owner/tiny.*use 'pocket_clip'"):
        load_clip("tiny/some_tag")
    (tmp_path / WEIGHTS).write_bytes(json.dumps({}).encode())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, file: str(tmp_path / WEIGHTS))
    with pytest.raises(CourseError, match="tiny/some_tag: open_clip cannot load it"):
        load_clip("tiny/some_tag")
    del published["source"]["hf_hub"]
    published["source"]["url"] = "https://example.org/weights.pt"
    with pytest.raises(CourseError, match="as a pickle only"):
        load_clip("tiny/some_tag")


def test_a_new_model_is_drawn_from_its_seed(published):
    before = torch.get_rng_state()
    first, again, other = new_clip("tiny"), new_clip("tiny"), new_clip("tiny", seed=1)
    assert first.digest == again.digest != other.digest
    assert first.dimension == 16 and not first.model.training
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(CourseError, match="no architecture"):
        new_clip("tyni")
