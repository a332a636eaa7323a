"""Make seamless textures for the product photos: float32 tiles of [TILE, TILE] values in about -1..1 with mean zero."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

TILE = 256

_U, _V = np.meshgrid(np.arange(TILE, dtype=np.float32) / TILE, np.arange(TILE, dtype=np.float32) / TILE)
_TAU = np.float32(2 * np.pi)


@cache
def texture(name: str) -> np.ndarray:
    """Return the tile of this name (see `TEXTURES`)."""
    tile = TEXTURES[name]().astype(np.float32)
    tile = tile - tile.mean()
    return np.ascontiguousarray(tile / max(float(np.abs(tile).max()), 1e-6))


def look_up(name: str, x: np.ndarray, y: np.ndarray, tiles: float, offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Sample a texture at points; one unit of x or y spans `tiles` tiles."""
    columns = (x * np.float32(tiles * TILE)).astype(np.int32) + offset[0]
    rows = (y * np.float32(tiles * TILE)).astype(np.int32) + offset[1]
    return texture(name).ravel()[((rows & (TILE - 1)) << 8) | (columns & (TILE - 1))]


def _noise(slope: float, seed: int, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    """Return noise whose spectrum falls like frequency^-slope; stretch > 1 makes it long in that direction (x, y)."""
    white = np.random.default_rng(seed).standard_normal((TILE, TILE)).astype(np.float32)
    fy, fx = np.fft.fftfreq(TILE) * TILE, np.fft.rfftfreq(TILE) * TILE
    f = np.sqrt((fx[None] * stretch[0]) ** 2 + (fy[:, None] * stretch[1]) ** 2)
    f[0, 0] = 1
    tile = np.fft.irfft2(np.fft.rfft2(white) * f**-slope, (TILE, TILE)).astype(np.float32)
    return tile / (2.5 * tile.std())


def _cells(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return distances to the nearest and the second nearest of random points (Worley noise)."""
    spots = np.random.default_rng(seed).random((count, 2), dtype=np.float32)
    first = np.full((TILE, TILE), 9, np.float32)
    second = first.copy()
    for sx, sy in spots:
        dx, dy = np.abs(_U - sx), np.abs(_V - sy)
        d = np.hypot(np.minimum(dx, 1 - dx), np.minimum(dy, 1 - dy))
        second = np.minimum(second, np.maximum(first, d))
        first = np.minimum(first, d)
    scale = np.float32(count**0.5)
    return first * scale, second * scale


def _wave(t: np.ndarray) -> np.ndarray:
    return np.sin(_TAU * t)


def _wood(rings: int, warp: float, streaks: float, seed: int) -> np.ndarray:
    bend = _noise(2.3, seed, (6, 1)) * warp
    lines = 1 - np.abs(_wave((_V * rings + bend) / 2 * 2))
    return lines**2 * 0.9 + _noise(0.9, seed + 1, (14, 0.6)) * streaks


def _oak() -> np.ndarray:
    pores = np.clip(_noise(0.7, 11, (10, 0.5)) - 0.35, 0, 1)
    return -_wood(7, 1.6, 0.5, 3) - pores * 1.2


def _pine() -> np.ndarray:
    tile = -_wood(4, 1.3, 0.15, 5)
    for kx, ky, r in ((0.22, 0.3, 0.045), (0.7, 0.72, 0.06)):
        d = np.hypot((_U - kx) * 0.7, _V - ky)
        knot = np.exp(-((d / r) ** 2))
        tile = tile * (1 - knot) - knot * (1.6 + 0.5 * _wave(d / r * 1.5))
    return tile


def _beech() -> np.ndarray:
    flecks = np.clip(_noise(0.6, 21, (5, 0.8)) - 0.5, 0, 1)
    return _noise(1.3, 22, (9, 0.7)) * 0.35 - flecks * 1.5


def _bamboo() -> np.ndarray:
    strips = np.abs(((_V * 10) % 1) - 0.5) * 2
    tone = np.random.default_rng(7).uniform(-0.5, 0.5, 10)[(_V * 10).astype(int)]
    shift = np.random.default_rng(8).random(10)[(_V * 10).astype(int)]
    nodes = np.exp(-((((_U * 2 + shift) % 1 - 0.5) / 0.02) ** 2))
    return tone - (strips > 0.88) * 0.9 - nodes + _noise(0.8, 23, (10, 0.6)) * 0.3


def _threads(count: int, irregular: float, seed: int) -> np.ndarray:
    warp = _wave(_U * count + irregular * _noise(1.5, seed, (1, 6)))
    weft = _wave(_V * count + irregular * _noise(1.5, seed + 1, (6, 1)))
    over = _wave(_U * count / 2) * _wave(_V * count / 2) > 0
    return np.where(over, warp, weft) + irregular * (_noise(0.8, seed + 2, (1, 9)) + _noise(0.8, seed + 3, (9, 1)))


def _basket(count: int) -> np.ndarray:
    """Return round canes that pass over and under stakes."""
    row, column = (_V * count).astype(int), (_U * count / 2).astype(int)
    v, u = _V * count - row - 0.5, _U * count / 2 - column - 0.5
    cane = np.sqrt(np.clip(1 - (2.05 * v) ** 2, 0, 1))
    hump = np.cos(np.pi * u) * np.where((row + column) % 2 == 0, 1, -1)
    return cane * (0.75 + 0.55 * hump)


def _knit(count: int) -> np.ndarray:
    """Return columns of V-shaped stitches."""
    u = (_U * count) % 1 - 0.5
    v = (_V * count * 1.0 + 0.9 * np.abs(u)) % 1 - 0.5
    stitch = np.sqrt(np.clip(1 - (2 * v) ** 2, 0, 1)) * np.clip(1.15 - (4 * (np.abs(u) - 0.25)) ** 2, 0, 1)
    return stitch + _noise(0.4, 31) * 0.25


def _jute() -> np.ndarray:
    row = (_V * 14).astype(int)
    v = _V * 14 - row - 0.5
    twist = _wave(_U * 22 + v * np.where(row % 2 == 0, 1.4, -1.4))
    return np.sqrt(np.clip(1 - (2 * v) ** 2, 0, 1)) * (0.8 + 0.5 * twist) + _noise(0.5, 33, (4, 1)) * 0.35


def _leather() -> np.ndarray:
    first, second = _cells(420, 41)
    return np.clip((second - first) * 2.2, 0, 1) + _noise(1.2, 42) * 0.4


def _hammered() -> np.ndarray:
    first, _ = _cells(90, 43)
    return first**2


def _marble() -> np.ndarray:
    bend = _noise(1.9, 51) * 1.3
    thin = np.exp(-np.abs(_wave(_U + _V + bend)) * 7)
    thick = np.exp(-np.abs(_wave(_U - 2 * _V + 1.4 * _noise(1.8, 52))) * 13)
    return -(thin + 0.8 * thick + 0.35 * np.clip(_noise(1.6, 53), 0, 1))


def _speckle() -> np.ndarray:
    first, _ = _cells(300, 61)
    rough = np.clip((0.24 - first) * 8, 0, 1) * (_noise(0.9, 62) > -0.15)
    return -rough + _noise(1.2, 63) * 0.15


def _cork() -> np.ndarray:
    first, second = _cells(320, 65)
    grit = np.clip((0.3 - first) * 7, 0, 1) * (_noise(0.8, 66) > 0)
    return np.clip((second - first) * 1.5, 0, 0.7) - 1.3 * grit + _noise(0.7, 67) * 0.4


def _facets() -> np.ndarray:
    a, b = (_U * 6 + _V * 6) % 1, (_U * 6 - _V * 6) % 1
    return np.minimum(np.minimum(a, 1 - a), np.minimum(b, 1 - b)) * 2


def _ripstop() -> np.ndarray:
    lines = np.maximum((_U * 16 % 1) < 0.14, (_V * 16 % 1) < 0.14)
    return lines * 0.8 + _noise(0.9, 72) * 0.2


TEXTURES: dict[str, Callable[[], np.ndarray]] = {
    "cloud": lambda: _noise(1.9, 1),
    "drape": lambda: _noise(3.0, 14),
    "mottle": lambda: _noise(1.2, 2),
    "fine": lambda: _noise(0.25, 4),
    "fuzz": lambda: _noise(0.75, 6),
    "brushed": lambda: _noise(0.8, 9, (40, 0.4)),
    "oak": _oak,
    "pine": _pine,
    "beech": _beech,
    "bamboo": _bamboo,
    "linen": lambda: _threads(32, 0.5, 13),
    "canvas": lambda: _threads(44, 0.12, 17),
    "rattan": lambda: _basket(12),
    "knit": lambda: _knit(14),
    "jute": _jute,
    "leather": _leather,
    "hammered": _hammered,
    "marble": _marble,
    "speckle": _speckle,
    "cork": _cork,
    "facets": _facets,
    "ripstop": _ripstop,
}
