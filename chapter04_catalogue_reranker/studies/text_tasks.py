"""Define two tasks on public text, one text to one of thousands of category paths, and rules that need no training.

    task = abo_task(load_catalogue("abo", selection="text"), held_out=0.1, seed=0)      # titles of products
    task = shopify_task(load_catalogue("shopify_taxonomy"))                             # paths of another taxonomy

**abo**: the English titles of Amazon Berkeley Objects (those whose path starts at "Categories") and 1,592 paths. The
source's own split is kept, so that figures can stand beside published ones: its `val` is the test here. The source drew
it by listing, and some of its products share title, item or main photo with a training product; `TextTask.fresh` marks
those that do not. Every choice is made on `held`, a part of the training rows: rows that share any of the three stay
together.

**shopify_taxonomy**: Shopify's paths and the Google paths that they are mapped to. Only mappings whose last levels
differ (capitals aside) are measured: the name gives the others away. Whole parents are held out
(`common.catalogue.shopify_taxonomy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.download import ABO_TEXT, public_files
from common.catalogue.readers import read_table
from common.catalogue.splits import split_by_group
from common.category_path import SEPARATOR, leaf_of, prefixes_of
from common.errors import CourseError

ENGLISH_ROOT = "Categories"
KINSHIP = ("title", "item_id", "main_image_id")


@dataclass(frozen=True)
class TextTask:
    """Hold N texts, each with one true path of C, all of which are candidates.

    texts: N. paths: C, distinct, sorted. labels: int64 [N], numbers of paths. fit, held, test: rows to train with, to
    choose on and to measure on. known: rows for the final training and for neighbours, once everything is chosen.
    fresh: bool [N], False for a row of `test` that is related to a known row (see the module).
    """

    texts: list[str]
    paths: list[str]
    labels: np.ndarray
    fit: np.ndarray
    held: np.ndarray
    test: np.ndarray
    known: np.ndarray
    fresh: np.ndarray

    def __post_init__(self) -> None:
        for name in ("fit", "held", "test"):
            if not len(getattr(self, name)):
                raise CourseError(f"real_text: there is no text to {name} on; is the source complete?")


def abo_task(catalogue: Catalogue, held_out: float = 0.1, seed: int = 0) -> TextTask:
    """Return the task of English titles and their category paths. held_out: share of the training rows to choose on.

    catalogue: `abo` with selection="text". Its tables are read again, because the catalogue moves a validation product
    with a relative in train to train. Rows without a title are left out. Raises CourseError for missing files or
    columns.
    """
    if catalogue.source != "abo":
        raise CourseError(f"abo_task: a catalogue of abo is needed, not of {catalogue.source}")
    parts = []
    for name, file in public_files(ABO_TEXT).items():
        frame = read_table(file, "products").frame
        require_columns(frame.columns, (*KINSHIP, "node_path"), file)
        parts.append(frame[[*KINSHIP, "node_path"]].assign(split=name.removesuffix(".parquet")))
    table = pd.concat(parts, ignore_index=True)
    english = table["node_path"].str.startswith(f"/{ENGLISH_ROOT}/", na=False)
    table = table[english & kinship(table)["title"].notna()].reset_index(drop=True)
    path = table["node_path"].str.split("/").str[2:].str.join(SEPARATOR)
    train, test = (table["split"] == "train").to_numpy(), (table["split"] == "val").to_numpy()
    held = np.zeros(len(table), dtype=bool)
    held[train] = carve(table[train], held_out, seed)
    kin = kinship(table)
    # Two missing cells are not related, although isin takes NaN for NaN.
    related = np.logical_or.reduce([kin[name].notna() & kin[name].isin(kin.loc[train, name]) for name in KINSHIP])
    return _task(table["title"], path, train & ~held, held, test, known=train, fresh=~related)


def carve(table: pd.DataFrame, share: float, seed: int = 0) -> np.ndarray:
    """Select the rows to hold out, bool [N]: a share of the families, by a hash of each family's first title (of its
    item, else its photo, for a row without a title).

    table: rows with the columns of `KINSHIP`. Rows that share a title, an item or a main photo (see `kinship`),
    directly or through others, are one family, and a family is never divided.
    """
    kin = kinship(table)
    keys = [_numbered(kin[name]) for name in KINSHIP]
    starts = np.cumsum([len(table), *(key.max(initial=-1) + 1 for key in keys)])
    rows, nodes = np.tile(np.arange(len(table)), 3), np.concatenate([s + k for s, k in zip(starts, keys, strict=False)])
    graph = coo_array((np.ones(len(rows)), (rows, nodes)), shape=(starts[-1], starts[-1]))
    family = connected_components(graph, directed=False)[1][: len(table)]
    names = kin.bfill(axis=1)["title"].fillna("")
    named = pd.DataFrame({"product_id": names.groupby(family).transform("min")})
    return (split_by_group(named, {"train": 1 - share, "val": share}, seed) == "val").to_numpy()


def kinship(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `KINSHIP`, titles without capitals and extra spaces, and NaN for missing or empty cells,
    which relate no rows."""
    titles = table["title"].str.casefold().str.split().str.join(" ")
    return table[[*KINSHIP]].astype(object).assign(title=titles.astype(object)).replace("", np.nan)


def _numbered(column: pd.Series) -> np.ndarray:
    """Number the cells from 0, int64 [N]: equal cells get the same number, each missing cell one of its own."""
    numbers, found = pd.factorize(column)
    missing = numbers < 0
    numbers[missing] = len(found) + np.arange(missing.sum())
    return numbers


def shopify_task(catalogue: Catalogue) -> TextTask:
    """Return the task of Shopify's and Google's paths: train on all mappings, measure those with other last levels."""
    if catalogue.source != "shopify_taxonomy":
        raise CourseError(f"shopify_task: a catalogue of shopify_taxonomy is needed, not of {catalogue.source}")
    products = catalogue.products
    train, val, test = ((products["split"] == split).to_numpy() for split in ("train", "val", "test"))
    pairs = zip(products["title"], products["category_path"], strict=True)
    differ = np.array([leaf_of(one).casefold() != leaf_of(other).casefold() for one, other in pairs])
    fresh = np.ones(len(products), dtype=bool)
    return _task(products["title"], products["category_path"], train, val & differ, test & differ, train, fresh)


def _task(
    texts: pd.Series,
    paths: pd.Series,
    fit: np.ndarray,
    held: np.ndarray,
    test: np.ndarray,
    known: np.ndarray,
    fresh: np.ndarray,
) -> TextTask:
    labels, names = pd.factorize(paths, sort=True)
    rows = (np.flatnonzero(chosen) for chosen in (fit, held, test, known))
    return TextTask(texts.tolist(), list(names), labels.astype(np.int64), *rows, fresh=fresh)


# rules on paths


def mapped_ancestors(path: str, mapping: Mapping[str, str]) -> list[str]:
    """Return the targets of the path's ancestors, the nearest ancestor's first, each once."""
    return list(dict.fromkeys(mapping[above] for above in ancestors(path) if above in mapping))


def parent_rule(texts: Sequence[str], mapping: Mapping[str, str]) -> list[list[str]]:
    """Rank for each path the targets of its ancestors that have one, the nearest first; empty if none has.

    mapping: known from training. If a whole family is held out, its parent is known if the parent's own siblings are in
    training; if not, the rule has to climb.
    """
    return [mapped_ancestors(path, mapping) for path in texts]


def parents_mapping(texts: Sequence[str], mapping: Mapping[str, str]) -> list[list[str]]:
    """Rank the target of each path's own parent; empty if it has none: the parent rule without climbing."""
    return [[mapping[above] for above in ancestors(path)[:1] if above in mapping] for path in texts]


def name_rule(texts: Sequence[str], paths: Sequence[str]) -> list[list[str]]:
    """Rank the ancestors of each text that are candidate paths word for word, the nearest first."""
    candidates = {path: path for path in paths}
    return [mapped_ancestors(path, candidates) for path in texts]


def ancestors(path: str) -> list[str]:
    """Return the paths above a path, the nearest first: of "A > B > C" these are "A > B" and "A"."""
    return prefixes_of(path)[-2::-1]
