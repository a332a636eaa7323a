"""Interpolate between the weights before and after fine-tuning; a model in between is often better than both.

Fine-tuning learns the shop and forgets some of the rest. Models on the straight line between both sets of weights know
most of both; a validation curve tells which of them is best. Source: Wortsman et al. 2022, "Robust fine-tuning of
zero-shot models" (WiSE-FT, arXiv:2109.01903). It works because fine-tuned weights stay near those they started from;
two models trained separately have no such line.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from chapter03_multimodal.clip import Clip
from common.artifacts import fingerprint
from common.errors import CourseError
from common.progress import progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALPHAS = tuple(tenth / 10 for tenth in range(11))
COLOURS = {"MRR": "#2f6f4f", "text_to_image_R@1": "#5b8db8", "image_to_text_R@1": "#d08c60"}


def interpolate(zero_shot: Clip, fine_tuned: Clip, alpha: float) -> Clip:
    """Return the model with weights (1 - alpha) * zero_shot + alpha * fine_tuned; 0 and 1 give the models exactly.

    All weights are mixed, also biases, norms, embeddings and `logit_scale`. That is a logarithm, so the temperature in
    between is the geometric mean; it changes no ranking. Inputs are prepared as for `fine_tuned`. Raises `CourseError`
    for an alpha outside 0 to 1 and for models of different architectures.
    """
    if not 0 <= alpha <= 1:
        raise CourseError(f"interpolate: alpha is {alpha}; it lies between 0 (zero-shot) and 1 (fine-tuned)")
    start, end = zero_shot.model.state_dict(), fine_tuned.model.state_dict()
    wrong = sorted(start.keys() ^ end.keys()) or [key for key in start if start[key].shape != end[key].shape]
    if wrong:
        raise CourseError(f"interpolate: the two models are not of one build (first difference: {wrong[0]})")
    mixed = {key: _between(start[key], end[key], alpha) for key in end}
    model = copy.deepcopy(fine_tuned.model)
    model.load_state_dict(mixed)
    digest = {0: zero_shot.digest, 1: fine_tuned.digest}.get(
        alpha, fingerprint([zero_shot.digest, fine_tuned.digest, alpha])
    )
    return replace(fine_tuned, model=model, name=f"{fine_tuned.name} at {alpha:g}", digest=digest)


def curve(
    zero_shot: Clip,
    fine_tuned: Clip,
    measure: Callable[[Clip], dict[str, float]],
    alphas: Sequence[float] = ALPHAS,
) -> pd.DataFrame:
    """Measure the models on the line: a row an alpha, with `alpha` and the figures that `measure` returns for a Clip.

    measure: a `chapter03_multimodal.validation.Validation` of the validation split; a choice made on the test split
    could not be tested there any more.
    """
    steps = progress(alphas, desc="between the models", leave=False)
    return pd.DataFrame([{"alpha": alpha, **measure(interpolate(zero_shot, fine_tuned, alpha))} for alpha in steps])


def draw_curve(table: pd.DataFrame, axes: Axes, metrics: Sequence[str] = tuple(COLOURS)) -> Axes:
    """Draw the metrics of `curve` against alpha, with a dot at the maximum of each."""
    for metric in metrics:
        line = axes.plot(table["alpha"], table[metric], color=COLOURS.get(metric), label=metric.replace("_", " "))[0]
        best = table.loc[table[metric].idxmax()]
        axes.plot(best["alpha"], best[metric], "o", color=line.get_color())
    axes.set_xlabel("alpha: 0 zero-shot, 1 fine-tuned")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return axes


def _between(start: torch.Tensor, end: torch.Tensor, alpha: float) -> torch.Tensor:
    if not end.is_floating_point():  # positions and counters are not weights
        return end if alpha else start
    return (1 - alpha) * start + alpha * end
