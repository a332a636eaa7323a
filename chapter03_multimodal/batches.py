"""Which pictures stand together in a batch, and which of several texts each of them shows.

Every picture comes once an epoch. A share of a batch are visual neighbours of others in it (`mine_hard_negatives`), so
that there is something hard to tell apart; and now and then a text is cut short, so that the model does not come to
need the brand to know a chair. What a text may be right for is marked, to be masked: pictures of the same group, copies
of one file, and products of which the text, cut short as it is, might have been said as well.
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
"""The ways to cut a text short: which columns of a product are left out. None leaves out the title."""


@dataclass(frozen=True)
class Batch:
    """B pictures with a text each, and E further texts that belong to no picture of the batch.

    rows: int64 [B], of the training pairs. texts: [B + E], the pictures' own first. known: bool [B + E, B], texts that
    are known to be right for a picture. seed: of the windows that the pictures are seen through.
    """

    rows: np.ndarray
    texts: list[str]
    known: torch.Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, usable: np.ndarray) -> Batch:
        """The batch without the pictures that are not `usable` (bool [B]), nor their texts."""
        kept = np.flatnonzero(usable)
        texts = np.concatenate([kept, np.arange(len(self), len(self.texts))])
        known = self.known[torch.from_numpy(texts)][:, torch.from_numpy(kept)]
        return Batch(self.rows[kept], [self.texts[at] for at in texts], known, self.seed)


@dataclass(frozen=True)
class BatchMaker:
    """Makes the batches of an epoch; the same arguments and epoch give the same batches.

    pairs: M rows with `group_id` and `content` (equal for copies of one file). texts: [M, V], the texts that may be
    said of each picture, the full one first. neighbours: int64 [M, K], rows of visual neighbours, -1 for none.
    batch_size: pictures a batch at most. hard_share: of a batch, that are neighbours of others in it, as long as
    neighbours are left. more_texts: further texts a batch, those of neighbours that are not in it. shorten: share of
    the texts that are cut short.
    """

    pairs: pd.DataFrame
    texts: np.ndarray
    neighbours: np.ndarray
    batch_size: int
    hard_share: float = 0.0
    more_texts: int = 0
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
        """Batches an epoch, of nearly the same size."""
        return -(-len(self.pairs) // self.batch_size)

    def epoch(self, number: int) -> list[Batch]:
        """Return the batches of epoch `number`, counted from 0."""
        rng = np.random.default_rng([self.seed, number])
        parts = self._parts(rng)
        # The neighbours run out towards the end, and what is hard should not come early alone.
        return [self._batch(parts[at], rng) for at in rng.permutation(len(parts))]

    def _parts(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Share the rows among the batches: some in a random order, then neighbours of theirs that are still free."""
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
        """Up to `wanted` free neighbours: of every row one, then again, of those found too, while there are any."""
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
        more = self._more(rows, rng)
        said = np.concatenate([rows, more])
        ways = np.concatenate([ways, np.zeros(len(more), dtype=np.int64)])
        return Batch(
            rows=rows,
            texts=self.texts[said, ways].tolist(),
            known=torch.from_numpy(self.known(said, ways, rows)),
            seed=int(rng.integers(2**31)),
        )

    def _more(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pool = np.setdiff1d(self.neighbours[rows], np.append(rows, -1))
        return rng.choice(pool, min(self.more_texts, len(pool)), replace=False) if len(pool) else pool

    def known(self, said: np.ndarray, ways: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Which texts are right for which pictures, bool [T, B]: text `ways[t]` of row `said[t]` for picture `rows[b]`.

        Those of the same group, of the same file, and those of which the text could be said: it is the full text of
        that picture, or what is left of that when cut short in one of the ways.
        """
        groups, contents, texts = self._codes
        same = (groups[said, None] == groups[rows]) | (contents[said, None] == contents[rows])
        return same | (texts[said, ways][:, None, None] == texts[rows]).any(axis=2)

    @cached_property
    def _codes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups [M], contents [M] and texts [M, V] as numbers, equal where they are equal."""
        texts = pd.factorize(self.texts.ravel())[0].reshape(self.texts.shape)
        return pd.factorize(self.pairs["group_id"])[0], pd.factorize(self.pairs["content"])[0], texts


def text_variants(pairs: pd.DataFrame, products: pd.DataFrame) -> np.ndarray:
    """The texts that may be said of each of M pictures, object [M, V]: the full one, then those of `SHORTER`.

    Where nothing would be left (a product without a title), the full one stands again.
    """
    known = products.set_index("product_id", drop=False).loc[pairs["product_id"]]
    full = pairs["text"].to_numpy(dtype=object)
    shorter = [
        np.array(multimodal_text(known.assign(**dict.fromkeys(columns, pd.NA))), dtype=object)
        for columns in SHORTER.values()
    ]
    return np.stack([full, *(np.where(texts == "", full, texts) for texts in shorter)], axis=1)


def _take(queue: Iterator[int], count: int, free: np.ndarray) -> list[int]:
    """The next rows of the queue that are free, which then are so no more."""
    taken: list[int] = []
    while len(taken) < count:
        taken.append(int(next(queue)))
        free[taken[-1]] = False
    return taken
