"""Shapes of shoes and bags: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, polygon, strand
from common.pocket_shop.sketch import Sketch


def sneaker(p: Sketch) -> None:
    high, sole = p.vary(0.72, 0.85), p.vary(0.16, 0.24)
    upper = [
        (0.92, sole),
        (0.95, high * 0.8),
        (0.88, high + 0.05),
        (0.6, high - 0.12),
        (0.36, high),
        (0.22, high - 0.02),
        (-0.2, 0.52),
        (-0.62, 0.4),
        (-0.95, 0.3),
        (-1.0, sole),
        (-0.5, sole - 0.05),
        (0.5, sole - 0.05),
    ]
    p.add(
        blob([(0.3, high - 0.1), (0.12, high + 0.14), (0.34, high + 0.18), (0.5, high - 0.08)]),
        tone=0.8,
        edge=0.06,
        plain=True,
    )
    p.add(blob(upper), edge=0.25, bulge=1.2)
    p.add(
        blob([(-0.98, sole), (-0.96, 0.3), (-0.72, 0.4), (-0.6, 0.3), (-0.66, sole)]),
        p.pick("light", "main"),
        tone=0.93,
        plain=True,
        edge=0.1,
    )
    if p.chance(0.6):
        p.add(
            strand([(0.45, 0.3), (0.1, 0.32), (-0.15, 0.48)], 0.09),
            "light" if sum(p.colours["main"]) < 2.2 else "dark",
            edge=0.03,
        )
    for i in range(4):
        x, y = 0.18 - 0.13 * i, high - 0.06 - 0.075 * i
        p.add(capsule(x - 0.06, y + 0.04, x + 0.1, y - 0.1, 0.022), "light", edge=0.02)
    p.add(
        between(
            [(-1.08, 0.06), (-0.9, 0.0), (0.9, 0.0), (1.02, 0.04)],
            [(-1.08, sole), (-0.5, sole), (0.5, sole + 0.03), (1.02, sole + 0.08)],
        ),
        "light",
        edge=0.07,
    )
    p.add(box(-1.0, 0, 0.98, 0.04, 0.02), p.pick("grey", "dark", "skin"), material="rubber", edge=0.02)


def boot(p: Sketch) -> None:
    high, heel = p.vary(1.25, 1.6), p.vary(0.16, 0.28)
    p.add(box(0.36, 0, 0.84, heel, 0.02), "rubber", edge=0.05)
    p.add(
        between(
            [(-1.0, 0.04), (-0.4, 0.04), (0.3, heel - 0.06), (0.85, heel - 0.06)],
            [(-1.0, 0.16), (-0.4, 0.16), (0.3, heel + 0.06), (0.85, heel + 0.06)],
        ),
        "rubber",
        edge=0.05,
    )
    leg = [
        (0.82, heel),
        (0.8, 0.7),
        (0.84, high),
        (0.12, high + 0.03),
        (0.1, 0.85),
        (-0.2, 0.62),
        (-0.65, 0.5),
        (-0.98, 0.36),
        (-1.0, 0.16),
        (-0.4, 0.14),
        (0.3, heel),
    ]
    p.add(polygon(leg, 0.03), edge=0.25, bulge=1.2)
    p.add(box(0.08, high - 0.1, 0.87, high + 0.05, 0.04), tone=0.82, edge=0.05)
    p.add(blob([(-1.0, 0.17), (-0.98, 0.38), (-0.7, 0.5), (-0.56, 0.34), (-0.62, 0.16)]), tone=0.9, edge=0.12, cast=0.5)
    if p.chance(0.7):
        laces = p.pick("light", "dark", "rope")
        for i in range(6):
            x, y = max(0.13, -0.12 + 0.13 * i), 0.62 + 0.13 * i
            p.add(capsule(x - 0.05, y + 0.03, x + 0.13, y - 0.04, 0.024), laces, edge=0.02)
    else:
        p.add(
            polygon([(0.34, 0.75), (0.62, 0.75), (0.66, high - 0.1), (0.3, high - 0.1)]),
            tone=0.6,
            edge=0.05,
            folds=(0, 12, 0.01),
        )


def sandal(p: Sketch) -> None:
    p.stage, p.spin = "flat", 14
    foot = [
        (0.02, 0.95),
        (0.28, 0.82),
        (0.36, 0.4),
        (0.24, -0.1),
        (0.3, -0.6),
        (0.16, -0.95),
        (-0.1, -0.95),
        (-0.22, -0.6),
        (-0.2, 0.0),
        (-0.27, 0.45),
        (-0.2, 0.85),
    ]
    kind = p.pick("slide", "thong", "buckle")
    for side in (-1, 1):
        sole = [(side * x + side * 0.5, y) for x, y in foot]
        p.add(blob(sole, 0.05), tone=0.72, edge=0.06)
        p.add(
            blob(sole, -0.01),
            p.pick("tan", "skin") if kind == "buckle" else "main",
            tone=0.9,
            edge=0.1,
            bulge=-0.6,
            plain=True,
        )
        left, right = side * 0.5 - 0.36, side * 0.5 + 0.36
        if kind == "thong":
            p.add(strand([(left + 0.03, 0.02), (side * 0.45 - 0.1, 0.45), (side * 0.46, 0.62)], 0.14), edge=0.06)
            p.add(strand([(right - 0.03, 0.02), (side * 0.45 + 0.15, 0.45), (side * 0.46, 0.62)], 0.14), edge=0.06)
            p.add(circle(side * 0.46, 0.63, 0.05), edge=0.04, plain=True)
            continue
        p.add(
            between(
                [(left, 0.12), (side * 0.5, 0.22), (right, 0.12)], [(left, 0.62), (side * 0.5, 0.72), (right, 0.62)]
            ),
            edge=0.1,
            bulge=1.3,
        )
        if kind == "buckle":
            p.add(
                between([(left + 0.05, -0.3), (right - 0.05, -0.3)], [(left + 0.05, -0.08), (right - 0.05, -0.08)]),
                edge=0.08,
            )
            p.add(box(side * 0.72 - 0.09, -0.27, side * 0.72 + 0.06, -0.11, 0.03).outline(0.035), "gold", edge=0.02)


def heels(p: Sketch) -> None:
    high, thick = p.vary(0.62, 0.85), p.vary(0.025, 0.07)
    p.add(
        polygon([(0.52, high - 0.1), (0.9, high + 0.05), (0.84 + thick, 0), (0.8 - thick, 0)], 0.01),
        edge=0.06,
        plain=True,
    )
    p.add(strand([(-1.02, 0.03), (-0.5, 0.03), (-0.1, 0.16), (0.4, high - 0.1), (0.85, high)], 0.06), "tan", edge=0.02)
    back = high + p.vary(0.42, 0.55)
    upper = [
        (0.95, high + 0.02),
        (0.98, back - 0.12),
        (0.93, back),
        (0.78, back - 0.1),
        (0.4, high + 0.12),
        (-0.05, 0.4),
        (-0.3, 0.36),
        (-0.46, 0.42),
        (-0.75, 0.3),
        (-1.05, 0.1),
        (-1.08, 0.05),
        (-0.5, 0.04),
        (-0.1, 0.17),
        (0.4, high - 0.08),
    ]
    p.add(blob(upper), edge=0.2, bulge=1.3)
    if p.chance(0.35):
        p.add(ellipse(0.78, back + 0.14, 0.3, 0.09).outline(0.045), edge=0.02)
        p.add(capsule(0.93, back - 0.02, 0.96, back + 0.14, 0.03), edge=0.03)
    if p.chance(0.3):
        p.add(ball(-0.6, 0.36, 0.07), p.pick("gold", "metal"))


def handbag(p: Sketch) -> None:
    w, high, top = p.vary(0.78, 0.95), p.vary(0.85, 1.1), p.vary(0.6, 0.75)
    reach = p.vary(0.4, 0.75)
    p.add(
        strand(
            [
                (-0.42, high - 0.1),
                (-0.36, high + reach * 0.8),
                (0, high + reach),
                (0.36, high + reach * 0.8),
                (0.42, high - 0.1),
            ],
            0.075,
        ),
        tone=0.85,
        edge=0.04,
        plain=True,
    )
    p.add(polygon([(-w, 0.03), (w, 0.03), (top, high), (-top, high)], 0.05), edge=0.22)
    if p.chance(0.6):
        p.add(
            between(
                [(-top * 1.06, high * 0.55), (0, high * 0.38), (top * 1.06, high * 0.55)],
                [(-top * 1.06, high + 0.05), (top * 1.06, high + 0.05)],
            ),
            tone=1.06,
            edge=0.08,
        )
        p.add(box(-0.08, high * 0.36, 0.08, high * 0.5, 0.03), p.pick("gold", "metal"), edge=0.04)
    else:
        p.add(capsule(-top, high, top, high, 0.03), "gold", edge=0.03)
        p.add(box(-0.2, 0.3, 0.2, 0.5, 0.03).outline(0.02), tone=0.7, edge=0.01, plain=True, cast=0.4)
    p.add(circle(0.42, high - 0.02, 0.06).outline(0.035).mirror(), p.pick("gold", "metal"), edge=0.02)


def backpack(p: Sketch) -> None:
    w, high = p.vary(0.6, 0.7), p.vary(1.5, 1.7)
    p.add(
        strand([(w * 0.5, high * 0.85), (w + 0.22, high * 0.6), (w + 0.12, 0.3)], 0.15).mirror(),
        "dark",
        material="polyester",
        edge=0.05,
    )
    p.add(
        strand([(-0.16, high - 0.05), (-0.12, high + 0.15), (0.12, high + 0.15), (0.16, high - 0.05)], 0.07),
        "dark",
        edge=0.03,
    )
    p.add(box(-w, 0.02, w, high, p.vary(0.3, 0.5)), edge=0.28, bulge=1.2)
    p.add(
        strand(
            [
                (-w + 0.08, high * 0.5),
                (-w + 0.12, high * 0.78),
                (0, high - 0.13),
                (w - 0.12, high * 0.78),
                (w - 0.08, high * 0.5),
            ],
            0.035,
        ),
        "dark",
        edge=0.015,
    )
    p.add(box(-w + 0.1, 0.1, w - 0.1, high * 0.5, 0.16), tone=0.92, edge=0.14, bulge=1.5)
    p.add(box(-w + 0.2, high * 0.41, w - 0.2, high * 0.435, 0.01), "metal", edge=0.015)
    p.add(box(-0.12, high * 0.6, 0.12, high * 0.7, 0.03), p.pick("tan", "dark", "light"), edge=0.03)
    if p.chance():
        p.add(box(-w * 0.55, 0.32, -w * 0.55 + 0.08, high * 0.75, 0.01).mirror(), p.pick("tan", "dark"), edge=0.03)


def tote(p: Sketch) -> None:
    w, high, reach = p.vary(0.7, 0.85), p.vary(1.1, 1.3), p.vary(0.6, 0.8)
    if p.chance():
        p.stage = "wall"
    back = [(-0.36, high - 0.05), (-0.3, high + reach * 0.9), (0.3, high + reach * 0.9), (0.36, high - 0.05)]
    p.add(strand(back, 0.1), tone=0.7, edge=0.03, plain=True)
    p.add(polygon([(-w * 0.9, 0), (w * 0.9, 0), (w, high), (-w, high)], 0.02), edge=0.16, folds=(15, 0.9, 0.012))
    p.add(box(-w, high - 0.07, w, high + 0.015), tone=0.84, plain=True, edge=0.03)
    front = [
        (-0.4, high - 0.3),
        (-0.38, high),
        (-0.28, high + reach),
        (0.28, high + reach),
        (0.38, high),
        (0.4, high - 0.3),
    ]
    p.add(strand(front, 0.1), tone=0.92, edge=0.03, plain=True)


def suitcase(p: Sketch) -> None:
    w, high = p.vary(0.55, 0.66), p.vary(1.35, 1.55)
    p.add(box(-0.3, high - 0.1, 0.3, high + p.vary(0.35, 0.6), 0.05).outline(0.05), "metal", edge=0.02)
    p.add(box(-w + 0.04, -0.02, -w + 0.18, 0.12, 0.05).mirror(), "rubber", edge=0.05)
    p.add(box(-w, 0.1, w, high, 0.16), edge=0.14, bulge=1.3)
    if p.pattern == "plain":
        if p.chance(0.7):
            p.add(
                box(-w + 0.1, 0.22, -w + 0.16, high - 0.14, 0.03).repeat(6, 1, (2 * w - 0.26) / 5, 1),
                tone=1.05,
                edge=0.03,
            )
        else:
            p.add(box(-w + 0.1, 0.25, w - 0.1, 0.75, 0.06), tone=0.95, edge=0.06)
    p.add(box(-0.16, high - 0.03, 0.16, high + 0.06, 0.03), "dark", edge=0.03)
    p.add(box(w - 0.04, high * 0.5, w + 0.05, high * 0.66, 0.02), "dark", edge=0.03)
    p.add(circle(w * 0.6, high - 0.24, 0.05), "metal", edge=0.03)
