"""Measure how certain a figure is, by bootstrap intervals over queries and paired tests between two systems.

The queries are a sample of what shoppers ask; another sample would have given another mean. The functions here say by
how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import CourseError

LEVEL = 0.95  # of all intervals
CHUNK_CELLS = 4_000_000
"""Random draws in memory at once; no result's distribution depends on it."""


@dataclass(frozen=True)
class Comparison:
    """Compare system a with system b on the same queries."""

    metric: str
    difference: float
    """Mean of a minus mean of b: above 0, a is better."""
    ci_low: float
    """95% bootstrap interval of the difference."""
    ci_high: float
    p: float
    """Two-sided p-value of the paired randomisation test."""
    n_queries: int


def summarise(per_query: pd.DataFrame, *, seed: int = 0, rounds: int = 2_000) -> pd.DataFrame:
    """Return one row per metric: `metric`, `value` (mean over queries), `ci_low`, `ci_high` (bootstrap), `n_queries`.

    per_query: one row per query, one column per metric, as `common.evaluation.evaluate` returns it.
    """
    if not len(per_query):
        raise CourseError("summarise: there is no query in the table.")
    values = per_query.to_numpy(dtype=np.float64)
    low, high = bootstrap_interval(values, seed=seed, rounds=rounds)
    return pd.DataFrame(
        {
            "metric": list(per_query.columns),
            "value": values.mean(axis=0),
            "ci_low": low,
            "ci_high": high,
            "n_queries": len(values),
        }
    )


def bootstrap_interval(values: np.ndarray, *, seed: int = 0, rounds: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95% percentile bootstrap interval (low, high) of the mean over queries, each of shape [] or [M].

    Draw as many queries as there are, with replacement, take the mean, repeat; the interval holds the middle 95% of
    those means (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13). Queries are drawn as whole rows,
    so the columns of one table are resampled together.

    values: [Q] or [Q, M]. With fewer than about 20 queries the interval is too narrow.
    """
    values = _checked(values, "bootstrap_interval")
    if rounds < 1:
        raise CourseError(f"bootstrap_interval: rounds {rounds} must be at least 1.")
    n = len(values)
    rng = np.random.default_rng(seed)
    means = []
    for size in _chunks(rounds, n):
        # A mean only needs how often each query was drawn: [size, Q] counts times [Q, M] values.
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(counts @ values / n)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def paired_randomisation_test(a: np.ndarray, b: np.ndarray, *, seed: int = 0, rounds: int = 10_000) -> float:
    """Return the two-sided p-value of the difference between two systems' means over the same queries.

    If the systems were equally good, chance would decide for each query which of them got which of the two values: flip
    the sign of each difference with probability one half, and count how often the mean is at least as far from 0 as the
    one observed. No normality is assumed (Smucker, Allan & Carterette 2007, "A comparison of statistical significance
    tests for information retrieval evaluation").

    a, b: [Q] values of the same queries in the same order. The p-value is (1 + count) / (1 + rounds), never 0: the
    observed arrangement is one of those possible (Phipson & Smyth 2010).
    """
    a, b = _checked(a, "paired_randomisation_test"), _checked(b, "paired_randomisation_test")
    if a.ndim != 1 or a.shape != b.shape:
        raise CourseError(
            f"paired_randomisation_test: a {a.shape} and b {b.shape} must be values of the same queries, [Q] each."
        )
    if rounds < 1:
        raise CourseError(f"paired_randomisation_test: rounds {rounds} must be at least 1.")
    differences = (a - b)[a != b]
    if not len(differences):
        return 1.0
    observed = abs(differences.sum())
    # Sums of the same numbers in another order differ in their last digits, but must count as equal.
    reach = observed - 1e-12 * np.abs(differences).sum()
    rng = np.random.default_rng(seed)
    count = 0
    for size in _chunks(rounds, len(differences)):
        count += int((np.abs(_random_signs(rng, size, len(differences)) @ differences) >= reach).sum())
    return (1 + count) / (1 + rounds)


def compare(
    per_query_a: pd.DataFrame, per_query_b: pd.DataFrame, metric: str, *, seed: int = 0, rounds: int = 10_000
) -> Comparison:
    """Compare system a with b in one metric: difference of means (a minus b), its bootstrap interval, the paired test's
    p. Both tables are results of `evaluate` on the same queries, in any order. For several comparisons see `holm`."""
    for name, table in (("a", per_query_a), ("b", per_query_b)):
        if metric not in table.columns:
            raise CourseError(
                f"compare: table {name} has no column {metric!r}; there are {', '.join(map(str, table.columns))}."
            )
        if not table.index.is_unique:
            raise CourseError(f"compare: table {name} has a query more than once.")
    if len(per_query_a) != len(per_query_b) or not per_query_a.index.isin(per_query_b.index).all():
        raise CourseError(
            f"compare: the systems were not evaluated on the same queries ({len(per_query_a)} and {len(per_query_b)}); "
            "evaluate both on one list of query ids."
        )
    a = per_query_a[metric].to_numpy(dtype=np.float64)
    b = per_query_b[metric].reindex(per_query_a.index).to_numpy(dtype=np.float64)
    low, high = bootstrap_interval(a - b, seed=seed)
    return Comparison(
        metric=metric,
        difference=float((a - b).mean()),
        ci_low=float(low),
        ci_high=float(high),
        p=paired_randomisation_test(a, b, seed=seed, rounds=rounds),
        n_queries=len(a),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct the p-values of a family of comparisons, so that even one false alarm is unlikely (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none may fall below the one before it, nor
    exceed 1. Same keys and order.
    """
    if any(not 0 <= p <= 1 for p in p_values.values()):
        raise CourseError("holm: a p-value lies between 0 and 1.")
    corrected, floor = {}, 0.0
    for step, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        floor = max(floor, min(1.0, p_values[name] * (len(p_values) - step)))
        corrected[name] = floor
    return {name: corrected[name] for name in p_values}


def _random_signs(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return [rows, columns] float32 of -1 and 1 with equal probability, from one random bit each, which is fast."""
    octets = rng.integers(0, 256, size=(rows, (columns + 7) // 8), dtype=np.uint8)
    return np.unpackbits(octets, axis=1, count=columns).astype(np.float32) * 2 - 1


def _chunks(rounds: int, columns: int) -> Iterator[int]:
    """Yield sizes that add up to `rounds`, each small enough that size * columns draws fit into memory."""
    size = max(1, CHUNK_CELLS // columns)
    while rounds > 0:
        yield min(size, rounds)
        rounds -= size


def _checked(values: np.ndarray, where: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim not in (1, 2) or not len(values):
        raise CourseError(f"{where}: needs the values of at least one query, got an array of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise CourseError(
            f"{where}: a value is not a finite number; every query needs a value (0 where nothing was found)."
        )
    return values
