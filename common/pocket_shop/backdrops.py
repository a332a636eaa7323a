"""Paint the places where the product photos are taken: studio sweeps, tables, rooms, cloths, walls, the garden."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from common.pocket_shop.materials import Rgb
from common.pocket_shop.textures import look_up

TINTS: tuple[Rgb, ...] = (
    (0.93, 0.93, 0.92),
    (0.86, 0.84, 0.8),
    (0.78, 0.82, 0.86),
    (0.8, 0.85, 0.78),
    (0.9, 0.8, 0.77),
    (0.84, 0.79, 0.87),
    (0.87, 0.8, 0.66),
    (0.64, 0.66, 0.68),
    (0.52, 0.6, 0.66),
    (0.56, 0.62, 0.54),
    (0.66, 0.55, 0.5),
    (0.42, 0.44, 0.48),
    (0.3, 0.35, 0.4),
    (0.26, 0.32, 0.29),
    (0.36, 0.28, 0.26),
    (0.2, 0.2, 0.22),
)
_OAK, _WALNUT, _PALE = (0.68, 0.52, 0.35), (0.4, 0.27, 0.19), (0.82, 0.75, 0.66)

# Each surface: texture, tiles a unit, contrast, the colours it comes in (None: any tint).
SURFACES: dict[str, tuple[str, float, float, tuple[Rgb, ...] | None]] = {
    "boards": ("oak", 0.5, 0.28, (_OAK, _WALNUT, _PALE)),
    "linen": ("linen", 0.55, 0.1, None),
    "concrete": ("mottle", 0.5, 0.16, ((0.66, 0.66, 0.65), (0.45, 0.46, 0.47))),
    "marble": ("marble", 0.4, 0.25, ((0.9, 0.9, 0.9), (0.24, 0.25, 0.26))),
    "paper": ("mottle", 0.8, 0.03, None),
    "carpet": ("fuzz", 1.0, 0.16, None),
    "plaster": ("cloud", 0.4, 0.06, None),
    "cork board": ("cork", 0.5, 0.3, ((0.72, 0.56, 0.4),)),
}
_TABLES = ("boards", "linen", "concrete", "marble", "paper")
_FLOORS = ("boards", "carpet", "concrete")
_FLAT = ("boards", "linen", "concrete", "marble", "paper", "carpet", "cork board")


def backdrop(stage: str, rng: np.random.Generator, size: int, product: Rgb, side: float) -> tuple[np.ndarray, bool]:
    """Paint an empty set.

    `stage` is "floor" (something stands there), "flat" (seen from above) or "wall" (hangs); the colours keep away from
    the `product`'s; `side` (-1 or 1) is where the light comes from. Returns float32 [3, size, size] in 0..1 and whether
    the floor is smooth enough to reflect.
    """
    x, y = grid(size)
    if stage == "flat":
        picture = _surface(str(rng.choice(_FLAT)), x, y, rng, product)
        return picture * _spot(x, y, side, rng), False
    wall = _wall(rng, x, y, size, product)
    if stage == "wall":
        return wall * _spot(x, y, side, rng), False
    horizon = float(rng.uniform(-0.3, 0.12))
    kind = str(rng.choice(["sweep", "sweep", "table", "table", "room", "garden"]))
    if kind == "sweep":
        return _sweep(rng, x, y, horizon, product) * _spot(x, y, side, rng), True
    # A floor in perspective: what lies further down the picture is nearer.
    depth = 1.6 / np.maximum(horizon + 0.55 - y, 0.05)
    floor = _surface(str(rng.choice(_FLOORS if kind == "room" else _TABLES)), x * depth, depth * 1.6, rng, product)
    if kind == "garden":
        wall = _bokeh(rng, size, product)
    softness = 0.006 if kind == "room" else float(rng.uniform(0.01, 0.05))
    mix = np.clip(0.5 + (horizon - y) / softness, 0, 1)
    picture = wall + (floor - wall) * mix
    if kind == "room":
        skirting = np.clip(1.5 - np.abs(y - horizon - 0.05) / 0.02, 0, 1) * (y > horizon)
        picture = picture + (np.float32(0.9) - picture) * skirting * 0.5
    return picture * _spot(x, y, side, rng), False


@cache
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the pixels, -1..1, y upwards."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size) - 1
    x, y = np.meshgrid(line, -line)
    return x, y


def choose_tint(
    rng: np.random.Generator, product: Rgb, tints: tuple[Rgb, ...] = TINTS, apart: float = 0.3
) -> np.ndarray:
    """Return a tint that the product stands out from, float32 [3, 1, 1]; the furthest one if none is far enough."""
    distance = [_apart(tint, product) for tint in tints]
    far = [tint for tint, d in zip(tints, distance, strict=True) if d > apart]
    tint = far[int(rng.integers(len(far)))] if far else tints[int(np.argmax(distance))]
    return np.array(tint, np.float32)[:, None, None] * np.float32(rng.uniform(0.94, 1.04))


def _apart(a: Rgb, b: Rgb) -> float:
    return float(np.sqrt(sum(w * (p - q) ** 2 for w, p, q in zip((1, 1.6, 0.7), a, b, strict=True))))


def _surface(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator, product: Rgb) -> np.ndarray:
    tile, tiles, contrast, colours = SURFACES[name]
    tint = choose_tint(rng, product, colours or TINTS)
    if colours and _apart(tuple(tint.ravel()), product) < 0.22:
        tile, contrast, tint = "mottle", 0.05, choose_tint(rng, product)
    if rng.random() < 0.3:
        x, y = y, x
    offset = (int(rng.integers(256)), int(rng.integers(256)))
    light = 1 + np.float32(contrast) * look_up(tile, x, y, tiles, offset)
    if tile == "oak":
        seam = np.abs((y * 1.6) % 1 - 0.5) > 0.488
        light = light * (1 - 0.35 * seam)
    return tint * light


def _wall(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: int, product: Rgb) -> np.ndarray:
    kind = rng.random()
    if kind < 0.6:
        return _surface("plaster", x, y, rng, product)
    tint = choose_tint(rng, product)
    if kind < 0.75:  # boards
        gap = np.abs((x * rng.uniform(2, 3.5)) % 1 - 0.5) > 0.475
        return tint * (1 - 0.14 * gap)
    if kind < 0.85:  # tiles
        n = float(rng.uniform(2.5, 4))
        row = np.floor(y * n)
        gap = np.maximum(np.abs((y * n) % 1 - 0.5) > 0.47, np.abs((x * n / 2 + row / 2) % 1 - 0.5) > 0.485)
        return tint * (1 - 0.1 * gap)
    glow = np.exp(-((x - rng.uniform(-0.6, 0.6)) ** 2 + (y - rng.uniform(-0.2, 0.8)) ** 2) * 0.8)
    return tint * (0.82 + 0.25 * glow.astype(np.float32))


def _sweep(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, horizon: float, product: Rgb) -> np.ndarray:
    tint = choose_tint(rng, product)
    reach = float(rng.uniform(0.15, 0.5))
    floor = np.clip(0.5 + (horizon - 0.1 - y) / reach, 0, 1)
    floor = floor * floor * (3 - 2 * floor)
    return tint * (np.float32(rng.uniform(0.8, 0.95)) + np.float32(rng.uniform(0.1, 0.22)) * floor)


def _bokeh(rng: np.random.Generator, size: int, product: Rgb, small: int = 48) -> np.ndarray:
    """Paint leaves and sky far out of focus, painted small and enlarged."""
    x, y = grid(small)
    greens = ((0.45, 0.55, 0.36), (0.62, 0.68, 0.5), (0.28, 0.36, 0.26), (0.72, 0.62, 0.46), (0.5, 0.6, 0.68))
    low, high = choose_tint(rng, product, greens), choose_tint(rng, product, (*greens, (0.8, 0.86, 0.9)))
    picture = low + (high - low) * np.clip(y * 0.7 + 0.3, 0, 1)
    for _ in range(14):
        cx, cy, r = rng.uniform(-1, 1), rng.uniform(-0.6, 1), rng.uniform(0.06, 0.22)
        disc = np.clip((r - np.sqrt((x - cx) ** 2 + (y - cy) ** 2)) * 20, 0, 1)
        picture = picture + disc * np.float32(rng.uniform(-0.06, 0.12))
    return enlarge(picture, size)


def enlarge(planes: np.ndarray, size: int) -> np.ndarray:
    """Resize float planes [3, n, n] to [3, size, size], bilinearly. Sets are painted small: they are out of focus."""
    images = [Image.fromarray(plane.astype(np.float32)) for plane in planes]
    return np.stack([np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)) for image in images])


def _spot(x: np.ndarray, y: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    """Return the lamp's fall-off over the set, darker towards the far corner."""
    fall, corners = float(rng.uniform(0.02, 0.12)), float(rng.uniform(0.0, 0.1))
    return 1 + np.float32(fall) * (side * x + 0.6 * y) - np.float32(corners) * (x * x + y * y - 0.5)
