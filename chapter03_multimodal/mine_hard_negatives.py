"""Mine visually similar hard negatives: for each training picture, similar pictures of other products.

In a random batch the model learns to tell lamps from carpets, which it can do already. To tell a lamp from the lamp
that looks most like it, it has to use what only its text says. Neighbours are looked up once, with the model that
training starts from, and put into batches together (`batches`). Pairs that may show the same thing are not negatives:
variants of one product, copies of one file, products with the same text.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from chapter02_two_tower.mine_hard_negatives import Mined, mine

SAME = ("group_id", "content", "text")
"""Two pairs that agree in one of these columns are not negatives of each other."""


def visual_neighbours(
    image_vectors: np.ndarray, pairs: pd.DataFrame, *, keep: int = 8, top: int = 64
) -> tuple[np.ndarray, Mined]:
    """Find up to `keep` neighbours of each of M pictures; return their rows, and how they were mined.

    image_vectors: float32 [M, D] of length 1. pairs: M rows with the columns of `SAME`, of the training split only, so
    that no held-out picture gets into a batch. top: how many neighbours are looked at before those that are the same
    are removed.

    The rows are int64 [M, keep], nearest first, -1 where there are fewer. `Mined.scores` has the cosines of what was
    kept ("kept") and of what was removed as the same ("relevant"). Raises `CourseError` as
    `chapter02_two_tower.mine_hard_negatives.mine` does.
    """
    names = [str(row) for row in range(len(pairs))]
    same = {name: [str(row) for row in rows] for name, rows in zip(names, _same_rows(pairs), strict=True)}
    nothing: Mapping[str, list[str]] = {}
    mined = mine(image_vectors, image_vectors, names, names, same, nothing, top=top, keep=keep, relative_margin=None)
    pools = np.full((len(pairs), keep), -1, dtype=np.int64)
    rows = mined.negatives["query_id"].astype(np.int64).to_numpy()
    turns = mined.negatives.groupby("query_id").cumcount().to_numpy()
    pools[rows, turns] = mined.negatives["product_id"].astype(np.int64)
    return pools, mined


def _same_rows(pairs: pd.DataFrame) -> list[set[int]]:
    """Return for each row the rows that agree with it in one of `SAME`, itself included."""
    found: list[set[int]] = [set() for _ in range(len(pairs))]
    for column in SAME:
        for rows in pairs.groupby(column, sort=False).indices.values():
            for row in rows:
                found[row].update(rows.tolist())
    return found
