"""Shapes of clothing: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from common.pocket_shop.fields import between, blob, box, capsule, circle, ellipse, polygon, strand, symmetric
from common.pocket_shop.sketch import Sketch


def _hang(p: Sketch, shoulder: float, share: float = 0.45) -> None:
    """Lay the garment flat, or hang it on a wall, sometimes on a hanger. Its neck is at y = 1, x = 0."""
    p.stage, p.spin = p.pick("flat", "wall"), 5
    if p.stage == "wall" and p.chance(share * 2):
        hook = [(0, 1.0), (0, 1.14), (0.09, 1.2), (0.06, 1.3), (-0.04, 1.29)]
        p.add(strand(hook, 0.025), "metal", edge=0.01)
        p.add(capsule(0, 1.02, shoulder * 0.9, 0.86, 0.035).mirror(), "wood", edge=0.03)


def _sleeves(
    p: Sketch, shoulder: float, reach: tuple[float, float], wide: float, cuff: float, tone: float = 0.94
) -> None:
    """Lay two sleeves from the shoulder to `reach` (x, y)."""
    x, y = reach
    p.add(capsule(shoulder - wide * 0.7, 0.86 - wide * 0.7, x, y, wide, cuff).mirror(), tone=tone, edge=0.14)


def _torso(p: Sketch, shoulder: float, chest: float, waist: float, hem: float, low: float, neck: float = 0.2) -> None:
    """Lay the body of a top from the neck down to `low`."""
    outline = [(neck, 1.0), (shoulder, 0.88), (chest, 0.5), (waist, 0.1), (hem, low), (0, low - 0.03)]
    p.add(polygon(symmetric([(0, 0.97), *outline]), 0.015), edge=0.22, bulge=0.8)


def _neckline(p: Sketch, neck: float, deep: float, pointed: bool = False) -> None:
    """Lay the dark inside of the neck."""
    hole = polygon([(-neck, 1.01), (neck, 1.01), (0, 1 - deep)]) if pointed else ellipse(0, 1.0, neck, deep)
    p.add((hole & box(-1, 0, 1, 1.012)).grow(0.03), tone=0.85, plain=True, edge=0.03)
    p.add(hole & box(-1, 0, 1, 1.012), tone=0.45, plain=True, edge=0.03)


def dress(p: Sketch) -> None:
    flare, low, waist = p.vary(0.5, 0.85), p.vary(-1.3, -0.8), p.vary(0.26, 0.32)
    _hang(p, 0.36)
    kind = p.pick("strap", "short", "short", "long")
    if kind != "strap":
        _sleeves(p, 0.4, (0.62, 0.5) if kind == "short" else (0.72, -0.1), 0.13, 0.1)
        top = [(0, 0.97), (0.16, 1.0), (0.38, 0.9), (0.36, 0.5)]
    else:
        p.add(strand([(0.2, 0.75), (0.17, 1.0)], 0.05).mirror(), plain=True, edge=0.02)
        top = [(0, 0.72), (0.26, 0.82), (0.35, 0.55)]
    p.add(
        polygon(symmetric([*top, (waist, 0.18), (flare * 0.75, low * 0.45), (flare, low), (0, low - 0.05)]), 0.01),
        edge=0.2,
        folds=(0, p.vary(2.2, 3.2), 0.014),
    )
    if kind != "strap":
        _neckline(p, 0.16, p.vary(0.1, 0.25), p.chance())
    p.add(box(-waist - 0.015, 0.14, waist + 0.015, 0.22, 0.02), tone=0.75, plain=True, edge=0.03)


def skirt(p: Sketch) -> None:
    p.stage, p.spin = p.pick("flat", "wall"), 5
    waist, flare, low = p.vary(0.4, 0.5), p.vary(0.6, 1.0), p.vary(-1.3, -0.75)
    often = p.vary(2.5, 4.5) if flare > 0.75 else 1.2
    p.add(
        between([(-flare, low), (0, low - 0.09), (flare, low)], [(-flare, 1), (flare, 1)])
        & polygon([(-waist, 0), (waist, 0), (flare, low - 0.2), (-flare, low - 0.2)]),
        edge=0.12,
        folds=(0, often, 0.03),
    )
    p.add(box(-waist - 0.01, -0.03, waist + 0.01, 0.13, 0.02), tone=0.82, plain=True, edge=0.04)
    if p.chance(0.4):
        p.add(circle(waist * 0.6, 0.05, 0.035), p.pick("metal", "light", "dark"), edge=0.03)


def blouse(p: Sketch) -> None:
    _hang(p, 0.45)
    puff = p.vary(0.17, 0.23)
    _sleeves(p, 0.46, (0.82, p.vary(-0.1, 0.25)), 0.13, puff)
    x, y = 0.8, -0.05
    p.add(
        polygon(
            symmetric([(0, 0.97), (0.18, 1.0), (0.46, 0.88), (0.4, 0.5), (0.33, 0.2), (0.5, -0.35), (0, -0.4)]), 0.02
        ),
        edge=0.2,
        folds=(0, 2.0, 0.012),
    )
    _neckline(p, 0.18, p.vary(0.3, 0.42), True)
    if p.chance(0.6):  # a bow at the neck
        p.add(blob([(0, 0.68), (0.2, 0.8), (0.24, 0.6)]).mirror(), tone=1.06, plain=True, edge=0.08)
        p.add(strand([(0, 0.68), (0.07, 0.5), (0.12, 0.3)], 0.06).mirror(), tone=1.06, plain=True, edge=0.03)
        p.add(circle(0, 0.68, 0.05), plain=True, edge=0.05)
    else:  # a frill down the front
        p.add(box(-0.09, -0.36, 0.09, 0.66, 0.03), tone=1.05, plain=True, edge=0.05, folds=(90, 6, 0.02))
    p.add(box(-0.34, 0.17, 0.34, 0.21, 0.01), tone=0.75, plain=True, edge=0.02, cast=0.4)
    p.add(circle(x, y, 0.02).mirror(), "light", edge=0.02, cast=0)


def shirt(p: Sketch) -> None:
    _hang(p, 0.5)
    sleeve = p.pick((0.82, -0.25), (0.82, -0.25), (0.76, 0.5))
    _sleeves(p, 0.54, sleeve, 0.16, 0.12)
    if sleeve[1] < 0:
        p.add(capsule(0.8, -0.2, 0.83, -0.3, 0.13).mirror(), plain=True, tone=1.03, edge=0.06)
    _torso(p, 0.52, 0.47, 0.45, 0.47, p.vary(-0.65, -0.5), 0.17)
    p.add(box(-0.05, -0.6, 0.05, 0.8, 0.01), tone=1.06, edge=0.02)
    p.add(circle(0, -0.4, 0.024).repeat(1, 5, 1, 0.25), p.pick("light", "dark"), edge=0.02, cast=0.5)
    p.add(polygon([(-0.13, 1.02), (0.13, 1.02), (0, 0.84)]), tone=0.45, plain=True, edge=0.03)
    p.add(polygon([(0.02, 0.82), (0.14, 1.06), (0.24, 0.98), (0.17, 0.72)]).mirror(), tone=1.1, plain=True, edge=0.03)
    if p.chance(0.6):
        p.add(box(0.14, 0.25, 0.36, 0.5, 0.02), tone=1.03, edge=0.02, cast=0.5)


def tie(p: Sketch) -> None:
    p.stage, p.spin, p.repeat, wide = "flat", 12, 0.17, p.vary(0.2, 0.27)
    if p.chance(0.15):  # a bow tie
        p.add(blob([(0.05, 0.06), (0.5, 0.32), (0.62, 0.0), (0.5, -0.32), (0.05, -0.06)]).mirror(), edge=0.18)
        p.add(box(-0.11, -0.12, 0.11, 0.12, 0.05), edge=0.08, tone=1.05)
        return
    p.add(strand([(-0.12, 1.0), (-0.2, 1.2), (0, 1.34), (0.2, 1.2), (0.12, 1.0)], 0.1), tone=0.8, edge=0.03)
    p.add(polygon([(0.05, 0.9), (0.16, -0.5), (0.25, -0.66), (0.3, -0.5), (0.1, 0.9)]), tone=0.75, edge=0.04)
    p.add(polygon([(-0.07, 0.88), (0.07, 0.88), (wide, -0.82), (0, -1.08), (-wide, -0.82)]), edge=0.12)
    p.add(polygon([(-0.15, 1.08), (0.15, 1.08), (0.08, 0.84), (-0.08, 0.84)], 0.02), tone=1.08, edge=0.06)


def t_shirt(p: Sketch) -> None:
    _hang(p, 0.5)
    _sleeves(p, 0.56, (p.vary(0.72, 0.8), p.vary(0.42, 0.55)), 0.19, 0.17)
    _torso(p, 0.54, 0.49, 0.47, 0.49, p.vary(-0.7, -0.5))
    _neckline(p, 0.2, p.vary(0.1, 0.2), p.chance(0.25))


def hoodie(p: Sketch) -> None:
    _hang(p, 0.5, 0.2)
    _sleeves(p, 0.56, (0.86, -0.3), 0.19, 0.14)
    p.add(capsule(0.86, -0.3, 0.875, -0.4, 0.13).mirror(), tone=0.8, plain=True, edge=0.05, folds=(0, 14, 0.006))
    _torso(p, 0.54, 0.5, 0.5, 0.5, -0.5)
    p.add(box(-0.51, -0.62, 0.51, -0.48, 0.04), tone=0.8, plain=True, edge=0.05, folds=(0, 14, 0.006))
    p.add(polygon([(-0.25, 0.0), (0.25, 0.0), (0.4, -0.4), (-0.4, -0.4)], 0.03), tone=0.97, edge=0.05)
    p.add(
        blob(symmetric([(0, 1.22), (0.26, 1.1), (0.36, 0.86), (0.2, 0.7), (0, 0.62)])), tone=0.95, edge=0.14, bulge=1.3
    )
    p.add(blob(symmetric([(0, 1.08), (0.16, 1.0), (0.19, 0.86), (0, 0.7)])), tone=0.45, plain=True, edge=0.1, bulge=-1)
    p.add(strand([(0.08, 0.74), (0.1, 0.5), (0.09, 0.32)], 0.03).mirror(), p.pick("light", "dark"), edge=0.015)
    if p.chance(0.5):
        p.add(box(-0.015, -0.6, 0.015, 0.66), "metal", edge=0.01)


def _legs(p: Sketch, hip: float, low: float, hem: float, apart: float) -> None:
    """Lay two trouser legs from the waist (y = 1) to `low`."""
    p.add(
        polygon(
            symmetric([(0, 1.0), (hip * 0.82, 1.0), (hip, 0.55), (apart + hem, low), (apart - hem, low), (0.015, 0.42)])
        ),
        edge=0.14,
        folds=(8, 1.4, 0.01),
    )
    p.add(capsule(0, 0.98, 0, 0.5, 0.014), tone=0.6, plain=True, edge=0.02)
    p.add(
        strand([(hip * 0.45, 0.92), (hip * 0.72, 0.82), (hip * 0.93, 0.66)], 0.025).mirror(),
        tone=0.62,
        plain=True,
        edge=0.012,
        cast=0.4,
    )
    p.add(box(-hip * 0.84, 0.93, hip * 0.84, 1.05, 0.02), tone=0.86, plain=True, edge=0.04)


def trousers(p: Sketch) -> None:
    p.stage, p.spin = p.pick("flat", "wall"), 5
    _legs(p, 0.46, p.vary(-1.25, -1.0), p.vary(0.14, 0.22), p.vary(0.24, 0.34))
    if p.chance(0.6):
        p.add(capsule(0.3, 0.35, 0.3, -1.0, 0.01).mirror(), tone=0.75, plain=True, edge=0.01, cast=0.4)
    p.add(box(-0.3, 0.9, -0.26, 1.08).repeat(4, 1, 0.187, 1), tone=0.75, plain=True, edge=0.02)


def shorts(p: Sketch) -> None:
    p.stage, p.spin = p.pick("flat", "wall"), 6
    _legs(p, 0.56, p.vary(-0.1, 0.12), p.vary(0.27, 0.32), p.vary(0.32, 0.38))
    if p.chance(0.55):
        p.add(strand([(0.02, 0.97), (0.1, 0.8), (0.08, 0.62)], 0.03).mirror(), "light", edge=0.015)


def coat(p: Sketch) -> None:
    _hang(p, 0.5)
    low = p.vary(-1.15, -0.85)
    _sleeves(p, 0.56, (0.82, -0.3), 0.18, 0.15)
    _torso(p, 0.56, 0.5, 0.46, p.vary(0.54, 0.64), low, 0.18)
    p.add(capsule(0.03, 0.75, 0.03, low + 0.02, 0.012), tone=0.5, plain=True, edge=0.01)
    if p.chance(0.3):
        p.add(blob(symmetric([(0, 1.24), (0.28, 1.1), (0.36, 0.85), (0.2, 0.74), (0, 0.68)])), tone=0.9, edge=0.14)
        p.add(blob(symmetric([(0, 1.1), (0.17, 1.0), (0.18, 0.86), (0, 0.74)])), tone=0.4, plain=True, edge=0.1)
    else:
        p.add(polygon([(-0.15, 1.01), (0.15, 1.01), (0, 0.5)]), tone=0.4, plain=True, edge=0.03)
        p.add(
            polygon([(0.0, 0.42), (0.13, 1.05), (0.25, 0.99), (0.34, 0.72), (0.24, 0.64)]).mirror(), tone=1.1, edge=0.04
        )
    columns = p.pick((0.1, 1), (-0.12, 2))
    p.add(circle(columns[0], -0.5, 0.036).repeat(columns[1], 4, 0.3, 0.27), p.pick("dark", "gold", "wood"), edge=0.03)
    if p.chance(0.5):
        p.add(box(-0.48, 0.03, 0.48, 0.14, 0.02), tone=0.8, plain=True, edge=0.04)
        p.add(box(-0.08, 0.01, 0.08, 0.16, 0.03).outline(0.035), "metal", edge=0.02)
    p.add(box(0.2, -0.26, 0.44, -0.18, 0.02).turn(12, (0.3, -0.2)).mirror(), tone=0.8, plain=True, edge=0.03)


def socks(p: Sketch) -> None:
    p.stage, p.spin, p.repeat, high = "flat", 15, 0.2, p.vary(0.3, 1.0)
    ribbed = {"plain": True, "edge": 0.06, "folds": (0, 12, 0.008)}
    for dx, dy, tone in ((0.42, 0.12, 0.88), (-0.2, 0, 1.0)):
        leg = [
            (0.2 + dx, high + dy),
            (0.21 + dx, 0.1 + dy),
            (0.2 + dx, -0.32 + dy),
            (0.02 + dx, -0.5 + dy),
            (-0.3 + dx, -0.56 + dy),
            (-0.62 + dx, -0.6 + dy),
            (-0.78 + dx, -0.46 + dy),
            (-0.68 + dx, -0.26 + dy),
            (-0.3 + dx, -0.15 + dy),
            (-0.16 + dx, 0.05 + dy),
            (-0.17 + dx, high + dy),
        ]
        p.add(polygon(leg, 0.03), tone=tone, edge=0.14)
        p.add(circle(-0.76 + dx, -0.42 + dy, 0.25) & polygon(leg, 0.03), tone=tone * 0.72, plain=True, edge=0.1, cast=0)
        p.add(circle(0.2 + dx, -0.42 + dy, 0.22) & polygon(leg, 0.03), tone=tone * 0.72, plain=True, edge=0.1, cast=0)
        p.add(box(-0.2 + dx, high - 0.16 + dy, 0.23 + dx, high + 0.04 + dy, 0.03), tone=tone * 0.82, **ribbed)
