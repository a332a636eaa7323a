"""The line between two models: its ends are the models, and what lies between is what the formula says."""

from __future__ import annotations

from dataclasses import replace

import matplotlib
import pytest
import torch

from chapter03_multimodal.clip import load_clip
from chapter03_multimodal.interpolate import ALPHAS, curve, draw_curve, interpolate
from chapter03_multimodal.model import prepare
from common.errors import CourseError

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def models(tiny_clip):
    """(before, after): the tiny CLIP, and a copy with all its weights moved."""
    before = load_clip(tiny_clip)
    model = prepare(before.model, "everything")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return before, replace(before, model=model.requires_grad_(False), name="after", digest="after")


def test_its_ends_are_the_models_exactly(models):
    for alpha, model in zip((0, 1), models, strict=True):
        found = interpolate(*models, alpha)
        assert found.digest == model.digest
        wanted = model.model.state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in found.model.state_dict().items())
        pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(found.model.encode_image(pixels), model.model.encode_image(pixels))


def test_between_them_every_weight_is_on_the_line_the_scale_too(models):
    before, after = (clip.model.state_dict() for clip in models)
    found = interpolate(*models, 0.3)
    for key, value in found.model.state_dict().items():
        torch.testing.assert_close(value, before[key] + 0.3 * (after[key] - before[key]))
    assert found.model.logit_scale.item() not in (before["logit_scale"].item(), after["logit_scale"].item())
    digests = {interpolate(*models, alpha).digest for alpha in ALPHAS}
    assert len(digests) == len(ALPHAS), "each has a digest of its own"


def test_the_models_themselves_stay_as_they_are(models):
    before = [{key: value.clone() for key, value in clip.model.state_dict().items()} for clip in models]
    mixed = interpolate(*models, 0.5)
    with torch.no_grad():
        for weight in mixed.model.parameters():
            weight.zero_()
    for clip, kept in zip(models, before, strict=True):
        assert all(torch.equal(value, kept[key]) for key, value in clip.model.state_dict().items())


def test_the_curve_measures_each_and_is_drawn(models):
    from matplotlib.figure import Figure

    def measure(clip):
        scale = clip.model.logit_scale.item()
        return {"MRR": scale, "text_to_image_R@1": -scale, "image_to_text_R@1": 0.5}

    table = curve(*models, measure)
    assert table["alpha"].tolist() == list(ALPHAS)
    before, after = (clip.model.logit_scale.item() for clip in models)
    assert table["MRR"].tolist() == pytest.approx([before + alpha * (after - before) for alpha in ALPHAS], rel=1e-5)
    axes = draw_curve(table, Figure().subplots())
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["MRR"].get_ydata()) == table["MRR"].tolist()
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert dots[0].get_ydata()[0] == table["MRR"].max()


def test_what_has_no_line_between_is_refused(models):
    with pytest.raises(CourseError, match=r"alpha is 1\.2"):
        interpolate(*models, 1.2)
    other = replace(models[1], model=torch.nn.Linear(2, 2))
    with pytest.raises(CourseError, match="not of one build"):
        interpolate(models[0], other, 0.5)
