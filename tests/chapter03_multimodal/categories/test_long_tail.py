"""Each weight and loss against its formula in plain loops, gradient included, and against the limit in which it is
plain cross-entropy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from chapter03_multimodal.categories.long_tail import (
    ADJUSTED,
    BALANCED,
    EFFECTIVE,
    FOCAL,
    GRIDS,
    INVERSE,
    INVERSE_ROOT,
    MIXED,
    MIXUP_ALPHA,
    PLAIN,
    Technique,
    balanced_sample,
    batch_loss,
    class_frequencies,
    cross_entropy_loss,
    effective_number_weights,
    focal_loss,
    frequency_buckets,
    inverse_root_weights,
    inverse_weights,
    logit_adjusted_loss,
    logit_offsets,
    mixup,
    sample_epoch,
    smoothed_targets,
)
from common.errors import CourseError

FREQUENCIES = torch.tensor([90.0, 30.0, 7.0, 1.0], dtype=torch.float64)
frequency_lists = st.lists(st.integers(1, 500), min_size=1, max_size=12).map(
    lambda counts: torch.tensor(counts, dtype=torch.float64)
)


def batch(rows=7, classes=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=dtype)
    return logits.requires_grad_(), torch.randint(classes, (rows,), generator=generator)


def assert_same(found, expected, logits):
    """Equal in value and in gradient."""
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, expected)]
    assert slopes[0].abs().max() > 0
    torch.testing.assert_close(*slopes)


def shares(row):
    return [value.exp() / sum(other.exp() for other in row) for value in row]


WEIGHTS = {
    "inverse": (inverse_weights, lambda f: 1 / f),
    "inverse root": (inverse_root_weights, lambda f: f**-0.5),
    "effective number": (lambda f: effective_number_weights(f, 0.9), lambda f: (1 - 0.9) / (1 - 0.9**f)),
}


@pytest.mark.parametrize("name", WEIGHTS)
@given(frequencies=frequency_lists)
def test_weights_follow_their_formula_with_mean_one_over_examples(name, frequencies):
    weigh, formula = WEIGHTS[name]
    weights = weigh(frequencies)
    raw = [formula(float(f)) for f in frequencies]
    total = sum(w * float(f) for w, f in zip(raw, frequencies, strict=True)) / float(frequencies.sum())
    np.testing.assert_allclose(weights, np.array(raw) / total, rtol=1e-9)
    assert float((weights * frequencies).sum() / frequencies.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", WEIGHTS)
def test_equal_frequencies_need_no_weights(name):
    np.testing.assert_allclose(WEIGHTS[name][0](torch.full((5,), 17.0, dtype=torch.float64)), 1.0)


def test_inverse_weights_give_every_class_the_same_share():
    np.testing.assert_allclose(inverse_weights(FREQUENCIES) * FREQUENCIES, 128 / 4)


def test_the_effective_number_lies_between_no_weights_and_the_inverse():
    torch.testing.assert_close(effective_number_weights(FREQUENCIES, 0.0), torch.ones_like(FREQUENCIES))
    torch.testing.assert_close(
        effective_number_weights(FREQUENCIES, 1 - 1e-9), inverse_weights(FREQUENCIES), rtol=1e-6, atol=0
    )
    weights = [effective_number_weights(FREQUENCIES, beta) for beta in (0.0, 0.9, 0.99, 0.999)]
    assert all(a[-1] < b[-1] for a, b in pairwise(weights)), "a higher beta helps the rare more"
    for beta in (-0.1, 1.0):
        with pytest.raises(CourseError, match="beta"):
            effective_number_weights(FREQUENCIES, beta)


def test_frequencies_are_counted_and_gaps_refused():
    np.testing.assert_array_equal(class_frequencies(torch.tensor([2, 0, 1, 0])), [2, 1, 1])
    for labels in ([0, 2], [], [1]):
        with pytest.raises(CourseError, match="every class"):
            class_frequencies(torch.tensor(labels, dtype=torch.long))


def test_buckets_are_thirds_of_the_classes_that_ties_do_not_cut():
    assert frequency_buckets(torch.tensor([1, 9, 2, 8, 5, 4])).tolist() == [
        "tail", "head", "tail", "head", "middle", "middle",
    ]  # fmt: skip
    assert frequency_buckets(torch.tensor([1, 1, 1, 1, 2, 3])).tolist() == ["tail"] * 4 + ["head"] * 2
    assert set(frequency_buckets(torch.full((6,), 4))) == {"tail"}


@given(frequencies=frequency_lists)
def test_a_more_frequent_class_is_never_in_a_rarer_bucket(frequencies):
    order = {"tail": 0, "middle": 1, "head": 2}
    placed = [order[bucket] for bucket in frequency_buckets(frequencies)[frequencies.argsort().numpy()]]
    assert placed == sorted(placed) and placed[0] == 0


def test_weighted_cross_entropy_equals_the_formula_and_is_not_torchs():
    logits, labels = batch()
    weights = inverse_weights(FREQUENCIES)
    naive = sum(-weights[y] * shares(row)[y].log() for row, y in zip(logits, labels, strict=True)) / len(labels)
    assert_same(cross_entropy_loss(logits, labels, class_weights=weights), naive, logits)
    assert not torch.isclose(naive, cross_entropy(logits, labels, weight=weights))
    assert_same(cross_entropy_loss(logits, labels, class_weights=torch.ones(4)), cross_entropy(logits, labels), logits)


def test_over_all_examples_inverse_weights_give_the_mean_of_the_class_means():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    logits, _ = batch(rows=10, classes=3)
    weighted = cross_entropy_loss(logits, labels, class_weights=inverse_weights(class_frequencies(labels)))
    by_class = [cross_entropy(logits[labels == c], labels[labels == c]) for c in range(3)]
    assert_same(weighted, sum(by_class) / 3, logits)


@settings(max_examples=30, deadline=None)
@given(gamma=st.floats(0, 5), seed=st.integers(0, 1000))
def test_focal_loss_equals_the_formula_gradient_included(gamma, seed):
    logits, labels = batch(seed=seed)
    own = [shares(row)[y] for row, y in zip(logits, labels, strict=True)]
    naive = sum(-((1 - p) ** gamma) * p.log() for p in own) / len(own)
    found = focal_loss(logits, labels, gamma=gamma)
    torch.testing.assert_close(found, naive)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits)[0], torch.autograd.grad(naive, logits)[0], rtol=1e-6, atol=1e-9
    )


def test_focal_loss_of_gamma_zero_is_cross_entropy():
    logits, labels = batch()
    assert_same(focal_loss(logits, labels, gamma=0), cross_entropy(logits, labels), logits)
    with pytest.raises(CourseError, match="gamma"):
        focal_loss(logits, labels, gamma=-1)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_where_the_model_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma=gamma)
    (slope,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(slope).all()
    assert slope[0].abs().max() < 1e-6 and slope[1, 1] > 0.4, "certain and right: nothing; certain and wrong: a pull"


def test_logit_adjustment_equals_the_formula():
    logits, labels = batch()
    tau, prior = 1.3, FREQUENCIES / FREQUENCIES.sum()
    adjusted = [[value + tau * p.log() for value, p in zip(row, prior, strict=True)] for row in logits]
    naive = sum(-shares(row)[y].log() for row, y in zip(adjusted, labels, strict=True)) / len(labels)
    assert_same(logit_adjusted_loss(logits, labels, logit_offsets(FREQUENCIES, tau)), naive, logits)


def test_logit_adjustment_changes_nothing_without_tau_or_without_a_tail():
    logits, labels = batch()
    plain = cross_entropy(logits, labels)
    assert_same(logit_adjusted_loss(logits, labels, logit_offsets(FREQUENCIES, 0.0)), plain, logits)
    even = torch.full((4,), 9.0, dtype=torch.float64)
    assert_same(logit_adjusted_loss(logits, labels, logit_offsets(even, 2.0)), plain, logits)


def test_logit_adjustment_is_least_at_the_balanced_posterior():
    """The best logits for a picture of which p(y | x) is known: log p(y | x) - log p(y)."""
    posterior, prior = torch.tensor([0.7, 0.2, 0.06, 0.04], dtype=torch.float64), FREQUENCIES / FREQUENCIES.sum()
    offsets, labels = logit_offsets(FREQUENCIES, 1.0), torch.arange(4)

    def slope(best):
        logits = best.clone().requires_grad_()
        losses = [logit_adjusted_loss(logits[None], labels[y : y + 1], offsets) for y in range(4)]
        return torch.autograd.grad(sum(p * loss for p, loss in zip(posterior, losses, strict=True)), logits)[0]

    assert slope(posterior.log() - prior.log()).abs().max() < 1e-9
    assert slope(posterior.log()).abs().max() > 0.01


def test_a_balanced_sample_draws_classes_alike_and_examples_alike_within_them():
    labels = torch.tensor([0] * 40 + [1] * 8 + [2] * 2)
    rows = balanced_sample(labels, 30_000, np.random.default_rng(0))
    assert rows.shape == (30_000,) and rows.dtype == torch.long
    np.testing.assert_allclose(torch.bincount(labels[rows]) / 30_000, 1 / 3, atol=0.015)  # 5 standard deviations
    np.testing.assert_allclose(torch.bincount(rows)[-2:] / 30_000, 1 / 6, atol=0.011)
    assert torch.equal(rows, balanced_sample(labels, 30_000, np.random.default_rng(0)))


def test_smoothed_targets_equal_torchs_smoothing():
    logits, labels = batch(dtype=torch.float32)
    targets = smoothed_targets(labels, 4, 0.2)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(7))
    smoothed = cross_entropy(logits, labels, label_smoothing=0.2)
    assert_same(cross_entropy_loss(logits, targets), smoothed, logits)
    plain = cross_entropy(logits, labels)
    assert_same(cross_entropy_loss(logits, smoothed_targets(labels, 4, 0.0)), plain, logits)
    for smoothing in (-0.1, 1.0):
        with pytest.raises(CourseError, match="smoothing"):
            smoothed_targets(labels, 4, smoothing)


def test_mixup_blends_vectors_and_targets_by_the_same_share():
    vectors, targets = torch.randn(6, 3), smoothed_targets(torch.tensor([0, 1, 2, 3, 0, 1]), 4, 0.0)
    blends, blended = mixup(vectors, targets, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    parts, partners = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA, size=(6, 1))[:, 0], rng.permutation(6)
    assert (partners != np.arange(6)).any()
    for row, (share, other) in enumerate(zip(parts, partners, strict=True)):
        torch.testing.assert_close(blends[row], share * vectors[row] + (1 - share) * vectors[other])
        torch.testing.assert_close(blended[row], (share * targets[row] + (1 - share) * targets[other]).float())


def test_mixup_of_one_example_is_that_example():
    vectors, targets = torch.randn(1, 3), smoothed_targets(torch.tensor([1]), 4, 0.1)
    blends, blended = mixup(vectors, targets, np.random.default_rng(0))
    torch.testing.assert_close(blends, vectors)
    torch.testing.assert_close(blended, targets)


LABELS = torch.tensor([0] * 9 + [1] * 4 + [2] * 2 + [3])


def expected_loss(name, logits, labels):
    frequencies = class_frequencies(LABELS)
    weights = {
        INVERSE: inverse_weights(frequencies),
        INVERSE_ROOT: inverse_root_weights(frequencies),
        EFFECTIVE: effective_number_weights(frequencies, 0.9),
    }
    if name == FOCAL:
        return focal_loss(logits, labels, gamma=1.0)
    if name == ADJUSTED:
        return logit_adjusted_loss(logits, labels, logit_offsets(frequencies, 0.5))
    return cross_entropy_loss(logits, labels, class_weights=weights.get(name))


@pytest.mark.parametrize("name", [name for name in GRIDS if name != MIXED])
def test_every_technique_has_its_loss(name):
    head, vectors = torch.nn.Linear(5, 4), torch.randn(16, 5)
    loss = batch_loss(Technique(name, GRIDS[name][0]), class_frequencies(LABELS), np.random.default_rng(0))
    torch.testing.assert_close(loss(head, vectors, LABELS), expected_loss(name, head(vectors), LABELS))
    if name not in (PLAIN, BALANCED):
        assert not torch.isclose(loss(head, vectors, LABELS), cross_entropy(head(vectors), LABELS))


def test_smoothing_and_mixup_go_together():
    head, vectors = torch.nn.Linear(5, 4), torch.randn(16, 5)
    loss = batch_loss(Technique(MIXED, 0.1), class_frequencies(LABELS), np.random.default_rng(5))
    blends, targets = mixup(vectors, smoothed_targets(LABELS, 4, 0.1), np.random.default_rng(5))
    torch.testing.assert_close(loss(head, vectors, LABELS), cross_entropy(head(blends), targets))


def test_an_epoch_has_every_example_once_unless_it_is_balanced():
    once = sample_epoch(Technique(), LABELS, np.random.default_rng(0))
    assert sorted(once.tolist()) == list(range(16)) != once.tolist()
    balanced = sample_epoch(Technique(BALANCED), LABELS, np.random.default_rng(0))
    assert torch.equal(balanced, balanced_sample(LABELS, 16, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("magic", None, "unknown technique 'magic'"),
        (FOCAL, None, "needs a value, such as 1.0"),
        (PLAIN, 0.5, "takes no value"),
    ],
)
def test_unusable_techniques_are_refused(name, value, message):
    with pytest.raises(CourseError, match=message):
        Technique(name, value)
