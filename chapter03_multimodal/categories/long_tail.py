"""What can be done about rare classes: weights, losses and samples that keep them from being drowned by common ones.

A shop has ninety dresses and three rocking horses, and a classifier trained on plain cross-entropy learns that "dress"
is a good guess. In short, with f_c the number of training examples of class c, N their sum and C the classes:

    inverse_weights             an example counts 1/f: every class costs the same in total
    inverse_root_weights        1/sqrt(f): half the way there
    effective_number_weights    between the two, for examples that repeat each other
    focal_loss                  an example counts by how wrong the model still is on it, whatever its class
    balanced_sample             rare classes are shown more often, instead of weighing more
    smoothed_targets, mixup     no target is certain, and every example is a blend of two: against learning by heart
    logit_adjusted_loss         common classes get a head start in training that they do not have when it counts

Which of them helps depends on the data; `category_classifier` tries them all. Losses take logits [B, C] and return a
scalar, the mean over the batch; all class weights have mean 1 over the training *examples* (sum_c f_c w_c = N), so
that the size of the loss, and with it the right learning rate, stays what it was.
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
"""The techniques and the values of their one parameter that are worth a try: beta of the effective number, gamma of the
focal loss, the smoothing, tau of the logit adjustment. None: there is nothing to set."""

MIXUP_ALPHA = 0.2
BUCKETS = ("head", "middle", "tail")


@dataclass(frozen=True)
class Technique:
    """One technique and the value of its parameter (`GRIDS`). Raises CourseError for a name that is none, and for a
    value that is missing or has nothing to set."""

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
    """How many examples each class has: float64 [C], for labels long [N] that are numbered 0 to C-1.

    Raises CourseError if there is no label, or a class between 0 and the highest has none: its weight would be 1/0.
    """
    if not len(labels) or (frequencies := torch.bincount(labels)).min() == 0:
        raise CourseError("class_frequencies: every class from 0 on needs a training example; number those that occur.")
    return frequencies.double()


def frequency_buckets(frequencies: Tensor) -> np.ndarray:
    """Which bucket a class is in, str [C]: a third of the classes each in "head", "middle" and "tail".

    The limits are the terciles t1, t2 of the frequencies: tail f <= t1 < middle <= t2 < head. Classes of one frequency
    share a bucket, so that the thirds may be uneven; where all have the same, all are tail.
    """
    low, high = np.quantile(frequencies.numpy(), [1 / 3, 2 / 3])
    return np.where(frequencies.numpy() <= low, "tail", np.where(frequencies.numpy() <= high, "middle", "head"))


def inverse_weights(frequencies: Tensor) -> Tensor:
    """w_c = N / (C f_c), [C]: every class has the same share of the loss, were it one example or a thousand.

    The strongest of the weights. A class with a single example, which may be an odd one, pulls like all dresses
    together; top-1 accuracy mostly pays for it. Equal frequencies give 1 everywhere.
    """
    return _mean_one(1 / frequencies, frequencies)


def inverse_root_weights(frequencies: Tensor) -> Tensor:
    """w_c proportional to 1 / sqrt(f_c), [C]: the shares of the loss are as sqrt(f).

    The cautious choice. Source: Mahajan et al. 2018 (arXiv:1805.00932), who sample this way.
    """
    return _mean_one(frequencies.rsqrt(), frequencies)


def effective_number_weights(frequencies: Tensor, beta: float) -> Tensor:
    """w_c proportional to 1 / E_c, [C], with the effective number of examples E_c = (1 - beta^f_c) / (1 - beta).

    The more examples a class has, the less a further one adds; E grows like f at first and ends at 1 / (1 - beta).
    beta in [0, 1): 0 gives 1 everywhere, towards 1 it becomes `inverse_weights`. Raises CourseError outside.

    Source: Cui et al. 2019 (arXiv:1901.05555), eq. 2 and 3.
    """
    if not 0 <= beta < 1:
        raise CourseError(f"effective_number_weights: beta must be at least 0 and below 1, not {beta}.")
    # 1 - beta^f without the digits that subtracting from 1 would lose.
    effective = -torch.expm1(frequencies * torch.tensor(beta, dtype=frequencies.dtype).log())
    return _mean_one(1 / effective, frequencies)


def cross_entropy_loss(logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """mean over the batch of  w_y * -log softmax(logits)_y

    logits: [B, C]. targets: long [B], or probabilities [B, C] (without weights). class_weights: [C].

    A trap: `torch.nn.functional.cross_entropy(weight=...)` divides by the weights that happen to be in the batch, not
    by its size. There a batch of common classes counts as much as one of rare ones, which undoes part of the weighting.
    """
    if class_weights is None:
        return cross_entropy(logits, targets)
    weights = class_weights.to(logits.dtype)[targets]
    return (weights * cross_entropy(logits, targets, reduction="none")).mean()


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float) -> Tensor:
    """mean over the batch of  (1 - p_y)^gamma * -log p_y,  with p = softmax(logits)

    What the model is sure of, and right, hardly counts any more. gamma 0 is cross-entropy; 2 is usual. It looks at
    examples, not at classes: rare ones gain only as far as they are the hard ones, and so do wrong labels. Raises
    CourseError for a negative gamma.

    logits: [B, C]. labels: long [B]. Source: Lin et al. 2017 (arXiv:1708.02002), eq. 4, for many classes.
    """
    if gamma < 0:
        raise CourseError(f"focal_loss: gamma must be at least 0, not {gamma}; below, what is learnt would count most.")
    log_p = log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    # The slope of x^gamma at 0 is infinite for gamma below 1: there the gradient would not be a number.
    wrong = (-torch.expm1(log_p)).clamp_min(torch.finfo(logits.dtype).tiny)
    return -(wrong**gamma * log_p).mean()


def logit_offsets(frequencies: Tensor, tau: float) -> Tensor:
    """tau * log(f_c / N), [C]: what a class's frequency alone says for it."""
    return tau * (frequencies / frequencies.sum()).log()


def logit_adjusted_loss(logits: Tensor, labels: Tensor, offsets: Tensor) -> Tensor:
    """Cross-entropy of (logits + offsets): frequency is given to the model for free, its logits need not hold it.

    Predictions are made from the logits alone. With tau = 1 they estimate log p(y | x) as it were if all classes were
    equally frequent, for which macro averages ask: unlike weights it stays consistent with that goal, however well the
    classes are told apart. tau = 0 is cross-entropy, and so is any tau if all classes are equally frequent.

    logits: [B, C]. labels: long [B]. offsets: [C], of `logit_offsets`. Source: Menon et al. 2021 (arXiv:2007.07314),
    eq. 10; adding them in training, not subtracting afterwards.
    """
    return cross_entropy(logits + offsets.to(logits.dtype), labels)


def balanced_sample(labels: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Draw `size` positions of labels [N], long: first a class, all alike, then one of its examples, with replacement.

    In expectation the loss is that of `inverse_weights`, but a rare example comes up in many ordinary steps, where the
    weight takes one huge step; in exchange an epoch no longer shows every example of the frequent classes.
    """
    chances = 1 / class_frequencies(labels)[labels].numpy()
    return torch.from_numpy(rng.choice(len(labels), size, p=chances / chances.sum()))


def smoothed_targets(labels: Tensor, n_classes: int, smoothing: float) -> Tensor:
    """Probabilities float32 [B, C]: 1 - smoothing for the label, and the smoothing shared by all C classes alike.

    smoothing 0 is the label itself. It keeps the logits of what is learnt by heart, as few examples are, from growing
    without end. Raises CourseError for a smoothing outside [0, 1).

    Source: Szegedy et al. 2016 (arXiv:1512.00567), section 7.
    """
    if not 0 <= smoothing < 1:
        raise CourseError(f"smoothed_targets: smoothing must be at least 0 and below 1, not {smoothing}.")
    return one_hot(labels, n_classes).float() * (1 - smoothing) + smoothing / n_classes


def mixup(
    vectors: Tensor, targets: Tensor, rng: np.random.Generator, *, alpha: float = MIXUP_ALPHA
) -> tuple[Tensor, Tensor]:
    """Blend each example with another of the batch: (vectors [B, D], targets [B, C]).

        x = share * x_i + (1 - share) * x_j,   y = share * y_i + (1 - share) * y_j,   share ~ Beta(alpha, alpha)

    An augmentation that needs no picture: flipping or cropping the photos would mean to encode all of them again in
    every epoch, which is what frozen embeddings spare us. A small alpha blends few examples much; 0 is refused by Beta.

    targets: probabilities. Source: Zhang et al. 2018 (arXiv:1710.09412), here with a share for each row.
    """
    shares = torch.from_numpy(rng.beta(alpha, alpha, size=(len(vectors), 1))).to(vectors.dtype)
    partners = torch.from_numpy(rng.permutation(len(vectors)))
    return torch.lerp(vectors[partners], vectors, shares), torch.lerp(targets[partners], targets, shares)


def epoch_rows(technique: Technique, labels: Tensor, rng: np.random.Generator) -> Tensor:
    """The examples of one epoch in their order, long [N]: each once, or a balanced sample of as many."""
    if technique.name == BALANCED:
        return balanced_sample(labels, len(labels), rng)
    return torch.from_numpy(rng.permutation(len(labels)))


def batch_loss(
    technique: Technique, frequencies: Tensor, rng: np.random.Generator
) -> Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]:
    """Return loss(head, vectors [B, D], labels [B]), the loss of a batch in this technique.

    head maps vectors to logits [B, C]. Weights and offsets are computed once, from the frequencies [C] of the training
    examples.
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


def _mean_one(weights: Tensor, frequencies: Tensor) -> Tensor:
    """Scale class weights [C] so that their mean over the training examples is 1."""
    return weights * (frequencies.sum() / (weights * frequencies).sum())
