"""Two tasks on public text, one text to one of thousands of category paths, and the rules that need no training.

    task = abo_task(load_catalogue("abo", selection="text"), held_out=0.1, seed=0)      # titles of products
    task = shopify_task(load_catalogue("shopify_taxonomy"))                             # paths of another taxonomy

**abo**: the English titles of Amazon Berkeley Objects (those whose path starts at "Categories") and 1,592 paths. The
source's own split is measured on, so that figures can stand beside published ones: its `val` is the test here. It was
drawn by listing, and some of its products share title, item or main photo with a training product; `TextTask.fresh`
says which do not. Whatever is chosen, is chosen on `held`, carved from its training rows: rows that share any of the
three go together.

**shopify_taxonomy**: Shopify's paths and the Google paths that they are mapped to. Only mappings whose last levels
differ (capitals aside) are asked about: the others are told by the name. Whole parents are held out
(`common.catalogue.shopify_taxonomy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from chapter04_catalogue_reranker.ranking_metrics import SEPARATOR, levels
from common.catalogue import Catalogue
from common.catalogue.columns import require_columns
from common.catalogue.download import ABO_TEXT, public_files
from common.catalogue.readers import read_table
from common.catalogue.splits import split_by_group
from common.errors import CourseError

ENGLISH_ROOT = "Categories"
KINSHIP = ("title", "item_id", "main_image_id")


@dataclass(frozen=True)
class TextTask:
    """N texts, each with one true path of C, all of which are candidates.

    texts: N. paths: C, distinct, sorted. labels: int64 [N], numbers of paths. fit, held, test: rows to train with, to
    choose on and to measure on. known: rows that may be looked up once everything is chosen, for the final training
    and as neighbours. fresh: bool [N], False for a row of `test` of which a known row tells (see the module).
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
    """English titles to category paths; the share `held_out` of the training rows to choose on.

    catalogue: `abo` with selection="text". Its tables are read once more, for the catalogue has moved each validation
    product with a relative in train to train. Rows without a title are left out: there is nothing to ask about. Raises
    CourseError for files or columns that are missing.
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
    carved = carve(table[train], held_out, seed)
    held = np.zeros(len(table), dtype=bool)
    held[train] = carved
    kin = kinship(table)
    # A missing cell is no kin of another one, though isin takes NaN for NaN.
    related = np.logical_or.reduce([kin[name].notna() & kin[name].isin(kin.loc[train, name]) for name in KINSHIP])
    return _task(table["title"], path, train & ~held, held, test, known=train, fresh=~related)


def carve(table: pd.DataFrame, share: float, seed: int = 0) -> np.ndarray:
    """Which rows are held out, bool [N]: a share of the families, by a hash of the first title of each (of a row
    without one: its item, else its photo).

    table: rows with the columns of `KINSHIP`. Rows that share a title, an item or a main photo as `kinship` says,
    directly or through others, are one family and never cut.
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
    """The columns of `KINSHIP` as relatives share them: titles without capitals and extra spaces; NaN for a cell that
    is missing or empty, which no two rows share."""
    titles = table["title"].str.casefold().str.split().str.join(" ")
    return table[[*KINSHIP]].astype(object).assign(title=titles.astype(object)).replace("", np.nan)


def _numbered(column: pd.Series) -> np.ndarray:
    """Numbers from 0, int64 [N]: equal cells have the same, each missing cell has one of its own."""
    numbers, found = pd.factorize(column)
    missing = numbers < 0
    numbers[missing] = len(found) + np.arange(missing.sum())
    return numbers


def shopify_task(catalogue: Catalogue) -> TextTask:
    """Shopify's paths to Google's: trained on all mappings of "train", asked about those whose last levels differ."""
    if catalogue.source != "shopify_taxonomy":
        raise CourseError(f"shopify_task: a catalogue of shopify_taxonomy is needed, not of {catalogue.source}")
    products = catalogue.products
    train, val, test = ((products["split"] == split).to_numpy() for split in ("train", "val", "test"))
    pairs = zip(products["title"], products["category_path"], strict=True)
    differ = np.array([levels(one)[-1].casefold() != levels(other)[-1].casefold() for one, other in pairs])
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
    """Where the path's ancestors are mapped, the nearest first, those that have a mapping; no target twice."""
    return list(dict.fromkeys(mapping[above] for above in ancestors(path) if above in mapping))


def parent_rule(texts: Sequence[str], mapping: Mapping[str, str]) -> list[list[str]]:
    """Copy the mapping of the nearest ancestor that has one: a ranking for each path, empty where none has.

    mapping: what is known, that is, from training. Where a whole family is held out, its parent is known if the
    parent's own brothers are in training, else the rule has to climb.
    """
    return [mapped_ancestors(path, mapping) for path in texts]


def parents_mapping(texts: Sequence[str], mapping: Mapping[str, str]) -> list[list[str]]:
    """Where each path's own parent is mapped; empty where that is not known: the rule without climbing."""
    return [[mapping[above] for above in ancestors(path)[:1] if above in mapping] for path in texts]


def name_rule(texts: Sequence[str], paths: Sequence[str]) -> list[list[str]]:
    """The nearest ancestor that stands word for word among the candidate paths, then the ones above it."""
    there = {path: path for path in paths}
    return [mapped_ancestors(path, there) for path in texts]


def ancestors(path: str) -> list[str]:
    """ "A > B > C": ["A > B", "A"]."""
    parts = levels(path)
    return [SEPARATOR.join(parts[:depth]) for depth in range(len(parts) - 1, 0, -1)]
