"""The nearest products of many queries at once, exactly, and in half precision as far as that is safe.

A CPU that computes in bfloat16 natively multiplies matrices four to five times as fast in it, but a bfloat16 score has
three digits. So it only draws up a shortlist; the shortlist is scored in float32, and a bound on the rounding proves
for each query that nothing off the list can belong to the result. Queries for which it does not are searched again in
float32. What comes out is what float32 alone finds.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from common.devices import native_bfloat16

SCORES_AT_ONCE = 1 << 24  # of a block of queries against all products: 64 MB, however large the catalogue is
SHORTLIST = 2  # times the products wanted: longer is slower to score, shorter often proves nothing
HALF_STEP = 2.0**-8  # the largest relative error of rounding to bfloat16


def nearest(queries: np.ndarray, products: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [Q, top] of the products with the best inner products, and these scores [Q, top], best first.

    queries: float32 [Q, D]. products: float32 [P, D]. top: at most P. Equal scores are ordered by row.
    """
    short = native_bfloat16() is not None and len(products) >= 4 * SHORTLIST * top
    search = _Shortlist(products, SHORTLIST * top) if short else None
    found = np.empty((len(queries), top), dtype=np.int64)
    scores = np.empty((len(queries), top), dtype=np.float32)
    size = max(1, SCORES_AT_ONCE // len(products))
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        if search is None:
            found[block], scores[block] = in_float32(queries[block], products, top)
        else:
            found[block], scores[block] = search.nearest(queries[block], top)
    return found, scores


def in_float32(queries: np.ndarray, products: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """What `nearest` returns, from all scores in float32 at once."""
    return _best(torch.from_numpy(queries) @ torch.from_numpy(products).T, top)


class _Shortlist:
    """The products rounded to bfloat16, and what is lost by that."""

    def __init__(self, products: np.ndarray, length: int) -> None:
        self.products, self.length = products, length
        self.exact = torch.from_numpy(products)
        self.rounded = self.exact.bfloat16()
        self.longest = self.exact.norm(dim=1).max()
        self.lost = (self.exact - self.rounded).norm(dim=1).max()

    def nearest(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        exact = torch.from_numpy(queries)
        rounded = exact.bfloat16()
        rough, columns = (rounded @ self.rounded.T).topk(self.length, dim=1)
        columns = columns.sort(dim=1).values  # by row: so ties among their places are ties by row
        places, scores = _best(_scores_at(exact, self.exact, columns), top)
        found = np.take_along_axis(columns.numpy(), places, axis=1)
        unproved = scores[:, -1] <= self._ceiling(exact, rounded, rough[:, -1].float()).numpy()
        if unproved.any():
            found[unproved], scores[unproved] = in_float32(queries[unproved], self.products, top)
        return found, scores

    def _ceiling(self, exact: torch.Tensor, rounded: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """What a product off the list can score at most [Q]; `last` [Q] are the rough scores that end the lists.

        With q = q' + e and p = p' + f, rounded parts and what rounding lost: |q.p - q'.p'| = |e.p + q'.f|, which is at
        most |e||p| + |q'||f|. The rough score itself was rounded once more, and D terms were summed in float32, twice.
        """
        lost = (exact - rounded).norm(dim=1) * self.longest + rounded.float().norm(dim=1) * self.lost
        summing = exact.shape[1] * 2.0**-22 * exact.norm(dim=1) * self.longest
        return last + last.abs() * HALF_STEP + lost + summing


def _scores_at(queries: torch.Tensor, products: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Inner products [Q, C] of each query with the products of its row of `columns` [Q, C], ascending.

    As a product of matrices of which only some places are wanted: the rows of products need not be gathered, which
    would take eight times as long.
    """
    n_queries, length = columns.shape
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support", category=UserWarning)
        wanted = torch.sparse_csr_tensor(
            torch.arange(0, n_queries * length + 1, length),
            columns.flatten(),
            torch.zeros(n_queries * length),
            (n_queries, len(products)),
            check_invariants=False,
        )
        return torch.sparse.sampled_addmm(wanted, queries, products.T, beta=0.0).values().view(n_queries, length)


def _best(scores: torch.Tensor, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns [Q, top] of the best of `scores` [Q, C] and their scores, best first, ties by column."""
    best, at = (part.numpy() for part in scores.topk(top, dim=1))
    order = np.lexsort((at, -best), axis=1)
    best, at = np.take_along_axis(best, order, 1), np.take_along_axis(at, order, 1)
    scores = scores.numpy()
    # Where more products than fit share the last score, topk takes any of them: take the first ones.
    for row in np.flatnonzero(np.count_nonzero(scores >= best[:, -1:], axis=1) > top):
        at[row] = np.lexsort((np.arange(scores.shape[1]), -scores[row]))[:top]
    return at, best
