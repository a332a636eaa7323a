"""Define plane figures as signed distance fields, the geometry of the product photos.

A field maps points (x to the right, y upwards, about -1..1) to their distance from the figure's outline, negative
inside. Outlines drawn from a distance are smooth at any size, and the depth inside gives the relief that the light
falls on. Formulas for the basic figures follow Inigo Quilez, "2D distance functions".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Plane = np.ndarray
Bounds = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True)
class Field:
    """A figure: its distance function, the box (x0, y0, x1, y1) it lies in and, for solids of revolution, a height.

    Where `height` is None the painter bulges the figure by its depth. `turned` bodies (about the middle of their
    bounds) have their pattern wrapped around them.
    """

    distance: Callable[[Plane, Plane], Plane]
    bounds: Bounds
    height: Callable[[Plane, Plane], Plane] | None = None
    turned: bool = False

    def __or__(self, other: Field) -> Field:
        """Return both figures together."""
        return Field(
            lambda x, y: np.minimum(self.distance(x, y), other.distance(x, y)), _hull(self.bounds, other.bounds)
        )

    def __and__(self, other: Field) -> Field:
        """Return what both figures share, with the height of the first."""
        return Field(
            lambda x, y: np.maximum(self.distance(x, y), other.distance(x, y)),
            _overlap(self.bounds, other.bounds),
            self.height,
        )

    def __sub__(self, other: Field) -> Field:
        """Return the first figure without the second, with the height of the first."""
        return Field(lambda x, y: np.maximum(self.distance(x, y), -other.distance(x, y)), self.bounds, self.height)

    def melt(self, other: Field, k: float = 0.08) -> Field:
        """Return both figures, flowing into each other over about `k` units (polynomial smooth minimum)."""

        def distance(x: Plane, y: Plane) -> Plane:
            a, b = self.distance(x, y), other.distance(x, y)
            h = np.maximum(k - np.abs(a - b), 0) / k
            return np.minimum(a, b) - h * h * (k / 4)

        return Field(distance, _widen(_hull(self.bounds, other.bounds), k / 4))

    def grow(self, by: float) -> Field:
        """Return the figure, `by` wider on all sides (narrower if negative); corners become round."""
        return Field(lambda x, y: self.distance(x, y) - by, _widen(self.bounds, by), self.height)

    def outline(self, width: float) -> Field:
        """Return only a band of this width along the outline."""
        return Field(lambda x, y: np.abs(self.distance(x, y)) - width / 2, _widen(self.bounds, width / 2))

    def at(self, dx: float, dy: float) -> Field:
        """Return the figure, moved."""
        x0, y0, x1, y1 = self.bounds
        height = self.height and (lambda x, y: self.height(x - dx, y - dy))
        return Field(
            lambda x, y: self.distance(x - dx, y - dy), (x0 + dx, y0 + dy, x1 + dx, y1 + dy), height, self.turned
        )

    def turn(self, degrees: float, about: Point = (0, 0)) -> Field:
        """Return the figure, turned counter-clockwise."""
        c, s = _cos_sin(degrees)
        cx, cy = about

        def back(x: Plane, y: Plane) -> tuple[Plane, Plane]:
            x, y = x - cx, y - cy
            return c * x + s * y + cx, c * y - s * x + cy

        x0, y0, x1, y1 = self.bounds
        corners = [(px - cx, py - cy) for px in (x0, x1) for py in (y0, y1)]
        turned = [(c * px - s * py + cx, s * px + c * py + cy) for px, py in corners]
        height = self.height and (lambda x, y: self.height(*back(x, y)))
        return Field(lambda x, y: self.distance(*back(x, y)), _box_of(turned), height, self.turned and degrees == 0)

    def repeat(self, columns: int, rows: int, dx: float, dy: float) -> Field:
        """Return copies of the figure (centred) in a grid, `dx` and `dy` apart, to the right and upwards."""
        x0, y0, x1, y1 = self.bounds
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2

        def distance(x: Plane, y: Plane) -> Plane:
            i = np.clip(np.round((x - cx) / dx), 0, columns - 1)
            j = np.clip(np.round((y - cy) / dy), 0, rows - 1)
            return self.distance(x - i * dx, y - j * dy)

        return Field(distance, (x0, y0, x1 + dx * (columns - 1), y1 + dy * (rows - 1)))

    def mirror(self) -> Field:
        """Return the figure, which lies on one side of x = 0, together with its mirror image on the other."""
        x0, y0, x1, y1 = self.bounds
        reach, side = max(abs(x0), abs(x1)), 1.0 if x0 + x1 > 0 else -1.0
        height = self.height and (lambda x, y: self.height(side * np.abs(x), y))
        return Field(lambda x, y: self.distance(side * np.abs(x), y), (-reach, y0, reach, y1), height)

    def domed(self, high: float) -> Field:
        """Return the figure, bulging evenly from its bounds to its middle like a cushion."""
        x0, y0, x1, y1 = self.bounds

        def height(x: Plane, y: Plane) -> Plane:
            u, v = (x - (x0 + x1) / 2) * (2 / (x1 - x0)), (y - (y0 + y1) / 2) * (2 / (y1 - y0))
            return np.sqrt(np.maximum(1 - u * u, 0.02) * np.maximum(1 - v * v, 0.02)) * np.float32(high)

        return Field(self.distance, self.bounds, height)


def box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Field:
    """Return a rectangle with rounded corners."""
    cx, cy, hx, hy = (x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2
    r = min(r, hx, hy)

    def distance(x: Plane, y: Plane) -> Plane:
        qx, qy = np.abs(x - cx) - (hx - r), np.abs(y - cy) - (hy - r)
        if r == 0:
            return np.maximum(qx, qy)
        ox, oy = np.maximum(qx, 0), np.maximum(qy, 0)
        return np.sqrt(ox * ox + oy * oy) + np.minimum(np.maximum(qx, qy), 0) - r

    return Field(distance, _box_of([(x0, y0), (x1, y1)]))


def circle(x: float, y: float, r: float) -> Field:
    """Return a disc."""
    return Field(lambda px, py: np.hypot(px - x, py - y) - r, (x - r, y - r, x + r, y + r))


def ball(x: float, y: float, rx: float, ry: float | None = None) -> Field:
    """Return an ellipse that bulges like a ball."""
    ry = ry or rx
    flat = ellipse(x, y, rx, ry)

    def height(px: Plane, py: Plane) -> Plane:
        u, v = (px - x) / rx, (py - y) / ry
        return np.sqrt(np.maximum(1 - u * u - v * v, 0)) * min(rx, ry)

    return Field(flat.distance, flat.bounds, height, turned=True)


def ellipse(x: float, y: float, rx: float, ry: float) -> Field:
    """Return an ellipse; its distance is the usual first-order estimate, exact on the outline."""

    def distance(px: Plane, py: Plane) -> Plane:
        u, v = (px - x) / rx, (py - y) / ry
        k = np.sqrt(u * u + v * v)
        slope = np.sqrt((u / rx) ** 2 + (v / ry) ** 2) + 1e-6
        return np.where(k < 0.2, -min(rx, ry) * (1 - k), k * (k - 1) / slope)

    return Field(distance, (x - rx, y - ry, x + rx, y + ry))


def capsule(x0: float, y0: float, x1: float, y1: float, r: float, r_end: float | None = None) -> Field:
    """Return a thick line with round ends, tapering from radius `r` to `r_end`."""
    taper = (r if r_end is None else r_end) - r
    dx, dy = x1 - x0, y1 - y0
    length2 = dx * dx + dy * dy + 1e-9

    def distance(x: Plane, y: Plane) -> Plane:
        px, py = x - x0, y - y0
        t = np.clip((px * dx + py * dy) / length2, 0, 1)
        px, py = px - t * dx, py - t * dy
        return np.sqrt(px * px + py * py) - r - taper * t

    return Field(distance, _widen(_box_of([(x0, y0), (x1, y1)]), max(r, r + taper)))


def strand(points: Sequence[Point], width: float, smooth: bool = True, closed: bool = False) -> Field:
    """Return a band of this width along a curve through the points: handles, straps, cables, frames."""
    line = _spline(points, closed) if smooth else np.array([*points, *points[: int(closed)]], np.float32)

    def distance(x: Plane, y: Plane) -> Plane:
        return np.sqrt(_segments(x, y, line[:-1], line[1:])) - width / 2

    return Field(_coarsely(distance, len(line)), _widen(_box_of(line), width / 2))


def polygon(points: Sequence[Point], r: float = 0.0) -> Field:
    """Return a polygon, grown by `r`, which rounds its corners."""
    corners = np.array(points, np.float32)

    def distance(x: Plane, y: Plane) -> Plane:
        ends = np.roll(corners, -1, 0)
        inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
        for (ax, ay), (bx, by) in zip(corners, ends, strict=True):
            if ay != by:
                inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) / (by - ay) * (y - ay) + ax)
        d = np.sqrt(_segments(x, y, corners, ends))
        return np.where(inside, -d, d) - r

    return Field(_coarsely(distance, len(corners)), _widen(_box_of(corners), r))


def blob(points: Sequence[Point], r: float = 0.0) -> Field:
    """Return a smooth closed outline through the points (Catmull-Rom), grown by `r`."""
    return polygon(_spline(points, closed=True)[:-1], r)


def lathe(profile: Sequence[Point], x: float = 0.0, smooth: bool = True, sag: float = 0.16) -> Field:
    """Return a turned body (vase, bottle, lamp foot): `profile` lists (y, radius) from the bottom to the top.

    It is seen from a little above: its front hangs lower than its sides by `sag` times the local radius.
    """
    ys, radii = _table(profile, smooth)
    low, high = ys[0], ys[-1]
    lean = np.sqrt(1 + np.gradient(radii, ys) ** 2).astype(np.float32)
    scale = np.float32((len(ys) - 1) / (high - low))

    def row(level: Plane) -> Plane:
        return np.clip((level - low) * scale, 0, len(ys) - 1).astype(np.int32)

    def surface(px: Plane, y: Plane) -> tuple[Plane, Plane, Plane]:
        u2, r = (px - x) ** 2, radii[row(y)]
        level = y + np.float32(sag) * np.sqrt(np.maximum(r * r - u2, 0))
        i = row(level)
        r = radii[i]
        return i, level, np.sqrt(np.maximum(r * r - u2, 0))

    def distance(px: Plane, y: Plane) -> Plane:
        i, level, _ = surface(px, y)
        return np.maximum((np.abs(px - x) - radii[i]) / lean[i], np.abs(level - (low + high) / 2) - (high - low) / 2)

    def height(px: Plane, y: Plane) -> Plane:
        return surface(px, y)[2]

    reach = float(radii.max())
    return Field(distance, (x - reach, float(low) - sag * float(radii[0]), x + reach, float(high)), height, turned=True)


def between(bottom: Sequence[Point], top: Sequence[Point], smooth: bool = True) -> Field:
    """Return the area between two curves over the same span of x, each listed as (x, y) from left to right."""
    xs, lows = _table(bottom, smooth)
    xs_top, highs = _table(top, smooth)
    highs = np.interp(xs, xs_top, highs).astype(np.float32)
    left, right = xs[0], xs[-1]
    lean_low, lean_high = (np.sqrt(1 + np.gradient(c, xs) ** 2).astype(np.float32) for c in (lows, highs))
    scale = np.float32((len(xs) - 1) / (right - left))

    def distance(x: Plane, y: Plane) -> Plane:
        i = np.clip((x - left) * scale, 0, len(xs) - 1).astype(np.int32)
        d = np.maximum((lows[i] - y) / lean_low[i], (y - highs[i]) / lean_high[i])
        return np.maximum(d, np.abs(x - (left + right) / 2) - (right - left) / 2)

    return Field(distance, (float(left), float(lows.min()), float(right), float(highs.max())))


def union(figures: Sequence[Field]) -> Field:
    """Return all figures together."""
    whole = figures[0]
    for figure in figures[1:]:
        whole = whole | figure
    return whole


def symmetric(points: Sequence[Point]) -> list[Point]:
    """Complete an outline whose right half is listed from the top to the bottom."""
    return [*points, *[(-x, y) for x, y in reversed(points) if x > 1e-6]]


def _segments(x: Plane, y: Plane, starts: np.ndarray, ends: np.ndarray) -> Plane:
    """Return the squared distance to the nearest of several line segments."""
    best = None
    for (ax, ay), (bx, by) in zip(starts, ends, strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey + np.float32(1e-9)), 0, 1)
        px, py = px - t * ex, py - t * ey
        d = px * px + py * py
        best = d if best is None else np.minimum(best, d, out=best)
    return best


def _coarsely(distance: Callable[[Plane, Plane], Plane], edges: int) -> Callable[[Plane, Plane], Plane]:
    """Evaluate a field of many edges on every second pixel only: distances bend slowly, so the mean is close."""
    if edges < 7:
        return distance

    def at_half(x: Plane, y: Plane) -> Plane:
        h, w = x.shape
        if h < 8 or w < 8:
            return distance(x, y)
        rows, columns = np.arange(0, h + 1, 2).clip(max=h - 1), np.arange(0, w + 1, 2).clip(max=w - 1)
        coarse = distance(x[np.ix_(rows, columns)], y[np.ix_(rows, columns)])
        out = np.empty((len(rows) * 2 - 1, len(columns) * 2 - 1), np.float32)
        out[::2, ::2] = coarse
        out[1::2, ::2] = (coarse[1:] + coarse[:-1]) / 2
        out[:, 1::2] = (out[:, 2::2] + out[:, :-1:2]) / 2
        return out[:h, :w]

    return at_half


def _spline(points: Sequence[Point], closed: bool, steps: int = 5) -> np.ndarray:
    """Return a Catmull-Rom curve through the points, as a polyline of float32 [*, 2]."""
    p = np.array(points, np.float32)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1] * 2 - p[1:2], p, p[-1:] * 2 - p[-2:-1]])
    t = np.linspace(0, 1, steps, endpoint=False, dtype=np.float32)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - 3 * c + d - a) * t**3)
        for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True)
    ]
    return np.concatenate([*pieces, p[-2:-1]])


def _table(curve: Sequence[Point], smooth: bool, size: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Sample a curve given by (position, value) at evenly spaced positions."""
    at, values = np.array(curve, np.float32).T
    places = np.linspace(at[0], at[-1], size, dtype=np.float32)
    if smooth and len(at) > 2:
        line = _spline(list(zip(at, values, strict=True)), closed=False, steps=12)
        at, values = line[:, 0], line[:, 1]
        at = np.maximum.accumulate(at)
    return places, np.interp(places, at, values).astype(np.float32)


def _cos_sin(degrees: float) -> tuple[float, float]:
    return float(np.cos(np.radians(degrees))), float(np.sin(np.radians(degrees)))


def _box_of(points: Sequence[Point] | np.ndarray) -> Bounds:
    p = np.asarray(points, float)
    return (float(p[:, 0].min()), float(p[:, 1].min()), float(p[:, 0].max()), float(p[:, 1].max()))


def _hull(a: Bounds, b: Bounds) -> Bounds:
    return (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))


def _overlap(a: Bounds, b: Bounds) -> Bounds:
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def _widen(b: Bounds, by: float) -> Bounds:
    return (b[0] - by, b[1] - by, b[2] + by, b[3] + by)
