"""Draw the long tail of a classifier's labels, its techniques beside each other, and what it confuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from chapter03_multimodal.categories.long_tail import BUCKETS, PLAIN
from common.category_path import leaf_of, split_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHADES = {"head": "#dce9f5", "middle": "#f3f3f3", "tail": "#fbe3d6"}


def draw_label_distribution(axes: Axes, per_class: pd.DataFrame) -> None:
    """Draw the long tail: training examples of each class, the most frequent first, the buckets shaded."""
    trained = per_class[per_class["train"] > 0].sort_values("train", ascending=False, kind="stable")
    frequencies, start = trained["train"].to_numpy(), 0
    axes.bar(range(len(frequencies)), frequencies, width=1.0, color="#33658a")
    for bucket in BUCKETS:
        size = int((trained["bucket"] == bucket).sum())
        share = trained.loc[trained["bucket"] == bucket, "train"].sum() / frequencies.sum()
        axes.axvspan(start - 0.5, start + size - 0.5, color=SHADES[bucket], zorder=0)
        if size:
            label = f"{bucket}\n{size} classes\n{share:.0%} of examples"
            axes.text(start + size / 2 - 0.5, frequencies.max(), label, ha="center", va="top", fontsize=9)
        start += size
    axes.set(xlabel="classes, by frequency", ylabel="training examples", xlim=(-0.5, start - 0.5))


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each true class (rows) that was predicted as each class (columns).

    Both are sorted, so that siblings of the taxonomy stand together. Rows add up to 1; the row of a class that occurs
    only among the predictions is 0.
    """
    names = sorted({*predictions["category_path"], *predictions["predicted"]})
    counts = pd.crosstab(predictions["category_path"], predictions["predicted"])
    counts = counts.reindex(index=names, columns=names, fill_value=0)
    return counts.div(counts.sum(axis=1).clip(lower=1), axis=0)


def draw_confusion(axes: Axes, predictions: pd.DataFrame, *, most: int | None = 15) -> None:
    """Draw true classes (rows) against predicted ones, darker for a larger share of the row.

    most: only the classes that are most often in a mistake, with their names; None: all of them in one picture, named
    by the top level of the taxonomy.
    """
    shares = confusion(predictions)
    if most is not None:
        wrong = predictions[predictions["category_path"] != predictions["predicted"]]
        errors = wrong["category_path"].value_counts().add(wrong["predicted"].value_counts(), fill_value=0)
        names = sorted(errors.sort_index().nlargest(most).index)
        shares = shares.loc[names, names]
    axes.imshow(shares.to_numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if most is not None:
        places, labels = range(len(shares)), [leaf_of(name) for name in shares.index]
    else:
        tops = pd.Series([split_path(name)[0] for name in shares.index])
        first, sizes = tops.drop_duplicates().index.to_numpy(), tops.groupby(tops, sort=False).size().to_numpy()
        places, labels = first + (sizes - 1) / 2, tops.drop_duplicates().tolist()
        for line in first[1:] - 0.5:
            axes.axhline(line, color="#bbbbbb", linewidth=0.5)
            axes.axvline(line, color="#bbbbbb", linewidth=0.5)
    axes.set_xticks(places, labels, rotation=90, fontsize=7)
    axes.set_yticks(places, labels, fontsize=7)
    axes.set(xlabel="predicted", ylabel="true")


def draw_techniques(axes: Axes, results: pd.DataFrame, *, metric: str = "macro-F1", split: str = "test") -> None:
    """Draw one metric of all techniques as bars, the heads side by side.

    Lines mark plain cross-entropy, and a star marks the technique that was chosen on validation.
    """
    part = results[results["split"] == split]
    names, heads = part["technique"].drop_duplicates().tolist(), part["head"].drop_duplicates().tolist()
    height = 0.8 / len(heads)
    for number, head in enumerate(heads):
        rows = part[part["head"] == head].set_index("technique").loc[names]
        places = np.arange(len(names)) + (number - (len(heads) - 1) / 2) * height
        bars = axes.barh(places, rows[metric], height, label=head, color=f"C{number}")
        if PLAIN in names:
            axes.axvline(rows.loc[PLAIN, metric], color=f"C{number}", linestyle=":", linewidth=1)
        axes.bar_label(
            bars,
            [f"{value:.3f}{' ★' * bool(chosen)}" for value, chosen in rows[[metric, "chosen"]].values],
            fontsize=7,
            padding=2,
        )
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{metric}, {split}")
    axes.margins(x=0.12)  # room for the figures
    axes.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(heads))
