"""Collect candidate lists, and make batches whose candidates are columns of one matrix of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import CourseError


@dataclass(frozen=True)
class Candidates:
    """Hold the candidate lists of N products: paths [N, K], numbers of the catalogue's paths; listed, bool [N, K],
    False for padding, which repeats the first path; truth, int64 [N], the column of the true path, -1 if none is true.
    """

    paths: np.ndarray
    listed: np.ndarray
    truth: np.ndarray

    @classmethod
    def of(cls, candidates: pd.DataFrame, product_ids: Sequence[str], paths: Sequence[str]) -> Candidates:
        """Collect the lists of these products, in the order of `position`. candidates: as in `RerankerData`. Raises
        `CourseError` if a product has no candidate, or one that is not among `paths`."""
        number = {path: at for at, path in enumerate(paths)}
        lists = candidates.sort_values("position", kind="stable").groupby("product_id")
        found = {product_id: (part["category_path"].tolist(), part["is_true"].tolist()) for product_id, part in lists}
        missing = [product_id for product_id in product_ids if product_id not in found]
        if missing:
            raise CourseError(f"product {missing[0]!r} has no candidate path; prepare_data leaves such products out.")
        longest = max((len(found[product_id][0]) for product_id in product_ids), default=1)
        made = np.zeros((len(product_ids), longest), dtype=np.int64)
        listed, truth = np.zeros(made.shape, dtype=bool), np.full(len(product_ids), -1)
        for row, product_id in enumerate(product_ids):
            names, true = found[product_id]
            unknown = [name for name in names if name not in number]
            if unknown:
                raise CourseError(f"product {product_id!r}: the candidate {unknown[0]!r} is none of the known paths.")
            made[row] = number[names[0]]  # padding brings no further path into a batch
            made[row, : len(names)] = [number[name] for name in names]
            listed[row, : len(names)] = True
            if any(true):
                truth[row] = true.index(True)
        return cls(made, listed, truth)

    def labels(self) -> np.ndarray:
        """Return the number of each product's true path, int64 [N]; -1 if none is true."""
        own = np.take_along_axis(self.paths, np.maximum(self.truth, 0)[:, None], axis=1)[:, 0]
        return np.where(self.truth >= 0, own, -1)

    def scores(self, products: np.ndarray, paths: np.ndarray) -> np.ndarray:
        """Return cosines [N, K] of the products' vectors [N, D] and their candidates' of [C, D]; 0 for padding."""
        found = np.einsum("nd,nkd->nk", products, paths[self.paths])
        return np.where(self.listed, found, 0.0)


@dataclass(frozen=True)
class Batch:
    """Hold a batch of B products. rows: of the products. columns: the distinct paths among their candidates, as numbers
    of the catalogue's paths. candidates: [B, K], positions in `columns`. listed: bool [B, K]. truth: [B], the column of
    `candidates`. labels: [B], the number of the true path."""

    rows: np.ndarray
    columns: np.ndarray
    candidates: np.ndarray
    listed: np.ndarray
    truth: np.ndarray
    labels: np.ndarray


def epoch_batches(lists: Candidates, rows: np.ndarray, size: int, rng: np.random.Generator) -> list[Batch]:
    """Split all `rows`, in random order, into batches of `size`; a last batch of one product joins the one before."""
    order = rng.permutation(rows)
    parts = np.split(order, range(size, len(order) - 1, size)) if len(order) > size else [order]
    labels = lists.labels()
    return [_batch(lists, labels, part) for part in parts]


def _batch(lists: Candidates, labels: np.ndarray, rows: np.ndarray) -> Batch:
    listed = lists.listed[rows]
    longest = int(listed.sum(axis=1).max())
    listed, paths = listed[:, :longest], lists.paths[rows, :longest]
    columns, candidates = np.unique(paths, return_inverse=True)
    return Batch(rows, columns, candidates.reshape(paths.shape), listed, lists.truth[rows], labels[rows])
