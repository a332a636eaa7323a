"""Reliability, temperature and coverage against loops, against scores of known calibration, and at their limits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter04_catalogue_reranker.calibration import (
    TEMPERATURES,
    abstain_threshold,
    coverage_curve,
    draw_coverage,
    draw_reliability,
    expected_calibration_error,
    fit_temperature,
    reliability,
    top_confidence,
)
from common.errors import CourseError

seeds = st.integers(0, 1000)
answers = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.integers(0, 10).map(lambda tenths: tenths / 10)), st.booleans()),
    min_size=1,
    max_size=30,
).map(lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True)))


def calibrated(rows, columns=6, seed=0):
    """Lists whose true candidate is drawn from the softmax of their scores: nobody could know better how sure to be."""
    rng = np.random.default_rng(seed)
    scores, listed = 2 * rng.normal(size=(rows, columns)), rng.random((rows, columns)) < 0.7
    listed[:, 0] = True
    shares = np.where(listed, np.exp(scores), 0)
    shares /= shares.sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(columns, p=share) for share in shares])
    return scores, listed, truth


def right_of(scores, listed, truth):
    return np.where(listed, scores, -np.inf).argmax(axis=1) == truth


# confidence


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.05, 50))
def test_confidence_is_the_largest_share(seed, temperature):
    scores, listed, _ = calibrated(4, seed=seed)
    for padding in (-1e9, 1e9, np.nan):
        found = top_confidence(np.where(listed, scores, padding), listed, temperature)
        for row in range(4):
            shares = np.exp(scores[row, listed[row]] / temperature)
            assert found[row] == pytest.approx(shares.max() / shares.sum())
            assert found[row] <= 1


def test_one_candidate_is_sure_and_equal_ones_share():
    scores, listed = np.array([[3.0, 9.0], [5.0, 5.0], [1e5, 0.0]]), np.array([[True, False], [True, True], [True] * 2])
    assert top_confidence(scores, listed).tolist() == [1, 0.5, 1]
    with pytest.raises(CourseError, match="no candidate"):
        top_confidence(scores, np.array([[True, True], [False, False], [True, True]]))


# temperature


def cost(scores, listed, truth, temperature):
    total = []
    for row, true in enumerate(truth):
        if true >= 0:
            logits = scores[row, listed[row]] / temperature
            total.append(np.log(np.exp(logits - scores[row, true] / temperature).sum()))
    return np.mean(total)


@pytest.mark.parametrize("scaling", [0.05, 1.0, 20.0])
def test_the_temperature_undoes_a_scaling(scaling):
    scores, listed, truth = calibrated(4_000)
    assert fit_temperature(scores * scaling, listed, truth) == pytest.approx(scaling, rel=0.05)


def test_the_temperature_is_where_the_cost_is_least():
    scores, listed, truth = calibrated(60, seed=3)
    truth[::7] = -1
    found = fit_temperature(scores, listed, truth)
    least = cost(scores, listed, truth, found)
    grid = [cost(scores, listed, truth, temperature) for temperature in np.geomspace(0.2, 20, 200)]
    assert least <= min(grid) and least == pytest.approx(min(grid), abs=1e-3)
    assert fit_temperature(scores * 7, listed, truth) == pytest.approx(7 * found, rel=1e-4)
    known = truth >= 0
    assert fit_temperature(scores[known], listed[known], truth[known]) == found


def test_the_temperature_calibrates_and_leaves_the_answers_alone():
    scores, listed, truth = calibrated(4_000)
    too_sure, right = scores * 5, right_of(scores, listed, truth)
    before = expected_calibration_error(top_confidence(too_sure, listed), right)
    fitted = fit_temperature(too_sure[:2_000], listed[:2_000], truth[:2_000])
    after = expected_calibration_error(top_confidence(too_sure[2_000:], listed[2_000:], fitted), right[2_000:])
    assert before > 0.2 and after < 0.05


def test_where_there_is_nothing_to_weigh_the_temperature_is_at_its_end():
    scores, listed = np.array([[1.0, 0.0], [2.0, 0.0]]), np.ones((2, 2), bool)
    assert fit_temperature(scores, listed, np.array([0, 0])) < 0.05, "flat there: any low temperature costs nothing"
    assert fit_temperature(scores, listed, np.array([1, 1])) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    with pytest.raises(CourseError, match="no product has a true candidate"):
        fit_temperature(scores, listed, np.array([-1, -1]))


# reliability


@settings(max_examples=50, deadline=None)
@given(answers, st.integers(1, 12))
def test_reliability_and_its_error_are_those_of_counting(pairs, bins):
    confidence, right = pairs
    table, error = reliability(confidence, right, bins), 0.0
    assert len(table) == bins and table["n"].sum() == len(right)
    edges = np.linspace(0, 1, bins + 1)
    for row, (low, high) in zip(table.itertuples(), pairwise(edges), strict=True):
        inside = (confidence > low) & (confidence <= high) | ((low == 0) & (confidence == 0))
        assert (row.above, row.up_to, row.n) == (low, high, inside.sum())
        if inside.any():
            assert (row.confidence, row.accuracy) == pytest.approx((confidence[inside].mean(), right[inside].mean()))
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
        else:
            assert np.isnan(row.confidence) and np.isnan(row.accuracy)
    assert expected_calibration_error(confidence, right, bins) == pytest.approx(error)


def test_the_upper_end_of_a_bin_belongs_to_it():
    assert reliability(np.array([0, 0.25, 0.5, 0.75, 1]), np.ones(5), 4)["n"].tolist() == [2, 1, 1, 1]


def test_a_calibrated_model_has_no_error_and_a_sure_fool_all_of_it():
    scores, listed, truth = calibrated(6_000)
    assert expected_calibration_error(top_confidence(scores, listed), right_of(scores, listed, truth)) < 0.025
    assert expected_calibration_error(np.ones(9), np.ones(9)) == 0
    assert expected_calibration_error(np.ones(9), np.zeros(9)) == 1
    assert expected_calibration_error(np.full(8, 0.25), np.array([1, 0, 0, 0] * 2)) == 0


# coverage


@settings(max_examples=50, deadline=None)
@given(answers)
def test_the_coverage_curve_is_that_of_answering_from_each_confidence_on(pairs):
    confidence, right = pairs
    curve = coverage_curve(confidence, right)
    assert curve["threshold"].tolist() == sorted(set(confidence.tolist()))
    assert curve["coverage"].iloc[0] == 1 and curve["accuracy"].iloc[0] == pytest.approx(right.mean())
    assert (np.diff(curve["coverage"]) < 0).all()
    for row in curve.itertuples():
        answered = confidence >= row.threshold
        assert (row.coverage, row.accuracy) == pytest.approx((answered.mean(), right[answered].mean()))


@settings(max_examples=50, deadline=None)
@given(answers, st.floats(0, 1))
def test_the_threshold_is_the_lowest_that_keeps_the_promise(pairs, accuracy):
    confidence, right = pairs
    keeps = [at for at in sorted(set(confidence)) if right[confidence >= at].mean() >= accuracy]
    assert abstain_threshold(confidence, right, accuracy) == (keeps[0] if keeps else np.inf)


def test_thresholds_by_hand():
    confidence, right = np.array([0.9, 0.8, 0.8, 0.6, 0.2]), np.array([True, True, False, True, False])
    assert abstain_threshold(confidence, right, 0.75) == 0.6
    assert abstain_threshold(confidence, right, 0.6) == 0.2
    assert abstain_threshold(confidence, right) == 0.9
    assert abstain_threshold(confidence, ~right) == np.inf, "nothing may be answered"
    assert abstain_threshold(np.full(20, 0.5), np.arange(20) > 0) == 0.5, "19 of 20 are 95%"


@pytest.mark.parametrize(
    ("confidence", "right", "message"),
    [
        ([], [], "give \\[N\\] of both"),
        ([0.5, 0.5], [True], "give \\[N\\] of both"),
        ([1.5], [True], "not a share"),
        ([np.nan], [True], "not a share"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, right, message):
    for figure in (reliability, expected_calibration_error, coverage_curve, abstain_threshold):
        with pytest.raises(CourseError, match=message):
            figure(np.array(confidence, dtype=float), np.array(right, dtype=bool))
    with pytest.raises(CourseError, match="0 bins"):
        reliability(np.ones(1), np.ones(1), 0)


# pictures


@pytest.fixture
def axes():
    from matplotlib.figure import Figure

    return Figure().subplots()


def test_reliability_is_drawn_with_a_point_a_bin_that_holds_answers(axes):
    confidence, right = np.array([0.05, 0.95, 0.95, 0.95]), np.array([False, True, True, False])
    draw_reliability(axes, reliability(confidence, right), label="before")
    (points,) = axes.collections
    np.testing.assert_allclose(points.get_offsets(), [[0.05, 0], [0.95, 2 / 3]])
    assert points.get_sizes()[1] > points.get_sizes()[0] and axes.get_xlabel() == "confidence"
    draw_reliability(axes, reliability(right * 1.0, right), label="after")
    assert axes.get_legend_handles_labels()[1] == ["before", "after"]


def test_the_threshold_is_marked_on_the_coverage_curve(axes):
    confidence, right = np.array([0.9, 0.8, 0.8, 0.6, 0.2]), np.array([True, True, False, True, False])
    curve = coverage_curve(confidence, right)
    draw_coverage(axes, curve)
    draw_coverage(axes, curve, threshold=np.inf)
    assert not axes.collections and not axes.texts
    draw_coverage(axes, curve, threshold=abstain_threshold(confidence, right, 0.75))
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.8, 0.75]])
    assert axes.texts[0].get_text() == "from 0.60 on: 75.0% of 80%"
