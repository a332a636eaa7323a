"""Measure queries a second of our `evaluate` beside bare `ir_measures`, on the same hits and judgements in one run.

Ours breaks ties and checks its input; the peer is `ir_measures.calc` on dictionaries built in the plain way. Both
compute the same metrics in turn, so that other load on the machine affects both. Ours does more, and may take 1.3 times
as long: a ratio of 0.77. `METRICS` are measured with and without Judged@k: `evaluate` counts it by itself, because
`ir_measures` sorts every list again for it, and that saving must not hide the cost of the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from common.catalogue.contract import RELEVANT_GRADE
from common.errors import CourseError
from common.evaluation import METRICS, evaluate
from common.search import Hits

QUERIES, HITS, ROUNDS = 22_000, 100, 5
PRODUCTS = 100_000
JUDGED_AMONG_HITS, JUDGED_BESIDE = 5, 5
"""Every fifth hit is judged, and five products that were not found."""
STEP = 977
"""Difference of the numbers of two neighbouring hits: coprime to `PRODUCTS`, so that no product is found twice."""

Case = tuple[Hits, list[str], pd.DataFrame]
"""Hits, the ids of their queries, judgements."""


def main(queries: int = QUERIES, hits: int = HITS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measure on `queries` made-up queries with `hits` hits each, `rounds` times.

    Returns two rows, of `METRICS` and of those but Judged@k: name, ours, peer, unit, our_value and peer_value (queries
    a second, medians over the rounds), ratio (median of the rounds' ratios), difference (the largest between our mean
    of a metric and the peer's), note. Raises CourseError below one query, hit or round.
    """
    if min(queries, hits, rounds) < 1:
        raise CourseError("bench evaluation: give at least one query, one hit and one round.")
    case = made_up_case(queries, hits)
    name = f"evaluation, {queries:,} queries x {hits} hits"
    unjudged = tuple(metric for metric in METRICS if not metric.startswith("Judged"))
    return [_row(name, METRICS, case, rounds), _row(f"{name}, without Judged@k", unjudged, case, rounds)]


def _row(name: str, metrics: Sequence[str], case: Case, rounds: int) -> dict[str, Any]:
    def ours(*case: Any) -> np.ndarray:
        return evaluate(*case, metrics=metrics).mean().to_numpy()

    def peer(*case: Any) -> np.ndarray:
        return bare(*case, metrics)

    for warm_up in (ours, peer):  # otherwise the first would pay for the imports
        warm_up(*made_up_case(10, 10))
    rates, difference = [], 0.0
    for number in range(rounds):
        measured = {run: _timed(run, case) for run in ((ours, peer) if number % 2 == 0 else (peer, ours))}
        rates.append([len(case[1]) / measured[run][0] for run in (ours, peer)])
        difference = max(difference, float(np.abs(measured[ours][1] - measured[peer][1]).max()))
    our_rates, peer_rates = np.array(rates).T
    return {
        "name": name,
        "ours": "evaluate: ties broken, inputs checked",
        "peer": "ir_measures.calc, its dictionaries built in the plain way",
        "unit": "queries/s",
        "our_value": round(float(np.median(our_rates)), 1),
        "peer_value": round(float(np.median(peer_rates)), 1),
        "ratio": round(float(np.median(our_rates / peer_rates)), 2),
        "difference": difference,
        "note": f"{len(metrics)} metrics, {len(case[2]) / len(case[1]):.0f} judgements a query, {rounds} rounds",
    }


def bare(hits: Hits, names: list[str], judgements: pd.DataFrame, metrics: Sequence[str]) -> np.ndarray:
    """Return the means of `metrics` from ir_measures alone, with the searcher's scores, which must have no ties."""
    import ir_measures
    from ir_measures import AP, RR, Judged, P, R, nDCG

    named = {"nDCG": nDCG, "R": R(rel=RELEVANT_GRADE), "P": P(rel=RELEVANT_GRADE), "Judged": Judged}
    whole = {"MRR": RR(rel=RELEVANT_GRADE), "MAP": AP(rel=RELEVANT_GRADE)}
    cut = (metric.partition("@") for metric in metrics)
    measures = [whole[name] if name in whole else named[name] @ int(depth) for name, _, depth in cut]
    qrels: dict[str, dict[str, int]] = {}
    columns = (judgements[column].tolist() for column in ("query_id", "product_id", "grade"))
    for query, product, grade in zip(*columns, strict=True):
        qrels.setdefault(query, {})[product] = grade
    rows = zip(names, hits.ids.tolist(), hits.scores.tolist(), strict=True)
    run = {name: dict(zip(ids, scores, strict=True)) for name, ids, scores in rows}
    aggregated = ir_measures.calc(measures, qrels, run).aggregated
    return np.array([aggregated[measure] for measure in measures])


def made_up_case(queries: int, hits: int, seed: int = 0) -> Case:
    """Make rankings without ties, in which every fifth hit is judged, as are five products that were not found."""
    rng = np.random.default_rng(seed)
    products = np.array([f"P{number:06d}" for number in range(PRODUCTS)], dtype=object)
    places = (rng.integers(0, PRODUCTS, (queries, 1)) + np.arange(hits) * STEP) % PRODUCTS
    scores = rng.random((queries, 1), dtype=np.float32) + np.arange(hits, 0, -1, dtype=np.float32)
    beside = (places[:, :JUDGED_BESIDE] + 1) % PRODUCTS
    judged = np.concatenate([places[:, ::JUDGED_AMONG_HITS], beside], axis=1)
    names = [f"q{number}" for number in range(queries)]
    judgements = pd.DataFrame(
        {
            "query_id": np.repeat(names, judged.shape[1]),
            "product_id": products[judged.ravel()],
            "grade": rng.integers(0, 4, judged.size),
        }
    )
    return Hits(products[places], scores), names, judgements


def _timed(run: Callable[..., np.ndarray], case: Case) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    figures = run(*case)
    return time.perf_counter() - started, figures
