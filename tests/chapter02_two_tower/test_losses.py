"""Each loss against its formula in plain loops, gradient included, and the traps that losses of this kind are known
for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter02_two_tower.losses import (
    guide_mask,
    in_batch_negatives_loss,
    nested_loss,
    triplet_loss,
    weighted_contrastive_loss,
    weighted_sum,
)
from common.errors import CourseError


def unit(rows, dimension=6, seed=0):
    vectors = torch.randn(rows, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(vectors, dim=1).requires_grad_()


def with_cosines(cosines, seed=0, dimension=64):
    """Pairs of vectors of the given cosines."""
    first, noise = unit(len(cosines), dimension, seed), unit(len(cosines), dimension, seed + 1)
    cosines = torch.as_tensor(cosines, dtype=torch.float64).unsqueeze(1)
    across = noise - (noise * first).sum(dim=1, keepdim=True) * first
    across = across / across.norm(dim=1, keepdim=True)
    return first.detach().requires_grad_(), (cosines * first + (1 - cosines**2).sqrt() * across).detach()


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=True)


def naive_in_batch(queries, products, positives, known, weights, temperature, both_directions):
    """The formula, one row and one column at a time."""
    rows, columns = len(queries), len(products)

    def score(row, column):
        return torch.dot(queries[row], products[column]) / temperature

    def is_relevant(row, column):
        return bool(known[row][column]) or positives[row] == column

    total = 0.0
    for row in range(rows):
        own = positives[row]
        negatives = [column for column in range(columns) if not is_relevant(row, column)]
        below = sum((score(row, column).exp() for column in negatives), score(row, own).exp())
        cost = -(score(row, own).exp() / below).log()
        if both_directions:
            others = [other for other in range(rows) if other != row and not is_relevant(other, own)]
            below = sum((score(other, own).exp() for other in others), score(row, own).exp())
            cost = (cost - (score(row, own).exp() / below).log()) / 2
        total = total + weights[row] * cost
    return total / rows


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 9),
    density=st.floats(0, 1),
    both=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_in_batch_negatives_equal_the_formula_gradient_included(rows, columns, density, both, seed):
    generator = torch.Generator().manual_seed(seed)
    queries, products = unit(rows, seed=seed), unit(columns, seed=seed + 1)
    positives = torch.randint(columns, (rows,), generator=generator)  # several rows may want one product
    known = torch.rand(rows, columns, generator=generator) < density
    weights = torch.rand(rows, generator=generator, dtype=torch.float64)
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    fast = in_batch_negatives_loss(
        queries, products, positives, known=known, weights=weights, temperature=temperature, both_directions=both
    )
    slow = naive_in_batch(queries, products, positives.tolist(), known.tolist(), weights, temperature, both)
    torch.testing.assert_close(fast, slow)
    leaves = (queries, products, temperature)
    for found, expected in zip(gradients(fast, *leaves), gradients(slow, *leaves), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_in_batch_negatives_by_hand():
    """Two pairs at right angles and an extra negative along the first query, which it shares the softmax with."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    products = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    e = math.e
    forwards = (-math.log(e / (2 * e + 1)), -math.log(e / (e + 2)))
    backwards = -math.log(e / (e + 1))
    loss = in_batch_negatives_loss(queries, products, torch.tensor([0, 1]), temperature=1.0)
    assert float(loss) == pytest.approx((sum(forwards) / 2 + backwards) / 2)
    one_way = in_batch_negatives_loss(queries, products, torch.tensor([0, 1]), temperature=1.0, both_directions=False)
    assert float(one_way) == pytest.approx(sum(forwards) / 2)


def test_the_library_s_loss_is_the_special_case_without_masks():
    """One positive a row and nothing else known: MultipleNegativesRankingLoss, scale 20, both directions."""
    queries, products = unit(7), unit(7, seed=1)
    labels = torch.arange(7)
    scores = 20 * queries @ products.T
    expected = (
        torch.nn.functional.cross_entropy(scores, labels) + torch.nn.functional.cross_entropy(scores.T, labels)
    ) / 2
    torch.testing.assert_close(in_batch_negatives_loss(queries, products, labels), expected)


def test_a_known_relevant_product_is_no_negative_and_is_not_moved_by_it():
    queries, products = unit(2), unit(4, seed=1)
    known = torch.tensor([[True, False, True, False], [False, False, False, False]])
    positives = torch.tensor([0, 1])
    alone = {"positives": positives, "known": known, "both_directions": False}
    only_first = in_batch_negatives_loss(queries, products, weights=torch.tensor([1.0, 0.0]), **alone)
    (moved,) = gradients(only_first, products)
    assert moved[2].abs().max() == 0
    assert moved[3].abs().max() > 0
    (unmasked,) = gradients(
        in_batch_negatives_loss(queries, products, positives, weights=torch.tensor([1.0, 0.0]), both_directions=False),
        products,
    )
    assert unmasked[2].abs().max() > 0


def test_duplicates_of_the_positive_do_not_raise_the_loss():
    """The same product under two columns (a variant, or a batch that names it twice) pulls against itself unless it is
    marked as known."""
    queries, products = unit(3), unit(3, seed=1)
    positives = torch.arange(3)
    expected = in_batch_negatives_loss(queries, products, positives)
    twice = torch.cat([products, products[:1]])
    known = torch.zeros(3, 4, dtype=torch.bool)
    known[0, 3] = True
    one_way = {"both_directions": False, "weights": torch.tensor([1.0, 0.0, 0.0])}
    masked = in_batch_negatives_loss(queries, twice, positives, known=known, **one_way)
    torch.testing.assert_close(masked, in_batch_negatives_loss(queries, products, positives, **one_way))
    assert in_batch_negatives_loss(queries, twice, positives, **one_way) > masked
    # Two queries that want the same product: neither is the other's negative, though nothing is marked.
    pair = in_batch_negatives_loss(queries[:2], products[:1], torch.tensor([0, 0]))
    assert pair.item() == pytest.approx(0.0)
    assert expected.item() > 0


def test_two_rows_of_the_same_query_are_not_each_other_s_negatives():
    query, products = unit(1), unit(2, seed=1)
    queries = torch.cat([query, query])
    known = torch.ones(2, 2, dtype=torch.bool)
    assert in_batch_negatives_loss(queries, products, torch.tensor([0, 1]), known=known).item() == 0.0
    assert in_batch_negatives_loss(queries, products, torch.tensor([0, 1])).item() > 0.5


def test_weights_scale_a_row_and_a_batch_of_weak_pairs_makes_a_weak_step():
    queries, products, positives = unit(3), unit(3, seed=1), torch.arange(3)
    whole = in_batch_negatives_loss(queries, products, positives)
    weak = in_batch_negatives_loss(queries, products, positives, weights=torch.full((3,), 0.6, dtype=torch.float64))
    torch.testing.assert_close(weak, 0.6 * whole)
    rows = [
        in_batch_negatives_loss(queries, products, positives, weights=row) for row in torch.eye(3, dtype=torch.float64)
    ]
    mixed = in_batch_negatives_loss(
        queries, products, positives, weights=torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    )
    torch.testing.assert_close(mixed, rows[0] + 0.5 * rows[1])


def test_logits_keep_float32_under_autocast():
    queries, products = unit(64, 384).float().detach(), unit(64, 384, seed=1).float().detach()
    expected = in_batch_negatives_loss(queries, products, torch.arange(64))
    with torch.autocast("cpu", torch.bfloat16):
        found = in_batch_negatives_loss(queries, products, torch.arange(64))
    assert torch.equal(found, expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.floats(-0.5, 0.9), st.integers(0, 1000))
def test_contrastive_and_triplet_equal_their_formulas(count, margin, seed):
    generator = torch.Generator().manual_seed(seed)
    queries, products, others = unit(count, seed=seed), unit(count, seed=seed + 1), unit(count, seed=seed + 2)
    labels = torch.randint(2, (count,), generator=generator)
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    pairs, triplets = [], []
    for row in range(count):
        fit, misfit = torch.dot(queries[row], products[row]), torch.dot(queries[row], others[row])
        pairs.append(weights[row] * ((1 - fit) ** 2 if labels[row] else (fit - margin).clamp(min=0) ** 2))
        triplets.append(weights[row] * (misfit - fit + margin).clamp(min=0))
    for fast, slow in (
        (weighted_contrastive_loss(queries, products, labels, weights=weights, margin=margin), sum(pairs) / count),
        (triplet_loss(queries, products, others, weights=weights, margin=margin), sum(triplets) / count),
    ):
        torch.testing.assert_close(fast, slow)
        leaves = (queries, products)
        for found, expected in zip(gradients(fast, *leaves), gradients(slow, *leaves), strict=True):
            torch.testing.assert_close(
                torch.zeros_like(leaves[0]) if found is None else found,
                torch.zeros_like(leaves[0]) if expected is None else expected,
            )


def test_a_positive_pair_adds_nothing_to_the_negative_term():
    """At cosine 0.9 it is far above the margin: the faulty form, without (1 - y), would push it away harder than it
    pulls."""
    queries, products = with_cosines([0.9])
    loss = weighted_contrastive_loss(queries, products, torch.tensor([1]))
    assert loss.item() == pytest.approx(0.1**2)
    (pull,) = gradients(loss, queries)
    assert float((pull * products).sum()) < 0  # a step against the gradient raises the cosine
    cosine = (queries * products).sum(dim=1)
    faulty = ((1 - cosine) ** 2 + torch.relu(cosine - 0.2) ** 2).mean()
    assert float((gradients(faulty, queries)[0] * products).sum()) > 0
    (nothing,) = gradients(weighted_contrastive_loss(*with_cosines([0.15]), torch.tensor([0])), queries)
    assert nothing is None or nothing.abs().max() == 0


def share_with_gradient(costs, vectors):
    (gradient,) = torch.autograd.grad(costs.sum(), vectors)
    return float((gradient.abs().sum(dim=1) > 0).double().mean())


def test_a_margin_on_squared_distance_leaves_most_negatives_without_gradient():
    """Negatives at cosines 0.00, 0.01, ... 0.99. As a cosine, the margin of 0.2 pushes 79 of 100 (those above 0.2); on
    the squared distance, the same number pushes the 9 above 0.9."""
    spread = [at / 100 for at in range(100)]
    queries, products = with_cosines(spread)
    cosines = (queries * products).sum(dim=1)
    ours = torch.stack(
        [
            weighted_contrastive_loss(queries[row : row + 1], products[row : row + 1], torch.tensor([0]))
            for row in range(100)
        ]
    )
    assert share_with_gradient(ours, queries) == pytest.approx(0.79, abs=0.011)
    squared_distance = 2 - 2 * cosines
    faulty = torch.relu(0.2 - squared_distance)
    assert share_with_gradient(faulty, queries) == pytest.approx(0.09, abs=0.011)


def test_a_triplet_margin_on_squared_distance_is_half_the_margin():
    """Positives at cosine 0.5, negatives up to 0.5: 20 of 50 are within a margin of 0.2 in cosine, 10 within the same
    number on the squared distance."""
    spread = [0.005 + at / 100 for at in range(50)]
    queries, negatives = with_cosines(spread)
    positives = with_cosines([0.5] * 50)[1]  # of the same queries: the same seed
    ours = torch.stack(
        [triplet_loss(queries[row : row + 1], positives[row : row + 1], negatives[row : row + 1]) for row in range(50)]
    )
    assert share_with_gradient(ours, queries) == pytest.approx(20 / 50)
    to_positive = 2 - 2 * (queries * positives).sum(dim=1)
    to_negative = 2 - 2 * (queries * negatives).sum(dim=1)
    assert share_with_gradient(torch.relu(to_positive - to_negative + 0.2), queries) == pytest.approx(10 / 50)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 1000))
def test_the_guide_marks_what_it_scores_above_the_positive(rows, columns, seed):
    queries, products = unit(rows, seed=seed).detach(), unit(columns, seed=seed + 1).detach()
    positives = torch.randint(columns, (rows,), generator=torch.Generator().manual_seed(seed))
    mask = guide_mask(queries, products, positives)
    assert mask.shape == (rows, columns)
    for row in range(rows):
        own = float(queries[row] @ products[positives[row]])
        for column in range(columns):
            above = float(queries[row] @ products[column]) - own
            if abs(above) > 1e-9:
                assert bool(mask[row, column]) == (above > 0 and column != positives[row])


def test_a_false_negative_that_the_guide_sees_is_not_pushed_away():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    products = torch.tensor([[0.8, 0.6], [0.0, 1.0], [0.96, 0.28]], requires_grad=True)
    mask = guide_mask(queries, products.detach(), torch.tensor([0, 1]))
    assert mask.tolist() == [[False, False, True], [False, False, False]]
    loss = in_batch_negatives_loss(
        queries, products, torch.tensor([0, 1]), known=mask, weights=torch.tensor([1.0, 0.0]), both_directions=False
    )
    assert gradients(loss, products)[0][2].abs().max() == 0


def test_nested_loss_is_the_sum_over_prefixes_of_length_one():
    queries, products, positives = unit(4), unit(4, seed=1), torch.arange(4)

    def loss(q, p):
        torch.testing.assert_close(q.norm(dim=1), torch.ones(4, dtype=torch.float64))
        return in_batch_negatives_loss(q, p, positives)

    found = nested_loss(loss, queries, products, {2: 0.5, 4: 2.0, 6: 1.0})

    def prefix(vectors, size):
        return torch.stack([row[:size] / row[:size].norm() for row in vectors])

    expected = (
        0.5 * loss(prefix(queries, 2), prefix(products, 2))
        + 2.0 * loss(prefix(queries, 4), prefix(products, 4))
        + loss(prefix(queries, 6), prefix(products, 6))
    )
    torch.testing.assert_close(found, expected)
    for first, second in zip(gradients(found, queries, products), gradients(expected, queries, products), strict=True):
        torch.testing.assert_close(first, second)
    with pytest.raises(CourseError, match="cannot be cut to 7"):
        nested_loss(loss, queries, products, {7: 1.0})


def test_a_weighted_sum_wants_the_same_names():
    parts = {"in_batch": torch.tensor(2.0), "triplet": torch.tensor(0.5)}
    assert float(weighted_sum({"in_batch": 1.0, "triplet": 0.2}, parts)) == pytest.approx(2.1)
    for weights in ({"in_batch": 1.0}, {"in_batch": 1.0, "triplets": 0.2}):
        with pytest.raises(CourseError, match="name the same"):
            weighted_sum(weights, parts)
    with pytest.raises(CourseError, match="name the same"):
        weighted_sum({}, {})
