"""Make the training examples of a catalogue: pairs of a query and a product, relevant or not, by split and by stage.

Training uses the judged queries of the split "train". If there are none (the judged queries are for evaluation only),
it uses queries made from the catalogue itself, see `chapter02_two_tower.spans`. It never uses a query of another split,
nor a training query with the same words.

The table `hard_negatives` shows what chapter 1's index gives. Training does not read it: it mines anew, with its own
model, at the start of stage 2 (and of stage 3, if it has negatives), and adds the judged negatives of these
tables.

`python -m chapter02_two_tower.prepare_data --catalogue pocket_shop`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from chapter01_baseline.reindex import Indices, load_indices
from chapter02_two_tower.examples import query_examples
from chapter02_two_tower.mine_hard_negatives import hard_negatives_of
from chapter02_two_tower.notes import note_pairs
from chapter02_two_tower.query_words import products_with_words
from chapter02_two_tower.training_data import (
    CHAPTER,
    HARD_DTYPES,
    NEGATIVE_WEIGHT,
    STEP,
    TrainingData,
    as_rows,
    by_query,
    draw_summary,
    known_relevant,
    load_training_data,
    searchable,
    summary,
    training_queries,
)
from common.artifacts import Artifacts
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.profiles import check_ranges
from common.progress import tell
from common.settings import resolve_profile

__all__ = ["PrepareConfig", "TrainingData", "draw_summary", "load_training_data", "main", "summary"]

WEIGHTS = {3: 1.0, 2: 0.9, 1: 0.6}
"""Weight of a positive by its grade: exact, substitute, complement."""
MARGIN_OF_MADE_UP = 0.05
RANGES = {
    "random_per_positive": (1, 4),
    "hard_per_query": (10, 20),
    "hard_top": (10, 1000),
    "validation_share": (0.001, 0.5),
    "weak_labels": (0, None),
}


@dataclass(frozen=True)
class PrepareConfig:
    """Make the training examples of a catalogue: positives, random and judged negatives.

    The table of hard negatives that chapter 1's index gives is for comparison; training mines its own.
    """

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    use_complements: bool = True
    """Use complements (grade 1) as weak positives of stage 3. They are never negatives."""
    random_per_positive: int = 2
    """Random negatives for each positive of stage 1: 1 to 4."""
    hard_per_query: int = 15
    """Rows of hard_negatives for a training query, at most: 10 to 20."""
    hard_top: int = 100
    """Depth of chapter 1's ranking from which the rows of hard_negatives are taken."""
    validation_share: float = 0.1
    """Share of the training queries held out, where the catalogue has no validation queries of its own."""
    catalogue_pairs: int | None = None
    """Pairs made from the catalogue itself; None: none where there are judged training queries, else by profile."""
    weak_labels: int = 5
    """First results of keyword search for a made-up query that become positives beside its own product."""
    notes: bool = True
    """Learn from other names and uses in the product texts (`chapter02_two_tower.notes`)."""
    seed: int = 0
    """Seed of the held-out queries, the random negatives, and the queries made from the catalogue."""


def main(config: PrepareConfig) -> TrainingData:
    """Make the tables, or read them if they were made from the same inputs before.

    Raises `CourseError` for settings out of range, and for a catalogue from which nothing can be learned: no judged
    training queries and no words to make queries from, or no product that could be a negative.
    """
    check_ranges("prepare_data", config, RANGES)
    if config.catalogue_pairs is not None:
        check_ranges("prepare_data", config, {"catalogue_pairs": (0, None)})
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = {"reindex": artifacts.current("chapter01_baseline", "reindex")}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        tables = make_tables(catalogue, load_indices(artifacts, catalogue), config)
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            for name, table in tables.items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
    return load_training_data(artifacts)


def make_tables(catalogue: Catalogue, indices: Indices, config: PrepareConfig) -> dict[str, pd.DataFrame]:
    """Return the tables of `TrainingData` by name. Deterministic in the config's seed."""
    texts = searchable(catalogue.products)
    examples, made = query_examples(
        catalogue,
        texts,
        indices.keyword,
        made_up=config.catalogue_pairs,
        profile=resolve_profile(config.profile),
        weak_labels=config.weak_labels,
        validation_share=config.validation_share,
        seed=config.seed,
    )
    held_out = pd.concat([catalogue.queries["query"], examples["val"]["query"]])
    notes = note_pairs(catalogue.products[: None if config.notes else 0], forbidden=held_out)
    relevant = _relevant(catalogue, examples, made, notes)
    rng = np.random.default_rng([config.seed, 1])
    training = _pairs(examples["train"], "train", texts, relevant, config, rng)
    if not (training["label"] == 0).any():
        raise CourseError(
            f"{catalogue.source}: every product is relevant to every training query, so there are no negatives to "
            "learn from; add products, or correct the judgements."
        )
    tables = {
        "training_pairs": training,
        "val_pairs": _pairs(examples["val"], "val", texts, relevant, config, rng),
        "test_pairs": _judged_pairs(examples["test"], "test", texts),
        "hard_negatives": as_rows(pd.DataFrame(), HARD_DTYPES),
        "notes": notes,
        "relevant": relevant,
    }
    return tables | {"hard_negatives": _hard_negatives(TrainingData(None, **tables), indices, texts, config)}


def _relevant(
    catalogue: Catalogue, examples: Mapping[str, pd.DataFrame], made: pd.DataFrame, notes: pd.DataFrame
) -> pd.DataFrame:
    """Return all pairs known to be relevant, of all splits.

    These are pairs judged E, S or C, made-up queries with their products and all others that have the same words, and
    notes. A product's text without its note is relevant to the same queries as the product.
    """
    found = pd.concat([*examples.values()])
    found = [found[found["grade"].isna() | (found["grade"] > 0)][["query_id", "product_id"]]]
    ids = made.drop_duplicates("query_id")
    beside = products_with_words(catalogue.products, ids["query"])
    for query_id, query in zip(ids["query_id"], ids["query"], strict=True):
        found.append(pd.DataFrame({"query_id": query_id, "product_id": sorted(beside[query])}))
    found.append(notes[["query_id", "product_id"]])
    pairs = pd.concat(found)
    cut = pairs.merge(notes[["product_id", "text_id"]], on="product_id")
    pairs = pd.concat([pairs, cut[["query_id", "text_id"]].rename(columns={"text_id": "product_id"})])
    return pairs.drop_duplicates().reset_index(drop=True).astype("str")


def _judged_pairs(examples: pd.DataFrame, split: str, texts: Mapping[str, str]) -> pd.DataFrame:
    """Return examples as rows of the tables; label, weight and stage follow from the grade."""
    grade = examples["grade"].astype("Int64")
    irrelevant = (grade == 0).fillna(False)
    stage = grade.map({3: 1, 2: 1, 1: 3, 0: 2}).fillna(1)
    return as_rows(
        examples.assign(
            product_text=examples["product_id"].map(texts),
            label=(~irrelevant).astype("int64"),
            weight=grade.map(WEIGHTS | {0: NEGATIVE_WEIGHT}).fillna(1.0),
            neg_type=pd.Series("judged", examples.index, dtype="str").where(irrelevant),
            split=split,
            stage=stage,
        )
    )


def _pairs(
    examples: pd.DataFrame,
    split: str,
    texts: Mapping[str, str],
    relevant: pd.DataFrame,
    config: PrepareConfig,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return the rows of a split, with random negatives for its positives of stage 1."""
    pairs = _judged_pairs(examples, split, texts)
    if not config.use_complements:
        pairs = pairs[pairs["stage"] != 3]
    goals = pairs[(pairs["stage"] == 1) & (pairs["label"] == 1)]
    excluded = known_relevant(pd.concat([relevant, examples[["query_id", "product_id"]]]))
    drawn = draw_negatives(goals, excluded, [*texts], config.random_per_positive, rng)
    without = goals["query_id"].nunique() - drawn["query_id"].nunique()
    if without:
        tell(f"{without:,} {split} queries have no random negatives: every product is judged or relevant.")
    return as_rows(pd.concat([pairs, _random_pairs(drawn, goals, split, texts)]))


def draw_negatives(
    goals: pd.DataFrame,
    excluded: Mapping[str, frozenset[str]],
    product_ids: Sequence[str],
    per_positive: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Draw `per_positive` products for each positive of `goals`, as `query_id, product_id`.

    The products of one query are distinct, and none is in its set of `excluded`. A query may get fewer, or none.
    """
    rows = []
    for query_id, positives in by_query(goals).items():
        barred = excluded.get(query_id, frozenset())
        wanted = per_positive * len(positives)
        if wanted + len(barred) > len(product_ids) // 2:
            allowed = [product_id for product_id in product_ids if product_id not in barred]
            rows += [(query_id, allowed[at]) for at in rng.permutation(len(allowed))[:wanted]]
            continue
        taken: dict[str, None] = {}
        while len(taken) < wanted:  # at least half of the products are allowed: two draws a negative are enough
            product_id = product_ids[rng.integers(len(product_ids))]
            if product_id not in barred:
                taken[product_id] = None
        rows += [(query_id, product_id) for product_id in taken]
    return pd.DataFrame(rows, columns=["query_id", "product_id"], dtype="str")


def _random_pairs(drawn: pd.DataFrame, goals: pd.DataFrame, split: str, texts: Mapping[str, str]) -> pd.DataFrame:
    wording = goals.drop_duplicates("query_id").set_index("query_id")["query"]
    return as_rows(
        drawn.assign(
            query=drawn["query_id"].map(wording),
            product_text=drawn["product_id"].map(texts),
            label=0,
            weight=NEGATIVE_WEIGHT,
            neg_type="random",
            split=split,
            stage=1,
        )
    )


def _hard_negatives(
    data: TrainingData, indices: Indices, texts: Mapping[str, str], config: PrepareConfig
) -> pd.DataFrame:
    """Return the products that chapter 1's encoder ranks in its first `hard_top` although they are not relevant.

    They are for comparison with what training mines (`chapter02_two_tower.stage_batches`). Where nobody judged,
    products that score nearly as high as a query's lowest positive are left out as well.
    """
    judged = data.training_pairs["grade"].notna().any()
    wordings, index = training_queries(data), indices.dense.index
    rows = [at for at, product_id in enumerate(index.ids) if product_id in texts]
    table, _ = hard_negatives_of(
        data,
        indices.encoder.encode(wordings.tolist(), desc="embedding queries").vectors,
        wordings.index.tolist(),
        index.vectors[rows],
        index.ids[rows].tolist(),
        texts,
        top=config.hard_top,
        keep=config.hard_per_query,
        relative_margin=None if judged else MARGIN_OF_MADE_UP,
        margin_from="lowest",
    )
    return table


def print_summary(config: PrepareConfig) -> None:
    """Make the training examples of a catalogue and print how many there are of each kind."""
    counts = summary(main(config))
    table = Table(*counts.columns)
    for row in counts.itertuples(index=False):
        table.add_row(*map(str, row))
    Console().print(table)


if __name__ == "__main__":
    run_step(print_summary)
