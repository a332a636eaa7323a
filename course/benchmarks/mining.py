"""Measure mining of hard negatives: ours beside `sentence_transformers.util.mine_hard_negatives`.

Both get the same embeddings and filters and find the same negatives. The peer's model is replaced by one that returns
ready vectors, so neither embeds anything. The fastest of the peer's output formats counts, even if it leaves out
queries with fewer negatives (n-tuple).
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any

import numpy as np
import pandas as pd

from chapter02_two_tower.mining import mine
from common.errors import CourseError
from common.progress import tell

SIZES = ((672, 4_500), (5_000, 19_406))
"""Queries and products: the pocket shop's training queries, and a real catalogue's products."""
ROUNDS = 5
DIMENSION = 384
TOP, KEEP, MARGIN = 100, 15, 0.05
FORMATS = ("labeled-pair", "labeled-list", "n-tuple", "triplet")
NEAR_TIES = 1e-4  # share of negatives that may differ, where two scores differ in the last digit only


def main(sizes: Sequence[tuple[int, int]] = SIZES, *, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measure on made-up vectors of each size; about half a minute on two cores.

    Returns a row a size: name, ours, peer, unit, our_value and peer_value (queries a second, medians over the rounds),
    ratio (median of the rounds' ratios), negatives (how many were found), differing (how many only one of both found:
    near-ties that rounding decides), note. Raises CourseError if more than 1 in 10,000 differ.
    """
    return [_row(MadeUp(n_queries, n_products), rounds) for n_queries, n_products in sizes]


class MadeUp:
    """Make unit vectors in clusters, as products have them, and queries near the mean of one to three positives."""

    def __init__(self, n_queries: int, n_products: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((max(4, n_products // 100), DIMENSION))
        self.products = _unit(centres[rng.integers(0, len(centres), n_products)] + _noise(rng, n_products))
        chosen = [rng.choice(n_products, rng.integers(1, 4), replace=False) for _ in range(n_queries)]
        means = np.stack([self.products[own].mean(axis=0) for own in chosen])
        self.queries = _unit(means + 0.5 / np.sqrt(DIMENSION) * _noise(rng, n_queries))
        self.product_ids = [f"p{at}" for at in range(n_products)]
        self.positives = {f"q{row}": [f"p{at}" for at in own] for row, own in enumerate(chosen)}
        self.query_ids = list(self.positives)

    def ours(self) -> pd.DataFrame:
        """Mine with our function: `query_id, product_id` and more."""
        vectors = (self.queries, self.products, self.product_ids, self.query_ids)
        rules = {"relative_margin": MARGIN, "margin_from": "lowest"}  # the peer's
        return mine(*vectors, {}, self.positives, top=TOP, keep=KEEP, **rules).negatives

    def peer(self, output_format: str) -> Callable[[], Any]:
        """Return a function that mines with the public one and returns its data set."""
        from datasets import Dataset
        from sentence_transformers import util

        pairs = [(query, product) for query, own in self.positives.items() for product in own]
        dataset = Dataset.from_dict({"query": [query for query, _ in pairs], "product": [own for _, own in pairs]})
        model = ReadyVectors(self.queries, self.products)

        def run() -> Any:
            with redirect_stderr(io.StringIO()):  # its progress bars
                return util.mine_hard_negatives(
                    dataset,
                    model,
                    corpus=self.product_ids,
                    range_max=TOP - max(map(len, self.positives.values())),  # it looks further down by so many
                    num_negatives=KEEP,
                    relative_margin=MARGIN,
                    sampling_strategy="top",
                    output_format=output_format,
                    verbose=False,
                )

        return run


class ReadyVectors:
    """Stand in for the peer's model: return ready vectors, in the order of the request."""

    def __init__(self, queries: np.ndarray, products: np.ndarray) -> None:
        import torch
        from sentence_transformers import util

        self.queries, self.products = queries, products
        self.device = torch.device("cpu")
        self.similarity, self.similarity_pairwise = util.cos_sim, util.pairwise_cos_sim

    def encode_query(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        return self.queries

    def encode_document(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        return self.products


def _row(made_up: MadeUp, rounds: int) -> dict[str, Any]:
    peers = {name: made_up.peer(name) for name in FORMATS}
    differing, count = _compare(made_up.ours(), peers["labeled-pair"]())
    fastest = min(peers, key=lambda name: _timed(peers[name])[0])
    seconds = []
    for number in range(rounds):
        turn = [("ours", made_up.ours), ("peer", peers[fastest])]
        measured = {name: _timed(run)[0] for name, run in (turn if number % 2 == 0 else turn[::-1])}
        seconds.append([measured["ours"], measured["peer"]])
    ours, peer = np.array(seconds).T
    n_queries, n_products = len(made_up.query_ids), len(made_up.product_ids)
    tell(f"mining, {n_queries:,} x {n_products:,}: {np.median(ours):.3f} s and {np.median(peer):.3f} s")
    return {
        "name": f"mining, {n_queries:,} queries x {n_products:,} products",
        "ours": "mine",
        "peer": f"sentence_transformers.util.mine_hard_negatives, {fastest}",
        "unit": "queries/s",
        "our_value": round(n_queries / float(np.median(ours)), 1),
        "peer_value": round(n_queries / float(np.median(peer)), 1),
        "ratio": round(float(np.median(peer / ours)), 2),
        "negatives": count,
        "differing": differing,
        "note": f"{DIMENSION} dimensions, top {TOP}, keep {KEEP}, relative margin {MARGIN}; made-up vectors",
    }


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def _compare(ours: pd.DataFrame, peer: Any) -> tuple[int, int]:
    """Count the negatives that only one of both found, and ours; raise `CourseError` if too many differ."""
    theirs = {(row["query"], row["product"]) for row in peer if row["label"] == 0}
    found = set(zip(ours["query_id"], ours["product_id"], strict=True))
    differing = len(found ^ theirs)
    if not found or differing > len(found) * NEAR_TIES:
        raise CourseError(
            f"benchmark mining: of {len(found):,} and {len(theirs):,} negatives {differing:,} differ; the figures "
            "would not compare the same work. Run tests/chapter02_two_tower/test_mining.py."
        )
    return differing, len(found)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _noise(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.standard_normal((rows, DIMENSION))
