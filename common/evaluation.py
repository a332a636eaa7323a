"""Evaluate rankings: metrics of each query, computed by `ir_measures` (trec_eval inside), after ties are broken.

The conventions are the same in every chapter:

- *Relevant* means grade 2 or 3 for R@k, P@k, MRR and MAP; nDCG uses every grade, through named gains (`GAINS`).
- Ties are broken before anything is scored, score descending then product id ascending, so that the order in which a
  searcher happened to return its hits never decides a figure. A product that is returned twice counts once, at its
  better rank.
- The ideal DCG is built from all judged products of the query and MAP divides by all its relevant products, retrieved
  or not.
- A query without a hit scores 0 and is counted. A query without any relevant product scores 0 in R@k, P@k, MRR and MAP,
  as in trec_eval: it lowers all systems alike.
- A query without a single judgement is an error: nothing is known about it, and 0 would be made up.

`common.statistics` has intervals and tests of these figures; its functions can be imported from here too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from common.catalogue.contract import RELEVANT_GRADE
from common.errors import CourseError
from common.statistics import Comparison, compare, holm, paired_randomisation_test, summarise

if TYPE_CHECKING:
    from common.search import Hits

__all__ = [
    "GAINS",
    "METRICS",
    "RELEVANT_GRADE",
    "Comparison",
    "check_one_split",
    "compare",
    "evaluate",
    "holm",
    "paired_randomisation_test",
    "query_id_list",
    "rankings",
    "summarise",
]

GAINS = {"linear": {3: 3, 2: 2, 1: 1, 0: 0}, "esci": {3: 100, 2: 10, 1: 1, 0: 0}}
"""What nDCG adds for each grade. `esci` is the 1 / 0.1 / 0.01 / 0 of Exact, Substitute, Complement, Irrelevant (Reddy
et al. 2022, "Shopping Queries Dataset") in whole numbers: nDCG is a quotient, so a common factor cancels."""

METRICS = ("nDCG@10", *(f"R@{k}" for k in (1, 5, 10, 20, 50, 100, 200)), "P@10", "MRR", "MAP", "Judged@10")
"""The metrics of `evaluate` by default. MRR and MAP are over the whole ranking."""


def evaluate(
    hits: Hits,
    query_ids: Sequence[str] | pd.DataFrame,
    judgements: pd.DataFrame,
    *,
    metrics: Sequence[str] = METRICS,
    gains: str = "linear",
    judged_only: bool = False,
) -> pd.DataFrame:
    """Return the metrics of each query: one row per query (index `query_id`, in order), one column per metric.

    hits: row i holds the hits of query i; a row of nothing but padding is a query without a hit, which scores 0.
    query_ids: the ids of the queries searched, all different; or their table (`query_id`, `split`), which must then
        be of one split (see `check_one_split`). Prefer the table: it cannot mix validation and test by accident.
    judgements: `query_id`, `product_id`, `grade` (0 to 3), at least one row for each query. Other queries' rows are
        ignored. A product without a row counts as not relevant. That is right where the judgements are complete;
        elsewhere it is an assumption, and Judged@k says how often it was made.
    metrics: of nDCG@k, R@k, P@k, Judged@k, MRR, MAP, all in [0, 1]. nDCG discounts by log2(rank + 1) (Järvelin &
        Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", TOIS 20(4), in the form of trec_eval).
        Judged@k is the judged share of the first k hits (of all hits, where there are fewer), 0 without a hit.
    gains: a name in `GAINS`.
    judged_only: take products without a judgement out of the ranking before it is scored (Sakai 2007, "Alternatives
        to Bpref": the condensed list; the problem: Buckley & Voorhees 2004, "Retrieval evaluation with incomplete
        information"). It favours systems that return much that nobody judged; show it beside the plain figure, never
        alone. Judged@k still describes the full ranking.

    Raises CourseError for ids that are not unique or not texts, rows that do not fit them, NaN scores, judgements with
    a missing column, a grade outside 0 to 3 or a pair judged twice, queries without a judgement or of several splits,
    and unknown metrics or gains.
    """
    names = query_id_list(query_ids)
    _check_query_ids(names, len(hits.ids))
    if gains not in GAINS:
        raise CourseError(f"gains: {gains!r} is unknown; choose one of {', '.join(GAINS)}.")
    grade_gains = GAINS[gains]
    measures = {metric: _measure(metric, grade_gains[RELEVANT_GRADE], judged_only) for metric in dict.fromkeys(metrics)}
    judged = _judged_gains(names, judgements, grade_gains)
    # Below the largest cutoff nothing counts, unless a metric has no cutoff or hits are removed.
    needs_all = judged_only or not measures or any("@" not in metric for metric in measures)
    ranked = rankings(hits, None if needs_all else max(map(_cutoff, measures)))
    computed = _trec_columns([m for m in measures.values() if m is not None], names, judged, ranked)
    columns = {
        metric: _judged_share(judged, ranked, _cutoff(metric)) if measure is None else computed[measure]
        for metric, measure in measures.items()
    }
    return pd.DataFrame(columns, index=pd.Index(names, name="query_id"))


def rankings(hits: Hits, depth: int | None = None) -> list[list[str]]:
    """Return for each query its product ids, best first: score descending, then id ascending, each once, no padding.

    depth: the maximum number of them; None for all. Raises CourseError for NaN scores and for product ids that are not
    texts.
    """
    ids = np.asarray(hits.ids, dtype=object)
    if np.isnan(hits.scores).any():
        row = int(np.isnan(hits.scores).any(axis=1).argmax())
        raise CourseError(
            f"hits: row {row} has a score that is not a number (NaN); give padding the id None and the score -inf."
        )
    _check_texts(ids.ravel(), "hits: product ids")
    filled = np.not_equal(ids, None).astype(bool) & (hits.scores > -np.inf)
    scores = np.where(filled, hits.scores, -np.inf)
    # Most searchers return rows in order and without ties; only other rows are sorted.
    doubtful = np.flatnonzero(((scores[:, :-1] <= scores[:, 1:]) & filled[:, 1:]).any(axis=1))
    if len(doubtful):
        codes, _ = pd.factorize(ids[doubtful].ravel(), sort=True)
        order = np.lexsort((codes.reshape(len(doubtful), -1), ~filled[doubtful], -scores[doubtful]), axis=-1)
        ids = ids.copy()
        ids[doubtful] = np.take_along_axis(ids[doubtful], order, axis=1)
    return [_distinct(row[:n], depth) for row, n in zip(ids.tolist(), filled.sum(axis=1).tolist(), strict=True)]


def check_one_split(queries: pd.DataFrame) -> str:
    """Return the split of these queries. Raises CourseError if they are of several splits, or of an unknown one. A
    figure over several splits mixes queries that a system was tuned on with others."""
    missing = {"query_id", "split"} - set(queries.columns)
    if missing:
        raise CourseError(
            f"queries: column {', '.join(sorted(missing))} is missing; evaluate queries of one named split."
        )
    found = queries["split"].value_counts(dropna=False)
    if len(found) != 1 or pd.isna(found.index[0]):
        counted = ", ".join(f"{split}: {n}" for split, n in found.items()) or "none"
        raise CourseError(
            f"queries: evaluation needs queries of exactly one split, column split has {counted}; use split_queries."
        )
    return str(found.index[0])


def query_id_list(query_ids: Sequence[str] | pd.DataFrame) -> list[str]:
    """Return the ids of queries given as ids, or as their table, which must be of one split (see `check_one_split`)."""
    if isinstance(query_ids, pd.DataFrame):
        check_one_split(query_ids)
        query_ids = query_ids["query_id"]
    return list(query_ids)


def _distinct(row: list[str], depth: int | None) -> list[str]:
    """Return the first `depth` different ids. A dict keeps the first of equal keys, which is the better rank."""
    top = list(dict.fromkeys(row[:depth]))
    # Only a repeated id makes it necessary to look further.
    return top if len(top) == len(row[:depth]) else list(dict.fromkeys(row))[:depth]


def _cutoff(metric: str) -> int:
    return int(metric.partition("@")[2])


def _measure(metric: str, relevant: int, judged_only: bool):
    """Return the metric as an ir_measures object; None for Judged@k, which is computed here. relevant: the lowest gain
    that is relevant."""
    import ir_measures

    match = re.fullmatch(r"(?:(nDCG|R|P|Judged)@([1-9]\d*)|MRR|MAP)", metric)
    if match is None:
        raise CourseError(
            f"metrics: {metric!r} is unknown; there are nDCG@k, R@k, P@k, Judged@k (k from 1), MRR and MAP."
        )
    if match[1] == "Judged":
        # ir_measures divides by zero for a query without a hit, and sorts every list in Python once more.
        return None
    if match[1] == "nDCG":
        return ir_measures.nDCG(judged_only=judged_only) @ int(match[2])
    base = {"R": ir_measures.R, "P": ir_measures.P, "MRR": ir_measures.RR, "MAP": ir_measures.AP}[match[1] or metric]
    measure = base(rel=relevant, judged_only=judged_only)
    return measure @ int(match[2]) if match[2] else measure


def _trec_columns(
    measures: list, names: list[str], judged: list[dict[str, int]], ranked: list[list[str]]
) -> dict[object, np.ndarray]:
    """Return for each measure its value for each query, [Q] float64. The judgements carry gains instead of grades, and
    "relevant" is the gain of grade 2, so that one pass of trec_eval computes all measures."""
    if not measures:
        return {}
    import ir_measures

    # Strictly falling scores replace the system's own: trec_eval would break ties by descending id.
    falling = [float(score) for score in range(max(map(len, ranked)), 0, -1)]
    qrels = dict(zip(names, judged, strict=True))
    run = {name: dict(zip(row, falling, strict=False)) for name, row in zip(names, ranked, strict=True)}
    values: dict[int, dict[str, float]] = {id(measure): {} for measure in measures}
    # nDCG has no lowest relevant grade: last, it joins the pass of the measure before it, else it needs its own pass.
    ordered = sorted(measures, key=lambda measure: measure.NAME == "nDCG")
    for query_id, measure, value in ir_measures.pytrec_eval.iter_calc(ordered, qrels, run):
        values[id(measure)][query_id] = value
    return {measure: np.array([values[id(measure)][name] for name in names]) for measure in measures}


def _judged_share(judged: list[dict[str, int]], ranked: list[list[str]], k: int) -> np.ndarray:
    """Return Judged@k of each query, [Q] float64."""
    return np.array(
        [
            sum(product in known for product in row[:k]) / min(k, len(row)) if row else 0.0
            for known, row in zip(judged, ranked, strict=True)
        ]
    )


def _judged_gains(names: list[str], judgements: pd.DataFrame, gains: dict[int, int]) -> list[dict[str, int]]:
    """Check the judgements and return for each query the gain of each judged product."""
    _check_columns(judgements)
    grades = judgements["grade"].to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isin(grades, list(gains)).all():
        wrong = judgements["grade"][~np.isin(grades, list(gains))].iloc[0]
        raise CourseError(f"judgements: column grade has {wrong!r}; a grade is 0, 1, 2 or 3.")
    place = pd.Index(names).get_indexer(pd.Index(judgements["query_id"]))
    kept = np.flatnonzero(place >= 0)
    kept = kept[np.argsort(place[kept], kind="stable")]
    products = judgements["product_id"].to_numpy(dtype=object)[kept]
    _check_texts(products, "judgements: column product_id", missing_allowed=False)
    products = products.tolist()
    lookup = np.array([gains[grade] for grade in range(len(gains))])
    gained = lookup[grades[kept].astype(np.int64)].tolist()
    ends = np.cumsum(np.bincount(place[kept], minlength=len(names))).tolist()
    starts = [0, *ends[:-1]]
    judged = [dict(zip(products[a:b], gained[a:b], strict=True)) for a, b in zip(starts, ends, strict=True)]
    bare = [name for name, known in zip(names, judged, strict=True) if not known]
    if bare:
        raise CourseError(
            f"judgements: {len(bare)} of {len(names)} queries have no row (the first is {bare[0]!r}); "
            "evaluate only judged queries."
        )
    if sum(map(len, judged)) != len(products):
        twice = judgements.iloc[kept]
        twice = twice[twice.duplicated(["query_id", "product_id"])].iloc[0]
        raise CourseError(
            f"judgements: query {twice['query_id']!r} and product {twice['product_id']!r} are judged more than once; "
            "keep one row per pair."
        )
    return judged


def _check_columns(judgements: pd.DataFrame) -> None:
    missing = [column for column in ("query_id", "product_id", "grade") if column not in judgements.columns]
    if missing:
        raise CourseError(
            f"judgements: column {', '.join(missing)} is missing; there are {', '.join(map(str, judgements.columns))}."
        )
    if not pd.api.types.is_numeric_dtype(judgements["grade"]):
        raise CourseError("judgements: column grade is not numeric; a grade is 0, 1, 2 or 3.")


def _check_query_ids(names: list, rows: int) -> None:
    _check_texts(np.array(names, dtype=object), "query_ids", missing_allowed=False)
    if not names:
        raise CourseError("query_ids: there is no query to evaluate.")
    if len(names) != rows:
        raise CourseError(
            f"hits: {rows} rows for {len(names)} query ids; there must be one row for each query, in the same order."
        )
    if len(set(names)) != len(names):
        twice = pd.Series(names)[pd.Series(names).duplicated()].iloc[0]
        raise CourseError(f"query_ids: {twice!r} occurs more than once; each query is evaluated once.")


def _check_texts(values: np.ndarray, what: str, *, missing_allowed: bool = True) -> None:
    # An id read as a number never equals the text "17": every figure would silently be 0.
    kind = pd.api.types.infer_dtype(values, skipna=missing_allowed)
    if kind not in ("string", "empty"):
        raise CourseError(f"{what}: ids must be texts, but they are {kind}; read the column with dtype str.")
