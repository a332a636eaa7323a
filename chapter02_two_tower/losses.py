"""Compute the losses that pull a query's vector towards its products and push it away from the others.

All take L2-normalised vectors [rows, D], so that a dot product is a cosine, and return a scalar. In short:

    in_batch_negatives_loss     the first choice: every other product of the batch is a negative, for free
    weighted_contrastive_loss   pairs with a label each, relevant or not, without any batch structure
    triplet_loss                a query, a product that fits, one that does not: only their order matters
    guide_mask                  finds negatives that a second model takes to be relevant
    nested_loss                 any of them at several dimensions at once (Matryoshka)
    weighted_sum                several of them together
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from chapter02_two_tower.model import truncate
from common.errors import CourseError


def in_batch_negatives_loss(
    queries: Tensor,
    products: Tensor,
    positives: Tensor,
    *,
    known: Tensor | None = None,
    weights: Tensor | None = None,
    temperature: float | Tensor = 0.05,
    both_directions: bool = True,
) -> Tensor:
    """Let each query choose its product among all products of the batch, and each product its query (InfoNCE).

    With s_ic = cos(query i, product c) / temperature and p(i) the positive of row i, a row costs

        -log( exp(s_ip(i)) / sum_c exp(s_ic) )     c: every product but the other known relevant ones of query i

    and, in the other direction, the same over the queries j that p(i) is not known to be relevant to. The loss is the
    mean over rows of weight * (mean of both directions). A lower temperature looks harder at the nearest negatives:
    0.05 is a scale of 20.

    queries: [B, D]. products: [C, D], the positives of the rows and extra (hard, random) negatives in any order.
    positives: long [B], the column of each row's positive. known: bool [B, C], True where product c is relevant to
    query i, or likely to be (`guide_mask`): it is no negative. The row's own positive may be marked too; a product in
    two columns, and a query in two rows, must be. weights: [B], how much each pair counts; a weight of 0 leaves the
    row's terms out, though its texts stay negatives of the others. temperature: a number, or a scalar tensor to be
    trained.

    When to use: always, if only pairs that fit are known. It gets better with larger batches (see `cached_loss`) and
    with hard negatives as extra columns. Unlike `triplet_loss` it compares with all negatives at once, and needs no
    margin.

    Source: van den Oord et al. 2018 (arXiv:1807.03748); both directions as in CLIP, Radford et al. 2021
    (arXiv:2103.00020); Henderson et al. 2017 (arXiv:1705.00652) for the use of the batch.
    """
    rows = torch.arange(len(queries), device=queries.device)
    relevant = torch.zeros(len(queries), len(products), dtype=torch.bool, device=queries.device)
    relevant[rows, positives] = True
    if known is not None:
        relevant |= known
    scores = _cosines(queries, products) / temperature
    costs = _cost_of_choice(scores, relevant, positives)
    if both_directions:
        # Row i chooses for product positives[i] among the queries: [B, B], its own on the diagonal.
        backwards = _cost_of_choice(scores[:, positives].T, relevant[:, positives].T, rows)
        costs = (costs + backwards) / 2
    return _weighted_mean(costs, weights)


def weighted_contrastive_loss(
    queries: Tensor, products: Tensor, labels: Tensor, *, weights: Tensor | None = None, margin: float = 0.2
) -> Tensor:
    """Pull pairs that fit to cosine 1, and push pairs that do not fit below the margin.

        mean over pairs of  weight * ( y (1 - cos)^2 + (1 - y) max(0, cos - margin)^2 )

    queries, products: [N, D], pair by pair. labels: [N], y = 1 relevant, 0 not. weights: [N]. margin: a cosine.

    Two traps. A pair that fits must add nothing to the second term, or the loss pushes it away. And the margin is one
    of cosine: 0.2 on the squared distance, 2 - 2 cos, would push only the pairs with a cosine above 0.9, and leave all
    others without gradient.

    When to use: where judged pairs are given, irrelevant ones too. It sees each pair alone, and needs a fixed cosine
    for "not relevant", so for ranking `in_batch_negatives_loss` is mostly better.

    Source: Hadsell et al. 2006 (Dimensionality reduction by learning an invariant mapping), with cosine for distance.
    """
    cosines = (queries * products).sum(dim=1)
    labels = labels.to(cosines.dtype)
    pull, push = (1 - cosines) ** 2, torch.relu(cosines - margin) ** 2
    return _weighted_mean(labels * pull + (1 - labels) * push, weights)


def triplet_loss(
    queries: Tensor, positives: Tensor, negatives: Tensor, *, weights: Tensor | None = None, margin: float = 0.2
) -> Tensor:
    """Push the product that fits nearer than the one that does not, by a margin of cosine.

        mean over triplets of  weight * max(0, cos(query, negative) - cos(query, positive) + margin)

    queries, positives, negatives: [N, D], triplet by triplet. weights: [N]. A triplet that keeps the margin has no
    gradient, so the negatives must be hard ones. On squared distances, 2 - 2 cos, the same number is half the margin.

    When to use: where for each query one product is preferred to another. `in_batch_negatives_loss` compares with all
    negatives at once, and learns more from a batch.

    Source: Schroff et al. 2015 (FaceNet, arXiv:1503.03832), with cosine for distance.
    """
    order = (queries * negatives).sum(dim=1) - (queries * positives).sum(dim=1)
    return _weighted_mean(torch.relu(order + margin), weights)


def guide_mask(guide_queries: Tensor, guide_products: Tensor, positives: Tensor) -> Tensor:
    """Find likely false negatives, bool [B, C]: products that a guide model scores above a row's own positive.

    guide_queries [B, D'], guide_products [C, D']: the batch embedded by a second, frozen model, of any dimension.
    positives: long [B]. A row's own positive is never marked.

    When to use: in `known` of `in_batch_negatives_loss`, where judgements are sparse and large batches have relevant
    products that nobody judged.

    Source: Solatorio 2024 (GISTEmbed, arXiv:2402.16829).
    """
    scores = _cosines(guide_queries, guide_products)
    own = scores.gather(1, positives.unsqueeze(1))
    return (scores > own).scatter(1, positives.unsqueeze(1), False)


def nested_loss(
    loss: Callable[[Tensor, Tensor], Tensor], queries: Tensor, products: Tensor, dimensions: Mapping[int, float]
) -> Tensor:
    """Sum a loss over several dimensions, so that the first components of a vector are a good vector themselves.

        sum over (d, weight) of  weight * loss(truncate(queries, d), truncate(products, d))

    loss: takes queries [B, d] and products [C, d], of length 1. dimensions: weight by dimension, the full one among
    them if it should be trained. Raises CourseError if a dimension is larger than D.

    When to use: where the index should be small, or its first pass cheap. The towers still run only once.

    Source: Kusupati et al. 2022 (Matryoshka representation learning, arXiv:2205.13147).
    """
    parts = [
        weight * loss(truncate(queries, dimension), truncate(products, dimension))
        for dimension, weight in dimensions.items()
    ]
    return torch.stack(parts).sum()


def weighted_sum(weights: Mapping[str, float], parts: Mapping[str, Tensor]) -> Tensor:
    """Sum weight * loss over the names, both given by name: {"in_batch": 1.0, "triplet": 0.2}.

    Raises CourseError if the names of both differ, or there are none, so that no loss is left out silently.
    """
    if not parts or weights.keys() != parts.keys():
        raise CourseError(f"weights are given for {sorted(weights)}, losses for {sorted(parts)}; name the same ones.")
    return torch.stack([weights[name] * loss for name, loss in parts.items()]).sum()


def _cosines(queries: Tensor, products: Tensor) -> Tensor:
    """Return all cosines [B, C], in float32 under autocast too: in bfloat16 a logit of 20 is off by up to 0.06."""
    with torch.autocast(queries.device.type, enabled=False):
        return queries @ products.T


def _cost_of_choice(scores: Tensor, relevant: Tensor, target: Tensor) -> Tensor:
    """Return -log of the share [rows] of the target column in a row's softmax, without other relevant columns."""
    others = relevant.scatter(1, target.unsqueeze(1), False)
    return cross_entropy(scores.masked_fill(others, float("-inf")), target, reduction="none")


def _weighted_mean(costs: Tensor, weights: Tensor | None) -> Tensor:
    """Average weight * cost over the rows; not over the weights, so that a batch of weak pairs makes a weak step."""
    return costs.mean() if weights is None else (weights * costs).mean()
