"""Shapes of office, garden and workshop products: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, lathe, polygon, strand
from common.pocket_shop.sketch import Sketch


def desk(p: Sketch) -> None:
    w, high, deep = p.vary(1.05, 1.2), p.vary(0.9, 1.02), 0.34
    inset = deep * 0.5
    p.legs((-w + inset + 0.05,), high, 0.04, foot=0.2)
    p.legs((-w + 0.08,), high, 0.05)
    drawers = p.pick(2, 3)
    low = p.pick(0.06, 0.45)
    p.block(w - 0.62, low, w - 0.06, high - 0.05, (-0.08, 0.08), "frame")
    if low > 0.1:
        p.legs((w - 0.1,), low, 0.05)
    step = (high - 0.07 - low) / drawers
    for i in range(drawers):
        y = low + i * step
        p.add(box(w - 0.58, y + 0.02, w - 0.1, y + step - 0.02, 0.01), "frame", tone=1.05, edge=0.03)
        p.add(box(w - 0.42, y + step / 2 - 0.015, w - 0.26, y + step / 2 + 0.015, 0.01), "metal", edge=0.02)
    p.add(polygon([(-w, high), (w, high), (w - inset, high + deep), (-w + inset, high + deep)]), tone=1.1, edge=0.02)
    p.add(box(-w, high - 0.07, w, high + 0.01, 0.01), edge=0.03, tone=0.92)
    if p.chance(0.5):  # a book and a lamp show that people write here
        p.add(
            polygon([(-0.5, high + 0.08), (-0.1, high + 0.08), (-0.08, high + 0.22), (-0.42, high + 0.22)]),
            "paper",
            edge=0.02,
        )


def office_chair(p: Sketch) -> None:
    w, top = p.vary(0.46, 0.54), p.vary(1.75, 2.0)
    star = p.pick("dark", "metal")
    for x, y in ((-0.5, 0.1), (0.5, 0.1), (-0.28, 0.02), (0.28, 0.02)):
        p.add(capsule(0, 0.26, x, y + 0.06, 0.045, 0.03), star, edge=0.04)
        p.add(circle(x, y, 0.065), "rubber", edge=0.05)
    p.add(capsule(0, 0.25, 0, 0.8, 0.05), "metal", edge=0.05)
    p.add(box(-w * 0.88, 0.98, w * 0.88, top, 0.2), edge=0.2, bulge=1.2)
    if p.chance(0.4):
        p.add(box(-w * 0.55, top + 0.03, w * 0.55, top + 0.26, 0.1), edge=0.1)
    p.add(strand([(w * 0.9, 0.82), (w + 0.16, 0.9), (w + 0.16, 1.15)], 0.06).mirror(), "dark", edge=0.03)
    p.add(capsule(w + 0.1, 1.18, w + 0.22, 1.18, 0.055).mirror(), "dark", edge=0.05)
    p.add(box(-w, 0.74, w, 0.98, 0.11), edge=0.12, bulge=1.4)


def notebook(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 22, p.vary(0.66, 0.76), 0.95
    for i in range(3):
        p.add(box(-w + 0.03, -h - 0.05 + 0.02 * i, w + 0.06 - 0.02 * i, h - 0.02, 0.02), "paper", edge=0.02)
    p.add(box(-w, -h, w, h, 0.07), edge=0.06, bulge=0.8)
    if p.chance(0.45):  # spiral binding
        p.add(
            capsule(-w - 0.07, -h + 0.14, -w + 0.08, -h + 0.14, 0.022).repeat(1, 15, 1, (2 * h - 0.28) / 14),
            "metal",
            edge=0.02,
        )
    else:
        p.add(box(-w, -h, -w + 0.16, h, 0.05), tone=0.75, plain=True, edge=0.05)
        if p.chance(0.6):
            p.add(box(w - 0.2, -h - 0.01, w - 0.14, h + 0.01), "dark", material="polyester", edge=0.02)
    if p.chance(0.5):
        p.add(box(-0.3, 0.3, 0.38, 0.62, 0.03), "paper", edge=0.02, cast=0.4)
        p.add(box(-0.22, 0.4, 0.3, 0.41).repeat(1, 2, 1, 0.1), "grey", cast=0)
    if p.chance(0.4):
        p.add(box(0.1, -h - 0.25, 0.16, -h + 0.02), "red", material="satin", edge=0.02)


def fountain_pen(p: Sketch) -> None:
    p.stage, p.spin, r = "flat", 50, p.vary(0.11, 0.14)
    p.add(polygon([(-1.08, -0.075), (-1.42, 0.0), (-1.08, 0.075)], 0.01), "gold", edge=0.05)
    p.add(capsule(-1.36, 0, -1.15, 0, 0.006), "dark", cast=0)
    p.add(
        between([(-1.12, -0.07), (-0.72, -r * 0.85)], [(-1.12, 0.07), (-0.72, r * 0.85)]), "dark", edge=0.1, bulge=1.6
    )
    p.add(
        between([(-0.72, -r), (0.3, -r * 1.1), (1.0, -r * 0.7)], [(-0.72, r), (0.3, r * 1.1), (1.0, r * 0.7)]),
        edge=0.13,
        bulge=1.8,
    )
    p.add(box(-0.74, -r * 1.06, -0.66, r * 1.06, 0.01), "gold", edge=0.05)
    cap_y = 0.42 if p.chance(0.7) else -0.4  # the cap lies beside the pen
    p.add(box(-0.55, cap_y - r * 1.15, 0.45, cap_y + r * 1.15, 0.1), edge=0.14, bulge=1.8)
    p.add(box(-0.55, cap_y - r * 1.18, -0.44, cap_y + r * 1.18, 0.02), "gold", edge=0.05)
    p.add(capsule(0.36, cap_y + 0.03, -0.25, cap_y + 0.03, 0.028), "gold", edge=0.02)


def scissors(p: Sketch) -> None:
    p.stage, p.spin, wide = "flat", 40, p.vary(8, 14)
    for side in (-1, 1):
        blade = polygon([(-0.08, -0.1), (0.09, -0.1), (0.06, 0.5), (0.0, 1.15), (-0.06, 0.5)])
        p.add(blade.turn(side * wide), "metal" if not p.made_of("ceramic") else "light", edge=0.06)
        p.add(capsule(0, 0.05, side * -0.16, -0.4, 0.075).turn(side * -wide * 0.3), edge=0.07, plain=True)
        ring = ellipse(side * -0.33, -0.75, 0.24, 0.4).turn(side * -wide * 0.8, (0, 0))
        p.add(ring.outline(p.vary(0.16, 0.2)), edge=0.09)
    p.add(circle(0, 0, 0.05), "metal", edge=0.04)


def pencil_case(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 18, 1.1, p.vary(0.36, 0.46)
    for i in range(p.pick(0, 2, 3)):
        x = -0.2 + 0.24 * i
        p.add(
            box(x, h - 0.3, x + 0.1, h + 0.35, 0.01),
            p.pick("lamp", "red", "plant", "lit"),
            material="plastic",
            edge=0.05,
        )
        p.add(polygon([(x, h + 0.35), (x + 0.1, h + 0.35), (x + 0.05, h + 0.5)]), "skin", edge=0.04)
    p.add(box(-w, -h, w, h, p.vary(0.12, 0.3)), edge=0.3, bulge=1.2)
    p.add(box(-w + 0.06, h * 0.52, w - 0.06, h * 0.7, 0.02), tone=0.7, plain=True, edge=0.03)
    p.add(box(-w + 0.1, h * 0.58, w - 0.1, h * 0.64), "metal", edge=0.01, cast=0)
    p.add(box(-0.05, -0.1, 0.05, 0.1, 0.04).at(w * 0.7, h * 0.4), p.pick("metal", "gold", "tan"), edge=0.03)


def planter(p: Sketch) -> None:
    w, high = p.vary(0.6, 0.75), p.vary(0.8, 1.0)
    for i, lean in enumerate((-0.5, 0.45, -0.22, 0.2, 0.0)):  # leaves
        leaf = blob([(0, 0), (0.16, 0.35), (0, p.vary(0.75, 0.95)), (-0.16, 0.35)]).turn(-lean * 75)
        p.add(leaf.at(lean * 0.3, high - 0.05), "plant", tone=0.85 + 0.1 * (i % 3), edge=0.12)
    p.add(ellipse(0, high, w, w * 0.16), tone=0.9, plain=True, edge=0.03)
    p.add(ellipse(0, high, w - 0.07, w * 0.12), "earth", edge=0.03)
    lobes = [(lean, 0.22) for lean in (-0.35, 0.05, 0.4)]
    for x, r in lobes:
        p.add(ellipse(x, high + 0.18, r, 0.12).turn(x * 60, (x, high)), "plant", edge=0.12)
    p.add(
        lathe([(0, w * 0.66), (high, w)], smooth=False)
        if p.chance(0.6)
        else lathe([(0, w * 0.6), (high * 0.5, w), (high, w * 0.92)])
    )
    if p.chance(0.6):
        p.add(lathe([(high - 0.2, w * 1.07), (high, w * 1.09)], smooth=False), tone=1.04, plain=True)
    if p.chance(0.3):
        p.add(lathe([(-0.07, w * 0.8), (0.0, w * 0.85)]), tone=0.9, plain=True)


def watering_can(p: Sketch) -> None:
    w, high = p.vary(0.5, 0.6), p.vary(0.75, 0.9)
    p.add(strand([(w * 0.7, 0.2), (w + 0.42, 0.5), (w + 0.6, high + 0.15)], 0.11), edge=0.05, plain=True)
    p.add(
        polygon([(w + 0.52, high + 0.1), (w + 0.7, high + 0.06), (w + 0.86, high + 0.3), (w + 0.5, high + 0.4)], 0.02),
        edge=0.08,
        tone=1.05,
        plain=True,
    )
    p.add(
        strand(
            [
                (-w * 0.9, high * 0.3),
                (-w - 0.38, high * 0.6),
                (-w * 0.9, high + 0.3),
                (0, high + 0.34),
                (w * 0.4, high),
            ],
            0.09,
        ),
        edge=0.045,
        tone=0.92,
        plain=True,
    )
    p.add(ellipse(0, high, w, w * 0.16), tone=0.55, plain=True, edge=0.04)
    p.add(lathe([(0, w * 1.08), (0.06, w * 1.1), (high, w)], smooth=False))
    p.add(lathe([(high * 0.86, w * 1.05), (high * 0.94, w * 1.04)], smooth=False), tone=0.85, plain=True)


def parasol(p: Sketch) -> None:
    p.repeat, wide, top = 0.28, p.vary(1.05, 1.2), p.vary(1.85, 2.05)
    low = top - p.vary(0.5, 0.7)
    p.add(capsule(0, 0.08, 0, top, 0.035), p.pick("wood", "metal", "light"), edge=0.035)
    p.add(lathe([(0, 0.36), (0.08, 0.34), (0.13, 0.08)], smooth=False), p.pick("dark", "grey"), material="stoneware")
    p.add(polygon([(-wide, low), (wide, low), (0, top)], 0.01), edge=0.3)
    for x in (-0.5, 0.5):
        p.add(polygon([(0, top), (x * wide * 0.76, low), (x * wide * 2, low)]), tone=0.82, edge=0.08, cast=0.2)
    scallop = [(-wide + 2 * wide * i / 24, low - (0.12, 0.2, 0.24, 0.2)[i % 4]) for i in range(25)]
    p.add(between(scallop, [(-wide, low + 0.02), (wide, low + 0.02)]), tone=0.92, edge=0.04)
    p.add(ball(0, top + 0.04, 0.06), "wood")


def barbecue(p: Sketch) -> None:
    r, rim = p.vary(0.66, 0.76), p.vary(0.98, 1.1)
    p.add(capsule(0.1, rim - 0.2, 0.25, 0.15, 0.035), "metal")
    for side in (-1, 1):
        p.add(capsule(side * 0.3, rim - 0.3, side * 0.62, 0.05, 0.04), "metal", edge=0.035)
    p.add(capsule(-0.5, 0.32, 0.5, 0.32, 0.022), "metal", edge=0.02)
    p.add(circle(0.6, 0.15, 0.15), "rubber", edge=0.06)
    p.add(circle(0.6, 0.15, 0.06), "grey", edge=0.04)
    p.add(ball(0, rim, r, r * 0.75) & box(-2, -2, 2, rim))
    if p.chance(0.65):  # with its lid on
        p.add(ball(0, rim, r * 1.03, r * 0.85) - box(-2, -2, 2, rim), tone=1.05)
        p.add(
            strand(
                [(-0.16, rim + r * 0.8), (-0.12, rim + r * 1.02), (0.12, rim + r * 1.02), (0.16, rim + r * 0.8)], 0.06
            ),
            "wood",
            edge=0.03,
        )
        p.add(box(-r * 1.05, rim - 0.03, r * 1.05, rim + 0.03, 0.02), "metal", edge=0.02)
    else:
        p.add(ellipse(0, rim, r * 1.03, 0.16), "metal", edge=0.03)
        p.add(ellipse(0, rim, r * 0.96, 0.13), "dark", edge=0.03)
        p.add(
            box(-0.6, rim - 0.15, -0.585, rim + 0.15).repeat(13, 1, 0.1, 1) & ellipse(0, rim, r * 0.96, 0.13),
            "metal",
            cast=0,
        )
        for x in (-0.32, 0.05):
            p.add(capsule(x, rim + 0.03, x + 0.24, rim + 0.01, 0.05), "tan", edge=0.05)
    p.add(capsule(r * 0.98, rim - 0.2, r + 0.16, rim - 0.2, 0.035).mirror(), "wood", edge=0.03)


def hammer(p: Sketch) -> None:
    p.stage, p.spin = "flat", 35
    p.add(
        blob(
            [
                (-0.08, 0.72),
                (0.08, 0.72),
                (0.09, -0.2),
                (0.13, -0.7),
                (0.12, -1.12),
                (-0.12, -1.12),
                (-0.13, -0.7),
                (-0.09, -0.2),
            ]
        ),
        edge=0.12,
        bulge=1.3,
    )
    p.add(
        box(-0.13, -1.14, 0.13, -0.45, 0.1),
        tone=0.8,
        material="rubber" if p.chance() else None,
        edge=0.1,
        folds=(90, 5, 0.012),
    )
    p.add(blob([(0.0, 0.98), (-0.5, 0.9), (-0.78, 0.62), (-0.7, 0.6), (-0.42, 0.74), (0, 0.7)]), "metal", edge=0.08)
    p.add(box(-0.14, 0.64, 0.2, 1.02, 0.06), "metal", edge=0.1)
    p.add(box(0.18, 0.72, 0.42, 0.95, 0.03), "metal", edge=0.1)
    p.add(box(0.4, 0.66, 0.56, 1.02, 0.05), "metal", edge=0.08)


def drill(p: Sketch) -> None:
    p.stage, p.spin = p.pick("flat", "floor"), 8
    p.add(capsule(-0.95, 0.98, -1.4, 0.98, 0.03, 0.022), "metal", edge=0.03)
    p.add(
        polygon([(-0.6, 0.78), (-0.85, 0.86), (-1.0, 0.92), (-1.0, 1.04), (-0.85, 1.1), (-0.6, 1.18)], 0.02),
        "dark",
        edge=0.12,
    )
    p.add(polygon([(0.05, 0.85), (0.5, 0.85), (0.62, 0.2), (0.22, 0.2)], 0.05), edge=0.14)
    p.add(box(0.02, 0.45, 0.14, 0.72, 0.04), "red" if p.chance() else "dark", edge=0.05)
    p.add(polygon([(0.28, 0.72), (0.5, 0.72), (0.58, 0.3), (0.34, 0.3)], 0.03), "rubber", edge=0.06)
    p.add(box(-0.66, 0.72, 0.62, 1.26, 0.16), edge=0.2, bulge=1.2)
    p.add(box(-0.66, 0.76, -0.4, 1.22, 0.08), "dark", edge=0.12)
    p.add(box(0.3, 0.88, 0.56, 0.91).repeat(1, 4, 1, 0.075), "dark", cast=0)
    p.add(box(-0.02, -0.06, 0.86, 0.26, 0.07), "dark", edge=0.08)
    p.add(box(0.02, 0.1, 0.82, 0.24, 0.05), edge=0.05)


def toolbox(p: Sketch) -> None:
    w, high = p.vary(0.95, 1.1), p.vary(0.6, 0.75)
    p.add(
        strand([(-0.36, high + 0.2), (-0.32, high + 0.55), (0.32, high + 0.55), (0.36, high + 0.2)], 0.1),
        "dark",
        edge=0.05,
    )
    p.add(box(-w, 0, w, high, 0.05), edge=0.1)
    p.add(
        polygon([(-w, high), (w, high), (w - 0.14, high + 0.32), (-w + 0.14, high + 0.32)], 0.03), tone=1.06, edge=0.08
    )
    p.add(box(-w - 0.03, high - 0.04, w + 0.03, high + 0.05, 0.02), "dark", edge=0.03)
    p.add(box(w * 0.42, high - 0.16, w * 0.62, high + 0.12, 0.03).mirror(), "metal", edge=0.04)
    p.add(box(-w + 0.02, 0.02, -w + 0.2, 0.18, 0.03).mirror(), "dark", edge=0.05)
    if p.pattern == "plain":
        p.add(box(-w * 0.7, high * 0.32, w * 0.7, high * 0.42, 0.02), tone=0.7, edge=0.02)


def birdhouse(p: Sketch) -> None:
    w, high = p.vary(0.48, 0.6), p.vary(0.85, 1.05)
    if p.chance(0.4):
        p.add(box(-0.06, -0.7, 0.06, 0.1), "wood", edge=0.05)
    peak = high + w * p.vary(0.75, 1.0)
    p.add(polygon([(w, 0), (w + 0.22, 0.1), (w + 0.22, high + 0.08), (w, high)]), tone=0.65, edge=0.03)
    p.add(polygon([(-w, 0), (w, 0), (w, high), (0, peak), (-w, high)]), edge=0.04)
    p.add(
        polygon([(0, peak), (0.22, peak + 0.1), (w + 0.4, high - 0.03), (w + 0.18, high - 0.12)], 0.02),
        tone=0.8,
        edge=0.04,
    )
    p.add(capsule(-w - 0.14, high - 0.14, 0, peak + 0.03, 0.05), tone=0.72, edge=0.04)
    p.add(capsule(w + 0.16, high - 0.14, 0, peak + 0.03, 0.05), tone=0.78, edge=0.04)
    p.add(circle(0, high * 0.62, 0.21), tone=0.75, edge=0.04, plain=True)
    p.add(circle(0, high * 0.62, 0.17), "dark", material="matte", tone=0.6, edge=0.05, bulge=-1)
    p.add(capsule(0, high * 0.28, 0.03, high * 0.25, 0.04), "wood", edge=0.04)
