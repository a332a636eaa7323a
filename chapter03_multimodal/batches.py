"""Batches of the fine-tuning: which pictures stand together, and which text each of them gets.

Every picture comes once an epoch. A share of a batch are visual neighbours of others in it (`mine_hard_negatives`), so
that there is something hard to tell apart. Some texts are shortened at random, so that the model does not come to need
the brand to recognise a chair. A text can be right for several pictures of a batch: pictures of the same group, copies
of one file, and products whose own text, shortened, would read the same. Such pairs are marked, to be masked in the
loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from chapter03_multimodal.prepare_data import multimodal_text
from common.errors import CourseError

SHORTER = {
    "title": ("brand", "attributes", "category_path", "colour", "material"),
    "no_brand": ("brand",),
    "no_category": ("category_path",),
}
"""Ways to shorten a text, by the columns of a product that are left out. The title always stays."""


@dataclass(frozen=True)
class Batch:
    """B pictures with a text each.

    rows: int64 [B], of the training pairs. texts: [B], of the pictures. known: bool [B, B], True where a text (row) is
    known to be right for a picture (column). seed: of the random windows of the pictures.
    """

    rows: np.ndarray
    texts: list[str]
    known: torch.Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, usable: np.ndarray) -> Batch:
        """Return the batch without the pictures that are not `usable` (bool [B]) and without their texts."""
        kept = np.flatnonzero(usable)
        known = self.known[torch.from_numpy(kept)][:, torch.from_numpy(kept)]
        return Batch(self.rows[kept], [self.texts[at] for at in kept], known, self.seed)


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batches of an epoch; the same arguments and epoch give the same batches.

    pairs: M rows with `group_id` and `content` (equal for copies of one file). texts: [M, V], the variants of each
    picture's text, the full one first. neighbours: int64 [M, K], rows of visual neighbours, -1 for none. batch_size:
    pictures a batch at most. hard_share: share of a batch that are neighbours of others in it, as long as neighbours
    are left. shorten: share of the texts that are shortened.
    """

    pairs: pd.DataFrame
    texts: np.ndarray
    neighbours: np.ndarray
    batch_size: int
    hard_share: float = 0.0
    shorten: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.pairs) < 2 or self.batch_size < 2:
            raise CourseError(
                f"a batch needs two pictures or more, not {self.batch_size}, and there are {len(self.pairs)} to train "
                "on; prepare_data prints what a catalogue has."
            )

    @property
    def steps(self) -> int:
        """Number of batches an epoch; they have nearly the same size."""
        return -(-len(self.pairs) // self.batch_size)

    def epoch(self, number: int) -> list[Batch]:
        """Return the batches of epoch `number`, counted from 0."""
        rng = np.random.default_rng([self.seed, number])
        parts = self._parts(rng)
        # Neighbours run out towards the end of the list. Shuffled, hard batches come at any time of the epoch.
        return [self._batch(parts[at], rng) for at in rng.permutation(len(parts))]

    def _parts(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Share the rows among the batches: rows in a random order, then neighbours of them that are still free."""
        order = rng.permutation(len(self.pairs))
        free = np.ones(len(order), dtype=bool)
        queue = (row for row in order if free[row])
        parts = []
        for part in np.array_split(order, self.steps):
            hard = int(self.hard_share * len(part))
            rows = _take(queue, len(part) - hard, free)
            rows += self._followers(rows, hard, free, rng)
            parts.append(np.array(rows + _take(queue, len(part) - len(rows), free)))
        return parts

    def _followers(self, rows: list[int], wanted: int, free: np.ndarray, rng: np.random.Generator) -> list[int]:
        """Draw up to `wanted` free neighbours: one of every row, then again, those found included, until enough."""
        found: list[int] = []
        asked = rows
        while asked and len(found) < wanted:
            again = []
            for row in asked:
                pool = self.neighbours[row]
                pool = pool[(pool >= 0) & free[pool]]
                if len(pool) and len(found) < wanted:
                    found.append(int(rng.choice(pool)))
                    free[found[-1]] = False
                    again += [row, found[-1]]
            asked = again
        return found

    def _batch(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        ways = rng.integers(1, max(2, self.texts.shape[1]), len(rows)) * (rng.random(len(rows)) < self.shorten)
        known = torch.from_numpy(self.known(rows, ways, rows))
        return Batch(rows, self.texts[rows, ways].tolist(), known, seed=int(rng.integers(2**31)))

    def known(self, said: np.ndarray, ways: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Mark which texts are right for which pictures: bool [T, B], variant `ways[t]` of row `said[t]` for `rows[b]`.

        A text is right for the pictures of its group, for copies of its file, and for every picture of which it is one
        of the variants.
        """
        groups, contents, texts = self._codes
        same = (groups[said, None] == groups[rows]) | (contents[said, None] == contents[rows])
        return same | (texts[said, ways][:, None, None] == texts[rows]).any(axis=2)

    @cached_property
    def _codes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number the groups [M], contents [M] and texts [M, V]; equal ones have equal numbers."""
        texts = pd.factorize(self.texts.ravel())[0].reshape(self.texts.shape)
        return pd.factorize(self.pairs["group_id"])[0], pd.factorize(self.pairs["content"])[0], texts


def text_variants(pairs: pd.DataFrame, products: pd.DataFrame) -> np.ndarray:
    """Return the variants of the text of each of M pictures, object [M, V]: the full one, then those of `SHORTER`.

    A variant that would be empty (a product without a title) or longer (where the full text is the title alone) is the
    full text instead.
    """
    known = products.set_index("product_id", drop=False).loc[pairs["product_id"]]
    full = pairs["text"].to_numpy(dtype=object)
    variants = [full]
    for columns in SHORTER.values():
        texts = multimodal_text(known.assign(**dict.fromkeys(columns, pd.NA)))
        kept = [text if 0 < len(text) < len(whole) else whole for text, whole in zip(texts, full, strict=True)]
        variants.append(np.array(kept, dtype=object))
    return np.stack(variants, axis=1)


def _take(queue: Iterator[int], count: int, free: np.ndarray) -> list[int]:
    """Take the next `count` rows of the queue, and mark them as no longer free."""
    taken: list[int] = []
    while len(taken) < count:
        taken.append(int(next(queue)))
        free[taken[-1]] = False
    return taken
