"""Intervals and tests against exact twins (every resample, every sign flip) and against what they promise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from common import statistics
from common.errors import CourseError
from common.statistics import Comparison, bootstrap_interval, compare, holm, paired_randomisation_test, summarise


def exact_sign_flip_p(differences: np.ndarray) -> float:
    """The two-sided p-value over all 2^n sign patterns."""
    signs = np.array(list(product([-1.0, 1.0], repeat=len(differences))))
    return float(np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12))


def exact_bootstrap_interval(values: np.ndarray) -> np.ndarray:
    """The percentile interval over all n^n resamples."""
    means = [values[list(drawn)].mean() for drawn in product(range(len(values)), repeat=len(values))]
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("seed", range(4))
def test_randomisation_test_equals_the_full_enumeration(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(10), rng.random(10) - 0.2
    rounds = 40_000
    exact = exact_sign_flip_p(a - b)
    error = 4.5 * np.sqrt(exact * (1 - exact) / rounds) + 1 / rounds
    assert paired_randomisation_test(a, b, rounds=rounds) == pytest.approx(exact, abs=error)


def test_sums_that_tie_with_the_observed_one_count():
    """All differences alike: exactly two of the 2^n sign patterns reach the observed mean, however 0.1 is rounded."""
    a, b = np.full(6, 0.3), np.full(6, 0.2)
    assert paired_randomisation_test(a, b, rounds=40_000) == pytest.approx(2 / 2**6, abs=0.004)


def test_p_is_two_sided_never_zero_and_one_without_a_difference():
    a, b = np.linspace(0.5, 1, 200), np.linspace(0, 0.4, 200)
    assert paired_randomisation_test(a, b, rounds=500) == paired_randomisation_test(b, a, rounds=500) == 1 / 501
    assert paired_randomisation_test(a, a) == 1.0
    untouched = np.zeros(50)
    assert paired_randomisation_test(np.r_[a, untouched], np.r_[b, untouched], rounds=500) == 1 / 501


def test_p_is_uniform_when_the_systems_are_equally_good():
    rng = np.random.default_rng(7)
    p = np.sort([paired_randomisation_test(rng.random(40), rng.random(40), seed=i, rounds=400) for i in range(400)])
    # Kolmogorov-Smirnov distance to the uniform distribution; 0.097 is its 0.1% point at n = 400.
    assert np.abs(p - (np.arange(400) + 0.5) / 400).max() < 0.097


def test_a_real_difference_is_found():
    rng = np.random.default_rng(3)
    base = rng.random(300)
    assert paired_randomisation_test(base + 0.05 + 0.1 * rng.standard_normal(300), base) < 0.001


@pytest.mark.parametrize("values", [[0.0, 0.2, 0.9, 1.0, 0.4], [0.0, 0.0, 0.0, 1.0, 1.0]])
def test_interval_equals_the_full_enumeration(values):
    low, high = bootstrap_interval(np.array(values), rounds=60_000)
    want = exact_bootstrap_interval(np.array(values))
    assert [low, high] == pytest.approx(want, abs=0.021)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    inside = 0
    for i in range(300):
        low, high = bootstrap_interval(rng.beta(0.5, 0.8, size=60), seed=i, rounds=400)
        inside += low <= 0.5 / 1.3 <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_chunks_change_nothing_that_matters(monkeypatch):
    rng = np.random.default_rng(0)
    values, other = rng.random((50, 2)), rng.random(50)
    whole = bootstrap_interval(values, rounds=20_000), paired_randomisation_test(values[:, 0], other)
    monkeypatch.setattr(statistics, "CHUNK_CELLS", 999)
    chunked = bootstrap_interval(values, rounds=20_000), paired_randomisation_test(values[:, 0], other)
    assert np.array(chunked[0]) == pytest.approx(np.array(whole[0]), abs=0.004)
    assert chunked[1] == pytest.approx(whole[1], abs=0.03)


def test_summarise_has_one_row_a_metric_and_is_repeatable():
    table = pd.DataFrame({"nDCG@10": np.linspace(0, 1, 101), "MRR": np.ones(101)}, index=[f"q{i}" for i in range(101)])
    got = summarise(table, seed=1)
    assert list(got.columns) == ["metric", "value", "ci_low", "ci_high", "n_queries"]
    assert got["metric"].tolist() == ["nDCG@10", "MRR"] and got["n_queries"].tolist() == [101, 101]
    first, constant = got.iloc[0], got.iloc[1]
    # Normal theory for 101 values of variance 0.085: 0.5 +- 0.057.
    assert first["value"] == pytest.approx(0.5) and first["ci_low"] == pytest.approx(0.443, abs=0.012)
    assert first["ci_high"] == pytest.approx(0.557, abs=0.012)
    assert constant[["value", "ci_low", "ci_high"]].tolist() == [1.0, 1.0, 1.0]
    pd.testing.assert_frame_equal(got, summarise(table, seed=1))
    assert not got["ci_low"].equals(summarise(table, seed=2)["ci_low"])


def test_compare_pairs_by_query_not_by_position():
    rng = np.random.default_rng(0)
    a = pd.DataFrame({"MRR": rng.random(80)}, index=[f"q{i}" for i in range(80)])
    b = a - 0.02
    got = compare(a, b.sample(frac=1, random_state=0), "MRR")
    assert isinstance(got, Comparison) and got.metric == "MRR" and got.n_queries == 80
    assert [got.difference, got.ci_low, got.ci_high] == pytest.approx([0.02] * 3) and got.p < 0.001
    reverse = compare(b, a, "MRR")
    assert reverse.difference == pytest.approx(-0.02) and reverse.p == pytest.approx(got.p)


def test_holm_corrects_a_family():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {} and holm({"only": 0.2}) == {"only": 0.2}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: summarise(pd.DataFrame({"MRR": []})), "no query"),
        (lambda: summarise(pd.DataFrame({"MRR": [1.0, np.nan]})), "not a finite number"),
        (lambda: bootstrap_interval(np.ones(3), rounds=0), "rounds"),
        (lambda: paired_randomisation_test(np.ones(3), np.ones(4)), "same queries"),
        (lambda: paired_randomisation_test(np.ones(3), np.zeros(3), rounds=0), "rounds"),
        (lambda: holm({"a": 1.2}), "between 0 and 1"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(CourseError, match=words):
        call()


def test_compare_refuses_different_queries_and_unknown_metrics():
    a = pd.DataFrame({"MRR": [1.0, 0.0]}, index=["q", "r"])
    for other in (a[:1], a.rename(index={"r": "s"})):
        with pytest.raises(CourseError, match="same queries"):
            compare(a, other, "MRR")
    with pytest.raises(CourseError, match="no column 'MAP'"):
        compare(a, a, "MAP")
    with pytest.raises(CourseError, match="more than once"):
        compare(a.rename(index={"r": "q"}), a, "MRR")
