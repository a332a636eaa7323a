"""Measure what the features of the learned ranker contribute: gain, permutation importance, ablations.

A feature's *gain* says how much the trees used it in training. *Permutation importance* says how much the ranking of
validation queries loses if the values of a group of columns are shuffled. An *ablation* trains again with fewer
columns, and the others may step in. The three answer different questions, and disagree.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from chapter04_catalogue_reranker.search_ranker.boosted_ranking import Boosting, Validation, fit, staged_scores
from chapter04_catalogue_reranker.search_ranker.query_features import (
    BEST_OF_CHAPTER,
    CATEGORIES,
    GROUPS,
    PICTURES,
    QUERY,
    SEEN_THE_JUDGEMENTS,
    TOWERS,
    WORDS,
    PairTable,
)
from common.progress import progress

if TYPE_CHECKING:
    from lightgbm import Booster
    from matplotlib.axes import Axes

READ = (WORDS, PICTURES, CATEGORIES, QUERY)
"""The groups of columns that the ranker reads: all but those of systems that have seen the judgements."""

CHAPTERS = {
    "chapter 1": (WORDS, (WORDS,)),
    "chapters 1 and 2": (TOWERS, (WORDS,)),
    "chapters 1 to 3": (PICTURES, (WORDS, PICTURES)),
    "chapters 1 to 4": (PICTURES, READ),
}
"""By the chapters that there are: whose best system to start from, and the columns to read."""

WITHOUT = {f"without {group.partition(': ')[2]}": tuple(g for g in READ if g != group) for group in READ}
TRAP = "with the towers' columns"


class Learner(NamedTuple):
    """Hold tables of training and validation queries, positions and grades of the training pairs, the validation."""

    train: PairTable
    val: PairTable
    positions: np.ndarray
    grades: np.ndarray
    validation: Validation

    def try_out(self, settings: Boosting, start: str, groups: Collection[str]) -> tuple[Booster, np.ndarray]:
        """Fit trees, and return them with nDCG@10 after every stage, [S, Q]."""
        columns = self.train.columns_of(groups)
        table, at = self.train, self.positions
        booster = fit(table.values.iloc[at][columns], self.grades, table.row[at], table.starts[start][at], settings)
        scores = staged_scores(booster, self.val.values[columns], self.val.starts[start], settings)
        return booster, np.array([self.validation.ndcg(score) for score in scores])


def importances(booster: Booster, groups: dict[str, str], trees: int) -> pd.DataFrame:
    """Return each column's share of the gain of all splits. groups: of all columns of the table."""
    columns = [name for name in groups if groups[name] in READ]
    gain = booster.feature_importance("gain", iteration=trees)
    table = pd.DataFrame({"feature": columns, "group": [groups[name] for name in columns], "gain": gain})
    table["gain"] /= max(table["gain"].sum(), 1e-12)
    return table.sort_values(["gain", "feature"], ascending=[False, True], ignore_index=True)


def permutation_importance(
    learner: Learner, booster: Booster, columns: list[str], trees: int, settings: Boosting, rounds: int = 3
) -> pd.DataFrame:
    """Return the mean loss of nDCG@10 if a group's columns are shuffled among the validation pairs, all in one order.

    Source: Breiman, "Random Forests" (2001); here by groups, since columns of one group say nearly the same.
    """
    rng, values = np.random.default_rng(settings.seed), learner.val.values[columns]
    start = settings.start_weight * learner.val.starts[PICTURES]

    def reached(table: pd.DataFrame) -> float:
        moved = booster.predict(table.to_numpy(), num_iteration=trees, num_threads=settings.threads)
        return float(learner.validation.ndcg(start + moved).mean())

    whole, rows = reached(values), []
    for group in READ:
        names = learner.val.columns_of([group])
        losses = []
        for _ in range(rounds):
            order = rng.permutation(len(values))
            losses.append(whole - reached(values.assign(**{name: values[name].to_numpy()[order] for name in names})))
        rows.append((group, float(np.mean(losses))))
    return pd.DataFrame(rows, columns=["group", "drop"])


def ablations(learner: Learner, settings: Boosting, reached: float) -> pd.DataFrame:
    """Train again with fewer columns, and with those that a ranker should not read.

    reached: nDCG@10 of the ranker itself. Columns: name, kind ("chapters", "without", "trap"), start_system, start (its
    nDCG@10 alone), nDCG@10 with the best number of trees.
    """
    plan = [(name, "chapters", start, groups) for name, (start, groups) in CHAPTERS.items()]
    plan += [(name, "without", PICTURES, groups) for name, groups in WITHOUT.items()]
    plan.append((TRAP, "trap", PICTURES, (*READ, SEEN_THE_JUDGEMENTS)))
    rows = []
    for name, kind, start, groups in progress(plan, desc="ablations", unit="ranker"):
        alone = float(learner.validation.ndcg(learner.val.starts[start]).mean())
        same = start == PICTURES and tuple(groups) == READ
        value = reached if same else float(learner.try_out(settings, start, groups)[1].mean(axis=1).max())
        rows.append((name, kind, BEST_OF_CHAPTER[start], alone, value))
    return pd.DataFrame(rows, columns=["name", "kind", "start_system", "start", "nDCG@10"])


COLOURS = dict(zip(GROUPS, ("#33658a", "#8f8f8f", "#8fbf9f", "#f26419", "#f6ae2d"), strict=True))
LIGHT = "#dce9f5"


def draw_importances(axes: Axes, table: pd.DataFrame, *, most: int = 20) -> None:
    """Draw the columns with the largest gain as bars, the largest on top, coloured by group; see `importances`."""
    shown = table.head(most)
    axes.barh(range(len(shown)), shown["gain"], color=[COLOURS[group] for group in shown["group"]])
    axes.set_yticks(range(len(shown)), shown["feature"], fontsize=8)
    axes.invert_yaxis()
    for group in GROUPS:
        if (shown["group"] == group).any():
            axes.barh(0, 0, color=COLOURS[group], label=group)
    axes.legend(loc="lower right", fontsize=8)
    axes.set_xlabel("share of the gain of all splits")
    axes.spines[["top", "right"]].set_visible(False)


def draw_ablation(axes: Axes, table: pd.DataFrame) -> None:
    """Draw nDCG@10 of every row of `ablations` as a bar, and inside it, lighter, that of its start alone."""
    places, starts, reached = range(len(table)), table["start"], table["nDCG@10"]
    colours = table["kind"].map({"chapters": "#33658a", "without": "#8fbf9f", "trap": "#f26419"})
    axes.barh(places, reached, color=colours.tolist())
    axes.barh(places, starts, height=0.3, color=LIGHT, label="the system that it starts from")
    for place, value in zip(places, reached, strict=True):
        axes.text(value, place, f" {value:.3f}", va="center", fontsize=8)
    axes.set_yticks(places, table["name"], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("nDCG@10 on the validation queries")
    axes.legend(loc="lower left", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
