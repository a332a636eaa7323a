"""Hard negatives: products that a model ranks high for a query and that are not relevant to it.

A random product teaches a model little: it is far away already. What it ranks in the first hundred and nobody wants
is what it has to learn. But the nearest of those are often relevant products that no judge has seen, so what is known
to be relevant is left out, and so is what scores as high as a positive (the margin). Source of the idea: Xiong et al.
2021, "Approximate Nearest Neighbor Negative Contrastive Learning for Dense Text Retrieval"; of the margin relative to
the positive: Moreira et al. 2024, "NV-Retriever: Improving text embedding models with effective hard-negative mining".

`python -m chapter02_two_tower.mine_hard_negatives --catalogue pocket_shop`
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from chapter02_two_tower.training_data import (
    HARD_DTYPES,
    NEGATIVE_WEIGHT,
    TrainingData,
    as_rows,
    by_query,
    known_relevant,
    load_training_data,
)
from common.artifacts import Artifacts, RunFolder
from common.catalogue import load_catalogue, product_text
from common.cli import run_step
from common.errors import CourseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAPTER, STEP = "chapter02_two_tower", "mine_hard_negatives"
RULES = ("relevant", "absolute_margin", "relative_margin", "beyond_keep")
COLOURS = {
    "positives": "#2f6f4f",
    "kept": "#a23b3b",
    "relevant": "#8fbf9f",
    "absolute_margin": "#d0a860",
    "relative_margin": "#d08c60",
    "beyond_keep": "#c9c9c9",
}


@dataclass(frozen=True)
class Mined:
    """What mining found and what it passed over.

    negatives: `query_id, product_id, score, rank`, by query in the given order and then by rank (1: the model's best).
    skipped: `rule, count`, of the top candidates of all queries those that each of `RULES` took out, in this order.
    scores: by "positives", "kept" and each rule the scores, float32, for histograms.
    """

    negatives: pd.DataFrame
    skipped: pd.DataFrame
    scores: dict[str, np.ndarray]


def mine(
    queries: np.ndarray,
    products: np.ndarray,
    product_ids: Sequence[str],
    query_ids: Sequence[str],
    relevant: Mapping[str, Collection[str]],
    positives: Mapping[str, Collection[str]],
    *,
    top: int = 100,
    keep: int = 15,
    absolute_margin: float | None = None,
    relative_margin: float | None = 0.05,
    margin_from: Literal["lowest", "highest"] = "highest",
    sampling: Literal["top", "random"] = "top",
    seed: int = 0,
) -> Mined:
    """Take for each query the `top` products by inner product, leave out what may be relevant, keep up to `keep`.

    queries: float32 [Q, D]. products: float32 [P, D]. relevant: query id -> products known to be relevant, of whatever
        grade; its positives count as such in any case. positives: query id -> the products that the margins are
        measured from.
    absolute_margin: what scores above positive - margin is left out. relative_margin: what scores above
        positive - |positive| * margin is. None switches a margin off.
    margin_from: which positive of several. "highest", as in training, takes out what the model ranks above all of them;
        "lowest" is the careful choice, and with many positives of which the model does not see one it leaves nothing.
    sampling: "top" keeps the best that are left, "random" any of them, drawn with the seed.

    Equal scores rank in the order of `product_ids`. The negatives are those of
    `sentence_transformers.util.mine_hard_negatives` with these filters, `margin_from="lowest"` as it measures, and a
    `range_max` of `top` less the most positives that a query has, by which it looks further down. Raises CourseError
    for shapes that do not fit, vectors that are not finite, repeated ids, and, if there is a margin, a query without
    a positive in `product_ids`.
    """
    from chapter02_two_tower.nearest import nearest

    queries, products = _checked(queries, query_ids, "query"), _checked(products, product_ids, "product")
    if queries.shape[1] != products.shape[1]:
        raise CourseError(f"mine: queries have {queries.shape[1]} dimensions, products {products.shape[1]}.")
    if top < 1 or keep < 1:
        raise CourseError(f"mine: top is {top} and keep is {keep}; both must be at least 1.")
    if sampling not in ("top", "random") or margin_from not in ("lowest", "highest"):
        raise CourseError(
            f"mine: sampling ({sampling}) is top or random, margin_from ({margin_from}) lowest or highest."
        )
    place = {product_id: at for at, product_id in enumerate(product_ids)}
    goal = _pairs(query_ids, positives, place)
    known = np.unique(np.concatenate([_keys(goal, len(place)), _keys(_pairs(query_ids, relevant, place), len(place))]))
    found, scores = nearest(queries, products, min(top, len(products)))
    goal_scores = np.einsum("nd,nd->n", queries[goal[0]], products[goal[1]])
    rows = np.arange(len(queries))[:, None]
    fate = np.full(found.shape, len(RULES), dtype=np.int8)  # which rule took a candidate out; len(RULES): none
    fate[np.isin(rows * len(place) + found, known)] = 0
    if absolute_margin is not None or relative_margin is not None:
        positive = _one_positive(goal[0], goal_scores, query_ids, margin_from)[:, None]
        if absolute_margin is not None:
            fate[(fate == len(RULES)) & (scores + absolute_margin > positive)] = 1
        if relative_margin is not None:
            fate[(fate == len(RULES)) & (scores > positive - np.abs(positive) * relative_margin)] = 2
    _leave_the_rest(fate, keep, sampling, seed)
    return _mined(fate, found, scores, goal_scores, np.array(product_ids, dtype=object), query_ids)


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
    """Mine for training queries with any model's vectors, and give the result the columns of `hard_negatives`.

    query_vectors [Q, D] of `query_ids`, training queries of `data`; product_vectors [P, D] of `product_ids`, the
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
    wording = positives.drop_duplicates("query_id").set_index("query_id")["query"]
    rows = rows.assign(
        query=rows["query_id"].map(wording),
        product_text=rows["product_id"].map(product_texts),
        label=0,
        weight=NEGATIVE_WEIGHT,
        neg_type="hard",
        split="train",
        stage=2,
    )
    return as_rows(rows, HARD_DTYPES), mined


def draw_scores(mined: Mined, axes: Axes, *, bins: int = 60) -> Axes:
    """Draw the histogram of scores of the positives, of what was kept, and of what each rule left out."""
    drawn = {name: scores for name, scores in mined.scores.items() if len(scores)}
    if drawn:
        edges = np.histogram_bin_edges(np.concatenate([*drawn.values()]), bins=bins)
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
    """Products of each query that are looked at, best first."""
    keep: int = 15
    """Negatives kept of them, at most."""
    relative_margin: float | None = 0.05
    """What scores above a positive's score less this share of it is left out; 0 leaves out what beats the positive."""
    margin_from: Literal["lowest", "highest"] = "highest"
    """Which of a query's positives the margin is measured from; highest is what training does."""


@dataclass(frozen=True)
class MiningResult:
    """run: where the tables are. hard_negatives: as in `TrainingData`. mined: with what was skipped, and the scores."""

    run: RunFolder
    hard_negatives: pd.DataFrame
    mined: Mined


def main(config: MineConfig) -> MiningResult:
    """Mine with the trained towers in force, or read what was mined with the same towers and data before."""
    from chapter02_two_tower.model import TwoTowerModel

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
    """Read what was mined last; raises `MissingArtifact` with the command that mines."""
    run = artifacts.current(CHAPTER, STEP)
    tables = {
        name: pd.read_parquet(run.path / f"{name}.parquet") for name in ("hard_negatives", "negatives", "skipped")
    }
    with np.load(run.path / "scores.npz", allow_pickle=False) as scores:
        mined = Mined(tables["negatives"], tables["skipped"], {name: scores[name] for name in scores.files})
    return MiningResult(run, tables["hard_negatives"], mined)


def training_queries(data: TrainingData) -> pd.Series:
    """The wording of each training query that has a positive of stage 1, by query id, in the order of the table."""
    pairs = data.training_pairs
    positives = pairs[(pairs["label"] == 1) & (pairs["stage"] == 1)]
    return positives.drop_duplicates("query_id").set_index("query_id")["query"]


def searchable(products: pd.DataFrame) -> dict[str, str]:
    """By product id the text that towers read, without the products that have none (known by a picture only)."""
    texts = zip(products["product_id"], product_text(products), strict=True)
    return {product_id: text for product_id, text in texts if text}


def _checked(vectors: np.ndarray, ids: Sequence[str], what: str) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids) or not len(ids):
        raise CourseError(f"mine: {len(ids)} {what} ids for vectors {vectors.shape}; give one row an id, and some.")
    if len(set(ids)) != len(ids):
        raise CourseError(f"mine: {len(ids) - len(set(ids))} {what} ids are repeated; give each {what} once.")
    if not np.isfinite(vectors).all():
        raise CourseError(f"mine: a {what} vector is not finite (NaN or infinite); look at the model's training log.")
    return vectors


def _pairs(
    query_ids: Sequence[str], products: Mapping[str, Collection[str]], place: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of a mapping as rows of queries [N] and of products [N]; products that are not indexed are left out."""
    found = [
        (row, place[product_id])
        for row, query_id in enumerate(query_ids)
        for product_id in products.get(query_id, ())
        if product_id in place
    ]
    rows, columns = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return rows, columns


def _keys(pairs: tuple[np.ndarray, np.ndarray], n_products: int) -> np.ndarray:
    return pairs[0] * n_products + pairs[1]


def _one_positive(rows: np.ndarray, scores: np.ndarray, query_ids: Sequence[str], which: str) -> np.ndarray:
    """The lowest or highest score [Q] of each query's positives; `rows` [N] are the queries of `scores` [N]."""
    start, choose = (np.inf, np.minimum) if which == "lowest" else (-np.inf, np.maximum)
    chosen = np.full(len(query_ids), start, dtype=np.float32)
    choose.at(chosen, rows, scores)
    without = np.flatnonzero(np.isinf(chosen))
    if len(without):
        raise CourseError(
            f"mine: {len(without):,} queries have no positive among the products, the first is "
            f"{query_ids[without[0]]!r}; leave them out, or mine without a margin."
        )
    return chosen


def _leave_the_rest(fate: np.ndarray, keep: int, sampling: str, seed: int) -> None:
    """Mark what goes beyond `keep` a query among the candidates [Q, top] that no rule has taken out."""
    free = fate == len(RULES)
    if sampling == "random":
        lots = np.where(free, np.random.default_rng(seed).random(fate.shape), np.inf)
        turn = np.argsort(np.argsort(lots, axis=1, kind="stable"), axis=1, kind="stable")
        fate[free & (turn >= keep)] = 3
    else:
        fate[free & (np.cumsum(free, axis=1) > keep)] = 3


def _mined(
    fate: np.ndarray,
    found: np.ndarray,
    scores: np.ndarray,
    goal_scores: np.ndarray,
    product_ids: np.ndarray,
    query_ids: Sequence[str],
) -> Mined:
    rows, ranks = np.nonzero(fate == len(RULES))
    negatives = pd.DataFrame(
        {
            "query_id": pd.array(np.array(query_ids, dtype=object)[rows], dtype="str"),
            "product_id": pd.array(product_ids[found[rows, ranks]], dtype="str"),
            "score": scores[rows, ranks].astype(np.float64),
            "rank": ranks + 1,
        }
    )
    by_rule = {rule: scores[fate == number] for number, rule in enumerate(RULES)}
    skipped = pd.DataFrame({"rule": RULES, "count": [len(by_rule[rule]) for rule in RULES]})
    return Mined(negatives, skipped, {"positives": goal_scores, "kept": scores[rows, ranks], **by_rule})


if __name__ == "__main__":
    run_step(main)
