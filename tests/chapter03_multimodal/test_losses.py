"""The loss against its formula in plain loops, gradient included, and CLIP's own as the case without a mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss

from chapter03_multimodal.losses import clip_loss


def unit(rows, seed, dimension=5):
    vectors = torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1).requires_grad_()


def naive_loss(texts, images, known, pairs, logit_scale):
    """The formula, one text and one picture at a time."""

    def likeness(text, image):
        return (logit_scale.exp() * torch.dot(texts[text], images[image])).exp()

    total = 0.0
    for own in range(pairs):
        wrong_images = [image for image in range(len(images)) if image != own and not known[own][image]]
        wrong_texts = [text for text in range(len(texts)) if text != own and not known[text][own]]
        right = likeness(own, own)
        total = total - (right / (right + sum(likeness(own, image) for image in wrong_images))).log() / 2
        total = total - (right / (right + sum(likeness(text, own) for text in wrong_texts))).log() / 2
    return total / pairs


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), st.floats(0, 1), st.integers(0, 1000))
def test_it_equals_the_formula_gradient_included(pairs, more_texts, more_images, density, seed):
    texts, images = unit(pairs + more_texts, seed), unit(pairs + more_images, seed + 1)
    known = torch.rand(len(texts), len(images), generator=torch.Generator().manual_seed(seed)) < density
    logit_scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    fast = clip_loss(texts, images, known, pairs=pairs, logit_scale=logit_scale)
    slow = naive_loss(texts, images, known.tolist(), pairs, logit_scale)
    torch.testing.assert_close(fast, slow)
    leaves = (texts, images, logit_scale)
    for found, expected in zip(*(torch.autograd.grad(loss, leaves) for loss in (fast, slow)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_without_a_mask_it_is_the_loss_of_open_clip():
    texts, images = unit(7, 0), unit(7, 1)
    expected = ClipLoss()(images, texts, torch.tensor(12.0, dtype=torch.float64))
    nothing = torch.zeros(7, 7, dtype=torch.bool)
    torch.testing.assert_close(clip_loss(texts, images, nothing, pairs=7, logit_scale=math.log(12.0)), expected)


def test_two_captions_of_one_picture_and_two_pictures_of_one_caption_do_not_repel():
    """Rows 0 and 1 belong together, row 2 stands alone: the gradient of pair 0 leaves row 1 where it is."""
    texts, images = unit(3, 0), unit(3, 1)
    known = torch.zeros(3, 3, dtype=torch.bool)
    known[0, 1] = known[1, 0] = True
    own_pair = [0, *range(1, 3)]

    def moved(mask):
        loss = clip_loss(texts[own_pair], images[own_pair], mask, pairs=1, logit_scale=1.0)
        return [gradient.abs().sum(dim=1) for gradient in torch.autograd.grad(loss, (texts, images))]

    for masked, unmasked in zip(moved(known), moved(torch.zeros_like(known)), strict=True):
        assert masked[1] == 0 and unmasked[1] > 0
        assert masked[2] > 0
    # Of pairs that are all right for each other nothing is asked.
    assert clip_loss(texts, images, torch.ones_like(known), pairs=3, logit_scale=1.0).item() == 0


def test_further_negatives_raise_the_loss_by_their_own_direction_only():
    texts, images = unit(4, 0), unit(4, 1)
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    alone = clip_loss(texts[:3], images[:3], nothing[:3, :3], pairs=3, logit_scale=2.0)
    text, image = (
        clip_loss(texts, images[:3], nothing[:, :3], pairs=3, logit_scale=2.0),
        clip_loss(texts[:3], images, nothing[:3], pairs=3, logit_scale=2.0),
    )
    both = clip_loss(texts, images, nothing, pairs=3, logit_scale=2.0)
    assert text > alone and image > alone
    assert both.item() == pytest.approx(text.item() + image.item() - alone.item())
    known = nothing.clone()
    known[3] = known[:, 3] = True
    torch.testing.assert_close(clip_loss(texts, images, known, pairs=3, logit_scale=2.0), alone)
