"""Draw negatives: triplets to train with, and negative pairs to measure with where a source labels none.

A negative belongs to its own anchor: a partner that was judged not to go with it, or an item that is not known to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chapter03_multimodal.outfits.pairs import ItemFacts, Partners, Substitutes
from common.errors import CourseError


@dataclass(frozen=True)
class Triplets:
    """Row by row: an anchor, a positive that goes with it, a negative that does not (or is not known to).

    judged: bool, whether the negative is labelled 0. The others are object arrays [N] of ids.
    """

    anchors: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    judged: np.ndarray

    def __len__(self) -> int:
        return len(self.anchors)

    def __getitem__(self, rows: slice) -> Triplets:
        return Triplets(self.anchors[rows], self.positives[rows], self.negatives[rows], self.judged[rows])


class TripletSampler:
    """Draw the triplets of an epoch from the training pairs.

    Each positive pair gives two rows, with either item as anchor. With probability `neg_pool_ratio` a row's negative is
    a hard one: a partner of the anchor that is labelled 0. Otherwise, and for an anchor without such partners, it is
    random: an item of the positive's category, so that categories alone tell nothing (any item, where that is unknown
    or has no other). A random negative is not known to go with the anchor, is no variant of what is, nor of the anchor.

    Random negatives are right only where few items go together: if a third of all pairs do, a third of them are false
    negatives. Hence a high ratio where labelled pairs exist. pairs: of the training split alone.
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
        self._substitutes = Substitutes(sorted({*pairs["a_id"], *pairs["b_id"]}), facts.categories)
        self._pools = {item: sorted(others) for item, others in self.partners.incompatible.items()}
        self._random: dict[tuple[str, str], list[str]] = {}

    def epoch(self, seed: int, epoch: int) -> Triplets:
        """Draw the triplets of an epoch in random order; a row without any possible negative is left out."""
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
            excluded = self.facts.variants(anchor, *self.partners.compatible[anchor])
            alike = self._substitutes.of(positive, lambda item: item not in excluded)
            self._random[anchor, positive] = alike or [i for i in self._substitutes.items if i not in excluded]
        return self._random[anchor, positive]


def add_negatives(
    pairs: pd.DataFrame, partners: Partners, facts: ItemFacts, place: Mapping[str, object], *, seed: int = 0
) -> pd.DataFrame:
    """Give each positive pair (a, b) of a source without labelled negatives a pair (a, c) labelled 0, to measure with.

    c is drawn from the category of b (widened until there is one) and from the same `place` as b (split, fold). It
    stands in a pair itself, is not known to go with a, and is no variant of a or of what goes with it. c is a guess:
    some would go with a, so that even a perfect scorer stays below 1, and figures compare only with those of the same
    source. partners: of all pairs.
    """
    rng = np.random.default_rng(seed)
    by_place: dict[object, list[str]] = {}
    for item in sorted(partners.compatible):
        by_place.setdefault(place.get(item), []).append(item)
    substitutes = {where: Substitutes(items, facts.categories) for where, items in by_place.items()}
    positives = pairs[pairs["label"] == 1]
    rows = []
    for a, b, outfit, split in positives[["a_id", "b_id", "outfit_id", "split"]].itertuples(index=False, name=None):
        excluded = facts.variants(a, *partners.compatible[a])
        found = substitutes[place[b]].of(b, lambda item, excluded=excluded: item not in excluded, widen=True)
        if found:
            rows.append((a, found[rng.integers(len(found))], 0, outfit, split))
    return pd.concat([positives, pd.DataFrame(rows, columns=list(positives.columns[:5]))], ignore_index=True)
