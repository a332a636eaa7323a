"""Read, look up and summarise the tables of training examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from common.artifacts import Artifacts, RunFolder
from common.catalogue import product_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHAPTER, STEP = "chapter02_two_tower", "prepare_data"
DTYPES = {
    "query_id": "str",
    "query": "str",
    "product_id": "str",
    "product_text": "str",
    "label": "int64",
    "grade": "Int64",
    "weight": "float64",
    "neg_type": "str",
    "split": "str",
    "stage": "int64",
}
HARD_DTYPES = {**DTYPES, "rank": "int64", "score": "float64"}
NEGATIVE_WEIGHT = 1.0


@dataclass(frozen=True)
class TrainingData:
    """Hold the training examples that `prepare_data` wrote. Training reads all of them but `hard_negatives`.

    training_pairs, val_pairs, test_pairs, hard_negatives: `query_id, query, product_id, product_text`; `label` 1 for
    relevant, 0 for not; `grade` 0 to 3, <NA> where nobody judged; `weight` in the loss; `neg_type` "random", "hard" or
    "judged", missing for positives; `split`; `stage`, the first stage of the training that uses such a row.
        1: exact and substitute products (weights 1.0 and 0.9), and random negatives.
        2: products judged irrelevant; and hard negatives, of which training mines its own (see below).
        3: complements, as weak positives (weight 0.6).
    hard_negatives: products that chapter 1's index gives for the training queries, for comparison; with `rank` (1 is
        the encoder's best) and `score` besides. A product that was judged irrelevant *and* was found is in both tables.
        Training does not read this table: it mines anew with its own model at the start of stage 2 (and of stage 3, if
        it has negatives), and adds the judged negatives of training_pairs.
    run: holds the tables; None while they are being made.
    notes: `query_id, query, product_id, text_id, product_text`, queries from the products' own texts, see
        `chapter02_two_tower.notes`; positives of stage 1. text_id names the product's text without the note.
    relevant: `query_id, product_id` (or text_id), every pair known to be relevant, which must never be a negative:
        complements too, and for a made-up query the products whose text has all of its words.
    """

    run: RunFolder | None
    training_pairs: pd.DataFrame
    val_pairs: pd.DataFrame
    test_pairs: pd.DataFrame
    hard_negatives: pd.DataFrame
    notes: pd.DataFrame
    relevant: pd.DataFrame


TABLES = ("training_pairs", "val_pairs", "test_pairs", "hard_negatives")


def load_training_data(artifacts: Artifacts) -> TrainingData:
    """Read the tables in force; raises `MissingArtifact` with the command that makes them."""
    run = artifacts.current(CHAPTER, STEP)
    names = (*TABLES, "notes", "relevant")
    return TrainingData(run, **{name: pd.read_parquet(run.path / f"{name}.parquet") for name in names})


def known_relevant(relevant: pd.DataFrame) -> dict[str, frozenset[str]]:
    """Return the products known to be relevant by query id, from a table `query_id, product_id`."""
    return by_query(relevant, frozenset)


def by_query(pairs: pd.DataFrame, collect: type = list) -> dict[str, list[str]]:
    """Return the product ids of each query's rows by query id, in their order."""
    products = pairs["product_id"].to_numpy(dtype=object)
    return {query: collect(products[rows]) for query, rows in pairs.groupby("query_id", sort=False).indices.items()}


def training_queries(data: TrainingData) -> pd.Series:
    """Return the wording of each training query that has a positive of stage 1, by query id, in the table's order."""
    pairs = data.training_pairs
    positives = pairs[(pairs["label"] == 1) & (pairs["stage"] == 1)]
    return positives.drop_duplicates("query_id").set_index("query_id")["query"]


def searchable(products: pd.DataFrame) -> dict[str, str]:
    """Return the text that towers read by product id, without products that have none (known by a picture only)."""
    texts = zip(products["product_id"], product_text(products), strict=True)
    return {product_id: text for product_id, text in texts if text}


def as_rows(frame: pd.DataFrame, dtypes: dict[str, str] = DTYPES) -> pd.DataFrame:
    """Give `frame` the columns, types and order of the tables; columns that it lacks are missing values."""
    return frame.reindex(columns=list(dtypes)).astype(dtypes).reset_index(drop=True)


def summary(data: TrainingData) -> pd.DataFrame:
    """Count pairs, queries, and pairs a query by split, stage, label and neg_type."""
    rows = pd.concat([getattr(data, name)[list(DTYPES)] for name in TABLES], ignore_index=True)
    notes = data.notes[["query_id"]].assign(split="train", stage=1, label=1, neg_type="note")
    rows = pd.concat([rows, notes], ignore_index=True)
    rows["neg_type"] = rows["neg_type"].fillna("")
    rows["split"] = pd.Categorical(rows["split"], ["train", "val", "test"])
    groups = rows.groupby(["split", "stage", "label", "neg_type"], observed=True, sort=True)["query_id"]
    table = groups.agg(pairs="size", queries="nunique").reset_index()
    table["split"] = table["split"].astype("str")
    return table.assign(pairs_a_query=(table["pairs"] / table["queries"]).round(1))


KINDS = {
    (1, 1, ""): ("exact, substitute", "#2f6f4f"),
    (1, 1, "note"): ("note in a product text", "#5fa27f"),
    (3, 1, ""): ("complement", "#8fbf9f"),
    (1, 0, "random"): ("random negative", "#c9c9c9"),
    (2, 0, "judged"): ("judged irrelevant", "#d08c60"),
    (2, 0, "hard"): ("hard negative", "#a23b3b"),
}


def draw_summary(data: TrainingData, axes: Axes) -> Axes:
    """Draw one horizontal bar a split, divided by the kind of pair."""
    table = summary(data)
    splits = [split for split in ("test", "val", "train") if split in set(table["split"])]
    left = dict.fromkeys(splits, 0)
    for key, (name, colour) in KINDS.items():
        mine = table[(table["stage"] == key[0]) & (table["label"] == key[1]) & (table["neg_type"] == key[2])]
        widths = mine.set_index("split")["pairs"].reindex(splits, fill_value=0)
        if widths.sum():
            axes.barh(splits, widths, left=[left[split] for split in splits], color=colour, label=name)
        left = {split: left[split] + widths[split] for split in splits}
    axes.set_xlabel("pairs")
    axes.legend(loc="lower right", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
