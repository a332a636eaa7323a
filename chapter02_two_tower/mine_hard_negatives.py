"""Mine hard negatives for the training queries with any model, and with the trained towers as a step.

`python -m chapter02_two_tower.mine_hard_negatives --catalogue pocket_shop`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from chapter02_two_tower.mining import Mined, mine
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.training_data import (
    HARD_DTYPES,
    NEGATIVE_WEIGHT,
    TrainingData,
    as_rows,
    by_query,
    known_relevant,
    load_training_data,
    searchable,
    training_queries,
)
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue
from common.cli import run_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAPTER, STEP = "chapter02_two_tower", "mine_hard_negatives"
COLOURS = {
    "positives": "#2f6f4f",
    "kept": "#a23b3b",
    "relevant": "#8fbf9f",
    "absolute_margin": "#d0a860",
    "relative_margin": "#d08c60",
    "beyond_keep": "#c9c9c9",
}


def hard_negatives_of(
    data: TrainingData,
    query_vectors: np.ndarray,
    query_ids: Sequence[str],
    product_vectors: np.ndarray,
    product_ids: Sequence[str],
    product_texts: Mapping[str, str],
    *,
    top: int = 100,
    keep: int = 15,
    relative_margin: float | None = 0.05,
    margin_from: Literal["lowest", "highest"] = "highest",
) -> tuple[pd.DataFrame, Mined]:
    """Mine for training queries with any model's vectors; return the rows of `hard_negatives` and the report.

    query_vectors: [Q, D], of `query_ids`, training queries of `data`. product_vectors: [P, D], of `product_ids`, the
    products that may become negatives. The margin is measured from the positives of stage 1. A better model has other
    hard negatives: mine again after each stage.
    """
    pairs = data.training_pairs
    positives = pairs[(pairs["label"] == 1) & (pairs["stage"] == 1)]
    mined = mine(
        query_vectors,
        product_vectors,
        product_ids,
        query_ids,
        known_relevant(data.relevant),
        by_query(positives),
        top=top,
        keep=keep,
        relative_margin=relative_margin,
        margin_from=margin_from,
    )
    judged = pairs[pairs["grade"].notna()][["query_id", "product_id", "grade"]]
    rows = mined.negatives.merge(judged, how="left", on=["query_id", "product_id"])
    rows = rows.assign(
        query=rows["query_id"].map(training_queries(data)),
        product_text=rows["product_id"].map(product_texts),
        label=0,
        weight=NEGATIVE_WEIGHT,
        neg_type="hard",
        split="train",
        stage=2,
    )
    return as_rows(rows, HARD_DTYPES), mined


def draw_scores(mined: Mined, axes: Axes) -> Axes:
    """Draw the histogram of scores of the positives, of what was kept, and of what each rule left out."""
    drawn = {name: scores for name, scores in mined.scores.items() if len(scores)}
    if drawn:
        edges = np.histogram_bin_edges(np.concatenate([*drawn.values()]), bins=60)
        for name, scores in drawn.items():
            label = f"{name.replace('_', ' ')} ({len(scores):,})"
            axes.hist(scores, edges, density=True, histtype="step", linewidth=1.6, color=COLOURS[name], label=label)
        axes.legend(fontsize=8)
    axes.set_xlabel("score")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    return axes


@dataclass(frozen=True)
class MineConfig:
    """Mine hard negatives for the training queries of a catalogue with the trained towers."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    top: int = 100
    """Best products of each query to look at."""
    keep: int = 15
    """Negatives kept of them, at most."""
    relative_margin: float | None = 0.05
    """Products that score above (1 - relative_margin) times a positive's score are left out."""
    margin_from: Literal["lowest", "highest"] = "highest"
    """The positive of a query that the margin is measured from; training takes the highest."""


@dataclass(frozen=True)
class MiningResult:
    """Hold a mining. run: has the tables. hard_negatives: as in `TrainingData`. mined: with counts and scores."""

    run: RunFolder
    hard_negatives: pd.DataFrame
    mined: Mined


def main(config: MineConfig) -> MiningResult:
    """Mine with the trained towers in force, or read what was mined with the same towers and data before."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data, trained = load_training_data(artifacts), artifacts.current(CHAPTER, "train")
    inputs = {"prepare_data": data.run, "train": trained}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            model = TwoTowerModel.load(trained.path / "best")
            wordings = training_queries(data)
            texts = searchable(catalogue.products)
            table, mined = hard_negatives_of(
                data,
                model.query.embed(wordings.tolist(), desc="embedding queries"),
                wordings.index.tolist(),
                model.product.embed([*texts.values()], desc="embedding products"),
                [*texts],
                texts,
                top=config.top,
                keep=config.keep,
                relative_margin=config.relative_margin,
                margin_from=config.margin_from,
            )
            table.to_parquet(folder / "hard_negatives.parquet", index=False)
            mined.negatives.to_parquet(folder / "negatives.parquet", index=False)
            mined.skipped.to_parquet(folder / "skipped.parquet", index=False)
            np.savez(folder / "scores.npz", **mined.scores)
    return load_mined(artifacts)


def load_mined(artifacts: Artifacts) -> MiningResult:
    """Read the mining in force; raises `MissingArtifact` with the command that mines."""
    run = artifacts.current(CHAPTER, STEP)
    tables = {
        name: pd.read_parquet(run.path / f"{name}.parquet") for name in ("hard_negatives", "negatives", "skipped")
    }
    with np.load(run.path / "scores.npz", allow_pickle=False) as scores:
        mined = Mined(tables["negatives"], tables["skipped"], {name: scores[name] for name in scores.files})
    return MiningResult(run, tables["hard_negatives"], mined)


if __name__ == "__main__":
    run_step(main)
