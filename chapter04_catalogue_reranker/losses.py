"""Compute the losses of the reranker: of the true path among the candidates, and of products and their categories.

    listwise_loss                the task at test time: the true path first among a product's own candidates
    multi_positive_info_nce      beside it, with a small weight: order among the categories of *all* products
    CategoryQueue                keys of earlier batches for the latter

The candidates of one product say nothing about the rest of the taxonomy, and only one of them is right. The second loss
sees all categories of a batch and of a queue. There the same category occurs many times, and every occurrence is right.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.errors import CourseError


class CategoryKeys(NamedTuple):
    """Hold products and their true categories, row by row; constants for the loss."""

    products: Tensor
    """[M, D], of length 1."""
    categories: Tensor
    """[M, D], of length 1."""
    labels: Tensor
    """long [M]: the number of each row's category."""


def listwise_loss(scores: Tensor, listed: Tensor, truth: Tensor) -> Tensor:
    """Return the softmax cross-entropy of each product's true path over its candidates.

    With t(i) the true candidate of product i and L(i) its candidates, a product costs

        -log( exp(s_it(i)) / sum over k in L(i) of exp(s_ik) )

    and the loss is the mean over the products that have a true candidate. If no product of the batch has one, the loss
    and its gradient are 0. A product whose only candidate is the true one costs 0.

    scores: [B, K], scale * cosine; compute them in float32, since a logit of 20 is off by up to 0.06 in bfloat16.
    listed: bool [B, K], False for padding, whose score may be anything. truth: long [B], the column of the true
    candidate, -1 if there is none.

    When to use: where every product has a short list of its own, of any length. Unlike pairwise losses it compares the
    whole list at once, and its gradient is largest for the candidates that score nearest to the true one.

    Raises `CourseError` if a true candidate is padding. Source: Cao et al. 2007 ("Learning to rank: from pairwise
    approach to listwise approach", ListNet), its top-one loss with all the mass on one candidate.
    """
    counts = truth >= 0
    listed, truth = listed[counts], truth[counts]
    if not listed.gather(1, truth.unsqueeze(1)).all():
        raise CourseError(
            "listwise_loss: a true candidate is marked as padding; look at how the batch was put together."
        )
    costs = cross_entropy(scores[counts].masked_fill(~listed, float("-inf")), truth, reduction="none")
    return costs.sum() / max(1, len(costs))


def multi_positive_info_nce(
    products: Tensor, categories: Tensor, labels: Tensor, queue: CategoryKeys | None, *, scale: Tensor | float
) -> Tensor:
    """Return the symmetric InfoNCE loss of products and categories in which every key of the same category is positive.

    Keys are the batch and the queue. With s_ij = scale * cos(product i, category key j), and P(i) the keys that have
    the label of row i, its own always among them, a row costs the mean of

        -1/|P(i)| * sum over p in P(i) of  log( exp(s_ip) / sum over all keys j of exp(s_ij) )

    and of the same with the sides exchanged, category i against the product keys. The loss is the mean over the rows.
    A row with n positives costs at least log n: the cost if all of them score alike and all other keys far below.

    products, categories: [B, D] of length 1, row i of one belongs to row i of the other; the gradient flows into them
    as rows and as keys. labels: long [B], the number of the category; rows with a negative one are dropped, as keys
    too. queue: of `CategoryQueue.keys`, None or empty for the batch alone; no gradient flows into it. scale: a number,
    or a scalar tensor to be trained.

    Two traps. A key of the same category must not be a negative, or the loss pushes apart the products of a frequent
    category. And the sum must be divided by the number of positives, or frequent categories outweigh all others.

    When to use: beside `listwise_loss`, if the vectors are used beyond the candidates: ranking against the whole
    taxonomy, neighbours, a map. `chapter03_multimodal.losses.clip_loss` only masks pairs that may match; here the
    category is known, so such pairs are positives.

    Source: Khosla et al. 2020 ("Supervised Contrastive Learning", arXiv:2004.11362), L_out, between two sides as in
    UniCL (Yang et al. 2022, arXiv:2204.03610); the queue is that of MoCo (He et al. 2020, arXiv:1911.05722), filled
    by the model itself instead of a momentum encoder.
    """
    counts = labels >= 0
    products, categories, labels = products[counts], categories[counts], labels[counts]
    product_keys, category_keys, key_labels = products, categories, labels
    if queue is not None and len(queue.labels):
        product_keys = torch.cat([products, queue.products.detach().to(products)])
        category_keys = torch.cat([categories, queue.categories.detach().to(categories)])
        key_labels = torch.cat([labels, queue.labels.to(labels)])
    positive = labels[:, None] == key_labels[None, :]
    to_category = _cost_of_positives(products, category_keys, positive, scale)
    to_product = _cost_of_positives(categories, product_keys, positive, scale)
    return (to_category + to_product).sum() / 2 / max(1, len(labels))


def _cost_of_positives(rows: Tensor, keys: Tensor, positive: Tensor, scale: Tensor | float) -> Tensor:
    """Return -log softmax of each row, averaged over its positive keys, [B]; in float32 under autocast too."""
    precision = torch.promote_types(rows.dtype, torch.float32)
    with torch.autocast(rows.device.type, enabled=False):
        shares = (scale * (rows.to(precision) @ keys.to(precision).T)).log_softmax(dim=1)
    return -(positive * shares).sum(dim=1) / positive.sum(dim=1)


class CategoryQueue:
    """Hold the vectors of the last `size` products and of their categories, as keys beyond the batch.

    First in, first out, in float16 (a component is off by at most 2^-11 of itself), on the device of the last batch.
    Earlier versions of the model made them, which is good enough while the model changes slowly; `reset` the queue when
    another part of the model begins to train.

    Push a batch *after* its loss, or its rows are among the keys twice. A push copies: 2,042 rows of 512 are 2 MiB a
    side, less trouble than a ring buffer.

    size: the most rows, at least 1. Source: He et al. 2020 (MoCo, arXiv:1911.05722).
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise CourseError(f"CategoryQueue: a queue of {size} holds nothing; pass no queue to the loss instead.")
        self.size = size
        self.reset()

    def __len__(self) -> int:
        return len(self._held.labels)

    def reset(self, rows: int = 0, dimension: int = 0) -> None:
        """Empty the queue. rows: of zeros to put in, which a checkpoint overwrites with vectors of that dimension."""
        products, categories = (torch.zeros(rows, dimension, dtype=torch.float16) for _ in range(2))
        self._held = CategoryKeys(products, categories, torch.zeros(rows, dtype=torch.long))

    @torch.no_grad()
    def push(self, products: Tensor, categories: Tensor, labels: Tensor) -> None:
        """Append a batch [B, D], [B, D], long [B], and drop the oldest rows beyond `size`.

        Rows with a negative label are not appended.
        """
        counts = labels >= 0
        new = CategoryKeys(products[counts].half(), categories[counts].half(), labels[counts])
        if len(self):
            new = CategoryKeys(
                *(torch.cat([old.to(add.device), add]) for old, add in zip(self._held, new, strict=True))
            )
        self._held = CategoryKeys(*(tensor[-self.size :] for tensor in new))

    def keys(self) -> CategoryKeys:
        """Return the M <= size rows, the oldest first: float32 [M, D], float32 [M, D], long [M]."""
        return CategoryKeys(self._held.products.float(), self._held.categories.float(), self._held.labels)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the live tensors: `products` and `categories` in float16, `labels` long."""
        return self._held._asdict()
