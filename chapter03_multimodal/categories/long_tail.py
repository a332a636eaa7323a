"""Keep rare classes from being drowned by common ones: class weights, losses and ways to sample.

A shop has ninety dresses and three rocking horses, and a classifier trained on plain cross-entropy learns that "dress"
is a good guess. With f_c the number of training examples of class c, N their sum and C the number of classes:

    inverse_weights             an example counts 1/f: every class costs the same in total
    inverse_root_weights        1/sqrt(f): half the way there
    effective_number_weights    between the two, for examples that repeat each other
    focal_loss                  an example counts by how wrong the model still is on it, whatever its class
    balanced_sample             rare classes are shown more often, instead of weighing more
    smoothed_targets, mixup     no target is certain, and every example is a blend of two: against overfitting
    logit_adjusted_loss         common classes get a head start in training that they lack in prediction

Which of them helps depends on the data; `classifier` tries them all. Losses take logits [B, C] and return a scalar, the
mean over the batch. All class weights have mean 1 over the training *examples* (sum_c f_c w_c = N), so that the size of
the loss stays the same, and with it the best learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from common.errors import CourseError

PLAIN = "cross-entropy"
INVERSE, INVERSE_ROOT, EFFECTIVE = "weights 1/f", "weights 1/sqrt(f)", "effective number"
FOCAL, BALANCED, MIXED, ADJUSTED = "focal loss", "balanced sampling", "smoothing + mixup", "logit adjustment"

GRIDS: dict[str, tuple[float | None, ...]] = {
    PLAIN: (None,),
    INVERSE: (None,),
    INVERSE_ROOT: (None,),
    EFFECTIVE: (0.9, 0.99),
    FOCAL: (1.0, 2.0),
    BALANCED: (None,),
    MIXED: (0.1,),
    ADJUSTED: (0.5, 1.0, 1.5),
}
"""The techniques and the values to try of their one parameter: beta of the effective number, gamma of the focal loss,
the smoothing, tau of the logit adjustment. None: the technique has no parameter."""

MIXUP_ALPHA = 0.2
BUCKETS = ("head", "middle", "tail")


@dataclass(frozen=True)
class Technique:
    """Name one technique and the value of its parameter (`GRIDS`).

    Raises CourseError for an unknown name, and for a value that is missing or that the technique does not take.
    """

    name: str = PLAIN
    value: float | None = None

    def __post_init__(self) -> None:
        if self.name not in GRIDS:
            raise CourseError(f"unknown technique {self.name!r}; choose one of: {', '.join(GRIDS)}.")
        if (self.value is None) != (GRIDS[self.name] == (None,)):
            tried = GRIDS[self.name][0]
            need = "takes no value" if tried is None else f"needs a value, such as {tried}"
            raise CourseError(f"technique {self.name!r} {need}, and got {self.value!r}.")


def class_frequencies(labels: Tensor) -> Tensor:
    """Count the examples of each class: float64 [C], for labels long [N] from 0 to C-1.

    Raises CourseError if there is no label, or if a class below the highest has none: its weight would be 1/0.
    """
    if not len(labels) or (frequencies := torch.bincount(labels)).min() == 0:
        raise CourseError("class_frequencies: every class from 0 on needs a training example; number those that occur.")
    return frequencies.double()


def frequency_buckets(frequencies: Tensor) -> np.ndarray:
    """Sort the classes into "head", "middle" and "tail", a third each: str [C].

    The limits are the terciles t1, t2 of the frequencies: tail f <= t1 < middle <= t2 < head. Classes of one frequency
    share a bucket, so the thirds may be uneven; if all frequencies are equal, all classes are tail.
    """
    low, high = np.quantile(frequencies.numpy(), [1 / 3, 2 / 3])
    return np.where(frequencies.numpy() <= low, "tail", np.where(frequencies.numpy() <= high, "middle", "head"))


def label_buckets(labels: np.ndarray) -> np.ndarray:
    """Return the `frequency_buckets` [C] of the classes of training labels int64 [N]."""
    return frequency_buckets(class_frequencies(torch.from_numpy(labels)))


def inverse_weights(frequencies: Tensor) -> Tensor:
    """Weight classes by w_c = N / (C f_c), [C]: each has the same share of the loss, with one example or a thousand.

    The strongest of the weights. A class with a single example, which may be an odd one, pulls like all dresses
    together, mostly at the cost of top-1 accuracy. Equal frequencies give 1 everywhere.
    """
    return _normalised(1 / frequencies, frequencies)


def inverse_root_weights(frequencies: Tensor) -> Tensor:
    """Weight classes by w_c proportional to 1 / sqrt(f_c), [C]: their shares of the loss are as sqrt(f).

    The cautious choice. Source: Mahajan et al. 2018 (arXiv:1805.00932), who sample this way.
    """
    return _normalised(frequencies.rsqrt(), frequencies)


def effective_number_weights(frequencies: Tensor, beta: float) -> Tensor:
    """Weight classes by w_c proportional to 1 / E_c, [C], with the effective number E_c = (1 - beta^f_c) / (1 - beta).

    The more examples a class has, the less another one adds: E grows like f at first and ends at 1 / (1 - beta).
    beta in [0, 1): 0 gives 1 everywhere, near 1 it becomes `inverse_weights`. Raises CourseError outside.

    Source: Cui et al. 2019 (arXiv:1901.05555), eq. 2 and 3.
    """
    if not 0 <= beta < 1:
        raise CourseError(f"effective_number_weights: beta must be at least 0 and below 1, not {beta}.")
    # Subtracting beta^f from 1 would lose digits.
    effective = -torch.expm1(frequencies * torch.tensor(beta, dtype=frequencies.dtype).log())
    return _normalised(1 / effective, frequencies)


def cross_entropy_loss(logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean over the batch of  w_y * -log softmax(logits)_y

    logits: [B, C]. targets: long [B], or probabilities [B, C] (without weights). class_weights: [C].

    A trap: `torch.nn.functional.cross_entropy(weight=...)` divides by the weights that happen to be in the batch, not
    by its size. A batch of common classes then counts as much as one of rare ones, which undoes part of the weighting.
    """
    if class_weights is None:
        return cross_entropy(logits, targets)
    weights = class_weights.to(logits.dtype)[targets]
    return (weights * cross_entropy(logits, targets, reduction="none")).mean()


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """Return the mean over the batch of  (1 - p_y)^gamma * -log p_y,  with p = softmax(logits)

    An example on which the model is sure and right hardly counts any more. gamma 0 is cross-entropy; 2 is usual. The
    loss looks at examples, not at classes: rare classes gain only if they are the hard ones, and wrong labels gain too.
    Raises CourseError for a negative gamma.

    logits: [B, C]. labels: long [B]. Source: Lin et al. 2017 (arXiv:1708.02002), eq. 4, for many classes.
    """
    if gamma < 0:
        raise CourseError(
            f"focal_loss: gamma must be at least 0, not {gamma}; below 0, easy examples would count most."
        )
    log_p = log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    # The slope of x^gamma at 0 is infinite for gamma below 1, which would make the gradient NaN.
    wrong = (-torch.expm1(log_p)).clamp_min(torch.finfo(logits.dtype).tiny)
    return -(wrong**gamma * log_p).mean()


def logit_offsets(frequencies: Tensor, tau: float) -> Tensor:
    """Return tau * log(f_c / N), [C]: the scaled log-prior of each class."""
    return tau * (frequencies / frequencies.sum()).log()


def logit_adjusted_loss(logits: Tensor, labels: Tensor, offsets: Tensor) -> Tensor:
    """Return the cross-entropy of (logits + offsets): the model need not learn how frequent the classes are.

    Predictions use the logits alone. With tau = 1 they estimate log p(y | x) for equally frequent classes, which is
    what macro averages reward: unlike class weights, the loss stays consistent with that goal however well the classes
    can be told apart. tau = 0 is cross-entropy, and so is any tau if all classes are equally frequent.

    logits: [B, C]. labels: long [B]. offsets: [C], of `logit_offsets`. Source: Menon et al. 2021 (arXiv:2007.07314),
    eq. 10; adding them in training, not subtracting afterwards.
    """
    return cross_entropy(logits + offsets.to(logits.dtype), labels)


def balanced_sample(labels: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Draw `size` positions of labels [N], long, with replacement: a class uniformly, then one of its examples.

    In expectation the loss is that of `inverse_weights`. But a rare example comes up in many ordinary steps instead of
    one huge step; in return, an epoch no longer shows every example of the frequent classes.
    """
    chances = 1 / class_frequencies(labels)[labels].numpy()
    return torch.from_numpy(rng.choice(len(labels), size, p=chances / chances.sum()))


def smoothed_targets(labels: Tensor, n_classes: int, smoothing: float) -> Tensor:
    """Return target probabilities float32 [B, C]: 1 - smoothing for the label, plus smoothing / C for every class.

    Smoothing keeps the logits of memorised examples from growing without end; few examples are soon memorised. 0 gives
    one-hot targets. Raises CourseError for a smoothing outside [0, 1).

    Source: Szegedy et al. 2016 (arXiv:1512.00567), section 7.
    """
    if not 0 <= smoothing < 1:
        raise CourseError(f"smoothed_targets: smoothing must be at least 0 and below 1, not {smoothing}.")
    return one_hot(labels, n_classes).float() * (1 - smoothing) + smoothing / n_classes


def mixup(vectors: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Blend each example with another of the batch: (vectors [B, D], target probabilities [B, C]).

        x = share * x_i + (1 - share) * x_j,   y = share * y_i + (1 - share) * y_j,   share ~ Beta(alpha, alpha)

    Flipping or cropping photos would mean to encode all of them again in every epoch; this augmentation needs no
    picture. alpha is `MIXUP_ALPHA`: a small one blends few examples strongly.

    Source: Zhang et al. 2018 (arXiv:1710.09412), here with a share for each row.
    """
    shares = torch.from_numpy(rng.beta(MIXUP_ALPHA, MIXUP_ALPHA, size=(len(vectors), 1))).to(vectors.dtype)
    partners = torch.from_numpy(rng.permutation(len(vectors)))
    return torch.lerp(vectors[partners], vectors, shares), torch.lerp(targets[partners], targets, shares)


def sample_epoch(technique: Technique, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw the rows of one epoch in order, long [N]: each example once, or a balanced sample of as many."""
    if technique.name == BALANCED:
        return balanced_sample(labels, len(labels), rng)
    return torch.from_numpy(rng.permutation(len(labels)))


def batch_loss(
    technique: Technique, frequencies: Tensor, rng: np.random.Generator
) -> Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]:
    """Return the technique's loss of a batch as a function loss(head, vectors [B, D], labels [B]).

    head maps vectors to logits [B, C]. Class weights and offsets are computed once, from the frequencies [C] of the
    training examples.
    """
    value, n_classes = technique.value, len(frequencies)
    weigh = {
        INVERSE: inverse_weights,
        INVERSE_ROOT: inverse_root_weights,
        EFFECTIVE: lambda frequencies: effective_number_weights(frequencies, value),
    }
    if technique.name in weigh:
        weights = weigh[technique.name](frequencies)
        return lambda head, vectors, labels: cross_entropy_loss(head(vectors), labels, class_weights=weights)
    if technique.name == FOCAL:
        return lambda head, vectors, labels: focal_loss(head(vectors), labels, gamma=value)
    if technique.name == ADJUSTED:
        offsets = logit_offsets(frequencies, value)
        return lambda head, vectors, labels: logit_adjusted_loss(head(vectors), labels, offsets)
    if technique.name == MIXED:

        def mixed_loss(head: Callable[[Tensor], Tensor], vectors: Tensor, labels: Tensor) -> Tensor:
            blends, targets = mixup(vectors, smoothed_targets(labels, n_classes, value), rng)
            return cross_entropy_loss(head(blends), targets)

        return mixed_loss
    return lambda head, vectors, labels: cross_entropy_loss(head(vectors), labels)


def _normalised(weights: Tensor, frequencies: Tensor) -> Tensor:
    """Scale class weights [C] so that their mean over the training examples is 1."""
    return weights * (frequencies.sum() / (weights * frequencies).sum())
