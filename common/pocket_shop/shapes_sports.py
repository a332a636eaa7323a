"""Shapes of sports and outdoor products: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from math import cos, pi, sin

from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, lathe, polygon, strand
from common.pocket_shop.sketch import Sketch


def tent(p: Sketch) -> None:
    p.repeat, w, high = 0.28, p.vary(1.05, 1.25), p.vary(1.0, 1.2)
    if p.chance():  # a ridge tent
        p.add(polygon([(-0.1, high), (0.75, high * 0.95), (w + 0.35, 0.1), (w * 0.6, 0)]), tone=0.72, edge=0.08)
        p.add(polygon([(-0.1, high), (w * 0.62, 0), (-w, 0)], 0.01), edge=0.12, bulge=0.6)
        p.add(polygon([(-0.1, high * 0.86), (0.16, 0), (-0.42, 0)]), "dark", material="matte", edge=0.05)
        p.add(polygon([(-0.1, high * 0.86), (-0.42, 0), (-0.64, 0.02), (-0.5, 0.3)]), tone=1.12, edge=0.06)
    else:
        dome = [
            (-w, 0.02),
            (-w * 0.85, high * 0.5),
            (-w * 0.4, high * 0.93),
            (0, high),
            (w * 0.4, high * 0.93),
            (w * 0.85, high * 0.5),
            (w, 0.02),
        ]
        p.add(between([(-w, 0), (w, 0)], dome), edge=0.5, bulge=1.2)
        door = between(
            [(-0.42, 0.01), (0.36, 0.01)],
            [(-0.42, 0.05), (-0.25, high * 0.55), (-0.03, high * 0.66), (0.2, high * 0.55), (0.36, 0.05)],
        )
        p.add(door, "dark", material="matte", edge=0.08)
        p.add(
            polygon([(0.36, 0.02), (0.6, 0.05), (0.42, high * 0.45), (0.05, high * 0.64)], 0.02), tone=1.12, edge=0.06
        )
        for x in (-1, 1):
            p.add(
                strand([(x * w * 0.98, 0.02), (x * w * 0.55, high * 0.75), (-x * 0.15, high * 1.0)], 0.03),
                tone=0.6,
                plain=True,
                edge=0.015,
                cast=0.3,
            )
    p.add(capsule(-w, 0.12, -w - 0.3, 0, 0.01), "light", cast=0.2)


def sleeping_bag(p: Sketch) -> None:
    p.stage, p.spin, p.repeat = "flat", 25, 0.28
    w = p.vary(0.42, 0.5)
    bag = blob(
        [
            (0, 1.2),
            (w * 0.8, 1.05),
            (w, 0.5),
            (w * 0.9, -0.4),
            (w * 0.62, -1.1),
            (0, -1.22),
            (-w * 0.62, -1.1),
            (-w * 0.9, -0.4),
            (-w, 0.5),
            (-w * 0.8, 1.05),
        ]
    )
    p.add(bag, edge=0.3, bulge=1.1, folds=(90, p.vary(2.6, 3.6), 0.035))
    p.add(ellipse(0, 0.86, w * 0.62, 0.24), tone=0.5, edge=0.12, bulge=-1.2, plain=True)
    p.add(ellipse(0, 0.82, w * 0.4, 0.15), "cloth", edge=0.12)
    p.add(strand([(w * 0.3, 0.66), (w * 0.42, 0.1), (w * 0.36, -0.7)], 0.03), "dark", edge=0.012)


def insulated_bottle(p: Sketch) -> None:
    w, high, cap = p.vary(0.28, 0.36), p.vary(1.35, 1.6), p.pick("dark", "metal", "wood", "main")
    p.add(lathe([(0, w * 0.94), (0.05, w), (high * 0.78, w), (high * 0.92, w * 0.72), (high, w * 0.66)]))
    p.add(lathe([(high, w * 0.7), (high + 0.28, w * 0.68)], smooth=False), cap, plain=True)
    p.add(ellipse(0, high + 0.28, w * 0.68, w * 0.11), cap, tone=1.15, plain=True, edge=0.04)
    if p.chance():
        p.add(
            strand([(-0.16, high + 0.28), (-0.13, high + 0.5), (0.13, high + 0.5), (0.16, high + 0.28)], 0.06),
            cap,
            edge=0.03,
            plain=True,
        )
    p.add(lathe([(0, w * 0.95), (0.09, w * 1.01)]), "metal")


def torch(p: Sketch) -> None:
    p.stage, p.spin, r = "flat", 40, p.vary(0.15, 0.19)
    p.add(
        lathe(
            [(-1.1, r * 0.9), (-1.05, r), (0.25, r), (0.5, r * 1.7), (0.8, r * 1.85), (0.84, r * 1.75)],
            smooth=False,
            sag=0,
        )
    )
    p.add(lathe([(0.62, r * 1.9), (0.72, r * 1.9)], smooth=False, sag=0), "metal")
    p.add(ellipse(0, 0.84, r * 1.72, 0.07), "lamp", glow=1.3)
    p.add(box(-r * 1.03, -0.75, r * 1.03, -0.71, 0.01).repeat(1, 7, 1, 0.1), tone=0.55, cast=0.3)
    p.add(capsule(0, 0.06, 0, 0.16, 0.06), p.pick("red", "rubber"), edge=0.05)
    p.add(circle(0, -1.16, 0.09).outline(0.035), "dark", edge=0.02)


def cool_box(p: Sketch) -> None:
    w, high = p.vary(0.9, 1.05), p.vary(0.75, 0.9)
    p.add(
        strand([(-w * 0.95, high), (-w * 0.8, high + 0.55), (w * 0.8, high + 0.55), (w * 0.95, high)], 0.08),
        p.pick("light", "dark"),
        edge=0.04,
    )
    p.add(polygon([(-w * 0.9, 0), (w * 0.9, 0), (w, high), (-w, high)], 0.05), edge=0.12)
    p.add(box(-w * 0.98, high * 0.45, w * 0.98, high * 0.52), "light", edge=0.03, cast=0.4)
    lid = p.pick("light", "light", "main")
    p.add(
        polygon([(-w - 0.03, high), (w + 0.03, high), (w - 0.15, high + 0.3), (-w + 0.15, high + 0.3)], 0.04),
        lid,
        edge=0.06,
        plain=True,
    )
    p.add(box(-w - 0.07, high - 0.06, w + 0.07, high + 0.09, 0.05), lid, edge=0.06, plain=True, tone=0.94)
    p.add(box(-0.13, high - 0.2, 0.13, high + 0.03, 0.04), "grey", edge=0.05)


def dumbbell(p: Sketch) -> None:
    p.spin, r = 10, p.vary(0.4, 0.5)
    p.add(box(-0.6, -0.085, 0.6, 0.085, 0.05), "metal", edge=0.085, bulge=1.5)
    hexagonal = p.chance()
    for side in (-1, 1):
        if hexagonal:
            x0, x1 = side * 0.42, side * 0.98
            p.add(
                polygon(
                    [
                        (x0, -r * 0.7),
                        (x0 + side * 0.1, -r),
                        (x1 - side * 0.08, -r),
                        (x1, -r * 0.7),
                        (x1, r * 0.7),
                        (x1 - side * 0.08, r),
                        (x0 + side * 0.1, r),
                        (x0, r * 0.7),
                    ]
                ),
                edge=0.1,
            )
            p.add(box(min(x0, x1), -r * 0.48, max(x0, x1), r * 0.48), tone=1.15, edge=0.04, cast=0.3)
        else:
            for i, share in enumerate((1.25, 1.0, 0.75)):
                x = side * (0.5 + 0.21 * i)
                p.add(box(x - 0.1, -r * share, x + 0.1, r * share, 0.05), edge=0.09, bulge=1.4)
            p.add(box(side * 1.07 - 0.06, -0.12, side * 1.07 + 0.06, 0.12, 0.03), "metal", edge=0.05)


def kettlebell(p: Sketch) -> None:
    r, wide = p.vary(0.6, 0.68), p.vary(0.4, 0.5)
    p.add(
        strand(
            [
                (-wide * 0.9, 0.95),
                (-wide, 1.4),
                (-wide * 0.6, 1.66),
                (wide * 0.6, 1.66),
                (wide, 1.4),
                (wide * 0.9, 0.95),
            ],
            0.17,
        ),
        edge=0.09,
        plain=True,
    )
    p.add(ball(0, r, r) & box(-1, 0.06, 1, 3))
    p.add(circle(0, r, r * 0.42), p.pick("light", "dark", "metal"), edge=0.03, cast=0.4)
    p.add(
        box(-0.13, r - 0.13, -0.03, r + 0.13, 0.02) | box(0.03, r - 0.13, 0.13, r + 0.13, 0.04),
        "main",
        tone=0.8,
        plain=True,
        cast=0,
    )


def yoga_mat(p: Sketch) -> None:
    p.stage, p.spin, long = "flat", 25, p.vary(0.8, 1.0)
    if p.chance(0.55):  # half unrolled
        p.add(polygon([(-0.62, -1.15), (0.62, -1.15), (0.62, 0.8), (-0.62, 0.8)], 0.01), edge=0.03, bulge=0.5)
        p.add(capsule(-0.6, 0.85, 0.6, 0.85, 0.24), tone=0.95, edge=0.24, bulge=1.6)
        p.add(ellipse(0.68, 0.85, 0.1, 0.24), tone=0.7, edge=0.05, plain=True)
        p.add(ellipse(0.69, 0.85, 0.055, 0.15).outline(0.03), tone=0.4, plain=True, cast=0)
        return
    p.add(box(-long, -0.34, long, 0.34, 0.03), edge=0.34, bulge=1.7)
    p.add(ellipse(long, 0, 0.15, 0.34), tone=0.85, edge=0.04, plain=True)
    for r in (0.26, 0.18, 0.1):
        p.add(ellipse(long, 0, r * 0.44, r).outline(0.03), tone=0.45, plain=True, cast=0)
    for x in (-0.5, 0.4):
        p.add(box(x - 0.06, -0.36, x + 0.06, 0.36, 0.02), "dark", material="polyester", edge=0.1)
    p.add(strand([(-0.5, 0.34), (-0.2, 0.7), (0.2, 0.66), (0.4, 0.34)], 0.07), "dark", material="polyester", edge=0.03)


def _patch(x: float, y: float, r: float, turn: float, squash: float = 1.0) -> list[tuple[float, float]]:
    """Lay a pentagon whose breadth shrinks towards the rim of the ball."""
    c, s = cos(turn), sin(turn)
    points = [(r * squash * cos(2 * pi * k / 5), r * sin(2 * pi * k / 5)) for k in range(5)]
    return [(x + c * u - s * v, y + s * u + c * v) for u, v in points]


def football(p: Sketch) -> None:
    p.spin, whole = 40, ball(0, 0, 1)
    p.add(whole)
    ink = "dark" if sum(p.colours["main"]) > 0.8 else "light"
    patch = {"slot": ink, "material": "plastic", "edge": 0.06, "cast": 0.3}
    turn = p.vary(0, 1.2)
    p.add(polygon(_patch(0, 0, 0.3, turn)), **patch)
    for k in range(5):
        angle = turn + 2 * pi * k / 5
        p.add(capsule(0.3 * cos(angle), 0.3 * sin(angle), 0.56 * cos(angle), 0.56 * sin(angle), 0.012), **patch)
        far = angle + pi / 5
        p.add(polygon(_patch(0.86 * cos(far), 0.86 * sin(far), 0.27, far, 0.5)) & whole, **patch)
        for bend in (-0.38, 0.38):  # the seams that run on to the outer patches
            end = angle + bend
            p.add(capsule(0.56 * cos(angle), 0.56 * sin(angle), 0.8 * cos(end), 0.8 * sin(end), 0.012), **patch)


def basketball(p: Sketch) -> None:
    p.spin, whole = 40, ball(0, 0, 1)
    p.add(whole)
    seam = {
        "slot": "dark" if sum(p.colours["main"]) > 0.6 else "light",
        "material": "rubber",
        "edge": 0.02,
        "cast": 0.4,
    }
    bend = p.vary(-0.25, 0.25)
    for curve in (
        [(-1, 0), (0, bend), (1, 0)],
        [(0, -1), (-bend, 0), (0, 1)],
        [(-0.72, 0.72), (-0.36, 0), (-0.72, -0.72)],
        [(0.72, 0.72), (0.36, 0), (0.72, -0.72)],
    ):
        p.add(strand(curve, 0.045) & whole, **seam)


def tennis_racket(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 35, p.vary(0.5, 0.56), p.vary(0.66, 0.74)
    head = ellipse(0, 0.6, w, h)
    strings = box(-w, 0.59, w, 0.602).at(0, -h).repeat(1, 13, 1, h / 6.5) | box(-0.006, -0.15, 0.006, 1.3).at(
        -w, 0
    ).repeat(11, 1, w / 5.5, 1)
    p.add(strings & head, "light", edge=0.01, cast=0.25)
    p.add(head.outline(0.11), edge=0.05)
    p.add(strand([(0.3, 0.04), (0.12, -0.22), (0.03, -0.45)], 0.08).mirror(), edge=0.04)
    p.add(
        capsule(0, -0.42, 0, -1.2, 0.075),
        "main" if p.chance() else "dark",
        material="leather",
        edge=0.07,
        folds=(60, 6, 0.012),
        tone=0.9,
        plain=True,
    )
    p.add(capsule(-0.07, -1.24, 0.07, -1.24, 0.045), "dark", edge=0.04)


def bicycle(p: Sketch) -> None:
    p.spin, r = 3, p.vary(0.43, 0.48)
    back, front, hub = (-0.78, r), (0.78, r), (-0.18, r - 0.02)
    seat, head = (-0.36, 1.06), (0.52, 1.08)
    rims = p.pick("metal", "main")
    for x, y in (back, front):
        for k in range(6):
            p.add(capsule(-r, 0, r, 0, 0.007).turn(30 * k).at(x, y), "metal", cast=0)
        p.add(circle(x, y, r).outline(0.075), "rubber", edge=0.035)
        p.add(circle(x, y, r - 0.06).outline(0.04), rims, edge=0.02, cast=0)
    tubes = p.pick(
        [(seat, hub), (hub, (0.56, 0.9)), ((-0.33, 0.95), (0.53, 1.0)), (hub, back), ((-0.33, 0.95), back)],
        [(seat, hub), (hub, (0.56, 0.8)), ((-0.27, 0.62), (0.55, 0.95)), (hub, back), ((-0.33, 0.95), back)],
    )
    for (x0, y0), (x1, y1) in tubes:
        p.add(capsule(x0, y0, x1, y1, 0.05), edge=0.05)
    p.add(strand([head, (0.62, 0.8), front], 0.085), edge=0.04)
    p.add(capsule(0.52, 1.02, 0.48, 1.24, 0.035), "metal", edge=0.03)
    p.add(strand([(0.3, 1.28), (0.5, 1.24), (0.62, 1.3)], 0.06), "dark", edge=0.03)
    p.add(capsule(-0.36, 1.0, -0.38, 1.16, 0.03), "metal", edge=0.03)
    p.add(
        blob([(-0.62, 1.22), (-0.4, 1.22), (-0.16, 1.18), (-0.18, 1.12), (-0.42, 1.13), (-0.6, 1.14)]),
        p.pick("dark", "tan"),
        edge=0.05,
    )
    p.add(circle(*hub, 0.12), "metal", edge=0.03)
    p.add(capsule(hub[0], hub[1], hub[0] + 0.16, hub[1] - 0.18, 0.025), "dark")
    p.add(box(-0.07, -0.025, 0.07, 0.025, 0.02).at(hub[0] + 0.17, hub[1] - 0.2), "dark")


def helmet(p: Sketch) -> None:
    p.add(strand([(-0.5, 0.3), (-0.25, -0.35), (0.0, -0.5), (0.35, -0.3), (0.5, 0.25)], 0.05), "dark", edge=0.02)
    p.add(box(-0.12, -0.56, 0.1, -0.44, 0.03), "dark", edge=0.03)
    shell = blob(
        [
            (-1.05, 0.18),
            (-0.95, 0.62),
            (-0.5, 0.98),
            (0.1, 1.02),
            (0.7, 0.78),
            (1.0, 0.4),
            (1.02, 0.12),
            (0.6, 0.2),
            (0, 0.16),
            (-0.6, 0.04),
            (-0.9, 0.02),
        ]
    )
    p.add(shell, edge=0.45, bulge=1.4)
    for i in range(3):
        y = 0.42 + 0.17 * i
        vent = blob(
            [
                (-0.75 + 0.1 * i, y - 0.05),
                (-0.2, y + 0.06),
                (0.55 - 0.12 * i, y + 0.02),
                (0.2, y - 0.05),
                (-0.3, y - 0.06),
            ]
        )
        p.add(vent, "dark", material="matte", edge=0.05, bulge=-1)
    p.add(strand([(-0.95, 0.04), (-0.3, 0.1), (0.3, 0.18), (0.98, 0.13)], 0.07), "dark", edge=0.03)


def surfboard(p: Sketch) -> None:
    p.stage, p.spin, w = p.pick("flat", "wall"), 30, p.vary(0.32, 0.42)
    outline = [(0, 1.3), (w * 0.6, 0.85), (w, 0.1), (w * 0.75, -0.8), (w * 0.3, -1.2), (0, -1.26)]
    board = blob(outline + [(-x, y) for x, y in reversed(outline[1:-1])])
    p.add(board, edge=0.22)
    if p.pattern == "plain":
        p.add(box(-w, -0.35, w, -0.2) & board, p.pick("light", "dark"), edge=0.03, cast=0)
    p.add(capsule(0, 1.28, 0, -1.24, 0.012), "wood", cast=0.2)
    p.add(blob([(-0.05, -0.86), (0.0, -0.8), (0.06, -0.95), (0.05, -1.12), (-0.04, -1.1)]), "dark", edge=0.03)
    p.add(circle(0, -1.14, 0.03), "dark", cast=0)


def skateboard(p: Sketch) -> None:
    p.stage, p.spin, w = "flat", 35, p.vary(0.27, 0.33)
    wheels = p.pick("light", "red", "lamp", "dark")
    for y in (-0.75, 0.75):
        p.add(capsule(-w - 0.07, y, w + 0.07, y, 0.09), wheels, material="rubber", edge=0.08)
    p.add(capsule(0, -1.0, 0, 1.0, w), edge=0.1)
    for y in (-0.75, 0.75):
        p.add(box(-0.12, y - 0.16, 0.12, y + 0.16, 0.03), "metal", edge=0.05)
        p.add(capsule(-w + 0.06, y, w - 0.06, y, 0.045), "metal", edge=0.04)
        p.add(box(-w - 0.08, y - 0.1, -w + 0.06, y + 0.1, 0.05).mirror(), wheels, material="rubber", edge=0.06)
