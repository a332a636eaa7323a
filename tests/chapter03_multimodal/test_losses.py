"""The loss against its formula in plain loops, gradient included, and CLIP's own as the case without a mask."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss

from chapter03_multimodal.losses import clip_loss


def unit(rows, seed, dimension=5):
    vectors = torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1).requires_grad_()


def naive_loss(texts, images, known, logit_scale):
    """The formula, one text and one picture at a time."""

    def likeness(text, image):
        return (logit_scale.exp() * torch.dot(texts[text], images[image])).exp()

    total, pairs = 0.0, len(texts)
    for own in range(pairs):
        wrong_images = [image for image in range(len(images)) if image != own and not known[own][image]]
        wrong_texts = [text for text in range(len(texts)) if text != own and not known[text][own]]
        right = likeness(own, own)
        total = total - (right / (right + sum(likeness(own, image) for image in wrong_images))).log() / 2
        total = total - (right / (right + sum(likeness(text, own) for text in wrong_texts))).log() / 2
    return total / pairs


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.floats(0, 1), st.integers(0, 1000))
def test_it_equals_the_formula_gradient_included(pairs, density, seed):
    texts, images = unit(pairs, seed), unit(pairs, seed + 1)
    known = torch.rand(pairs, pairs, generator=torch.Generator().manual_seed(seed)) < density
    logit_scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    fast = clip_loss(texts, images, known, logit_scale=logit_scale)
    slow = naive_loss(texts, images, known.tolist(), logit_scale)
    torch.testing.assert_close(fast, slow)
    leaves = (texts, images, logit_scale)
    for found, expected in zip(*(torch.autograd.grad(loss, leaves) for loss in (fast, slow)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_without_a_mask_it_is_the_loss_of_open_clip():
    texts, images = unit(7, 0), unit(7, 1)
    expected = ClipLoss()(images, texts, torch.tensor(12.0, dtype=torch.float64))
    nothing = torch.zeros(7, 7, dtype=torch.bool)
    torch.testing.assert_close(clip_loss(texts, images, nothing, logit_scale=math.log(12.0)), expected)


def test_two_captions_of_one_picture_and_two_pictures_of_one_caption_do_not_repel():
    """Rows 0 and 1 belong together, row 2 stands alone: the scores of row 0 with row 1 have no gradient."""
    texts, images = unit(3, 0), unit(3, 1)
    known = torch.zeros(3, 3, dtype=torch.bool)
    known[0, 1] = known[1, 0] = True

    def moved(mask):
        """Gradient of the loss with respect to the score of each text (row) with each picture."""
        scores = (texts @ images.T).detach().requires_grad_()
        # Unit vectors whose inner products are any scores: the texts as rows, the pictures as axes.
        loss = clip_loss(scores, torch.eye(3, dtype=torch.float64), mask, logit_scale=1.0)
        return torch.autograd.grad(loss, scores)[0]

    masked, unmasked = moved(known), moved(torch.zeros_like(known))
    assert masked[0, 1] == masked[1, 0] == 0 and unmasked[0, 1] > 0 < unmasked[1, 0]
    assert (masked[[0, 1, 2, 2], [2, 2, 0, 1]] > 0).all()
    # Where every text is right for every picture there is nothing to learn.
    assert clip_loss(texts, images, torch.ones_like(known), logit_scale=1.0).item() == 0
