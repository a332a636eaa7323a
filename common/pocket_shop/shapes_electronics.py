"""Shapes of electronics: each function lays the parts of one leaf category on a sketch, from back to front."""

from __future__ import annotations

from common.pocket_shop.fields import ball, blob, box, capsule, circle, ellipse, lathe, polygon, strand
from common.pocket_shop.sketch import Sketch


def headphones(p: Sketch) -> None:
    p.stage, p.spin, w = p.pick("flat", "floor"), 8, p.vary(0.68, 0.78)
    band = [(-w, 0.15), (-w * 0.98, 0.75), (-w * 0.55, 1.25), (0, 1.42), (w * 0.55, 1.25), (w * 0.98, 0.75), (w, 0.15)]
    p.add(strand(band, p.vary(0.13, 0.2)), edge=0.08)
    p.add(strand(band[2:5], 0.2), "dark", material="leather", edge=0.1)
    p.add(box(w - 0.22, -0.42, w + 0.02, 0.38, 0.11).mirror(), "dark", material="leather", edge=0.1)
    p.add(box(w - 0.06, -0.4, w + 0.24, 0.36, 0.14).mirror(), edge=0.14, bulge=1.4)
    p.add(ellipse(w + 0.14, -0.02, 0.05, 0.18).mirror(), "metal" if p.chance() else "main", tone=1.1, edge=0.05)


def earbuds(p: Sketch) -> None:
    p.stage, p.spin = "flat", 15
    w, h = p.pick((0.62, 0.45), (0.5, 0.5))
    p.add(box(-w, -0.95, w, -0.95 + 2 * h, 0.3), edge=0.25, bulge=1.2)
    p.add(box(-w, -0.98 + 1.5 * h, w, -0.965 + 1.5 * h), tone=0.5, edge=0.01, cast=0)
    p.add(circle(0, -0.95 + 1.1 * h, 0.03), "lit", glow=1)
    for side in (-1, 1):
        x = side * 0.36
        p.add(capsule(x + side * 0.1, 0.62, x + side * 0.16, 0.15, 0.085, 0.07), edge=0.08)
        p.add(ball(x, 0.68, 0.21, 0.19))
        p.add(ellipse(x - side * 0.17, 0.66, 0.09, 0.12), p.pick("dark", "grey"), material="silicone", edge=0.08)
        p.add(circle(x + side * 0.06, 0.72, 0.045), "dark", edge=0.03)


def speaker(p: Sketch) -> None:
    mesh = {"slot": "dark", "material": "canvas", "edge": 0.1}
    if p.chance(0.4):  # a portable drum
        w = p.vary(0.42, 0.52)
        p.add(lathe([(0, w * 0.95), (0.08, w), (1.3, w), (1.38, w * 0.93)]))
        p.add(ellipse(0, 1.38, w * 0.93, 0.1), "dark", edge=0.05)
        p.add(circle(0, 0.85, 0.14).repeat(1, 2, 1, 0.36).outline(0.05), tone=0.7, plain=True)
        p.add(strand([(w * 0.9, 1.2), (w + 0.2, 1.0), (w * 0.95, 0.75)], 0.06), "dark", edge=0.02)
        return
    w, high = p.vary(0.5, 0.6), p.vary(1.45, 1.7)
    p.block(-w, 0, w, high, (0.22, 0.08))
    if p.chance(0.3):
        p.add(box(-w + 0.07, 0.07, w - 0.07, high * 0.8, 0.05), **mesh)
    for y, r in ((high * 0.3, w * 0.7), (high * 0.76, w * 0.38)):
        p.add(circle(0, y, r + 0.05), p.pick("metal", "dark"), edge=0.04)
        p.add(circle(0, y, r), "dark", material="rubber", edge=r * 0.7, bulge=-1.6, tone=1.5)
        p.add(ball(0, y, r * 0.36), "dark")


def turntable(p: Sketch) -> None:
    p.stage, p.spin = "flat", 10
    p.add(box(-1.1, -0.85, 1.1, 0.85, 0.06), edge=0.06)
    p.add(circle(-0.22, 0, 0.78), "metal", edge=0.04)
    p.add(circle(-0.22, 0, 0.74), "dark", edge=0.03)
    for r in (0.68, 0.58, 0.48, 0.38):
        p.add(circle(-0.22, 0, r).outline(0.012), "grey", tone=0.6, cast=0)
    p.add(circle(-0.22, 0, 0.25), p.pick("red", "gold", "light"), material="paper", edge=0.02)
    p.add(circle(-0.22, 0, 0.03), "metal", edge=0.02)
    p.add(circle(0.86, 0.55, 0.14), "metal", edge=0.08)
    p.add(strand([(0.86, 0.6), (0.84, -0.2), (0.52, -0.52)], 0.045), "metal", edge=0.02)
    p.add(box(-0.09, -0.06, 0.09, 0.06, 0.02).turn(45).at(0.48, -0.54), "dark", edge=0.03)
    p.add(circle(0.92, -0.62, 0.06), "metal", edge=0.04)


def radio(p: Sketch) -> None:
    w, high = p.vary(0.95, 1.1), p.vary(0.75, 0.95)
    p.add(capsule(w * 0.7, high - 0.05, w * 1.0, high + 0.75, 0.022, 0.014), "metal", edge=0.02)
    p.add(
        box(-w * 0.6, high - 0.1, w * 0.6, high + p.vary(0.16, 0.26), 0.1).outline(0.07),
        p.pick("main", "tan", "metal"),
        edge=0.03,
        plain=True,
    )
    p.add(box(-w, 0.05, w, high, p.vary(0.08, 0.25)), edge=0.12, bulge=1.3)
    legs = p.chance(0.4)
    if legs:
        p.add(box(w * 0.6, -0.04, w * 0.75, 0.07).mirror(), "wood", edge=0.04)
    p.add(circle(-w * 0.48, high * 0.5, high * 0.36), "cloth", material="linen", edge=0.04)
    p.add(circle(-w * 0.48, high * 0.5, high * 0.36).outline(0.035), "metal", edge=0.02, cast=0.4)
    p.add(box(0.05, high * 0.55, w - 0.12, high * 0.84, 0.03), "lamp", material="paper", edge=0.03)
    p.add(box(0.12, high * 0.64, 0.135, high * 0.75).repeat(8, 1, (w - 0.35) / 7, 1), "dark", cast=0)
    p.add(box(w * 0.45, high * 0.57, w * 0.45 + 0.025, high * 0.82), "red", cast=0)
    p.add(circle(0.2, high * 0.3, 0.1).repeat(2, 1, w - 0.46, 1), p.pick("metal", "gold", "dark"), edge=0.06)


def laptop(p: Sketch) -> None:
    w, high, deep = 1.0, p.vary(1.15, 1.3), p.vary(0.4, 0.55)
    if p.chance(0.35):  # seen from behind: the lid
        p.add(polygon([(-w - 0.1, 0), (w + 0.1, 0), (w, 0.12), (-w, 0.12)], 0.01), tone=0.8, edge=0.03)
        p.add(polygon([(-w, 0.1), (w, 0.1), (w - 0.05, high), (-w + 0.05, high)], 0.05), edge=0.05)
        p.add(circle(0, high * 0.55, 0.1), tone=1.25, edge=0.03, plain=True, cast=0.3)
        return
    p.add(box(-w, deep - 0.05, w, high + 0.2, 0.06), edge=0.04)
    p.add(box(-w + 0.08, deep + 0.06, w - 0.08, high + 0.12, 0.02), "screen", edge=0.02, bulge=0.3)
    view = box(-w + 0.08, deep + 0.06, w - 0.08, high + 0.12)
    p.add(
        blob(
            [
                (-1.2, deep),
                (-0.4, deep + 0.5),
                (0.3, deep + 0.3),
                (1.3, deep + 0.65),
                (1.2, deep - 0.3),
                (-1, deep - 0.3),
            ]
        )
        & view,
        "lit",
        tone=0.7,
        glow=0.4,
    )
    p.add(polygon([(-w - 0.16, 0.03), (w + 0.16, 0.03), (w, deep), (-w, deep)], 0.02), tone=1.04, edge=0.03)
    rows = 5
    for i in range(rows):
        y, half = deep - 0.07 - i * deep * 0.105, w * (0.86 + 0.02 * i)
        p.add(
            box(-half, y - deep * 0.08, -half + half * 0.13, y, 0.01).repeat(13, 1, half * 1.87 / 12, 1),
            "dark",
            edge=0.015,
            cast=0.3,
        )
    p.add(box(-0.28, 0.08, 0.28, deep * 0.36, 0.02), tone=0.9, edge=0.02, cast=0.3)
    p.add(box(-w - 0.17, -0.03, w + 0.17, 0.035, 0.02), tone=0.8, edge=0.03)


def monitor(p: Sketch) -> None:
    w, high = p.vary(1.05, 1.25), p.vary(0.6, 0.68)
    p.add(capsule(0, 0.05, 0, 0.6, 0.09), edge=0.06)
    p.add(ellipse(0, 0.05, 0.5, 0.12), edge=0.05)
    p.add(ellipse(0, 0.07, 0.47, 0.105), tone=1.1, edge=0.04)
    p.add(box(-w, 0.45, w, 0.5 + 2 * high, 0.04), edge=0.06)
    view = box(-w + 0.12, 0.68, w - 0.12, 0.38 + 2 * high, 0.01)
    p.add(view, "screen", edge=0.02, bulge=0.3)
    p.add(
        blob([(-1.4, 0.5), (-0.6, 1.2), (0.1, 0.8), (0.7, 1.35), (1.4, 0.9), (1.3, 0.2), (-1.2, 0.2)]) & view,
        p.pick("lit", "water", "plant"),
        material="matte",
        glow=0.3,
        tone=0.75,
    )
    p.add(circle(0, 0.56, 0.02), "lit", glow=1)


def keyboard(p: Sketch) -> None:
    p.stage, p.spin, w = "flat", 12, p.pick(0.95, 1.15)
    columns, step, keys = round(w * 12), 0.16, "main" if p.chance() else p.pick("light", "dark")
    h = 0.45
    p.add(box(-w - 0.06, -h, w + 0.06, h, 0.07), edge=0.06)
    step = 2 * w / columns
    cap = box(-w + 0.012, -0.28, -w + step - 0.012, -0.28 + 0.135, 0.025)
    p.add(
        cap.repeat(columns, 4, step, 0.165), keys, tone=1.2 if keys == "main" else 1, plain=True, edge=0.035, bulge=1.4
    )
    p.add(box(-0.45, -0.4, 0.4, -0.3, 0.03), keys, tone=1.2 if keys == "main" else 1, plain=True, edge=0.03)
    p.add(
        box(-w + 0.012, -0.4, -w + step * 1.4, -0.3, 0.025).mirror(),
        keys,
        tone=1.2 if keys == "main" else 1,
        plain=True,
        edge=0.03,
    )


def mouse(p: Sketch) -> None:
    p.stage, p.spin, w = "flat", 25, p.vary(0.52, 0.62)
    if p.chance(0.35):
        p.add(strand([(0, 0.85), (0.05, 1.15), (-0.15, 1.35), (0.05, 1.6)], 0.05), "dark", edge=0.02)
    body = blob(
        [
            (0, 0.95),
            (w * 0.7, 0.82),
            (w, 0.2),
            (w * 0.96, -0.5),
            (w * 0.5, -0.9),
            (-w * 0.5, -0.9),
            (-w * 0.96, -0.5),
            (-w, 0.2),
            (-w * 0.7, 0.82),
        ]
    )
    p.add(body.domed(0.45))
    p.add(strand([(-w * 0.98, 0.12), (0, 0.02), (w * 0.98, 0.12)], 0.018) & body, tone=0.5, plain=True, cast=0)
    p.add(box(-0.01, 0.05, 0.01, 0.93), tone=0.5, plain=True, cast=0)
    p.add(box(-0.065, 0.34, 0.065, 0.7, 0.06), "dark", edge=0.05)
    p.add(box(-0.04, 0.38, 0.04, 0.66, 0.03), "grey", edge=0.04, material="rubber", folds=(90, 16, 0.02))


def _lenses(p: Sketch, x: float, y: float, count: int, r: float = 0.085) -> None:
    for i in range(count):
        cx, cy = x + (i == 2) * 0.2, y - (i % 2) * 0.22 - (i == 2) * 0.11
        p.add(circle(cx, cy, r), "dark", edge=0.03)
        p.add(circle(cx, cy, r * 0.6), "screen", tone=1.6, edge=0.04)


def smartphone(p: Sketch) -> None:
    p.stage, p.spin = p.pick("flat", "floor"), 8
    h = p.vary(0.92, 1.02)
    p.add(box(0.02, -h + 0.06, 1.04, h + 0.06, 0.13), edge=0.05)
    p.add(box(0.07, h - 0.48, 0.5, h - 0.04, 0.1), tone=1.08, edge=0.04)
    _lenses(p, 0.19, h - 0.16, p.pick(2, 3))
    p.add(box(-0.8, -h - 0.06, 0.06, h - 0.16, 0.13), edge=0.05, tone=1.06)
    screen = box(-0.71, -h + 0.03, -0.03, h - 0.25, 0.07)
    p.add(screen, "screen", edge=0.02, bulge=0.3)
    p.add(
        blob([(-1.1, -h), (-0.8, 0.1), (-0.45, -0.15), (-0.1, 0.35), (0.2, -0.2), (0.1, -h - 0.2)]) & screen,
        p.pick("lit", "main", "fire"),
        material="matte",
        glow=0.4,
        tone=0.85,
    )
    p.add(capsule(-0.43, h - 0.31, -0.31, h - 0.31, 0.022), "dark", material="matte", cast=0)


def phone_case(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 15, 0.52, p.vary(1.0, 1.08)
    if p.chance(0.3):  # a folio with its cover open
        p.add(box(-w * 2.1, -h, -w + 0.1, h, 0.1), tone=0.85, edge=0.05)
    p.add(box(-w, -h, w, h, 0.16), tone=0.8, edge=0.04, plain=True)
    p.add(box(-w + 0.05, -h + 0.05, w - 0.05, h - 0.05, 0.13), edge=0.07)
    hole = p.pick(
        box(-0.42, 0.5, -0.02, 0.92, 0.12), capsule(-0.28, 0.85, -0.28, 0.5, 0.11), box(-0.42, 0.7, 0.42, 0.92, 0.1)
    )
    p.add(hole.grow(0.04), tone=0.75, edge=0.03, plain=True)
    p.add(hole, "dark", material="matte", tone=0.6, edge=0.05, bulge=-1, cast=0)
    p.add(box(w - 0.02, 0.2, w + 0.03, 0.5, 0.02), tone=0.7, plain=True, edge=0.02)


def power_bank(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 25, p.vary(0.48, 0.58), p.vary(0.85, 1.0)
    p.add(
        strand([(0.1, h - 0.05), (0.15, h + 0.3), (0.7, h + 0.25), (0.85, h - 0.3), (0.8, -0.2)], 0.06),
        p.pick("light", "dark"),
        edge=0.03,
    )
    p.add(box(0.72, -0.5, 0.88, -0.15, 0.03), "light", edge=0.04)
    p.add(box(0.75, -0.64, 0.85, -0.48), "metal", edge=0.02)
    p.add(box(-w, -h, w, h, p.vary(0.08, 0.2)), edge=0.1, bulge=1.2)
    p.add(box(-0.06, h - 0.1, 0.25, h - 0.01, 0.02), "dark", edge=0.02)
    p.add(circle(-0.18, -h + 0.2, 0.035).repeat(4, 1, 0.12, 1), "lit", glow=1)
    p.add(
        polygon([(0.06, 0.3), (-0.16, -0.05), (-0.01, -0.05), (-0.06, -0.3), (0.16, 0.07), (0.01, 0.07)]),
        "light" if sum(p.colours["main"]) < 1.9 else "dark",
        material="matte",
        cast=0.2,
    )


def camera(p: Sketch) -> None:
    w, high = p.vary(0.9, 1.0), p.vary(0.95, 1.1)
    p.add(
        polygon([(-0.38, high - 0.1), (0.38, high - 0.1), (0.25, high + 0.22), (-0.25, high + 0.22)], 0.03), edge=0.08
    )
    p.add(box(-w + 0.1, high - 0.05, -w + 0.36, high + 0.1, 0.03), "metal", edge=0.05)
    p.add(box(w - 0.4, high - 0.05, w - 0.14, high + 0.07, 0.02), "dark", edge=0.04)
    p.add(box(-w, 0, w, high, 0.14), edge=0.1)
    p.add(
        box(-w - 0.01, 0.16, w + 0.01, high - 0.22, 0.02),
        p.pick("dark", "main"),
        material="leather",
        edge=0.05,
        tone=0.85,
    )
    p.add(box(-w - 0.04, 0.05, -w + 0.3, high - 0.08, 0.12), tone=0.9, edge=0.12, bulge=1.3)
    for r, slot, tone in ((0.5, "metal", 0.9), (0.46, "dark", 1.2), (0.36, "dark", 0.8), (0.28, "screen", 1.5)):
        p.add(circle(0.06, high * 0.46, r), slot, tone=tone, edge=0.06, bulge=0.8)
    p.add(ellipse(-0.04, high * 0.46 + 0.1, 0.1, 0.06), "lit", material="matte", tone=0.8, cast=0, edge=0.05)
    p.add(box(w - 0.3, high - 0.18, w - 0.1, high - 0.06, 0.02), "lamp", edge=0.02)


def tripod(p: Sketch) -> None:
    high, spread = p.vary(1.6, 1.9), p.vary(0.55, 0.75)
    p.add(capsule(0, high, 0.12, 0.22, 0.05, 0.032), tone=0.7, edge=0.04)
    p.add(capsule(0, high, 0, high * 0.5, 0.035), "metal", edge=0.03)
    for side in (-1, 1):
        p.add(capsule(0, high, side * spread * 0.55, high * 0.45, 0.075), edge=0.06)
        p.add(capsule(side * spread * 0.5, high * 0.5, side * spread, 0.04, 0.052, 0.045), tone=0.95, edge=0.05)
        p.add(capsule(side * spread * 0.52, high * 0.48, side * spread * 0.57, high * 0.43, 0.075), "dark", edge=0.05)
        p.add(capsule(side * spread, 0.05, side * spread * 1.03, 0.0, 0.06), "rubber", edge=0.05)
    p.add(capsule(0.05, high + 0.12, 0.6, high - 0.12, 0.03, 0.05), "dark", edge=0.04)
    p.add(
        lathe(
            [(high - 0.1, 0.15), (high + 0.05, 0.13), (high + 0.12, 0.1), (high + 0.2, 0.16), (high + 0.26, 0.16)],
            smooth=False,
        )
    )
    p.add(box(-0.2, high + 0.24, 0.2, high + 0.31, 0.02), "dark", edge=0.03)


def gamepad(p: Sketch) -> None:
    p.stage, p.spin = "flat", 14
    p.add(
        blob(
            [
                (0, 0.4),
                (0.5, 0.5),
                (0.88, 0.36),
                (1.08, -0.3),
                (1.02, -0.72),
                (0.8, -0.74),
                (0.5, -0.3),
                (0, -0.26),
                (-0.5, -0.3),
                (-0.8, -0.74),
                (-1.02, -0.72),
                (-1.08, -0.3),
                (-0.88, 0.36),
                (-0.5, 0.5),
            ]
        ),
        edge=0.3,
        bulge=1.3,
    )
    stick = p.pick(((-0.3, -0.12), (0.3, -0.12)), ((-0.58, 0.16), (0.3, -0.12)))
    for x, y in stick:
        p.add(circle(x, y, 0.17), tone=0.7, edge=0.05, bulge=-1, plain=True)
        p.add(circle(x, y, 0.13), "dark", edge=0.08, material="rubber")
    px, py = (-0.58, 0.16) if stick[0][1] < 0 else (-0.3, -0.12)
    p.add(
        box(px - 0.15, py - 0.05, px + 0.15, py + 0.05, 0.02) | box(px - 0.05, py - 0.15, px + 0.05, py + 0.15, 0.02),
        "dark",
        edge=0.04,
    )
    for dx, dy, slot in ((0.13, 0, "red"), (-0.13, 0, "lit"), (0, 0.13, "gold"), (0, -0.13, "plant")):
        p.add(circle(0.58 + dx, 0.16 + dy, 0.062), slot, material="plastic", edge=0.05)
    p.add(circle(0, 0.18, 0.07), "light", edge=0.04)


def tablet(p: Sketch) -> None:
    p.stage, p.spin = p.pick("flat", "floor"), 6
    w, h = 1.1, p.vary(0.74, 0.82)
    p.add(box(-w + 0.26, -h + 0.44, w + 0.26, h + 0.44, 0.08), edge=0.04, tone=0.95)
    _lenses(p, w + 0.1, h + 0.3, 1, 0.06)
    p.add(box(-w, -h, w, h, 0.08), edge=0.04, tone=1.05)
    view = box(-w + 0.12, -h + 0.12, w - 0.12, h - 0.12, 0.02)
    p.add(view, "screen", edge=0.02, bulge=0.3)
    for i in range(4):
        for j in range(2):
            slot = p.pick("lit", "fire", "plant", "light", "red", "gold")
            p.add(
                box(-0.72 + 0.4 * i, -0.34 + 0.42 * j, -0.5 + 0.4 * i, -0.12 + 0.42 * j, 0.05),
                slot,
                material="matte",
                cast=0,
            )
    if p.chance(0.5):
        p.add(capsule(-w + 0.1, -h - 0.14, w * 0.6, -h - 0.14, 0.04, 0.035), "light", edge=0.04)
