"""The reranker's losses against their formulas in plain loops, gradient included, and the queue against a deque."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter04_catalogue_reranker.losses import (
    CategoryKeys,
    CategoryQueue,
    listwise_loss,
    multi_positive_info_nce,
)
from common.errors import CourseError

seeds = st.integers(0, 1000)


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(rows, seed, dimension=5):
    return torch.nn.functional.normalize(random(rows, dimension, seed=seed), dim=1).requires_grad_()


def assert_same(fast, slow, leaves):
    """Two losses agree, and so do their gradients."""
    torch.testing.assert_close(fast, slow)
    pairs = zip(*(torch.autograd.grad(loss, leaves) for loss in (fast, slow)), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# the list


def lists(rows, columns, seed):
    """Scores, which columns are listed (one at least), and the true column of each row, now and then -1."""
    generator = torch.Generator().manual_seed(seed)
    listed = torch.rand(rows, columns, generator=generator) < 0.6
    true = torch.randint(columns, (rows,), generator=generator)
    listed[torch.arange(rows), true] = True
    truth = torch.where(torch.rand(rows, generator=generator) < 0.25, -1, true)
    return random(rows, columns, seed=seed).requires_grad_(), listed, truth


def naive_listwise(scores, listed, truth):
    total, count = 0 * scores.sum(), 0
    for row, true in enumerate(truth.tolist()):
        if true < 0:
            continue
        below = sum(scores[row, column].exp() for column in range(scores.shape[1]) if listed[row, column])
        total = total - (scores[row, true].exp() / below).log()
        count += 1
    return total / max(count, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), seeds)
def test_listwise_equals_the_formula_gradient_included(rows, columns, seed):
    scores, listed, truth = lists(rows, columns, seed)
    assert_same(listwise_loss(scores, listed, truth), naive_listwise(scores, listed, truth), [scores])


def test_listwise_by_hand():
    """Three candidates alike cost log 3; one that leads by log 2 has half of the mass."""
    scores = torch.tensor([[1.0, 1.0, 1.0], [math.log(2), 0.0, 0.0]])
    listed, truth = torch.ones(2, 3, dtype=torch.bool), torch.tensor([2, 0])
    assert float(listwise_loss(scores, listed, truth)) == pytest.approx((math.log(3) + math.log(2)) / 2)


@pytest.mark.parametrize("padding", [-1e9, 0.0, 1e9, math.inf, -math.inf, math.nan])
def test_the_score_of_padding_never_matters(padding):
    scores, listed, truth = lists(6, 7, seed=3)
    assert not listed.all() and (truth >= 0).any()
    padded = scores.detach().masked_fill(~listed, padding).requires_grad_()
    losses = listwise_loss(scores, listed, truth), listwise_loss(padded, listed, truth)
    assert torch.equal(*losses)
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, (scores, padded), strict=True)]
    assert torch.equal(*gradients) and (gradients[0][~listed] == 0).all() and gradients[0].abs().sum() > 0


def test_more_columns_of_padding_change_nothing():
    scores, listed, truth = lists(5, 4, seed=1)
    wider = torch.cat([scores, random(5, 3, seed=2)], dim=1)
    mask = torch.cat([listed, torch.zeros(5, 3, dtype=torch.bool)], dim=1)
    assert_same(listwise_loss(wider, mask, truth), listwise_loss(scores, listed, truth), [scores])


def test_rows_without_a_true_candidate_are_not_there():
    scores, listed, _ = lists(4, 5, seed=0)
    truth = torch.tensor([-1, int(listed[1].nonzero()[0]), -1, int(listed[3].nonzero()[0])])
    counted = [1, 3]
    assert_same(
        listwise_loss(scores, listed, truth), listwise_loss(scores[counted], listed[counted], truth[counted]), [scores]
    )


def test_a_batch_without_any_true_candidate_costs_exactly_nothing():
    scores = random(3, 4, seed=0).requires_grad_()
    listed = torch.tensor([[True] * 4, [False] * 4, [True] + [False] * 3])  # one product has no candidates at all
    loss = listwise_loss(scores, listed, torch.full((3,), -1))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == 0 and (gradient == 0).all()


def test_one_candidate_costs_nothing():
    scores = torch.tensor([[-30.0, 99.0], [7.0, 99.0]], requires_grad=True)
    loss = listwise_loss(scores, torch.tensor([[True, False]] * 2), torch.tensor([0, 0]))
    assert loss.item() == 0 and (torch.autograd.grad(loss, scores)[0] == 0).all()


def test_a_true_candidate_that_is_padding_is_refused():
    with pytest.raises(CourseError, match="marked as padding"):
        listwise_loss(torch.zeros(2, 2), torch.tensor([[True, False]] * 2), torch.tensor([0, 1]))


# products and categories


def naive_info_nce(products, categories, labels, queue, scale):
    """Row by row, key by key."""
    rows = [row for row, label in enumerate(labels.tolist()) if label >= 0]
    product_keys = [products[row] for row in rows] + list(queue.products)
    category_keys = [categories[row] for row in rows] + list(queue.categories)
    key_labels = [int(labels[row]) for row in rows] + queue.labels.tolist()
    total = 0 * products.sum() + 0 * categories.sum() + 0 * scale
    for row in rows:
        for anchor, keys in ((products[row], category_keys), (categories[row], product_keys)):
            likeness = [(scale * torch.dot(anchor, key)).exp() for key in keys]
            positives = [like for like, label in zip(likeness, key_labels, strict=True) if label == labels[row]]
            total = total - sum((like / sum(likeness)).log() for like in positives) / len(positives) / 2
    return total / max(len(rows), 1)


def batch(rows, classes, seed, *, some_left_out=True):
    labels = torch.randint(-1 if some_left_out else 0, classes, (rows,), generator=torch.Generator().manual_seed(seed))
    return unit(rows, seed), unit(rows, seed + 1), labels


def queued(rows, classes, seed):
    products, categories, labels = batch(rows, classes, seed, some_left_out=False)
    return CategoryKeys(products.detach(), categories.detach(), labels)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 5), seeds)
def test_info_nce_equals_the_formula_gradient_included(rows, held, classes, seed):
    products, categories, labels = batch(rows, classes, seed)
    queue, scale = queued(held, classes, seed + 2), torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    fast = multi_positive_info_nce(products, categories, labels, queue, scale=scale)
    assert_same(fast, naive_info_nce(products, categories, labels, queue, scale), [products, categories, scale])


def test_info_nce_of_categories_that_occur_once_is_cross_entropy_both_ways():
    products, categories, _ = batch(6, 1, seed=0)
    own, scores = torch.arange(6), 9.0 * products @ categories.T
    expected = (torch.nn.functional.cross_entropy(scores, own) + torch.nn.functional.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(multi_positive_info_nce(products, categories, own, None, scale=9.0), expected)


def test_a_queued_key_of_the_same_category_pulls_and_one_of_another_pushes():
    """One pair, and one key at right angles to it: the product moves towards the key if it is of its category."""
    pair, aside = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for label, sign in ((4, 1), (5, -1)):
        product = pair.clone().requires_grad_()
        keys = CategoryKeys(aside, aside, torch.tensor([label]))
        loss = multi_positive_info_nce(product, pair, torch.tensor([4]), keys, scale=1.0)
        moved = -torch.autograd.grad(loss, product)[0]
        assert torch.sign(moved[0, 1]).item() == sign


def test_the_gradient_never_reaches_the_queue_but_keys_of_the_batch_get_it():
    products, categories, labels = unit(3, 0), unit(3, 1), torch.tensor([0, 1, -1])
    queue = CategoryKeys(unit(4, 2), unit(4, 3), torch.tensor([0, 1, 2, 2]))
    loss = multi_positive_info_nce(products, categories, labels, queue, scale=5.0)
    leaves = [queue.products, queue.categories, products, categories]
    *held, own_products, own_categories = torch.autograd.grad(loss, leaves, allow_unused=True)
    assert held == [None, None]
    for gradient in (own_products, own_categories):
        assert (gradient[2] == 0).all() and (gradient[:2].abs().sum(dim=1) > 0).all()


def test_one_category_only_is_finite_and_costs_the_logarithm_of_its_keys_at_best():
    same, labels = unit(1, 0).expand(4, -1), torch.zeros(4, dtype=torch.long)
    queue = CategoryKeys(same[:2], same[:2], labels[:2])
    assert multi_positive_info_nce(same, same, labels, queue, scale=100.0).item() == pytest.approx(math.log(6))
    products, categories = unit(4, 1), unit(4, 2)
    loss = multi_positive_info_nce(products, categories, labels, None, scale=100.0)
    assert loss > math.log(4) and torch.autograd.grad(loss, products)[0].isfinite().all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), seeds)
def test_order_does_not_matter(rows, held, seed):
    products, categories, labels = batch(rows, 3, seed)
    queue = queued(held, 3, seed + 2)
    generator = torch.Generator().manual_seed(seed)
    order, queue_order = torch.randperm(rows, generator=generator), torch.randperm(held, generator=generator)
    shuffled = CategoryKeys(*(part[queue_order] for part in queue))
    assert_same(
        multi_positive_info_nce(products[order], categories[order], labels[order], shuffled, scale=4.0),
        multi_positive_info_nce(products, categories, labels, queue, scale=4.0),
        [products, categories],
    )


def test_a_row_left_out_may_hold_anything():
    products, categories, labels = batch(5, 2, seed=0, some_left_out=False)
    labels[3] = -1
    kept = [0, 1, 2, 4]
    broken = torch.full_like(products, math.nan)
    mask = (labels < 0)[:, None]
    found = multi_positive_info_nce(
        torch.where(mask, broken, products), torch.where(mask, broken, categories), labels, None, scale=4.0
    )
    expected = multi_positive_info_nce(products[kept], categories[kept], labels[kept], None, scale=4.0)
    assert_same(found, expected, [products, categories])
    nothing = multi_positive_info_nce(products, categories, torch.full((5,), -1), queued(3, 2, 1), scale=4.0)
    assert nothing.item() == 0 and (torch.autograd.grad(nothing, products)[0] == 0).all()


def test_logits_keep_float32_under_autocast_and_from_half_vectors():
    products, categories, labels = (x.detach() for x in batch(32, 9, seed=0))
    products, categories = products.float(), categories.float()
    expected = multi_positive_info_nce(products, categories, labels, None, scale=50.0)
    exact = multi_positive_info_nce(products.double(), categories.double(), labels, None, scale=50.0)
    assert expected.item() == pytest.approx(exact.item(), rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(multi_positive_info_nce(products, categories, labels, None, scale=50.0), expected)
    halves = products.bfloat16(), categories.bfloat16()
    rounded = multi_positive_info_nce(*(x.float() for x in halves), labels, None, scale=50.0)
    assert torch.equal(multi_positive_info_nce(*halves, labels, None, scale=50.0), rounded)


# the queue


def as_lists(keys):
    return [part.tolist() for part in keys]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=6), seeds)
def test_the_queue_is_a_deque_oldest_first(size, batches, seed):
    queue, twin = CategoryQueue(size), deque(maxlen=size)
    for number, rows in enumerate(batches):
        products, categories, labels = batch(rows, 3, seed + number)
        queue.push(products, categories, labels)
        twin.extend(row for row in zip(products.half(), categories.half(), labels, strict=True) if row[2] >= 0)
        keys = queue.keys()
        assert len(queue) == len(keys.labels) == len(twin)
        expected = zip(*((p.tolist(), c.tolist(), label.item()) for p, c, label in twin), strict=True)
        assert as_lists(keys) == ([list(part) for part in expected] if twin else [[], [], []])


def test_what_is_held_is_a_rounded_constant_copy():
    queue, (products, categories, _) = CategoryQueue(2042), batch(40, 1, seed=0)
    queue.push(products.float(), categories.float(), torch.arange(40))
    keys = queue.keys()
    assert queue.state_dict()["products"].dtype == torch.float16
    assert keys.products.dtype == keys.categories.dtype == torch.float32 and not keys.products.requires_grad
    for held, pushed in ((keys.products, products.float()), (keys.categories, categories.float())):
        assert ((held - pushed).abs() <= pushed.abs() * 2**-11 + 2**-25).all() and not torch.equal(held, pushed)
    before = keys.products.clone()
    with torch.no_grad():
        products.zero_()
    assert torch.equal(queue.keys().products, before)


def test_rounding_in_the_queue_moves_the_loss_by_little():
    products, categories, labels = batch(8, 3, seed=0, some_left_out=False)
    exact, queue = queued(64, 3, seed=5), CategoryQueue(64)
    queue.push(*exact)
    losses = [multi_positive_info_nce(products, categories, labels, keys, scale=20.0) for keys in (exact, queue.keys())]
    # A cosine is off by 2^-11 at most, so a logit by 20 * 2^-11, and a log share by twice that.
    assert 0 < abs(losses[0] - losses[1]).item() < 2 * 20 * 2**-11


def test_an_empty_queue_is_no_queue():
    products, categories, labels = batch(5, 3, seed=0)
    queue = CategoryQueue(4)
    alone = multi_positive_info_nce(products, categories, labels, None, scale=4.0)
    assert torch.equal(multi_positive_info_nce(products, categories, labels, queue.keys(), scale=4.0), alone)
    queue.push(products, categories, labels)
    assert not torch.equal(multi_positive_info_nce(products, categories, labels, queue.keys(), scale=4.0), alone)
    queue.reset()
    assert len(queue) == 0 and torch.equal(
        multi_positive_info_nce(products, categories, labels, queue.keys(), scale=4.0), alone
    )


@pytest.mark.parametrize("before", [2, 11])
def test_a_checkpoint_fills_the_rows_that_it_is_given(before):
    first = CategoryQueue(5)
    first.push(*batch(before, 3, seed=0, some_left_out=False))
    state = first.state_dict()
    first.push(*batch(3, 3, seed=1))
    second = CategoryQueue(5)
    second.reset(len(state["labels"]), state["products"].shape[1])
    for name, tensor in second.state_dict().items():  # as `restore_checkpoint` does
        tensor.copy_(state[name])
    assert as_lists(second.state_dict().values()) == as_lists(state.values()), "a later push leaves a state as it was"
    second.push(*batch(3, 3, seed=1))
    for found, expected in zip(second.keys(), first.keys(), strict=True):
        assert torch.equal(found, expected)


def test_a_queue_without_room_is_refused():
    with pytest.raises(CourseError, match="pass no queue"):
        CategoryQueue(0)
