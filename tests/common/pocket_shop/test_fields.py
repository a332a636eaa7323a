"""Signed distance fields: each figure against what it is by definition."""

from __future__ import annotations

import numpy as np
import pytest

from common.pocket_shop import fields
from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, lathe, polygon, strand, union

LINE = np.linspace(-1.5, 1.5, 121, dtype=np.float32)
X, Y = np.meshgrid(LINE, -LINE)
FIGURES = {
    "box": box(-0.5, -0.3, 0.7, 0.9, 0.2),
    "circle": circle(0.1, 0.2, 0.6),
    "ellipse": ellipse(0.0, 0.1, 0.9, 0.4),
    "ball": ball(0, 0, 0.7, 0.5),
    "capsule": capsule(-0.6, -0.4, 0.5, 0.6, 0.2, 0.1),
    "strand": strand([(-0.8, 0), (0, 0.7), (0.8, -0.2)], 0.2),
    "polygon": polygon([(-0.8, -0.6), (0.9, -0.5), (0.2, 0.9)]),
    "blob": blob([(-0.8, -0.6), (0.9, -0.5), (0.2, 0.9), (-0.6, 0.5)]),
    "lathe": lathe([(-0.9, 0.3), (0.0, 0.7), (0.8, 0.2)]),
    "between": between([(-0.9, -0.5), (0.9, -0.2)], [(-0.9, 0.1), (0, 0.8), (0.9, 0.3)]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_lies_within_its_bounds_and_is_float32(name: str):
    figure = FIGURES[name]
    d = figure.distance(X, Y)
    assert d.dtype == np.float32
    x0, y0, x1, y1 = figure.bounds
    inside = d < 0
    assert inside.any()
    assert X[inside].min() >= x0 - 0.01
    assert X[inside].max() <= x1 + 0.01
    assert Y[inside].min() >= y0 - 0.01
    assert Y[inside].max() <= y1 + 0.01


@pytest.mark.parametrize("name", ["box", "circle", "capsule", "polygon", "strand", "blob"])
def test_the_distance_is_the_distance_to_the_nearest_point_inside(name: str):
    d = FIGURES[name].distance(X, Y)
    inside = np.stack([X[d <= 0], Y[d <= 0]], 1)
    for row, column in [(3, 5), (60, 2), (110, 115), (8, 90)]:
        if d[row, column] > 0.05:
            naive = np.hypot(*(inside - [X[row, column], Y[row, column]]).T).min()
            assert d[row, column] == pytest.approx(naive, abs=0.06)


def test_a_polygon_agrees_with_ray_casting_at_single_points():
    corners = [(-0.9, -0.7), (0.1, -0.2), (0.9, -0.8), (0.5, 0.9), (-0.4, 0.3)]
    d = polygon(corners).distance(X, Y)
    for x, y, distance in zip(X.ravel()[::97], Y.ravel()[::97], d.ravel()[::97], strict=True):
        crossings = sum(
            (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax
            for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True)
        )
        assert (distance < 0) == (crossings % 2 == 1) or abs(distance) < 1e-3


def test_sampling_every_second_pixel_stays_close_to_the_exact_distance(monkeypatch):
    points = [(-0.8, -0.6), (0.0, -0.9), (0.9, -0.5), (0.6, 0.4), (0.2, 0.9), (-0.6, 0.5)]
    for x, y in ((X, Y), (X[:-1, :-1], Y[:-1, :-1])):
        fast = blob(points).distance(x, y)
        with monkeypatch.context() as patch:
            patch.setattr(fields, "_coarsely", lambda distance, edges: distance)
            exact = blob(points).distance(x, y)
        assert fast.shape == exact.shape
        error = np.abs(fast - exact)  # a pixel is 0.025 units here
        assert 0 < error.max() < 0.025
        assert error[np.abs(exact) < 0.03].max() < 0.01


def test_repeat_is_the_union_of_moved_copies():
    one = box(-0.9, -0.8, -0.7, -0.5, 0.05)
    copies = union([one.at(0.4 * i, 0.5 * j) for i in range(4) for j in range(3)])
    tiled = one.repeat(4, 3, 0.4, 0.5)
    assert tiled.bounds == pytest.approx(copies.bounds)
    np.testing.assert_array_equal(tiled.distance(X, Y) < 0, copies.distance(X, Y) < 0)


@pytest.mark.parametrize("side", [-1, 1])
def test_mirror_shows_the_figure_on_both_sides(side: int):
    figure = circle(side * 0.6, 0.2, 0.3)
    both = figure | circle(-side * 0.6, 0.2, 0.3)
    np.testing.assert_allclose(figure.mirror().distance(X, Y), both.distance(X, Y), atol=1e-5)
    assert figure.mirror().bounds == pytest.approx((-0.9, -0.1, 0.9, 0.5))


def test_a_full_turn_changes_nothing_and_a_quarter_swaps_the_axes():
    figure = box(-0.8, -0.2, 0.8, 0.2)
    np.testing.assert_allclose(figure.turn(360).distance(X, Y), figure.distance(X, Y), atol=1e-5)
    np.testing.assert_allclose(figure.turn(90).distance(X, Y), box(-0.2, -0.8, 0.2, 0.8).distance(X, Y), atol=1e-5)


def test_cutting_and_sharing_are_what_sets_say():
    a, b = circle(-0.2, 0, 0.6), box(0, -0.4, 0.9, 0.4)
    in_a, in_b = a.distance(X, Y) < 0, b.distance(X, Y) < 0
    np.testing.assert_array_equal((a & b).distance(X, Y) < 0, in_a & in_b)
    np.testing.assert_array_equal((a | b).distance(X, Y) < 0, in_a | in_b)
    np.testing.assert_array_equal((a - b).distance(X, Y) < 0, in_a & (b.distance(X, Y) > 0))
    assert ((a.melt(b, 0.2).distance(X, Y) < 0) >= (in_a | in_b)).all()


def test_a_turned_body_is_highest_on_its_axis_and_flat_at_its_side():
    body = lathe([(-1, 0.5), (1, 0.5)], sag=0.0)
    height = body.height(X, Y)
    middle = np.abs(Y) < 0.9
    np.testing.assert_allclose(height[middle], np.sqrt(np.maximum(0.25 - X[middle] ** 2, 0)), atol=1e-3)
