"""Shapes of furniture: each function lays the parts of one leaf category on a sketch, from back to front."""

from __future__ import annotations

from common.pocket_shop.fields import blob, box, capsule, circle, ellipse, polygon, symmetric
from common.pocket_shop.sketch import Sketch


def _upholstered(p: Sketch, w: float, seats: int, back: float) -> None:
    """Lay a seat with arms; the cushions are as many as the seats."""
    arm, high = p.vary(0.16, 0.26), p.vary(0.58, 0.74)
    p.legs((-w + 0.08, w - 0.08), 0.2, 0.04, 0.03, p.pick("wood", "dark", "metal"))
    p.add(box(-w + 0.05, 0.2, w - 0.05, back, p.vary(0.06, 0.2)), edge=0.2)
    width = 2 * (w - arm) / seats
    for i in range(seats):
        x = -w + arm + i * width
        p.add(box(x + 0.01, 0.45, x + width - 0.01, back - 0.06, 0.1), edge=0.18, bulge=1.3)
    p.add(box(-w + 0.06, 0.12, w - 0.06, 0.4, 0.05), tone=0.92, edge=0.1)
    for i in range(seats):
        x = -w + arm + i * width
        p.add(box(x, 0.36, x + width, 0.58, 0.08), edge=0.13, bulge=1.4, tone=1.04)
    p.add(box(w - arm, 0.12, w + 0.05, high, min(arm / 2, 0.12)).mirror(), edge=0.14, bulge=1.2)


def sofa(p: Sketch) -> None:
    _upholstered(p, p.vary(1.05, 1.3), p.pick(2, 3), p.vary(0.92, 1.12))


def armchair(p: Sketch) -> None:
    w, back = p.vary(0.52, 0.62), p.vary(1.15, 1.4)
    if p.chance():
        p.add(blob(symmetric([(0, back + 0.1), (w * 0.8, back), (w * 0.98, 0.9), (w, 0.4), (0, 0.3)])), edge=0.2)
    _upholstered(p, w, 1, back)


def dining_chair(p: Sketch) -> None:
    w, seat, top = p.vary(0.36, 0.44), 0.9, p.vary(1.75, 2.0)
    p.legs((-w + 0.06, w - 0.06), seat, 0.035, 0.02, foot=0.14)
    back = box(-w, seat, w, top, 0.08) if p.made_of("plastic") else box(-w, top - 0.26, w, top, 0.06)
    if not p.made_of("plastic"):
        p.add(capsule(-w + 0.04, seat, -w, top - 0.05, 0.045).mirror(), edge=0.045, plain=True)
        if p.chance(0.6):
            p.add(box(-w * 0.6, seat, -w * 0.6 + 0.05, top - 0.1).repeat(4, 1, w * 0.38, 1), edge=0.025, plain=True)
        else:
            p.add(box(-w, 1.15, w, 1.3, 0.03), edge=0.05)
    p.add(back, edge=0.08)
    p.add(
        polygon([(-w - 0.06, seat), (w + 0.06, seat), (w - 0.02, seat + 0.2), (-w + 0.02, seat + 0.2)]),
        tone=1.12,
        edge=0.04,
    )
    p.add(box(-w - 0.08, seat - 0.08, w + 0.08, seat + 0.02, 0.03), edge=0.04)
    p.legs((-w, w), seat - 0.05, 0.05, p.vary(0, 0.06))


def stool(p: Sketch) -> None:
    w, high, splay = p.vary(0.34, 0.42), p.vary(1.5, 1.8), p.vary(0.08, 0.2)
    p.legs((-w * 0.45, w * 0.45), high, 0.035, splay * 0.7, foot=0.15)
    p.add(box(-w - splay * 0.2, 0.5, w + splay * 0.2, 0.57, 0.03), "frame", edge=0.03, plain=True)
    p.legs((-w * 0.8, w * 0.8), high, 0.045, splay)
    p.add(ellipse(0, high - 0.07, w, 0.13), tone=0.8, edge=0.06)
    p.add(ellipse(0, high, w, 0.14), tone=1.08, edge=0.1, bulge=1.5 if p.made_of("leather") else 0.6)
    if p.chance(0.3):
        p.add(box(-w * 0.9, high + 0.2, w * 0.9, high + 0.42, 0.08), edge=0.06)
        p.legs((-w * 0.7, w * 0.7), high + 0.3, 0.03, foot=high)


def bench(p: Sketch) -> None:
    w, high, slats = p.vary(1.05, 1.3), p.vary(0.5, 0.62), p.pick(2, 3)
    p.legs((-w * 0.8, w * 0.8), high, 0.045, foot=0.12)
    if p.chance(0.55):
        p.legs((-w * 0.85, w * 0.85), high + 0.55, 0.045, foot=high)
        p.add(box(-w, high + 0.2, w, high + 0.34, 0.03).repeat(1, 2, 1, 0.2), edge=0.04)
    for i in range(slats):
        y, inset = high + 0.2 * (1 - i / slats), 0.1 * (1 - i / slats)
        p.add(
            polygon(
                [
                    (-w + inset - 0.06, y - 0.17 / slats),
                    (w - inset + 0.06, y - 0.17 / slats),
                    (w - inset, y),
                    (-w + inset, y),
                ]
            ),
            tone=1.12,
            edge=0.02,
        )
    p.add(box(-w - 0.02, high - 0.08, w + 0.02, high + 0.02, 0.02), edge=0.03)
    p.legs((-w * 0.9, w * 0.9), high - 0.06, 0.06)


def _table(p: Sketch, w: float, high: float, deep: float, thick: float = 0.08) -> None:
    """Lay a rectangular table top on four legs, seen from a little above."""
    inset = deep * 0.55
    p.legs((-w + inset + 0.05, w - inset - 0.05), high, 0.04, foot=deep * 0.6)
    p.legs((-w + 0.12, w - 0.12), high, 0.055, p.vary(0, 0.08))
    p.add(polygon([(-w, high), (w, high), (w - inset, high + deep), (-w + inset, high + deep)]), tone=1.12, edge=0.02)
    p.add(box(-w, high - thick, w, high + 0.01, 0.015), edge=0.03, tone=0.9)


def dining_table(p: Sketch) -> None:
    w, high = p.vary(1.05, 1.3), p.vary(0.95, 1.1)
    if p.chance(0.3):  # a round one on a column
        p.add(ellipse(0, 0.08, 0.45, 0.1), "frame", edge=0.06)
        p.add(capsule(0, 0.1, 0, high, 0.1, 0.07), "frame", edge=0.1)
        p.add(ellipse(0, high - 0.06, w * 0.9, 0.3), tone=0.75, edge=0.05)
        p.add(ellipse(0, high, w * 0.9, 0.3), tone=1.1, edge=0.03)
    else:
        _table(p, w, high, p.vary(0.3, 0.42))


def coffee_table(p: Sketch) -> None:
    w, high, deep = p.vary(0.95, 1.15), p.vary(0.42, 0.55), p.vary(0.34, 0.48)
    if p.chance():
        p.legs((-w * 0.35, w * 0.35), high, 0.04, 0.12, foot=0.18)
        p.legs((-w * 0.7, w * 0.7), high, 0.05, 0.14)
        p.add(ellipse(0, high - 0.06, w, deep * 0.75), tone=0.72, edge=0.05)
        p.add(ellipse(0, high, w, deep * 0.75), tone=1.1, edge=0.03)
    else:
        p.add(
            polygon(
                [
                    (-w + 0.1, 0.14),
                    (w - 0.1, 0.14),
                    (w - deep * 0.6, 0.14 + deep * 0.6),
                    (-w + deep * 0.6, 0.14 + deep * 0.6),
                ]
            ),
            tone=0.8,
            edge=0.02,
        )
        _table(p, w, high, deep)


def _handles(p: Sketch, places: list[tuple[float, float]]) -> None:
    """Lay the same knob or pull at all places."""
    slot, knobs = p.pick("metal", "gold", "dark"), p.chance()
    for x, y in places:
        figure = circle(x, y, 0.035) if knobs else box(x - 0.07, y - 0.015, x + 0.07, y + 0.015, 0.01)
        p.add(figure, slot, edge=0.03)


def side_table(p: Sketch) -> None:
    w, high, low, drawers = p.vary(0.42, 0.55), p.vary(1.0, 1.2), p.vary(0.3, 0.45), p.pick(1, 2)
    p.legs((-w + 0.05, w - 0.05, w + 0.12), low + 0.05, 0.04, p.vary(0, 0.06))
    p.block(-w, low, w, high, (0.2, 0.14))
    step = (high - low - 0.08) / drawers
    for i in range(drawers):
        y = low + 0.04 + i * step
        p.add(box(-w + 0.05, y + 0.02, w - 0.05, y + step - 0.02, 0.01), tone=1.04, edge=0.03)
    _handles(p, [(0, low + 0.04 + (i + 0.5) * step) for i in range(drawers)])


def bookcase(p: Sketch) -> None:
    w, high, shelves = p.vary(0.5, 0.75), p.vary(1.8, 2.2), p.pick(3, 4, 5)
    p.block(-w, 0, w, high, (0.16, 0.08))
    step = (high - 0.14) / shelves
    for i in range(shelves):
        y = 0.1 + i * step
        p.add(box(-w + 0.06, y, w - 0.06, y + step - 0.06), tone=0.48, edge=0.03, bulge=-0.8)
        x, books = -w + 0.1 + p.vary(0, 0.2), p.pick(0, 2, 4)
        for _ in range(books):
            thick = p.vary(0.05, 0.1)
            p.add(
                box(x, y, x + thick, y + step * p.vary(0.45, 0.75)),
                p.pick("light", "paper", "dark", "tan"),
                material="matte",
                edge=0.02,
            )
            x += thick + 0.004


def wardrobe(p: Sketch) -> None:
    w, high, doors = p.vary(0.62, 0.8), p.vary(1.9, 2.2), p.pick(2, 2, 3)
    p.legs((-w + 0.08, w - 0.08), 0.12, 0.05)
    p.block(-w, 0.1, w, high, (0.2, 0.07))
    step = 2 * (w - 0.03) / doors
    for i in range(doors):
        x = -w + 0.03 + i * step
        p.add(box(x + 0.015, 0.16, x + step - 0.015, high - 0.05), tone=1.03, edge=0.03)
        if p.pattern == "plain":
            p.add(box(x + 0.1, 0.3, x + step - 0.1, high - 0.18), tone=0.97, edge=0.05, bulge=-1)
        knob = x + step - 0.07 if i % 2 == 0 else x + 0.07
        p.add(capsule(knob, 0.98, knob, 1.2, 0.02), "metal", edge=0.02)


def sideboard(p: Sketch) -> None:
    w, low, high, doors = p.vary(1.05, 1.25), p.vary(0.18, 0.32), p.vary(0.85, 1.0), p.pick(3, 4)
    p.legs((-w + 0.12, w - 0.12), low + 0.05, 0.045, p.vary(0, 0.08), "frame" if p.chance() else "metal")
    p.block(-w, low, w, high, (0.14, 0.1))
    step = 2 * (w - 0.04) / doors
    for i in range(doors):
        x = -w + 0.04 + i * step
        p.add(box(x + 0.012, low + 0.05, x + step - 0.012, high - 0.05), tone=1.04, edge=0.03)
    _handles(p, [(-w + 0.04 + (i + 0.5) * step, high - 0.16) for i in range(doors)])


def bed(p: Sketch) -> None:
    w, head = p.vary(0.95, 1.1), p.vary(1.15, 1.45)
    p.add(box(-w * 0.86, 0.3, w * 0.86, head, p.pick(0.02, 0.15)), edge=0.08)
    if p.chance(0.4):
        p.add(capsule(w * 0.86, 0.3, w * 0.86, head + 0.08, 0.05).mirror(), "frame", edge=0.05)
    p.add(polygon([(-w + 0.04, 0.4), (w - 0.04, 0.4), (w * 0.82, 0.85), (-w * 0.82, 0.85)], 0.05), "cloth", edge=0.12)
    p.add(box(-w * 0.72, 0.8, -0.04, 1.03, 0.09).mirror(), "cloth", edge=0.12, tone=1.06)
    p.add(
        polygon([(-w, 0.42), (w, 0.42), (w * 0.88, 0.68), (-w * 0.88, 0.68)], 0.04),
        "cloth",
        tone=0.86,
        edge=0.1,
        folds=(70, 2.5, 0.015),
    )
    p.add(box(-w - 0.05, 0.12, w + 0.05, p.vary(0.46, 0.58), 0.04), edge=0.06)
    p.legs((-w + 0.05, w - 0.05), 0.15, 0.06)
