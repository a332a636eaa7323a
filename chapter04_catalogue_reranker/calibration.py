"""Calibrate confidences and choose when to abstain: reliability, temperature, coverage against accuracy.

A softmax turns the scores of a product's candidates into probabilities; the largest is the confidence of the answer. It
is *calibrated* if about 80% of the answers with confidence 0.8 are right. A shop that fills in categories automatically
needs a threshold of the confidence, and wants to know how many products it leaves to people.

Choose temperature and threshold on validation, and report their effect on test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from chapter04_catalogue_reranker.ranking_metrics import checked_lists
from common.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPERATURES = (1e-3, 1e3)
"""Range of `fit_temperature`."""


def top_confidence(scores: np.ndarray, listed: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the largest probability among each product's candidates in softmax(scores / temperature): float64 [N].

    scores: [N, K]. listed: bool [N, K], False for padding; a product with one candidate has confidence 1. Raises
    `CourseError` for a product without candidates.
    """
    scores, listed, _ = checked_lists(scores, listed, np.full(len(scores), -1))
    if not listed.any(axis=1).all():
        raise CourseError("top_confidence: a product has no candidate, so there is no answer to be sure of.")
    logits = np.where(listed, scores / temperature, -np.inf)
    return 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)


def fit_temperature(scores: np.ndarray, listed: np.ndarray, truth: np.ndarray) -> float:
    """Return the temperature T under which the true candidates are most likely: it minimises the mean of

        -log( exp(s_t / T) / sum over the candidates k of exp(s_k / T) )

    over the products that have a true candidate t. One number for all products changes the confidence and never the
    ranking. The cost is convex in 1/T, so it has one minimum. At the extremes there is none: the result is some low
    temperature if all answers are right, and the upper end of `TEMPERATURES` if the scores are worse than chance.

    scores: [N, K]. listed: bool [N, K]. truth: [N], the column of the true candidate, -1 if there is none. Raises
    `CourseError` if no product has one. Source: Guo et al. 2017 ("On calibration of modern neural networks",
    arXiv:1706.04599).
    """
    scores, listed, truth = checked_lists(scores, listed, truth)
    counts = truth >= 0
    if not counts.any():
        raise CourseError("fit_temperature: no product has a true candidate; give validation products that have one.")
    logits = np.where(listed, scores, -np.inf)[counts]
    own = np.take_along_axis(logits, truth[counts, None], axis=1)

    def cost(log_temperature: float) -> float:
        return float(logsumexp((logits - own) / np.exp(log_temperature), axis=1).mean())

    found = minimize_scalar(cost, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Compare confidence and accuracy, one row for each of `bins` equally wide ranges of confidence.

    Columns: `above` and `up_to` (the range, its upper end included; 0 falls into the first), `n` (answers),
    `confidence` (their mean) and `accuracy` (the share of them that is right), both NaN where there are none.

    confidence: [N], from 0 to 1. right: bool [N].
    """
    confidence, right = _checked(confidence, right)
    if bins < 1:
        raise CourseError(f"reliability: {bins} bins hold nothing; give 1 or more.")
    edges = np.linspace(0, 1, bins + 1)
    inside = np.searchsorted(edges[1:-1], confidence, side="left")
    table = pd.DataFrame({"inside": inside, "confidence": confidence, "accuracy": right})
    table = table.groupby("inside").mean().reindex(range(bins))
    table.insert(0, "above", edges[:-1])
    table.insert(1, "up_to", edges[1:])
    table.insert(2, "n", np.bincount(inside, minlength=bins))
    return table.reset_index(drop=True)


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Return the mean over the answers of |accuracy - mean confidence| of their bin: 0 is calibrated.

    With many bins it grows by chance: a bin of n answers is off by about 1 / (2 sqrt(n)) even if calibrated.
    Source: Guo et al. 2017 (arXiv:1706.04599).
    """
    table = reliability(confidence, right, bins)
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float((gaps * table["n"]).sum() / table["n"].sum())


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Return coverage and accuracy if only answers of confidence `threshold` or more are given, one row per confidence.

    Columns: `threshold`, rising; `coverage`, the share of all products that is answered, falling from 1; `accuracy`,
    the share of the answered that is right. confidence: [N], from 0 to 1. right: bool [N].
    """
    confidence, right = _checked(confidence, right)
    thresholds, place = np.unique(confidence, return_inverse=True)
    answered, hits = (np.cumsum(np.bincount(place, weights)[::-1])[::-1] for weights in (None, right))
    return pd.DataFrame({"threshold": thresholds, "coverage": answered / len(right), "accuracy": hits / answered})


def abstain_threshold(confidence: np.ndarray, right: np.ndarray, accuracy: float = 0.95) -> float:
    """Return the lowest confidence from which on at least the share `accuracy` of the answers is right.

    Infinite if there is none: then give no answer. Above it the share may fall again where few answers are left. Like
    all that is chosen on validation it is slightly optimistic: report its accuracy on test.
    """
    curve = coverage_curve(confidence, right)
    enough = curve.loc[curve["accuracy"] >= accuracy, "threshold"]
    return float(enough.iloc[0]) if len(enough) else np.inf


def draw_reliability(axes: Axes, table: pd.DataFrame, *, label: str | None = None) -> None:
    """Draw accuracy against confidence, one point per bin, larger for more answers; the diagonal is calibrated.

    table: of `reliability`. Below the diagonal the model is overconfident. Call it again with another label to compare
    two models.
    """
    some = table[table["n"] > 0]
    axes.plot([0, 1], [0, 1], color="#999999", linestyle=":", linewidth=1, zorder=0)
    (line,) = axes.plot(some["confidence"], some["accuracy"], linewidth=1, label=label)
    axes.scatter(some["confidence"], some["accuracy"], s=10 + 190 * some["n"] / some["n"].sum(), color=line.get_color())
    axes.set(xlabel="confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")


def draw_coverage(axes: Axes, curve: pd.DataFrame, *, threshold: float | None = None, label: str | None = None) -> None:
    """Draw the accuracy of the answers against the share of products that is answered.

    curve: of `coverage_curve`. threshold: of `abstain_threshold`, marked on the curve if it is reached.
    """
    (line,) = axes.plot(curve["coverage"], curve["accuracy"], linewidth=1.5, label=label)
    answered = curve if threshold is None else curve[curve["threshold"] >= threshold]
    if threshold is not None and len(answered):
        coverage, accuracy = answered.iloc[0][["coverage", "accuracy"]]
        axes.scatter([coverage], [accuracy], color=line.get_color(), zorder=3)
        words = f"from {threshold:.2f} on: {accuracy:.1%} of {coverage:.0%}"
        axes.annotate(words, (coverage, accuracy), xytext=(-4, 6), textcoords="offset points", ha="right", fontsize=8)
    axes.set(xlabel="share of products that is answered", ylabel="share of the answers that is right", xlim=(0, 1.02))


def _checked(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return confidences float64 [N], and 1 for right answers and 0 for wrong ones, float64 [N]."""
    confidence, right = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    if confidence.ndim != 1 or not len(confidence) or right.shape != confidence.shape:
        raise CourseError(f"calibration: confidences {confidence.shape} and answers {right.shape}; give [N] of both.")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise CourseError("calibration: a confidence is not a share from 0 to 1; `top_confidence` makes them.")
    return confidence, right
