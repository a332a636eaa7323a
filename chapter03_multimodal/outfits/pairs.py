"""Pairs of items that go together or do not: put in order, split without leaks, and given negatives.

Going together is symmetric: (a, b) and (b, a) are one pair. Three rules hold everywhere here. A pair that is labelled 0
anywhere is never a positive. A negative belongs to its own anchor: a partner that was judged not to go with it, or an
item that is not known to go with it. A pair belongs to a split only if both its items do.
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
from common.errors import CourseError

SEPARATOR = " > "
FRACTIONS = {"train": 0.6, "val": 0.15, "test": 0.25}
"""Of the items of a pairs file without splits. A pair survives if both items fall into one split: 0.45 of them do."""


@dataclass(frozen=True)
class ItemFacts:
    """What is known of items besides their pictures: category paths ("A > B > C") and groups (variants of one product
    share one), by item. Either may lack an item; whoever can predict a category may put it in."""

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
        """The item's group; an item without one is a group of its own."""
        return self.groups.get(item, item)

    @cached_property
    def _members(self) -> dict[str, list[str]]:
        members: dict[str, list[str]] = {}
        for item, group in self.groups.items():
            members.setdefault(group, []).append(item)
        return members

    def variants(self, *items: str) -> set[str]:
        """The items and all others of their groups."""
        return set(items).union(*(self._members.get(self.group(item), ()) for item in items))


@dataclass(frozen=True)
class PairTable:
    """pairs: `a_id, b_id, label, outfit_id, split`; label 1 goes together, 0 does not; split is missing where the items
    are in different ones. left_out: why pairs were left out, and how many."""

    pairs: pd.DataFrame
    left_out: dict[str, int]

    def of_split(self, split: str) -> pd.DataFrame:
        """The pairs with both items in a split."""
        return self.pairs[self.pairs["split"] == split].reset_index(drop=True)


def clean_pairs(pairs: pd.DataFrame, items: Collection[str], split_of: Mapping[str, str]) -> PairTable:
    """Put a table of pairs in order.

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
    refused = {*table["pair"][table["label"] == 0]}
    drop("labelled 1 and 0", (table["label"] == 1) & table["pair"].isin(refused))
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
    """A split for each item by hash of its group, for pairs that come without splits."""
    table = pd.DataFrame({"product_id": list(items), "group_id": [facts.group(item) for item in items]})
    return dict(zip(items, split_by_group(table, FRACTIONS, seed), strict=True))


def product_folds(items: Sequence[str], facts: ItemFacts, folds: int, seed: int = 0) -> dict[str, int]:
    """A fold, 0 to folds - 1, for each item: variants of one product share it, folds differ by one group at most."""
    groups = sorted({facts.group(item) for item in items})
    if not 2 <= folds <= len(groups):
        raise CourseError(f"folds={folds}: give at least 2, and no more than there are products ({len(groups):,})")
    order = np.random.default_rng(seed).permutation(len(groups))
    fold_of = {groups[at]: place % folds for place, at in enumerate(order)}
    return {item: fold_of[facts.group(item)] for item in items}


@dataclass(frozen=True)
class Partners:
    """Who is known to go with whom, and who was judged not to, in both directions."""

    fits: Mapping[str, frozenset[str]]
    clashes: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, pairs: pd.DataFrame) -> Partners:
        found: tuple[dict[str, set[str]], ...] = ({}, {})  # label 0, label 1
        for a, b, label in zip(pairs["a_id"], pairs["b_id"], pairs["label"], strict=True):
            found[label].setdefault(a, set()).add(b)
            found[label].setdefault(b, set()).add(a)
        clashes, fits = ({item: frozenset(others) for item, others in side.items()} for side in found)
        return cls(fits, clashes)


class StandIns:
    """Items that could stand in another one's place: those of its category."""

    def __init__(self, items: Sequence[str], categories: Mapping[str, str]) -> None:
        self.items, self._categories = list(items), categories
        self._below: dict[str, list[str]] = {}
        for item in self.items:
            for path in _ancestors(categories.get(item)):
                self._below.setdefault(path, []).append(item)

    def of(self, item: str, usable: Callable[[str], bool], *, least: int = 1, widen: bool = False) -> list[str]:
        """The usable items of the item's own category (or below it), in the order given; [] if there are fewer than
        `least`. widen: then look one level up, and so on, at last among all items. An item of unknown category has no
        category to look in."""
        pools = [self._below.get(path, []) for path in _ancestors(self._categories.get(item))]
        for pool in [*pools, self.items] if widen else pools[:1]:
            found = [other for other in pool if other != item and usable(other)]
            if len(found) >= least:
                return found
        return []


@dataclass(frozen=True)
class Triplets:
    """Row by row: an anchor, an item that goes with it, one that does not (or is not known to). judged: bool, whether
    the negative was judged. Object arrays [N] of ids."""

    anchors: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    judged: np.ndarray

    def __len__(self) -> int:
        return len(self.anchors)


class TripletMaker:
    """Draws the triplets of an epoch from the training pairs.

    Each positive pair gives two rows, with either item as anchor. With the chance `neg_pool_ratio` a row's negative
    comes from the pool of its own anchor's judged partners (label 0), else, and for an anchor without such a pool, it
    is random: an item of the positive's category, so that categories alone tell nothing (where that is unknown or has
    no other, any item), that is not known to go with the anchor, is no variant of what is, and none of the anchor.

    Random negatives are right only where few items go together: of a shop where a third of all do, a third of them is
    false. Hence a high ratio where judged pairs exist. pairs: of the training split alone.
    """

    def __init__(self, pairs: pd.DataFrame, facts: ItemFacts, *, neg_pool_ratio: float) -> None:
        if not 0 <= neg_pool_ratio <= 1:
            raise CourseError(f"neg_pool_ratio={neg_pool_ratio}: a share lies between 0 and 1")
        positives = pairs[pairs["label"] == 1]
        if positives.empty:
            raise CourseError("there is no training pair labelled 1; nothing says what goes together")
        self.partners, self.facts, self.neg_pool_ratio = Partners.of(pairs), facts, neg_pool_ratio
        a, b = (positives[name].to_numpy(dtype=object) for name in ("a_id", "b_id"))
        self._anchors, self._positives = np.concatenate([a, b]), np.concatenate([b, a])
        self._stand_ins = StandIns(sorted({*pairs["a_id"], *pairs["b_id"]}), facts.categories)
        self._pools = {item: sorted(others) for item, others in self.partners.clashes.items()}
        self._random: dict[tuple[str, str], list[str]] = {}

    def epoch(self, seed: int, epoch: int) -> Triplets:
        """The triplets of an epoch in random order; a row without any possible negative is left out."""
        rng = np.random.default_rng([seed, epoch])
        rows, negatives, judged = [], [], []
        for row in rng.permutation(len(self._anchors)):
            pool = self._pools.get(self._anchors[row], [])
            from_pool = bool(pool) and rng.random() < self.neg_pool_ratio
            candidates = pool if from_pool else self._unjudged(self._anchors[row], self._positives[row]) or pool
            if candidates:
                rows.append(row)
                negatives.append(candidates[rng.integers(len(candidates))])
                judged.append(candidates is pool)
        if not rows:
            raise CourseError("no anchor has a negative: every item goes with every other one; add pairs labelled 0")
        return Triplets(
            self._anchors[rows], self._positives[rows], np.array(negatives, dtype=object), np.array(judged, dtype=bool)
        )

    def _unjudged(self, anchor: str, positive: str) -> list[str]:
        if (anchor, positive) not in self._random:
            taboo = self.facts.variants(anchor, *self.partners.fits[anchor])
            alike = self._stand_ins.of(positive, lambda item: item not in taboo)
            self._random[anchor, positive] = alike or [item for item in self._stand_ins.items if item not in taboo]
        return self._random[anchor, positive]


def add_negatives(
    pairs: pd.DataFrame, partners: Partners, facts: ItemFacts, place: Mapping[str, object], *, seed: int = 0
) -> pd.DataFrame:
    """Give each positive pair (a, b) of a source without judged negatives one pair (a, c) labelled 0, to measure with.

    c is drawn from the category of b (widened until there is one) and from the same `place` as b (split, fold), stands
    in a pair itself, is not known to go with a, and is no variant of a or of what goes with it. It is a guess: some c
    would go with a, so that even a perfect scorer stays below 1, and figures compare only with those of the same
    source. partners: of all pairs.
    """
    rng = np.random.default_rng(seed)
    by_place: dict[object, list[str]] = {}
    for item in sorted(partners.fits):
        by_place.setdefault(place.get(item), []).append(item)
    stand_ins = {where: StandIns(items, facts.categories) for where, items in by_place.items()}
    positives = pairs[pairs["label"] == 1]
    rows = []
    for a, b, outfit, split in positives[["a_id", "b_id", "outfit_id", "split"]].itertuples(index=False, name=None):
        taboo = facts.variants(a, *partners.fits[a])
        found = stand_ins[place[b]].of(b, lambda item, taboo=taboo: item not in taboo, widen=True)
        if found:
            rows.append((a, found[rng.integers(len(found))], 0, outfit, split))
    return pd.concat([positives, pd.DataFrame(rows, columns=list(positives.columns[:5]))], ignore_index=True)


def _ancestors(path: str | None) -> list[str]:
    """ "A > B > C": the path, "A > B", "A"."""
    levels = path.split(SEPARATOR) if path else []
    return [SEPARATOR.join(levels[:depth]) for depth in range(len(levels), 0, -1)]
