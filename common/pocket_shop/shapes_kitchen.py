"""Shapes of kitchen and dining products: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, lathe, polygon, strand
from common.pocket_shop.sketch import Sketch


def _rim(p: Sketch, y: float, w: float, wall: float = 0.05, flat: float = 0.18, inside: str = "main") -> None:
    """Lay the open top of a round vessel: its rim and the hollow below."""
    p.add(ellipse(0, y, w, w * flat), tone=1.08, plain=True, edge=0.03)
    p.add(
        ellipse(0, y - 0.01, w - wall, (w - wall) * flat * 0.9),
        inside,
        tone=0.74 if inside == "main" else 1,
        plain=True,
        edge=0.05,
        bulge=-1,
    )


def frying_pan(p: Sketch) -> None:
    p.stage, p.spin, r = "flat", 40, p.vary(0.66, 0.78)
    p.add(capsule(r * 0.9, 0, r + p.vary(0.75, 0.95), 0, 0.06, 0.085), p.pick("main", "dark", "wood"), edge=0.06)
    p.add(circle(0, 0, r), edge=0.1, bulge=1.5)
    p.add(circle(0, 0, r - 0.12), tone=p.pick(1.0, 0.85), edge=0.08, bulge=-1.3)
    p.add(circle(r + 0.72, 0, 0.03), "dark", material="matte")


def saucepan(p: Sketch) -> None:
    w, high = p.vary(0.62, 0.8), p.vary(0.6, 0.85)
    if p.chance():
        p.add(
            capsule(w * 0.9, high * 0.82, w + 0.75, high * 0.9, 0.05, 0.065), p.pick("main", "dark", "wood"), edge=0.05
        )
    else:
        p.add(box(-w - 0.17, high * 0.66, w + 0.17, high * 0.84, 0.06).outline(0.06), edge=0.03)
    p.add(lathe([(0, w * 0.92), (0.06, w * 0.98), (high, w)], smooth=False))
    if p.chance(0.6):
        p.add(ellipse(0, high, w * 1.04, w * 0.17), edge=0.04)
        p.add(ball(0, high + 0.02, w * 0.98, w * 0.3) - box(-2, -2, 2, high), tone=1.04)
        p.add(ball(0, high + w * 0.36, 0.09, 0.07), p.pick("main", "dark", "metal"))
    else:
        _rim(p, high, w, 0.04)


def baking_tin(p: Sketch) -> None:
    p.stage, p.spin = "flat", 12
    kind = p.pick("muffin", "bundt", "loaf")
    if kind == "muffin":
        columns, rows, step = 3, p.pick(2, 3), 0.56
        p.add(box(-0.38, -0.38, 0.38 + step * 2, 0.38 + step * (rows - 1), 0.14), edge=0.06)
        p.add(circle(0, 0, 0.23).repeat(columns, rows, step, step), tone=1.1, edge=0.04)
        p.add(circle(0, 0, 0.2).repeat(columns, rows, step, step), tone=0.62, edge=0.12, bulge=-1.6)
    elif kind == "bundt":
        p.add(circle(0, 0, 0.95), edge=0.06)
        p.add(circle(0, 0, 0.86), tone=0.8, edge=0.35, bulge=-1.5)
        for i in range(9):
            p.add(capsule(0.3, 0, 0.74, 0, 0.035, 0.06).turn(40 * i), tone=1.02, edge=0.06, cast=0.4)
        p.add(circle(0, 0, 0.22), tone=1.1, edge=0.12)
        p.add(circle(0, 0, 0.1), "dark", material="matte", edge=0.04)
    else:
        p.add(box(-1, -0.55, 1, 0.55, 0.1), tone=1.1, edge=0.05)
        p.add(box(-0.93, -0.48, 0.93, 0.48, 0.08), tone=0.8, edge=0.16, bulge=-1.8)
        p.add(box(-0.78, -0.33, 0.78, 0.33, 0.06), tone=0.72, edge=0.03)


def kettle(p: Sketch) -> None:
    w, high = p.vary(0.52, 0.66), p.vary(0.85, 1.1)
    p.add(
        strand(
            [
                (-w * 0.6, high * 0.9),
                (-w * 0.5, high + 0.5),
                (0.1, high + 0.58),
                (w * 0.75, high + 0.4),
                (w * 0.75, high * 0.85),
            ],
            0.09,
        ),
        p.pick("dark", "wood", "main"),
        edge=0.05,
        plain=True,
    )
    p.add(strand([(-w * 0.7, high * 0.35), (-w - 0.18, high * 0.55), (-w - 0.36, high * 1.0)], 0.13), edge=0.06)
    p.add(lathe([(0, w), (0.12, w * 1.03), (high * 0.55, w * 0.9), (high * 0.9, w * 0.55), (high, w * 0.4)]))
    p.add(ellipse(0, high, w * 0.42, 0.07), tone=1.06, edge=0.05)
    p.add(ball(0, high + 0.1, 0.08), p.pick("dark", "wood", "metal"))
    if p.chance():
        p.add(lathe([(-0.02, w * 1.04), (0.07, w * 1.02)]), "dark")


def mug(p: Sketch) -> None:
    w, h, reach = p.vary(0.42, 0.56), p.vary(0.9, 1.35), p.vary(0.24, 0.36)
    foot = w * p.vary(0.75, 1.0)
    handle = [(w * 0.85, h * 0.8), (w + reach, h * 0.74), (w + reach * 0.9, h * 0.3), (w * 0.85, h * 0.2)]
    p.add(strand(handle, 0.11), plain=True, edge=0.055)
    p.add(lathe(p.pick([(0, foot * 0.9), (0.08, foot), (h, w)], [(0, foot * 0.7), (h * 0.4, w * 1.08), (h, w)])))
    _rim(p, h, w, 0.045)


def plate(p: Sketch) -> None:
    p.stage, p.spin, rim = "flat", 30, p.vary(0.6, 0.72)
    p.add(circle(0, 0, 0.97), edge=0.06)
    p.add(circle(0, 0, rim), tone=0.97, edge=0.07, bulge=-1.4, cast=0.3)
    if p.chance(0.5) and p.pattern == "plain":
        p.add(circle(0, 0, 0.92).outline(0.035), tone=0.75, edge=0.02, cast=0)


def bowl(p: Sketch) -> None:
    w, high = p.vary(0.75, 0.95), p.vary(0.5, 0.75)
    p.add(lathe([(-0.03, w * 0.42), (0.05, w * 0.42)]), tone=0.85, plain=True)
    p.add(lathe([(0.02, w * 0.42), (high * 0.3, w * 0.75), (high * 0.7, w * 0.96), (high, w)], sag=0.22))
    _rim(p, high, w, 0.04, 0.24)


def wine_glass(p: Sketch) -> None:
    r, stem, cup = p.vary(0.3, 0.44), p.vary(0.6, 0.8), p.vary(0.7, 0.95)
    mouth = r * p.vary(0.7, 0.95)
    p.add(lathe([(0, r * 0.8), (0.05, r * 0.5), (0.1, 0.035), (stem, 0.035), (stem + 0.05, 0.07)], smooth=False))
    profile = [
        (stem, 0.04),
        (stem + cup * 0.12, r * 0.7),
        (stem + cup * 0.4, r),
        (stem + cup * 0.75, (r + mouth) / 2),
        (stem + cup, mouth),
    ]
    if p.chance(0.4):
        level = stem + cup * p.vary(0.35, 0.5)
        p.add(lathe(profile) - box(-1, level, 1, 3), p.pick("red", "lamp"), material="glass", tone=0.7)
    p.add(ellipse(0, stem + cup, mouth, mouth * 0.18), edge=0.02)
    p.add(lathe(profile))


def teapot(p: Sketch) -> None:
    w, high = p.vary(0.58, 0.72), p.vary(0.8, 1.0)
    p.add(
        strand([(w * 0.85, high * 0.8), (w + 0.34, high * 0.78), (w + 0.3, high * 0.35), (w * 0.85, high * 0.22)], 0.1),
        plain=True,
        edge=0.05,
    )
    p.add(
        polygon(
            [
                (-w * 0.75, high * 0.15),
                (-w * 0.7, high * 0.55),
                (-w - 0.3, high * 0.98),
                (-w - 0.42, high * 0.92),
                (-w - 0.18, high * 0.45),
            ],
            0.02,
        ),
        plain=True,
        edge=0.09,
    )
    p.add(
        lathe(
            [(0, w * 0.55), (high * 0.12, w * 0.8), (high * 0.45, w), (high * 0.8, w * 0.72), (high * 0.95, w * 0.42)]
        )
    )
    p.add(ball(0, high * 0.93, w * 0.44, 0.13), tone=1.05, plain=True)
    p.add(ball(0, high * 0.93 + 0.17, 0.075), plain=True)


def carafe(p: Sketch) -> None:
    r, high = p.vary(0.42, 0.55), p.vary(1.4, 1.7)
    neck = p.vary(0.15, 0.22)
    profile = [
        (0, r * 0.85),
        (0.1, r),
        (high * 0.35, r * 0.85),
        (high * 0.62, neck),
        (high * 0.85, neck * 1.05),
        (high, neck * 1.5),
    ]
    if p.chance(0.4):
        p.add(
            strand(
                [(neck, high * 0.9), (r * 0.95, high * 0.85), (r * 0.95, high * 0.45), (r * 0.75, high * 0.36)], 0.08
            ),
            edge=0.04,
        )
    if p.chance(0.5):
        p.add(lathe([(0.04, r * 0.86), (0.1, r * 0.94), (high * 0.35, r * 0.8), (high * 0.45, r * 0.55)]), "water")
    p.add(ellipse(0, high, neck * 1.5, neck * 0.3), edge=0.02)
    p.add(lathe(profile))
    if p.chance(0.35):
        p.add(ball(0, high + 0.1, neck * 1.1), p.pick("main", "rope"), plain=True)


def chopping_board(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 30, p.vary(0.8, 1.0), p.vary(0.5, 0.65)
    kind = p.pick("handle", "hole", "round")
    board = circle(0, 0, 0.75) if kind == "round" else box(-w, -h, w, h, 0.1)
    if kind != "hole":
        board = board.melt(box(0.6, -0.13, w + 0.55, 0.13, 0.1), 0.1)
    p.add(board, edge=0.05)
    p.add(
        (circle(0, 0, 0.66) if kind == "round" else box(-w + 0.1, -h + 0.1, w - 0.1, h - 0.1, 0.06)).outline(0.025),
        tone=0.75,
        edge=0.02,
        bulge=-1,
        cast=0,
    )
    hole = circle(w + 0.4, 0, 0.06) if kind != "hole" else capsule(w - 0.15, -0.15, w - 0.15, 0.15, 0.05)
    p.add(hole, "dark", material="matte", edge=0.03, cast=0)


def knife(p: Sketch) -> None:
    p.stage, p.spin, deep = "flat", 35, p.vary(0.2, 0.3)
    blade = between([(-1.2, 0.06), (-0.7, -deep * 0.75), (0.25, -deep)], [(-1.2, 0.07), (-0.6, 0.1), (0.25, 0.1)])
    p.add(blade, "main" if p.chance(0.65) else "metal", plain=True, edge=0.12, bulge=0.7, tone=1.05)
    p.add(box(0.22, -0.1, 0.32, 0.1, 0.03), "metal", edge=0.03)
    p.add(
        blob([(0.28, 0.1), (0.7, 0.12), (1.05, 0.1), (1.15, -0.06), (1.0, -0.13), (0.65, -0.08), (0.28, -0.1)]),
        "frame" if p.made_of("steel") else "main",
        material="plastic" if p.chance() else None,
        edge=0.09,
    )
    p.add(circle(0.5, 0.01, 0.028).repeat(3, 1, 0.2, 1), "metal", edge=0.02, cast=0.4)


def ladle(p: Sketch) -> None:
    p.stage, p.spin, r = "flat", 40, p.vary(0.34, 0.42)
    p.add(strand([(0, 0.1), (0.02, 0.7), (0, 1.4), (0.0, 1.75)], 0.1), edge=0.05)
    p.add(capsule(0, 1.2, 0, 1.8, 0.06, 0.08), edge=0.06)
    p.add(circle(0, 1.76, 0.035), "dark", material="matte", cast=0)
    p.add(ellipse(0, -0.1, r, r * 0.92), edge=0.06, tone=1.05)
    p.add(ellipse(0, -0.1, r - 0.05, r * 0.92 - 0.05), edge=0.25, bulge=-1.8, tone=0.8)


def kitchen_scale(p: Sketch) -> None:
    w = p.vary(0.8, 0.95)
    if p.chance(0.45):  # a dial with a bowl
        p.add(lathe([(1.05, 0.2), (1.15, 0.55), (1.4, 0.8)]), "metal")
        p.add(ellipse(0, 1.4, 0.8, 0.12), "metal", tone=0.7)
        p.add(polygon([(-0.7, 0), (0.7, 0), (0.45, 1.1), (-0.45, 1.1)], 0.05), edge=0.15)
        p.add(circle(0, 0.52, 0.4), "light", edge=0.04)
        for i in range(8):
            p.add(box(-0.012, 0.3, 0.012, 0.36).turn(45 * i).at(0, 0.52), "dark", cast=0)
        p.add(capsule(0, 0.52, 0.18, 0.74, 0.025, 0.01), "red", cast=0.5)
        return
    p.add(polygon([(-w, 0.2), (w, 0.2), (w - 0.22, 0.85), (-w + 0.22, 0.85)], 0.05), edge=0.05, tone=1.06)
    p.add(ellipse(0, 0.58, w * 0.62, 0.2), "metal" if p.chance() else "main", tone=0.95, edge=0.04)
    p.add(box(-w - 0.04, 0, w + 0.04, 0.25, 0.06), edge=0.06)
    p.add(box(-0.28, 0.05, 0.28, 0.19, 0.02), "screen", edge=0.02)
    p.add(box(-0.18, 0.08, -0.1, 0.16, 0.01).repeat(3, 1, 0.13, 1), "lit", glow=1)


def storage_jar(p: Sketch) -> None:
    w, high = p.vary(0.45, 0.6), p.vary(1.0, 1.4)
    lid = p.pick("wood", "metal", "main")
    if p.made_of("glass"):
        p.add(lathe([(0.06, w * 0.9), (high * 0.6, w * 0.92)]), p.pick("paper", "rope", "earth"), material="cork")
    p.add(lathe([(0, w * 0.92), (0.06, w), (high * 0.85, w), (high, w * 0.82)], smooth=False))
    if p.chance(0.5):
        p.add(box(-0.24, high * 0.4, 0.24, high * 0.62, 0.03), "paper", edge=0.02, cast=0.4)
        p.add(box(-0.15, high * 0.5 - 0.01, 0.15, high * 0.5 + 0.01), "dark", cast=0)
    p.add(lathe([(high, w * 0.88), (high + 0.16, w * 0.88)], smooth=False), lid, plain=True)
    p.add(ellipse(0, high + 0.16, w * 0.88, w * 0.15), lid, tone=1.12, plain=True, edge=0.04)
    p.add(ball(0, high + 0.24, 0.1, 0.08), lid, plain=True)


def lunch_box(p: Sketch) -> None:
    w, high, lid = p.vary(0.85, 1.0), p.vary(0.5, 0.62), p.pick(1.12, 0.82)
    if p.chance(0.3):
        p.add(
            strand([(-0.4, high + 0.15), (-0.35, high + 0.45), (0.35, high + 0.45), (0.4, high + 0.15)], 0.07),
            "dark",
            edge=0.03,
        )
    p.add(polygon([(-w * 0.92, 0), (w * 0.92, 0), (w, high), (-w, high)], 0.05), edge=0.12)
    p.add(
        polygon([(-w, high), (w, high), (w - 0.16, high + 0.34), (-w + 0.16, high + 0.34)], 0.04),
        tone=lid * 1.06,
        edge=0.06,
    )
    p.add(box(-w - 0.07, high - 0.1, w + 0.07, high + 0.07, 0.05), tone=lid, edge=0.06, plain=True)
    p.add(box(w * 0.42, high - 0.2, w * 0.62, high + 0.05, 0.03).mirror(), p.pick("grey", "light", "metal"), edge=0.03)


def toaster(p: Sketch) -> None:
    w, high = p.vary(0.8, 0.95), p.vary(0.85, 1.0)
    for x in (-0.1, 0.12):
        if p.chance(0.75):
            p.add(box(-0.42 + x, high - 0.2, 0.32 + x, high + p.vary(0.25, 0.4), 0.12), "skin", edge=0.05)
    p.add(box(-w + 0.1, high - 0.1, w - 0.1, high + 0.08, 0.06), "dark", edge=0.05)
    p.add(box(-w, 0.08, w, high, p.vary(0.16, 0.32)), edge=0.2, bulge=1.2)
    p.add(box(-w + 0.08, 0, w - 0.08, 0.12, 0.04), "dark", edge=0.05)
    p.add(box(w - 0.02, 0.5, w + 0.12, 0.6, 0.03), "dark", edge=0.03)
    p.add(circle(w * 0.62, 0.3, 0.09), "metal", edge=0.05)


def blender(p: Sketch) -> None:
    w, high = p.vary(0.36, 0.44), p.vary(1.55, 1.8)
    body = None if p.made_of("glass", "steel") and p.chance() else "glass"
    p.add(
        strand([(w * 0.9, high * 0.92), (w + 0.26, high * 0.9), (w + 0.22, 0.8), (w * 0.8, 0.72)], 0.09),
        "frame",
        edge=0.04,
    )
    p.add(
        lathe([(0.6, w * 0.72), (high, w * 1.1)], smooth=False),
        "main" if body is None or p.made_of("glass") else "glass",
    )
    p.add(
        lathe(
            [(high - 0.02, w * 1.12), (high + 0.1, w * 1.05), (high + 0.14, w * 0.5), (high + 0.24, w * 0.45)],
            smooth=False,
        ),
        "frame",
    )
    p.add(lathe([(0, w * 1.25), (0.08, w * 1.28), (0.5, w * 0.95), (0.66, w * 0.8)]), "frame")
    p.add(circle(0, 0.25, 0.11), "metal", edge=0.06)
    p.add(capsule(0, 0.25, 0, 0.34, 0.012), "dark", cast=0)


def coffee_machine(p: Sketch) -> None:
    w, high = p.vary(0.62, 0.75), p.vary(1.4, 1.6)
    p.block(-w, 0, w, high, (0.16, 0.1))
    p.add(box(-w + 0.1, 0.2, w - 0.1, high * 0.66, 0.04), tone=0.5, edge=0.05, bulge=-1)
    p.add(box(-w + 0.02, 0.02, w + 0.02, 0.2, 0.03), "metal", edge=0.05)
    p.add(box(-w + 0.12, 0.08, w - 0.12, 0.12).repeat(1, 2, 1, 0.05), "dark", edge=0.01, cast=0)
    p.add(box(-0.2, high * 0.54, 0.2, high * 0.7, 0.04), "metal", edge=0.06)
    p.add(capsule(-0.02, high * 0.54, -0.5, high * 0.5, 0.05, 0.065), "dark", edge=0.05)
    p.add(lathe([(0.22, 0.11), (0.42, 0.17)]), "light")
    p.add(circle(-0.36, high * 0.84, 0.06).repeat(2, 1, 0.2, 1), "metal", edge=0.04)
    p.add(circle(0.32, high * 0.84, 0.12), "light", edge=0.03)
    p.add(capsule(0.32, high * 0.84, 0.38, high * 0.9, 0.012), "red", cast=0)


def stand_mixer(p: Sketch) -> None:
    bowl = p.vary(0.42, 0.5)
    p.add(box(-0.85, 0, 0.75, 0.16, 0.08), edge=0.08)
    p.add(polygon([(0.25, 0.1), (0.7, 0.1), (0.62, 1.0), (0.3, 1.0)], 0.06), edge=0.18)
    p.add(capsule(-0.35, 0.85, -0.35, 0.5, 0.05), "metal")
    p.add(lathe([(0.16, bowl * 0.55), (0.3, bowl * 0.8), (0.72, bowl)], x=-0.35), "metal")
    p.add(ellipse(-0.35, 0.72, bowl, 0.08), "metal", tone=0.6, edge=0.03)
    p.add(capsule(-0.35, 0.98, -0.35, 0.72, 0.07), "metal", edge=0.07)
    p.add(
        blob(
            [
                (-0.85, 1.22),
                (-0.6, 1.42),
                (0.1, 1.48),
                (0.68, 1.4),
                (0.78, 1.15),
                (0.55, 0.96),
                (-0.1, 0.95),
                (-0.7, 1.0),
            ]
        ),
        edge=0.26,
        bulge=1.3,
    )
    p.add(capsule(-0.75, 1.2, 0.6, 1.2, 0.025), "metal", edge=0.02)
    p.add(circle(0.5, 0.6, 0.07), "dark", edge=0.05)
