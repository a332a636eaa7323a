"""Draw the flat map of a constellation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from chapter04_catalogue_reranker.constellation.page import departments_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NIGHT = "#070b18"
LABEL_POINTS = 8
LABEL_WIDTH, LABEL_HEIGHT = 0.62, 2.3  # of a letter and of a line with its box, in units of the font size


def draw_map(
    axes: Axes, points: np.ndarray, paths: Sequence[str | None], highlighted: np.ndarray | None = None
) -> None:
    """Draw the flat map: a dot per product in the colour of its department, the departments' names at the median of
    their products, and a legend.

    points: [N, 2], of `lay_out` with two dimensions. paths: category paths [N]; None is drawn grey. highlighted: bool
    [N], products that get a ring, for instance the misclassified.
    """
    department, names, colours = departments_of(paths)
    for number in np.argsort(np.bincount(department, minlength=len(names)))[::-1]:
        part = points[department == number]
        label = f"{names[number]} ({len(part):,})"
        axes.scatter(*part.T, s=5, color=colours[number], alpha=0.75, linewidths=0, label=label)
    if highlighted is not None and highlighted.any():
        ringed, label = points[highlighted], f"highlighted ({int(highlighted.sum()):,})"
        axes.scatter(*ringed.T, s=16, facecolors="none", edgecolors="white", linewidths=0.5, label=label)
    axes.set(facecolor=NIGHT, xticks=[], yticks=[], aspect="equal")
    axes.margins(0.06)
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=True, fontsize=8, markerscale=2.5)
    legend.get_frame().set(facecolor=NIGHT, edgecolor="none")
    for text in legend.get_texts():
        text.set_color("white")
    middles = np.array([np.median(points[department == number], axis=0) for number in range(len(names))])
    for name, colour, place in zip(names, colours, _apart(axes, middles, names), strict=True):
        box = {"boxstyle": "round,pad=0.25", "facecolor": NIGHT, "edgecolor": colour, "linewidth": 0.6, "alpha": 0.85}
        axes.text(*place, name, color="white", fontsize=LABEL_POINTS, ha="center", va="center", bbox=box)


def _apart(axes: Axes, places: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Move places [K, 2] up and down until the labels at them no longer overlap, or hardly."""
    axes.apply_aspect()
    pixels = axes.transData.transform(places)
    size = LABEL_POINTS * axes.figure.dpi / 72
    widths = np.array([(len(name) * LABEL_WIDTH + 1.5) * size for name in names])
    for _ in range(200):
        moved = False
        for a, b in zip(*np.triu_indices(len(names), 1), strict=True):
            overlap = LABEL_HEIGHT * size - abs(pixels[a, 1] - pixels[b, 1])
            if overlap > 0.01 and abs(pixels[a, 0] - pixels[b, 0]) < (widths[a] + widths[b]) / 2:
                upper, lower = (a, b) if pixels[a, 1] >= pixels[b, 1] else (b, a)
                pixels[upper, 1] += overlap / 2
                pixels[lower, 1] -= overlap / 2
                moved = True
        if not moved:
            break
    return axes.transData.inverted().transform(pixels)
