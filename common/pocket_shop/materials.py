"""Describe what surfaces are made of, how they reflect light, and the patterns printed on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks. All strengths are about 0..1.

    `texture` is a tile of `textures.py`, `tiles` how many of them a unit spans (products are about two units high),
    `grain` how much it lightens and darkens the colour and `bump` how deep it is. `gloss` and `sharp` shape the
    highlight, `mirror` reflects the studio's lamps as metal does, `sheen` lights up the rim as velvet does, `clear`
    lets the background through. `tint` is the share of the material's `own` colour in the product's. `soft` ones drape.
    """

    texture: str = "fine"
    tiles: float = 0.6
    grain: float = 0.0
    bump: float = 0.0
    gloss: float = 0.0
    sharp: float = 20.0
    mirror: float = 0.0
    sheen: float = 0.0
    clear: float = 0.0
    own: Rgb = (0.5, 0.5, 0.5)
    tint: float = 0.0
    soft: bool = False


def _wood(texture: str, own: Rgb, grain: float, **more: float) -> Material:
    return Material(texture, 0.55, grain, gloss=0.16, sharp=14, own=own, tint=0.26, **more)


def _metal(mirror: float, own: Rgb, tint: float, texture: str = "brushed", **more: float) -> Material:
    return Material(
        texture, **{"tiles": 0.5, "grain": 0.06, "gloss": 0.7, "sharp": 45, **more}, mirror=mirror, own=own, tint=tint
    )


def _cloth(texture: str, tiles: float, grain: float, bump: float = 0.0, **more: float) -> Material:
    return Material(texture, tiles, grain, bump, soft=True, **more)


MATERIALS: dict[str, Material] = {
    "aluminium": _metal(0.55, (0.78, 0.8, 0.83), 0.14, grain=0.12),
    "steel": _metal(1.0, (0.72, 0.75, 0.8), 0.12, grain=0.03, sharp=70),
    "brass": _metal(0.8, (0.86, 0.66, 0.25), 0.3),
    "copper": _metal(0.8, (0.85, 0.45, 0.28), 0.3, texture="hammered", tiles=0.6, bump=0.018),
    "cast_iron": Material("fuzz", 1.3, 0.3, 0.012, gloss=0.22, sharp=6, own=(0.12, 0.12, 0.13), tint=0.22),
    "enamel": Material("speckle", 0.45, 0.16, gloss=0.9, sharp=90),
    "oak": _wood("oak", (0.72, 0.54, 0.33), 0.4),
    "pine": _wood("pine", (0.87, 0.68, 0.4), 0.5),
    "beech": _wood("beech", (0.82, 0.6, 0.43), 0.34),
    "bamboo": _wood("bamboo", (0.82, 0.69, 0.4), 0.42),
    "cork": Material("cork", 0.7, 0.5, 0.006, own=(0.74, 0.54, 0.35), tint=0.28, soft=True),
    "rattan": Material("rattan", 0.62, 0.5, 0.05, gloss=0.2, sharp=12, own=(0.74, 0.55, 0.33), tint=0.24),
    "jute": Material("jute", 0.85, 0.42, 0.02, own=(0.73, 0.6, 0.4), tint=0.26, soft=True),
    "paper": Material("mottle", 0.8, 0.05, 0.002, own=(0.95, 0.93, 0.88), tint=0.1),
    "leather": Material("leather", 0.95, 0.16, 0.0018, gloss=0.42, sharp=16, soft=True),
    "suede": _cloth("fuzz", 0.8, 0.2, 0.004, sheen=0.35),
    "velvet": _cloth("fuzz", 0.7, 0.14, sheen=1.0),
    "wool": _cloth("knit", 0.85, 0.34, 0.02, sheen=0.15),
    "cotton": _cloth("canvas", 0.9, 0.06, 0.002),
    "linen": _cloth("linen", 0.62, 0.2, 0.003),
    "canvas": _cloth("canvas", 0.62, 0.22, 0.008),
    "polyester": _cloth("ripstop", 0.72, 0.12, 0.003, gloss=0.22, sharp=10),
    "satin": _cloth("drape", 0.9, 0.1, 0.16, gloss=0.8, sharp=14, mirror=0.2),
    "silk": _cloth("drape", 1.5, 0.12, 0.1, gloss=0.6, sharp=8, mirror=0.12, sheen=0.3),
    "plastic": Material("fine", 0.6, 0.0, gloss=0.75, sharp=40),
    "silicone": Material("fine", 0.6, 0.03, gloss=0.25, sharp=5, sheen=0.2),
    "rubber": Material("fine", 0.9, 0.1, 0.002, gloss=0.14, sharp=4),
    "ceramic": Material("mottle", 0.5, 0.06, gloss=0.8, sharp=50),
    "porcelain": Material("mottle", 0.5, 0.02, gloss=1.0, sharp=130, sheen=0.25),
    "stoneware": Material("speckle", 0.62, 0.5, 0.003, gloss=0.3, sharp=14, own=(0.6, 0.52, 0.43), tint=0.1),
    "terracotta": Material("speckle", 0.8, 0.3, 0.006, own=(0.76, 0.4, 0.25), tint=0.28, gloss=0.05, sharp=4),
    "marble": Material("marble", 0.42, 0.75, gloss=0.6, sharp=60, own=(0.92, 0.91, 0.9), tint=0.12),
    "glass": Material("cloud", 0.5, 0.03, gloss=1.0, sharp=80, mirror=0.25, clear=0.62),
    "crystal": Material("facets", 0.55, 0.25, 0.07, gloss=1.1, sharp=30, mirror=0.5, clear=0.66),
    # Not for sale, but parts are made of it.
    "paint": Material("fine", 0.6, 0.0, gloss=0.4, sharp=25, mirror=0.18),
    "screen": Material("cloud", 0.3, 0.1, gloss=0.6, sharp=60),
    "matte": Material("fine", 0.6, 0.05),
    "foliage": Material("mottle", 1.2, 0.5, 0.01, gloss=0.3, sharp=12),
}

WOODS = ("oak", "pine", "beech", "bamboo")

PATTERNS = ("plain", "striped", "checked", "dotted", "floral", "zigzag", "stars")


def pattern_mask(name: str, x: np.ndarray, y: np.ndarray, edge: float, turn: int) -> np.ndarray | None:
    """Return the share of the accent colour that a pattern puts at each point, 0..1; None for a plain surface."""
    return None if name == "plain" else _PATTERNS[name](x, y, max(edge, 1e-3), turn)


def _step(signed: np.ndarray, edge: float) -> np.ndarray:
    """Return 1 where `signed` is negative, 0 where positive, with a soft edge."""
    return np.clip(0.5 - signed / edge, 0, 1)


def _band(t: np.ndarray, width: float, edge: float) -> np.ndarray:
    """Return bands of this width in every unit of t."""
    return _step(np.abs(t - np.floor(t) - 0.5) - width / 2, edge)


def _striped(x: np.ndarray, y: np.ndarray, edge: float, turn: int) -> np.ndarray:
    return _band((x, y, (x + y) * 0.707)[turn % 3], 0.46, edge)


def _checked(x: np.ndarray, y: np.ndarray, edge: float, turn: int) -> np.ndarray:
    across, down = _band(x * 0.8, 0.5, edge), _band(y * 0.8, 0.5, edge)
    return (across + down) * 0.5 if turn else across * (1 - down) + down * (1 - across)


def _staggered(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates -0.5..0.5 in cells whose odd rows are shifted by half a cell."""
    row = np.floor(y)
    x = x + 0.5 * (row - 2 * np.floor(row / 2))
    return x - np.floor(x) - 0.5, y - row - 0.5


def _dotted(x: np.ndarray, y: np.ndarray, edge: float, turn: int) -> np.ndarray:
    u, v = _staggered(x, y)
    return _step(np.sqrt(u * u + v * v) - (0.27, 0.31, 0.24)[turn % 3], edge)


def _floral(x: np.ndarray, y: np.ndarray, edge: float, turn: int) -> np.ndarray:
    u, v = _staggered(x * 0.62, y * 0.62)
    angle, r = np.arctan2(v, u), np.sqrt(u * u + v * v)
    petals = r - 0.3 - 0.13 * np.cos((5 + turn % 2) * angle)
    return _step(petals, edge * 0.62) * (1 - _step(r - 0.11, edge * 0.62))


def _zigzag(x: np.ndarray, y: np.ndarray, edge: float, turn: int) -> np.ndarray:
    x, y = (y, x) if turn == 1 else (x, y)
    return _band(y + np.abs(x * 0.9 - np.floor(x * 0.9) - 0.5) * 0.95, 0.46, edge * 1.4)


def _stars(x: np.ndarray, y: np.ndarray, edge: float, turn: int) -> np.ndarray:
    u, v = _staggered(x * 0.66, y * 0.66)
    angle, r = np.arctan2(u, v), np.sqrt(u * u + v * v)
    turn_fifth = np.float32(2 * np.pi / 5)
    away = np.abs(angle - turn_fifth * np.round(angle / turn_fifth))  # angle from the nearest tip
    # The straight edge from a tip (radius 0.42) to the next notch (radius 0.19), as normal times point.
    return _step(r * (0.387 * np.cos(away) + 0.922 * np.sin(away)) - 0.162, edge * 0.66)


_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]] = {
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "floral": _floral,
    "zigzag": _zigzag,
    "stars": _stars,
}
