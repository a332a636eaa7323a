"""Clean pairs of items that go together or do not, split them without leaks, and find items of the same category.

Going together is symmetric: (a, b) and (b, a) are one pair. Two rules hold everywhere. A pair that is labelled 0
anywhere is never a positive. A pair belongs to a split only if both its items do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common.catalogue.columns import require_columns
from common.catalogue.readers import read_table
from common.catalogue.splits import split_by_group
from common.category_path import prefixes_of
from common.errors import CourseError

FRACTIONS = {"train": 0.6, "val": 0.15, "test": 0.25}
"""Of the items of a pairs file without splits. A pair survives if both items fall into one split: 0.45 of them do."""


@dataclass(frozen=True)
class ItemFacts:
    """What is known of items besides their pictures: category paths ("A > B > C") and groups (variants of one product
    share one), by item. Either may lack an item; predicted categories may be added."""

    categories: Mapping[str, str]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, products: pd.DataFrame) -> ItemFacts:
        """Take them from a catalogue's products."""
        known = [
            dict(products[["product_id", name]].dropna().itertuples(index=False, name=None))
            for name in ("category_path", "group_id")
        ]
        return cls(*known)

    def group(self, item: str) -> str:
        """Return the item's group; an item without one is a group of its own."""
        return self.groups.get(item, item)

    @cached_property
    def _members(self) -> dict[str, list[str]]:
        members: dict[str, list[str]] = {}
        for item, group in self.groups.items():
            members.setdefault(group, []).append(item)
        return members

    def variants(self, *items: str) -> set[str]:
        """Return the items and all others of their groups."""
        return set(items).union(*(self._members.get(self.group(item), ()) for item in items))


@dataclass(frozen=True)
class PairTable:
    """pairs: `a_id, b_id, label, outfit_id, split`; label 1 goes together, 0 does not; split is missing where the items
    are in different ones. left_out: why pairs were left out, and how many."""

    pairs: pd.DataFrame
    left_out: dict[str, int]

    def of_split(self, split: str) -> pd.DataFrame:
        """Return the pairs with both items in a split."""
        return self.pairs[self.pairs["split"] == split].reset_index(drop=True)


def clean_pairs(pairs: pd.DataFrame, items: Collection[str], split_of: Mapping[str, str]) -> PairTable:
    """Bring a table of pairs into order.

    pairs: `a_id, b_id`, and if known `label` (all 1 without it) and `outfit_id`. items: those with an embedding.
    split_of: the split of each item. Left out, with a count: pairs of an item with itself or with an item without
    embedding, repetitions within an outfit in either order, and positives that another row labels 0.
    """
    table = pd.DataFrame({name: pairs[name].astype("str") for name in ("a_id", "b_id")})
    table["label"] = pairs["label"].to_numpy() if "label" in pairs.columns else 1
    table["outfit_id"] = pairs["outfit_id"].to_numpy(dtype=object) if "outfit_id" in pairs.columns else None
    table["label"] = table["label"].astype("int64")
    left_out: dict[str, int] = {}

    def drop(reason: str, bad: pd.Series) -> None:
        nonlocal table
        if bad.any():
            left_out[reason] = int(bad.sum())
            table = table[~bad]

    drop("an item with itself", table["a_id"] == table["b_id"])
    known = {*items}
    drop("an item without embedding", ~(table["a_id"].isin(known) & table["b_id"].isin(known)))
    table = table.assign(pair=[tuple(sorted(pair)) for pair in zip(table["a_id"], table["b_id"], strict=True)])
    negatives = {*table["pair"][table["label"] == 0]}
    drop("labelled 1 and 0", (table["label"] == 1) & table["pair"].isin(negatives))
    drop("repeated", table.duplicated(["pair", "outfit_id"]))
    of_a, of_b = table["a_id"].map(split_of), table["b_id"].map(split_of)
    table["split"] = of_a.where(of_a == of_b).astype(object)
    return PairTable(table.drop(columns="pair").reset_index(drop=True), left_out)


def read_pairs(file: str | Path) -> pd.DataFrame:
    """Read a file with the columns `a_id, b_id`, and if it has them `label` (1 or 0, else all 1) and `outfit_id`.

    Raises `CourseError` naming the file and the column that is missing, empty or holds another label.
    """
    frame = read_table(file, "pairs").frame
    require_columns(frame.columns, ["a_id", "b_id"], file)
    wanted = ["a_id", "b_id", "label"] if "label" in frame.columns else ["a_id", "b_id"]
    for name in wanted:
        if frame[name].isna().any():
            raise CourseError(f"{file}: row {frame.index[frame[name].isna()][0]} has no {name}; fill it or remove it")
    if "label" in wanted:
        labels = pd.to_numeric(frame["label"], errors="coerce")
        wrong = ~labels.isin([0, 1])
        if wrong.any():
            raise CourseError(
                f"{file}: label {frame['label'][wrong].iloc[0]!r} in row {frame.index[wrong][0]}; a label is 1 (goes "
                "together) or 0 (does not)"
            )
        frame = frame.assign(label=labels.astype("int64"))
    return frame[[name for name in (*wanted, "outfit_id") if name in frame.columns]]


def hashed_splits(items: Sequence[str], facts: ItemFacts, seed: int = 0) -> dict[str, str]:
    """Draw a split for each item by a hash of its group, for pairs that come without splits."""
    table = pd.DataFrame({"product_id": list(items), "group_id": [facts.group(item) for item in items]})
    return dict(zip(items, split_by_group(table, FRACTIONS, seed), strict=True))


def product_folds(items: Sequence[str], facts: ItemFacts, folds: int, seed: int = 0) -> dict[str, int]:
    """Deal items into folds 0 to folds - 1: variants of one product share a fold, sizes differ by one group at most."""
    groups = sorted({facts.group(item) for item in items})
    if not 2 <= folds <= len(groups):
        raise CourseError(f"folds={folds}: give at least 2, and no more than there are products ({len(groups):,})")
    order = np.random.default_rng(seed).permutation(len(groups))
    fold_of = {groups[at]: place % folds for place, at in enumerate(order)}
    return {item: fold_of[facts.group(item)] for item in items}


@dataclass(frozen=True)
class Partners:
    """By item, its partners labelled 1 (`compatible`) and those labelled 0 (`incompatible`), in both directions."""

    compatible: Mapping[str, frozenset[str]]
    incompatible: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, pairs: pd.DataFrame) -> Partners:
        found: tuple[dict[str, set[str]], ...] = ({}, {})  # label 0, label 1
        for a, b, label in zip(pairs["a_id"], pairs["b_id"], pairs["label"], strict=True):
            found[label].setdefault(a, set()).add(b)
            found[label].setdefault(b, set()).add(a)
        incompatible, compatible = ({item: frozenset(others) for item, others in side.items()} for side in found)
        return cls(compatible, incompatible)


class Substitutes:
    """Find items that could take another one's place: those of its category."""

    def __init__(self, items: Sequence[str], categories: Mapping[str, str]) -> None:
        self.items, self._categories = list(items), categories
        self._below: dict[str, list[str]] = {}
        for item in self.items:
            for path in self._paths(item):
                self._below.setdefault(path, []).append(item)

    def of(self, item: str, usable: Callable[[str], bool], *, least: int = 1, widen: bool = False) -> list[str]:
        """Return the usable items of the item's own category (or below it), in the order given.

        Returns [] if there are fewer than `least`. widen: then look one level up, and so on, at last among all items.
        An item of unknown category has no category to look in.
        """
        pools = [self._below.get(path, []) for path in self._paths(item)]
        for pool in [*pools, self.items] if widen else pools[:1]:
            found = [other for other in pool if other != item and usable(other)]
            if len(found) >= least:
                return found
        return []

    def _paths(self, item: str) -> list[str]:
        """Return the item's category path and those above it, the narrowest first."""
        path = self._categories.get(item)
        return prefixes_of(path)[::-1] if path else []
