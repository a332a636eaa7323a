"""Shapes of hats, belts and other accessories: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, polygon, strand
from common.pocket_shop.sketch import Sketch


def cap(p: Sketch) -> None:
    high = p.vary(0.8, 0.95)
    crown = between(
        [(-0.72, 0.1), (0, 0.02), (0.75, 0.1)],
        [(-0.72, 0.12), (-0.6, high * 0.65), (-0.1, high), (0.45, high * 0.8), (0.75, 0.12)],
    )
    p.add(crown, edge=0.4, bulge=1.3)
    for x in (-0.3, 0.32):
        p.add(
            strand([(x * 1.35, 0.1), (x * 1.15, high * 0.55), (-0.05, high - 0.02)], 0.018),
            tone=0.65,
            plain=True,
            edge=0.01,
            cast=0.2,
        )
    p.add(ball(-0.06, high, 0.07, 0.04), plain=True)
    peak = [(-0.6, 0.14), (-0.2, 0.1), (-0.35, 0.0), (-0.9, -0.13), (-1.35, -0.14), (-1.4, -0.06), (-1.05, 0.1)]
    p.add(blob(peak), tone=p.pick(0.85, 1.0), edge=0.1, plain=True)
    p.add(circle(-0.3, high * 0.5, 0.13), p.pick("light", "dark"), material="canvas", edge=0.04, cast=0.5)


def beanie(p: Sketch) -> None:
    high = p.vary(0.95, 1.2)
    if p.chance(0.6):
        p.add(ball(0, high + 0.14, 0.24), p.pick("main", "cloth"), material="wool", plain=True)
    p.add(
        between(
            [(-0.68, 0.15), (0.68, 0.15)],
            [
                (-0.68, 0.2),
                (-0.6, high * 0.65),
                (-0.3, high * 0.95),
                (0, high),
                (0.3, high * 0.95),
                (0.6, high * 0.65),
                (0.68, 0.2),
            ],
        ),
        edge=0.45,
        bulge=1.4,
        folds=(0, p.vary(4, 6), 0.015),
    )
    p.add(box(-0.75, 0, 0.75, p.vary(0.3, 0.42), 0.1), tone=0.85, edge=0.12, plain=True, folds=(0, 8, 0.018), bulge=1.3)


def scarf(p: Sketch) -> None:
    p.stage, p.spin, w = p.pick("flat", "wall"), 8, p.vary(0.22, 0.3)
    fringe = {"tone": 0.9, "plain": True, "edge": 0.015, "cast": 0.3}
    for x, low, tone in ((0.3, p.vary(-0.9, -0.5), 0.85), (-0.16, -1.05, 1.0)):
        p.add(
            capsule(x - w + 0.04, low - 0.16, x - w + 0.04, low, 0.018).repeat(int(2 * w / 0.07), 1, 0.07, 1), **fringe
        )
        p.add(
            polygon([(x - w, low), (x + w, low), (x + w * 0.7, 0.62), (x - w * 0.7, 0.62)]),
            tone=tone,
            edge=0.12,
            folds=(0, 2.2, 0.015),
        )
    p.add(strand([(-0.3, 0.55), (-0.5, 0.85), (0, 1.05), (0.5, 0.85), (0.36, 0.5)], 0.34), tone=0.93, edge=0.16)
    p.add(strand([(-0.42, 0.7), (0, 0.42), (0.44, 0.62)], 0.36), tone=1.04, edge=0.17, folds=(70, 2, 0.015))


def belt(p: Sketch) -> None:
    p.stage, p.spin, p.repeat, wide = "flat", 30, 0.16, p.vary(0.17, 0.24)
    buckle = p.pick("metal", "gold", "dark")
    if p.chance(0.55):  # rolled up
        p.add(circle(0, 0, 0.68).outline(wide), tone=0.8, edge=0.08)
        p.add(circle(0, 0.04, 0.5).outline(wide * 0.8), tone=0.92, edge=0.07)
        p.add(strand([(-0.68, 0.1), (-0.5, -0.5), (0.1, -0.7), (1.0, -0.62)], wide), edge=0.08)
        x, y = 1.0, -0.62
    else:
        curve = [(-1.2, -0.3), (-0.6, 0.35), (0, -0.05), (0.6, -0.4), (1.15, 0.15)]
        p.add(strand(curve, wide), edge=0.08)
        p.add(circle(-1.1, -0.2, 0.022).repeat(4, 1, 0.1, 1).turn(46, (-1.1, -0.2)), "dark", material="matte", cast=0)
        x, y = 1.15, 0.15
    p.add(box(x - 0.16, y - wide * 0.75, x + 0.16, y + wide * 0.75, 0.06).outline(0.065), buckle, edge=0.03)
    p.add(capsule(x - 0.14, y, x + 0.17, y, 0.025), buckle, edge=0.02)


def sunglasses(p: Sketch) -> None:
    p.stage, p.spin, h = p.pick("flat", "floor"), 10, p.vary(0.28, 0.38)
    lens = p.pick(
        blob([(0.12, 0.12), (0.2, 0.26), (0.8, 0.28), (0.9, 0.1), (0.75, -h), (0.35, -h)]),
        ellipse(0.5, 0, 0.38, h),
        box(0.13, -h, 0.88, 0.26, 0.16),
    )
    p.add(strand([(0.92, 0.16), (1.1, 0.3), (1.02, 0.58)], 0.09).mirror(), tone=0.85, edge=0.04)
    p.add(strand([(-0.16, 0.08), (0, 0.15), (0.16, 0.08)], 0.1), edge=0.05)
    p.add(lens.grow(p.vary(0.09, 0.13)).mirror(), edge=0.08, bulge=1.4)
    p.add(lens.mirror(), p.pick("dark", "dark", "screen"), material="screen", edge=0.3, bulge=0.7)
    p.add(
        (polygon([(0.25, -0.2), (0.36, -0.2), (0.62, 0.3), (0.5, 0.3)]) & lens).mirror(),
        "grey",
        material="matte",
        cast=0,
        edge=0.1,
    )


def watch(p: Sketch) -> None:
    p.stage, p.spin, r = "flat", 18, p.vary(0.48, 0.56)
    strap, links = p.vary(0.28, 0.33), p.made_of("steel", "brass")
    p.add(polygon([(-strap, 0.3), (strap, 0.3), (strap * 0.75, 1.3), (-strap * 0.75, 1.3)], 0.03), edge=0.08)
    p.add(polygon([(-strap, -0.3), (strap, -0.3), (strap * 0.75, -1.35), (-strap * 0.75, -1.35)], 0.03), edge=0.08)
    if links:
        p.add(
            box(-1, -1.27, 1, -1.24).repeat(1, 21, 1, 0.13)
            & polygon([(-strap, 1.3), (strap, 1.3), (strap, -1.35), (-strap, -1.35)]),
            tone=0.5,
            plain=True,
            cast=0,
        )
    else:
        p.add(circle(0, -1.2, 0.03).repeat(1, 4, 1, 0.14), "dark", material="matte", cast=0)
        p.add(box(-strap * 0.9, 1.22, strap * 0.9, 1.4, 0.03).outline(0.05), "metal", edge=0.02)
    case = p.pick("metal", "gold", "main")
    p.add(box(r - 0.04, -0.07, r + 0.09, 0.07, 0.02), case, edge=0.04, plain=True)
    p.add(circle(0, 0, r), case, edge=0.1, bulge=1.4, plain=True)
    face = p.pick("light", "dark", "main")
    p.add(circle(0, 0, r - 0.09), face, edge=0.03, bulge=-1, plain=True, material="paint")
    ink = "dark" if face == "light" or (face == "main" and sum(p.colours["main"]) > 1.5) else "light"
    for i in range(12):
        p.add(box(-0.014, r - 0.2, 0.014, r - 0.12).turn(30 * i), ink, cast=0)
    p.add(capsule(0, 0, 0.18, 0.14, 0.025), ink, cast=0.5)
    p.add(capsule(0, 0, -0.22, 0.24, 0.018), ink, cast=0.5)


def umbrella(p: Sketch) -> None:
    p.spin, wide, n = 14, p.vary(1.0, 1.15), 4
    p.add(
        strand([(0, 0.9), (0, -0.45), (0.02, -0.62), (0.14, -0.72), (0.26, -0.6)], 0.06),
        p.pick("wood", "dark", "metal"),
        edge=0.03,
    )
    step = 2 * wide / n
    hem = [(-wide + i * step / 4, (0.0, 0.07, 0.1, 0.07)[i % 4]) for i in range(4 * n + 1)]
    top = [
        (-wide, 0.02),
        (-wide * 0.85, 0.35),
        (-wide * 0.45, 0.72),
        (0, 0.86),
        (wide * 0.45, 0.72),
        (wide * 0.85, 0.35),
        (wide, 0.02),
    ]
    p.add(between(hem, top), edge=0.35, bulge=1.3)
    for x in (-0.5, 0, 0.5):
        p.add(
            strand([(x * wide, 0.03), (x * wide * 0.75, 0.5), (0, 0.86)], 0.016),
            tone=0.62,
            plain=True,
            edge=0.01,
            cast=0.4,
        )
    p.add(capsule(0, 0.84, 0, 1.0, 0.025), "metal", edge=0.02)
    p.stage = "wall" if p.chance(0.6) else "floor"


def wallet(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 22, 0.95, p.vary(0.62, 0.72)
    if p.chance(0.5):
        for i in range(2):
            p.add(
                box(-w + 0.15, h - 0.3, w - 0.2, h + 0.16 - 0.09 * i, 0.05),
                p.pick("light", "grey", "paper", "gold"),
                material="plastic",
                edge=0.03,
            )
    p.add(box(-w, -h, w, h, 0.09), edge=0.12, bulge=1.3)
    p.add(
        box(-w + 0.06, -h + 0.06, w - 0.06, h - 0.06, 0.06).outline(0.018),
        "cloth" if sum(p.colours["main"]) < 1.6 else "tan",
        material="matte",
        cast=0,
    )
    if p.chance(0.6):
        p.add(box(w * 0.5, -0.17, w + 0.04, 0.17, 0.1), tone=0.9, edge=0.07)
        p.add(circle(w * 0.66, 0, 0.065), p.pick("gold", "metal"), edge=0.05)
    else:
        p.add(capsule(0, -h + 0.02, 0, h - 0.02, 0.014), tone=0.6, plain=True, edge=0.01)
        p.add(box(0.2, -h + 0.2, w - 0.14, 0.05, 0.04), tone=0.95, edge=0.05)
