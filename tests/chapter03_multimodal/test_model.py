"""What of a CLIP is trained, for each choice, and that an ordinary open_clip model comes out of it."""

from __future__ import annotations

import copy
import math

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from chapter03_multimodal.clip import load_clip
from chapter03_multimodal.losses import clip_loss
from chapter03_multimodal.model import (
    LinearAttention,
    clamp_logit_scale,
    count_parameters,
    merged,
    prepare,
    training_mode,
)
from common.errors import CourseError
from common.training import parameter_groups

CHOICES = ("projections", "last_blocks", "lora", "everything")
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 16, "heads": 2, "layers": 3},
}


@pytest.fixture(params=["CLIP", "CustomTextCLIP"])
def model(request):
    torch.manual_seed(0)
    return getattr(open_clip.model, request.param)(**CONFIG).eval()


def inputs():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, 98, (4, 16), generator=generator)
    tokens[:, -1] = 99
    return torch.randn(4, 3, 32, 32, generator=generator), tokens


@torch.no_grad()
def outputs(model):
    model.eval()
    pixels, tokens = inputs()
    return model.encode_image(pixels), model.encode_text(tokens)


def train(model, steps=3, rate=0.01):
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=rate)
    pixels, tokens = inputs()
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        images, texts = model.encode_image(pixels), model.encode_text(tokens)
        images, texts = (torch.nn.functional.normalize(vectors, dim=-1) for vectors in (images, texts))
        loss = clip_loss(texts, images, torch.eye(4, dtype=torch.bool), logit_scale=model.logit_scale)
        loss.backward()
        optimizer.step()
    return model


def names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_which_weights_each_choice_trains(model):
    text = "text." if hasattr(model, "text") else ""
    ends = {"logit_scale", "visual.proj", f"{text}text_projection"}
    assert names(prepare(model, "projections")) == ends
    norms = {f"{norm}.{part}" for norm in ("visual.ln_post", f"{text}ln_final") for part in ("weight", "bias")}
    last = names(prepare(model, "last_blocks", last_blocks=1))
    blocks = {name for name in last if "resblocks.2." in name}
    assert last == ends | norms | blocks and {name.split(".")[0] for name in blocks} >= {"visual"}
    assert len(blocks) == 2 * len(list(model.visual.transformer.resblocks[2].parameters()))
    assert names(prepare(model, "everything")) == {name for name, _ in model.named_parameters()}
    lora = names(prepare(model, "lora"))
    adapted = {name.split(".lora_")[0].split("resblocks.")[1] for name in lora if "lora_" in name}
    parts = ("attn.in_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
    assert adapted == {f"{block}.{part}" for block in range(3) for part in parts}
    assert {name for name in lora if "lora_" not in name} == {"base_model.model.logit_scale"}
    assert len(lora) == 1 + 2 * 2 * len(adapted)


def test_how_many_are_trained(model):
    counts = {choice: count_parameters(prepare(model, choice)) for choice in CHOICES}
    assert counts["projections"]["trained"] == 32 * 16 + 16 * 16 + 1
    assert counts["everything"]["trained"] == counts["everything"]["all"]
    # A pair of matrices of rank 4 for each adapted one of n x m: 4 (n + m).
    widths = sum(4 * size for width in (32, 16) for size in (4 * width, 2 * width, 5 * width, 5 * width))
    assert count_parameters(prepare(model, "lora", lora_rank=4))["trained"] == 3 * widths + 1


@pytest.mark.parametrize("choice", CHOICES)
def test_before_the_first_step_nothing_has_changed(model, choice):
    before = copy.deepcopy(model.state_dict())
    expected = outputs(model)
    for found, wanted in zip(outputs(prepare(model, choice)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    train(prepare(model, choice))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "it was not a copy"


@pytest.mark.parametrize("choice", CHOICES)
def test_what_comes_out_is_an_ordinary_model_that_computes_the_same(model, choice):
    trained = train(prepare(model, choice))
    plain = merged(trained)
    assert type(plain) is type(model) and list(plain.state_dict()) == list(model.state_dict())
    other = type(model)(**CONFIG)
    other.load_state_dict(plain.state_dict())
    start = outputs(model)
    for found, wanted, before in zip(outputs(other), outputs(trained), start, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
        assert (found - before).abs().max() > 1e-3, "training moved nothing"
    # Merging is no end: what is trained goes on from where it was.
    again = [parameter.clone() for parameter in trained.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(again, trained.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in plain.parameters())


def test_lora_leaves_the_weights_that_it_adapts_alone(model):
    prepared = prepare(model, "lora")
    before = {name: value.detach().clone() for name, value in prepared.named_parameters()}
    moved = {name for name, value in train(prepared).named_parameters() if not torch.equal(value, before[name])}
    assert moved == names(prepared)


def test_what_lora_adds_is_the_product_of_its_matrices(model):
    trained = train(prepare(model, "lora", lora_rank=2))
    plain = merged(trained)
    layer = trained.base_model.model.visual.transformer.resblocks[1].attn.in_proj
    added = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    found = plain.visual.transformer.resblocks[1].attn.in_proj_weight - layer.base_layer.weight
    torch.testing.assert_close(found, added, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_two_layers_is_multihead_attention_gradient_included(masked):
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    torch.nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(3, 5, 8, requires_grad=True)
    mask = torch.full((5, 5), float("-inf")).triu(1) if masked else None
    wanted = attention(x, x, x, need_weights=False, attn_mask=mask)[0]
    grads = torch.autograd.grad(wanted.square().sum(), [x, *attention.parameters()])
    layers = LinearAttention(attention)
    found = layers(x, x, x, need_weights=False, attn_mask=mask)[0]
    torch.testing.assert_close(found, wanted)
    again = torch.autograd.grad(found.square().sum(), [x, *attention.parameters()])
    for one, other in zip(again, grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    back = layers.as_multihead()
    assert {k: v.data_ptr() for k, v in back.state_dict().items()} == {
        k: v.data_ptr() for k, v in attention.state_dict().items()
    }


def test_only_matrices_decay(model):
    decayed, kept = parameter_groups(prepare(model, "everything"), 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim >= 2 for p in decayed["params"]} == {True} and {p.ndim < 2 for p in kept["params"]} == {True}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("choice", ["projections", "lora"])
def test_the_scale_stays_below_its_bound(model, choice):
    prepared = prepare(model, choice)
    for wild, kept in ((9.0, math.log(100)), (-1.0, 0.0), (2.0, 2.0)):
        prepared.logit_scale.data.fill_(wild)
        clamp_logit_scale(prepared)
        assert prepared.logit_scale.item() == pytest.approx(kept)


def test_the_same_seed_draws_the_same_matrices_and_leaves_the_random_state(model):
    before = torch.get_rng_state()
    one, same, other = (prepare(model, "lora", seed=seed).state_dict() for seed in (1, 1, 2))
    merged(prepare(model, "lora"))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("choice", "changes", "message"),
    [
        ("some", {}, "choose projections, last_blocks"),
        ("last_blocks", {"last_blocks": 4}, "the towers have 3 and 3"),
        ("last_blocks", {"last_blocks": 0}, "from 1 to"),
        ("lora", {"lora_rank": 0}, "lora_rank is 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, choice, changes, message):
    with pytest.raises(CourseError, match=message):
        prepare(model, choice, **changes)


RESNET = CONFIG | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}}


@pytest.mark.parametrize("choice", ["projections", "last_blocks", "lora", "everything"])
def test_a_resnet_is_trained_in_part_and_its_running_statistics_never(choice):
    torch.manual_seed(0)
    start = open_clip.model.CLIP(**RESNET).eval()
    for name, weights in start.named_parameters():
        if name.endswith("bn3.weight"):  # born as 0, which shuts the branch of the convolutions
            torch.nn.init.ones_(weights)
    model, pixels = prepare(start, choice), torch.randn(4, 3, 32, 32)
    training_mode(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with torch.no_grad():
        assert torch.equal(model.encode_image(pixels), start.encode_image(pixels))
    for _ in range(2):  # in the first step only one of LoRA's two matrices has a gradient
        optimizer.zero_grad()
        normalize(model.encode_image(pixels), dim=1)[:, 0].sum().backward()
        optimizer.step()
    after, before = merged(model).state_dict(), start.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed, "something was learned"
    assert not [name for name in changed if "running" in name or "num_batches" in name]
    with torch.no_grad():
        there = merged(model).encode_image(pixels)
        assert torch.allclose(there, model.eval().encode_image(pixels), rtol=1e-4, atol=1e-5)


def test_a_tower_of_another_build_is_refused_unless_everything_is_trained():
    model = open_clip.model.CLIP(**CONFIG)
    model.visual = torch.nn.Linear(2, 2)
    for choice in ("projections", "last_blocks", "lora"):
        with pytest.raises(CourseError, match=r"image tower \(Linear\)"):
            prepare(model, choice)
    assert count_parameters(prepare(model, "everything"))["trained"] == count_parameters(model)["all"]


def test_a_model_loaded_from_a_folder_is_prepared_too(tiny_clip):
    clip = load_clip(tiny_clip)
    assert count_parameters(prepare(clip.model, "lora"))["trained"] < count_parameters(clip.model)["all"]
