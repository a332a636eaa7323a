"""Shapes of lamps, home textiles and decoration: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, lathe, polygon, strand
from common.pocket_shop.sketch import Sketch


def _shade(p: Sketch, low: float, high: float, wide: float, narrow: float) -> None:
    """Lay a lamp shade with its light spilling out below."""
    cloth = "linen" if p.made_of("ceramic", "brass", "linen", "bamboo") else None
    p.add(ellipse(0, low, wide * 0.97, wide * 0.17), "lamp", glow=1)
    p.add(lathe([(low, wide), (high, narrow)], smooth=False), material=cloth, tone=1.05)


def table_lamp(p: Sketch) -> None:
    foot, high, wide = p.vary(0.16, 0.34), p.vary(0.85, 1.1), p.vary(0.5, 0.68)
    p.add(capsule(0, 0.1, 0, high + 0.1, 0.03), "metal", edge=0.03)
    p.add(
        lathe(
            p.pick(
                [(0, foot * 1.1), (0.05, foot * 1.1), (0.3, foot * 1.5), (0.7, foot * 0.7), (high, 0.06)],
                [(0, foot * 1.4), (0.07, foot * 1.3), (0.12, 0.07), (high, 0.05)],
                [(0, foot), (0.05, foot), (0.45, foot * 1.3), (0.7, foot), (0.75, 0.08), (high, 0.05)],
            )
        )
    )
    _shade(p, high, high + p.vary(0.5, 0.7), wide, wide * p.vary(0.45, 0.85))


def floor_lamp(p: Sketch) -> None:
    wide = p.vary(0.34, 0.46)
    p.repeat = 0.2
    if p.chance(0.4):  # a tripod
        for x in (-0.4, 0.4, 0.06):
            p.add(capsule(0, 1.5, x, 0.02 if x != 0.06 else 0.12, 0.03), "frame", edge=0.03, plain=True)
    else:
        p.add(capsule(0, 0.03, 0, 1.7, 0.028), "frame", edge=0.03, plain=True)
        p.add(lathe([(0.02, 0.3), (0.08, 0.26)]), "frame", plain=True)
    _shade(p, 1.65, 2.2, wide, wide * p.vary(0.55, 0.95))


def pendant(p: Sketch) -> None:
    p.stage, wide = "wall", p.vary(0.6, 0.8)
    p.add(capsule(0, 0.5, 0, 1.5, 0.014), "dark", edge=0.02)
    p.add(ellipse(0, 0, wide * 0.96, wide * 0.15), "lamp", glow=1)
    p.add(
        lathe(
            p.pick(
                [(0, wide), (0.2, wide * 0.96), (0.45, wide * 0.7), (0.62, wide * 0.12), (0.75, 0.06)],
                [(0, wide), (0.55, wide * 0.25), (0.7, 0.07), (0.8, 0.06)],
                [(-0.35, wide * 0.4), (-0.1, wide * 0.9), (0.15, wide), (0.45, wide * 0.75), (0.65, 0.1), (0.75, 0.05)],
            )
        )
    )


def rug(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 14, 1.1, p.vary(0.6, 0.8)
    if p.chance(0.25):
        p.add(circle(0, 0, 0.95), tone=0.86, edge=0.05, bulge=0.6)
        p.add(circle(0, 0, 0.84), edge=0.03, bulge=0.5)
        return
    fringe = capsule(-w - 0.08, -h + 0.03, -w - 0.02, -h + 0.03, 0.012)
    p.add(fringe.repeat(1, int(h / 0.026), 1, 0.052).mirror(), "cloth", edge=0.012, cast=0.3)
    p.add(box(-w, -h, w, h, 0.02), tone=0.84, edge=0.04, plain=True, bulge=0.6)
    p.add(box(-w + 0.09, -h + 0.09, w - 0.09, h - 0.09), edge=0.03, bulge=0.4)


def curtain(p: Sketch) -> None:
    p.stage, w, often = "wall", p.vary(0.42, 0.55), p.vary(4, 6)
    p.add(box(-0.62, 0.25, 0.62, 1.75), "light", edge=0.04, tone=0.95)
    p.add(box(-0.56, 0.31, -0.03, 1.69).mirror(), "lamp", glow=0.8, tone=0.95)
    p.add(capsule(-1.0, 1.95, 1.0, 1.95, 0.03), p.pick("metal", "gold", "wood", "dark"), edge=0.03)
    for side in (-1, 1):
        left, right = sorted((side * 0.95, side * (0.95 - w * 1.35)))
        hem = [(left + (right - left) * i / 8, 0.04 * (i % 2)) for i in range(9)]
        p.add(between(hem, [(left, 1.96), (right, 1.96)]), edge=0.05, folds=(0, often, 0.05))


def cushion(p: Sketch) -> None:
    p.stage, p.spin = p.pick("flat", "floor"), 6
    w, h = 0.9, p.pick(0.9, 0.9, 0.6)
    outline = [(-w, h), (0, h * 0.94), (w, h), (w * 0.95, 0), (w, -h), (0, -h * 0.95), (-w, -h), (-w * 0.94, 0)]
    p.add(blob(outline).domed(p.vary(0.35, 0.5)))
    if p.chance(0.3):
        p.add(circle(0, 0, 0.06), tone=0.8, edge=0.06)
    if p.chance(0.4):
        p.add(blob(outline).outline(0.05), tone=0.8, edge=0.025, plain=True)


def throw(p: Sketch) -> None:
    w, layers = p.vary(0.85, 1.05), p.pick(2, 3)
    for i in range(layers):  # the folded blanket, its lower layers showing below
        p.add(box(-w, 0.02 + i * 0.17, w - 0.03 * i, 0.24 + i * 0.17, 0.1), tone=0.85 + 0.05 * i, edge=0.09, bulge=1.3)
    high = 0.17 * layers
    p.add(
        polygon([(-w, high), (w, high), (w - 0.28, high + 0.55), (-w + 0.28, high + 0.55)], 0.05), tone=1.06, edge=0.1
    )
    x0, x1 = -w * p.vary(0.5, 0.8), w * p.vary(0.1, 0.6)
    p.add(
        capsule(x0 + 0.03, -0.1, x0 + 0.02, 0.06, 0.016).repeat(int((x1 - x0) / 0.06), 1, 0.06, 1),
        tone=0.92,
        plain=True,
        edge=0.016,
    )
    flap = [(x0, 0.05), (x1, 0.05), (x1 - 0.12, high + 0.55), (x0 + 0.05, high + 0.55)]
    p.add(polygon(flap, 0.02), edge=0.06, folds=(10, 2, 0.02))


def vase(p: Sketch) -> None:
    r, high = p.vary(0.38, 0.52), p.vary(1.1, 1.6)
    neck = r * p.vary(0.3, 0.55)
    mouth = neck * p.vary(1.0, 1.4)
    if p.chance(0.3):
        for lean in (-0.35, -0.05, 0.3):
            top = high + p.vary(0.35, 0.6)
            p.add(strand([(0, high * 0.9), (lean * 0.4, high + 0.2), (lean, top)], 0.025), "plant", edge=0.01)
            p.add(ball(lean, top, 0.1), p.pick("light", "cloth"), edge=0.08)
            p.add(
                ellipse(lean * 0.6 + 0.07, high + 0.22, 0.1, 0.04).turn(30, (lean * 0.6, high + 0.22)),
                "plant",
                edge=0.04,
            )
    p.add(ellipse(0, high, mouth, mouth * 0.2), tone=0.5, plain=True, edge=0.03)
    profile = p.pick(
        [(0, r * 0.55), (high * 0.35, r), (high * 0.7, r * 0.6), (high * 0.85, neck), (high, mouth)],
        [(0, r * 0.5), (high * 0.6, r), (high * 0.82, r * 0.7), (high * 0.9, neck), (high, mouth)],
        [(0, r * 0.7), (high * 0.5, r * 0.8), (high * 0.9, r * 0.62), (high, mouth)],
        [(0, r * 0.6), (high * 0.25, r * 1.05), (high * 0.5, r * 0.55), (high * 0.75, neck), (high, mouth)],
    )
    p.add(lathe(profile))


def wall_clock(p: Sketch) -> None:
    p.stage, rim, face = "wall", p.vary(0.12, 0.24), p.pick("main", "light", "paper")
    p.add(circle(0, 0, 0.95), edge=0.12, bulge=1.5)
    p.add(circle(0, 0, 0.95 - rim), face, edge=0.04, bulge=-1, tone=1.1 if face == "main" else 1)
    ink = "light" if face == "main" and sum(p.colours["main"]) < 1.3 else "dark"
    mark = box(-0.018, 0.86 - rim - 0.1, 0.018, 0.86 - rim, 0.01)
    for hour in range(12):
        p.add(mark.turn(30 * hour), ink, edge=0.02, cast=0)
    for angle, length, width in ((p.vary(0, 360), 0.38, 0.035), (p.vary(0, 360), 0.6, 0.022)):
        p.add(capsule(0, -0.06, 0, length, width, width * 0.6).turn(angle), ink, edge=0.03)
    p.add(circle(0, 0, 0.05), ink, edge=0.04)


def mirror(p: Sketch) -> None:
    p.stage, w, h, frame = "wall", p.vary(0.6, 0.8), p.vary(0.8, 1.1), p.vary(0.13, 0.2)
    kind = p.pick("round", "oval", "box", "arch")
    figures = {
        "round": (circle(0, 0, 0.9), circle(0, 0, 0.9 - frame)),
        "oval": (ellipse(0, 0, w, h), ellipse(0, 0, w - frame, h - frame)),
        "box": (box(-w, -h, w, h, 0.05), box(-w + frame, -h + frame, w - frame, h - frame, 0.02)),
        "arch": (
            box(-w, -h, w, h - w * 0.4) | circle(0, h - w * 0.4, w),
            box(-w + frame, -h + frame, w - frame, h - w * 0.4) | circle(0, h - w * 0.4, w - frame),
        ),
    }
    outer, inner = figures[kind]
    p.add(outer, edge=frame * 0.5, bulge=1.6)
    p.add(inner, "glass", material="steel", edge=0.02, bulge=0.2, tone=0.95)
    glare = polygon([(-0.5, -0.5), (-0.25, -0.5), (0.5, 0.55), (0.25, 0.55)]) & inner
    p.add(glare, "light", material="matte", edge=0.05, cast=0, glow=0.5)


def candle_holder(p: Sketch) -> None:
    r = p.vary(0.3, 0.42)
    if p.chance(0.65):
        high = p.vary(0.8, 1.3)
        p.add(box(-0.09, high - 0.05, 0.09, high + 0.55, 0.02), "paper", edge=0.09, bulge=1.5)
        p.add(blob([(0, high + 0.6), (0.06, high + 0.68), (0, high + 0.85), (-0.06, high + 0.68)]), "fire", glow=1)
        p.add(
            lathe(
                [
                    (0, r),
                    (0.06, r * 0.95),
                    (0.14, 0.09),
                    (high * 0.45, 0.13),
                    (high * 0.6, 0.08),
                    (high * 0.9, 0.1),
                    (high * 0.95, 0.2),
                    (high, 0.2),
                ]
            )
        )
    else:
        p.add(lathe([(0, r * 0.9), (0.3, r * 1.25), (0.7, r)]), tone=0.9)
        p.add(ellipse(0, 0.7, r, 0.1), "lamp", glow=1)
        p.add(blob([(0, 0.66), (0.07, 0.76), (0, 0.98), (-0.07, 0.76)]), "fire", glow=1)
        p.add(lathe([(0, r * 0.9), (0.3, r * 1.25), (0.68, r)]))


def picture_frame(p: Sketch) -> None:
    p.stage, w, h, frame = p.pick("wall", "floor"), p.vary(0.7, 0.95), p.vary(0.75, 0.95), p.vary(0.16, 0.24)
    p.add(box(-w, -h, w, h, 0.01), edge=frame * 0.4, bulge=1.6)
    p.add(box(-w + frame, -h + frame, w - frame, h - frame), "paper", edge=0.02)
    inset = frame + p.vary(0.08, 0.16)
    view = box(-w + inset, -h + inset, w - inset, h - inset)
    p.add(view, "water", material="matte", edge=0.02, cast=0.3)
    p.add(circle(p.vary(-0.2, 0.2), p.vary(0.1, 0.3), 0.12) & view, "lamp", material="matte", cast=0)
    hills = [(-w, p.vary(-0.2, 0.1)), (-0.2, p.vary(-0.2, 0.2)), (0.2, p.vary(-0.3, 0.1)), (w, p.vary(-0.2, 0.2))]
    p.add(between([(-w, -h), (w, -h)], hills) & view, "plant", material="matte", edge=0.02, cast=0)
