"""From a catalogue to training examples: pairs of a query and a product, relevant or not, by split and by stage.

Judged queries of the split "train" are trained on where a catalogue has them. Where it has none (its judged queries
are for evaluation only) queries are made from the catalogue itself, see `chapter02_two_tower.spans`. No query that is
not a training query is ever trained on, nor is a training query with the same words.

The table `hard_negatives` is what chapter 1's index gives: there to look at, and to compare with. Training does not
read it. It mines anew with its own model at the start of stage 2 (of stage 3 too, if that is given negatives), and adds
to that only the judged negatives of these tables.

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
from chapter02_two_tower.mine_hard_negatives import hard_negatives_of, searchable, training_queries
from chapter02_two_tower.notes import note_pairs
from chapter02_two_tower.spans import catalogue_pairs, products_with_words, query_key
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
    summary,
)
from common.artifacts import Artifacts
from common.catalogue import RELEVANT_GRADE, Catalogue, load_catalogue
from common.cli import run_step
from common.errors import CourseError
from common.progress import tell
from common.search import Searcher
from common.settings import resolve_profile

__all__ = ["PrepareConfig", "TrainingData", "draw_summary", "load_training_data", "main", "summary"]

WEIGHTS = {3: 1.0, 2: 0.9, 1: 0.6}
"""Weight of a positive by its grade: exact, substitute, complement."""

CATALOGUE_PAIRS = {"smoke": 400, "pocket": 8_000, "full": 50_000}
"""Pairs made from a catalogue without judged training queries, by profile."""


MARGIN_OF_MADE_UP = 0.05


@dataclass(frozen=True)
class PrepareConfig:
    """Make the training examples of a catalogue: positives, random and judged negatives; and, to look at and to compare
    with, the hard negatives that chapter 1's index gives (training mines its own)."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    use_complements: bool = True
    """Whether complements (grade 1) are weak positives of stage 3. They are negatives in no case."""
    random_per_positive: int = 2
    """Random negatives for each positive of stage 1: 1 to 4."""
    hard_per_query: int = 15
    """Rows of hard_negatives for a training query, at most: 10 to 20. Training mines its own, with its model."""
    hard_top: int = 100
    """How far down chapter 1's ranking the rows of hard_negatives are taken from."""
    validation_share: float = 0.1
    """Share of the training queries held out, where the catalogue has no validation queries of its own."""
    catalogue_pairs: int | None = None
    """Pairs made from the catalogue itself; None: none where there are judged training queries, else by profile."""
    weak_labels: int = 5
    """Products that keyword search ranks first for a made-up query, and that become positives beside its own."""
    notes: bool = True
    """Whether to learn from other names and uses that stand in the product texts (`chapter02_two_tower.notes`)."""
    seed: int = 0
    """Of the held-out queries, the random negatives, and the queries made from the catalogue."""


def main(config: PrepareConfig) -> TrainingData:
    """Make the tables and write them down, or read them if they were made from the same before.

    Raises `CourseError` for settings out of range, and for a catalogue from which nothing can be learned: no judged
    training queries and no words to make queries from, or no product that could be a negative.
    """
    _check(config)
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
    examples, made = _examples(catalogue, texts, indices.keyword, config)
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


def _check(config: PrepareConfig) -> None:
    for name, low, high in (("random_per_positive", 1, 4), ("hard_per_query", 10, 20), ("hard_top", 10, 1000)):
        if not low <= getattr(config, name) <= high:
            raise CourseError(f"prepare_data: {name} is {getattr(config, name)}; choose {low} to {high}.")
    if not 0 < config.validation_share <= 0.5:
        raise CourseError(f"prepare_data: validation_share is {config.validation_share}; choose above 0, at most 0.5.")
    if config.weak_labels < 0:
        raise CourseError(f"prepare_data: weak_labels is {config.weak_labels}; choose 0 or more.")
    if config.catalogue_pairs is not None and config.catalogue_pairs < 0:
        raise CourseError(f"prepare_data: catalogue_pairs is {config.catalogue_pairs}; choose 0 or more, or leave out.")


def _examples(
    catalogue: Catalogue, texts: Mapping[str, str], keyword: Searcher, config: PrepareConfig
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """By split the examples `query_id, query, product_id, grade`, grades of 0 included and <NA> for made-up queries;
    and all examples that were made up."""
    train, val, test = (_judged(catalogue, split, texts) for split in ("train", "val", "test"))
    train = _trainable(train, catalogue)
    count = config.catalogue_pairs
    if count is None:
        count = 0 if len(train) else CATALOGUE_PAIRS[resolve_profile(config.profile)]
    made = _made_up(catalogue, texts, count, keyword, config) if count else train.iloc[:0]
    if len(train) and not (val["grade"] >= RELEVANT_GRADE).any():
        train, val = _hold_out(train, config)
    if len(train):
        train = pd.concat([train, made], ignore_index=True)
    elif len(made):
        train, val = _hold_out(made, config)
    else:
        raise CourseError(
            f"{catalogue.source}: no judged training queries, and no queries could be made from the catalogue; "
            "judge some queries of the split train, or set catalogue_pairs above 0."
        )
    return {"train": train, "val": val, "test": test}, made


def _judged(catalogue: Catalogue, split: str, texts: Mapping[str, str]) -> pd.DataFrame:
    """The judgements of the queries of a split, of products that have a text, in the order of the queries."""
    queries = catalogue.split_queries(split)[["query_id", "query"]]
    judged = queries.merge(catalogue.judgements[["query_id", "product_id", "grade"]], on="query_id")
    return judged[judged["product_id"].isin(texts)].reset_index(drop=True)


def _trainable(judged: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    """Training judgements without the queries whose words stand outside the training split too, and without those
    that have no exact or substitute product."""
    outside = catalogue.queries[catalogue.queries["split"] != "train"]["query"]
    leaked = judged["query"].map(query_key).isin(set(outside.map(query_key)))
    answered = judged["query_id"].isin(judged[judged["grade"] >= RELEVANT_GRADE]["query_id"])
    for left_out, why in (
        (leaked, "their words stand outside the training split too"),
        (~leaked & ~answered, "they have no exact or substitute product"),
    ):
        if left_out.any():
            tell(f"{judged[left_out]['query_id'].nunique():,} training queries left out: {why}.")
    return judged[~leaked & answered].reset_index(drop=True)


def _made_up(
    catalogue: Catalogue, texts: Mapping[str, str], count: int, keyword: Searcher, config: PrepareConfig
) -> pd.DataFrame:
    """Examples made from the catalogue itself; none has the words of a query of the catalogue, of whatever split.

    A short query fits more products than the one it was made from. Keyword search names some of them: a weak teacher,
    and the only one that a shop without judges has (Dehghani et al., "Neural Ranking Models with Weak Supervision",
    2017).
    """
    products = catalogue.products[catalogue.products["product_id"].isin(texts)]
    made = catalogue_pairs(products, count=count, seed=config.seed, forbidden=catalogue.queries["query"].tolist())
    if config.weak_labels:
        wordings = made["query"].drop_duplicates().tolist()
        hits = keyword.search(wordings, config.weak_labels, allowed=[*texts])
        weak = [(query, found) for row, query in enumerate(wordings) for found, _ in hits.row(row)]
        made = pd.concat([made, pd.DataFrame(weak, columns=["query", "product_id"], dtype="str")])
        made = made.drop_duplicates(ignore_index=True)
    number = made.groupby("query", sort=False).ngroup()
    made.insert(0, "query_id", [f"catalogue-{at:06d}" for at in number])
    return made.assign(grade=pd.array([pd.NA] * len(made), dtype="Int64")).astype({"query_id": "str"})


def _hold_out(examples: pd.DataFrame, config: PrepareConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take a share of the queries for validation, all that have the same words (`query_key`) together."""
    keys = examples["query"].map(query_key)
    distinct = list(dict.fromkeys(keys))
    if len(distinct) < 2:
        raise CourseError("there is one training query only; judge a second one, which validation can hold out.")
    size = max(1, round(config.validation_share * len(distinct)))
    chosen = np.random.default_rng([config.seed, 0]).choice(len(distinct), size, replace=False)
    held = keys.isin({distinct[at] for at in chosen})
    return examples[~held].reset_index(drop=True), examples[held].reset_index(drop=True)


def _relevant(
    catalogue: Catalogue, examples: Mapping[str, pd.DataFrame], made: pd.DataFrame, notes: pd.DataFrame
) -> pd.DataFrame:
    """All pairs known to be relevant, of all splits: judged E, S or C; or made up, with whatever has all the words; or
    noted. What a product is relevant to, its text without a note is relevant to as well."""
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
    """Examples as rows of the tables: label, weight and stage follow from the grade."""
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
    """The rows of a split with random negatives for its positives of stage 1."""
    pairs = _judged_pairs(examples, split, texts)
    if not config.use_complements:
        pairs = pairs[pairs["stage"] != 3]
    goals = pairs[(pairs["stage"] == 1) & (pairs["label"] == 1)]
    shut = known_relevant(pd.concat([relevant, examples[["query_id", "product_id"]]]))
    drawn = draw_negatives(goals, shut, [*texts], config.random_per_positive, rng)
    without = goals["query_id"].nunique() - drawn["query_id"].nunique()
    if without:
        tell(f"{without:,} {split} queries have no random negatives: every product is judged or relevant.")
    return as_rows(pd.concat([pairs, _random_pairs(drawn, goals, split, texts)]))


def draw_negatives(
    goals: pd.DataFrame,
    shut: Mapping[str, frozenset[str]],
    product_ids: Sequence[str],
    per_positive: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Draw `per_positive` products for each positive of `goals`, as `query_id, product_id`.

    Those of one query are distinct and none is in its set of `shut`. A query gets fewer where there are no more, and
    none if every product is shut.
    """
    rows = []
    for query_id, positives in by_query(goals).items():
        closed = shut.get(query_id, frozenset())
        wanted = per_positive * len(positives)
        if wanted + len(closed) > len(product_ids) // 2:
            open_ids = [product_id for product_id in product_ids if product_id not in closed]
            order = rng.permutation(len(open_ids))[:wanted]
            rows += [(query_id, open_ids[at]) for at in order]
            continue
        taken: dict[str, None] = {}
        while len(taken) < wanted:  # more than half of the products are open: two draws a negative are enough
            product_id = product_ids[rng.integers(len(product_ids))]
            if product_id not in closed:
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
    """What chapter 1's encoder ranks in the first `hard_top` of its index without being relevant: to look at, and to
    compare with what training mines (`chapter02_two_tower.stages`).

    Where nobody judged, what scores as high as a query's lowest positive, or nearly, is left out as well.
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
