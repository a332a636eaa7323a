"""Shapes of toys, beauty and pet products: each function lays the parts of one leaf category on a sketch."""

from __future__ import annotations

from common.pocket_shop.fields import ball, between, blob, box, capsule, circle, ellipse, lathe, polygon, strand
from common.pocket_shop.sketch import Sketch


def teddy(p: Sketch) -> None:
    fat = p.vary(0.46, 0.56)
    p.add(ball(0.32, 1.62, 0.17).mirror())
    p.add(ball(0.32, 1.61, 0.1).mirror(), "cloth", tone=0.9)
    p.add(capsule(fat * 0.75, 0.95, fat + 0.26, 0.55, 0.15, 0.13).mirror(), edge=0.15, bulge=1.4)
    p.add(ball(0, 0.62, fat, 0.56))
    p.add(ball(0, 0.58, fat * 0.62, 0.38), "cloth", tone=0.95)
    p.add(ball(0.42, 0.18, 0.24, 0.22).mirror())
    p.add(ball(0.44, 0.17, 0.13, 0.12).mirror(), "cloth", tone=0.9)
    p.add(ball(0, 1.34, 0.44, 0.4))
    p.add(ball(0, 1.22, 0.2, 0.15), "cloth")
    p.add(ball(0.15, 1.42, 0.045).mirror(), "dark")
    p.add(ball(0, 1.28, 0.065, 0.045), "dark")
    p.add(strand([(-0.08, 1.17), (0, 1.14), (0.08, 1.17)], 0.02), "dark", edge=0.01)
    if p.chance(0.5):
        p.add(blob([(0, 0.96), (0.22, 1.06), (0.22, 0.86)]).mirror(), "red", material="satin", edge=0.06)


def blocks(p: Sketch) -> None:
    depth = (0.14, 0.11)
    places = p.pick(
        ((-0.62, 0), (0.02, 0), (-0.32, 0.6)), ((-0.9, 0), (-0.28, 0), (0.34, 0), (-0.6, 0.6), (0.02, 0.6), (-0.3, 1.2))
    )
    tones = (1.0, 0.85, 1.12, 0.94, 1.05, 0.8)
    for i, (x, y) in enumerate(places):
        p.block(x, y, x + 0.52, y + 0.52, depth, tone=tones[i], edge=0.05)
        cx, cy = x + 0.26, y + 0.26
        mark = p.pick(
            circle(cx, cy, 0.14),
            box(cx - 0.12, cy - 0.12, cx + 0.12, cy + 0.12),
            polygon([(cx - 0.15, cy - 0.12), (cx + 0.15, cy - 0.12), (cx, cy + 0.15)]),
        )
        if p.pattern == "plain":
            p.add(mark, "light", material="paint", edge=0.02, cast=0.3)


def toy_car(p: Sketch) -> None:
    high = p.vary(0.5, 0.62)
    roof = [(-0.5, high - 0.05), (-0.32, high + 0.34), (0.3, high + 0.36), (0.62, high - 0.05)]
    p.add(blob([*roof, (0.0, high - 0.12)], 0.03), edge=0.15)
    p.add(
        polygon([(-0.38, high), (-0.24, high + 0.27), (-0.04, high + 0.28), (-0.04, high)], 0.02),
        "glass",
        material="screen",
        tone=0.8,
        edge=0.05,
    )
    p.add(
        polygon([(0.04, high), (0.04, high + 0.28), (0.27, high + 0.27), (0.46, high)], 0.02),
        "glass",
        material="screen",
        tone=0.8,
        edge=0.05,
    )
    p.add(
        blob(
            [
                (-1.08, 0.3),
                (-1.0, high - 0.04),
                (-0.5, high + 0.04),
                (0.6, high + 0.04),
                (1.02, high - 0.1),
                (1.1, 0.25),
                (0.9, 0.15),
                (-0.9, 0.15),
            ]
        ),
        edge=0.22,
        bulge=1.2,
    )
    p.add(circle(-1.0, high - 0.16, 0.07), "lamp", edge=0.05)
    p.add(box(1.0, high - 0.24, 1.08, high - 0.12, 0.02), "red", edge=0.03)
    hubs = p.pick("metal", "light")
    for x in (-0.6, 0.62):
        p.add(circle(x, 0.18, 0.27), tone=0.55, plain=True, edge=0.05, bulge=-1)
        p.add(circle(x, 0.17, 0.23), "rubber", edge=0.08)
        p.add(circle(x, 0.17, 0.12), hubs, edge=0.05)


def kite(p: Sketch) -> None:
    p.stage, p.spin, w = "wall", 25, p.vary(0.65, 0.78)
    tail = [(0, -0.95), (0.14, -1.15), (-0.08, -1.35), (0.12, -1.55), (-0.05, -1.72)]
    p.add(strand(tail, 0.025), "light", edge=0.01, material="paper")
    for i, (x, y) in enumerate(tail[1:4]):
        bow = polygon([(x, y), (x + 0.15, y + 0.08), (x + 0.15, y - 0.08)]) | polygon(
            [(x, y), (x - 0.15, y + 0.08), (x - 0.15, y - 0.08)]
        )
        p.add(bow, "main", tone=(0.8, 1.1, 0.95)[i], plain=True, edge=0.05)
    shape = [(0, 0.95), (w, 0.32), (0, -0.95), (-w, 0.32)]
    p.add(polygon(shape, 0.01), edge=0.05, folds=(30, 0.8, 0.012))
    p.add(polygon([(0, 0.95), (w, 0.32), (0, 0.32)]), tone=0.82, edge=0.03, cast=0)
    p.add(polygon([(0, -0.95), (-w, 0.32), (0, 0.32)]), tone=0.82, edge=0.03, cast=0)
    p.add(capsule(0, 0.95, 0, -0.95, 0.018), "wood", edge=0.02, cast=0.5)
    p.add(capsule(-w, 0.32, w, 0.32, 0.018), "wood", edge=0.02, cast=0.5)


def rocking_horse(p: Sketch) -> None:
    p.add(strand([(-1.0, 0.3), (-0.6, 0.06), (0, -0.02), (0.6, 0.06), (1.0, 0.3)], 0.1), "frame", edge=0.05, plain=True)
    for x0, x1 in ((-0.42, -0.62), (0.42, 0.62), (-0.3, -0.4), (0.3, 0.4)):
        p.add(capsule(x0, 0.62, x1, 0.1, 0.085, 0.065), edge=0.08, tone=0.92, plain=True)
    p.add(strand([(0.6, 0.85), (0.86, 0.85), (0.95, 0.5), (0.9, 0.3)], 0.13), "rope", edge=0.06, folds=(20, 7, 0.02))
    body = blob(
        [
            (-0.6, 0.9),
            (-0.66, 1.35),
            (-0.98, 1.2),
            (-1.08, 1.32),
            (-0.78, 1.62),
            (-0.55, 1.68),
            (-0.38, 1.45),
            (-0.25, 1.02),
            (0.3, 0.94),
            (0.64, 0.95),
            (0.68, 0.65),
            (0.4, 0.52),
            (-0.35, 0.52),
            (-0.6, 0.65),
        ]
    )
    p.add(polygon([(-0.6, 1.6), (-0.52, 1.84), (-0.44, 1.6)], 0.02), edge=0.05)
    p.add(body, edge=0.22, bulge=1.2)
    p.add(strand([(-0.55, 1.7), (-0.36, 1.5), (-0.26, 1.2), (-0.2, 1.0)], 0.14), "rope", edge=0.07, folds=(80, 7, 0.02))
    p.add(circle(-0.76, 1.46, 0.04), "dark", edge=0.03)
    p.add(
        between([(-0.12, 0.72), (0.36, 0.72)], [(-0.12, 1.0), (0.12, 0.93), (0.36, 1.02)]),
        p.pick("red", "tan"),
        material="leather",
        edge=0.08,
    )
    p.add(strand([(-0.98, 1.28), (-0.72, 1.3), (-0.62, 1.55)], 0.035), "tan", edge=0.015)


def pushchair(p: Sketch) -> None:
    p.add(strand([(0.35, 0.45), (0.75, 1.1), (0.98, 1.42), (1.12, 1.38)], 0.07), "metal", edge=0.035)
    p.add(capsule(-0.5, 0.3, 0.45, 0.75, 0.04), "metal", edge=0.03)
    p.add(capsule(0.55, 0.25, -0.3, 0.8, 0.04), "metal", edge=0.03)
    p.add(
        blob([(-0.62, 0.86), (-0.5, 0.55), (0.1, 0.48), (0.55, 0.7), (0.72, 1.1), (0.5, 1.12), (0.2, 0.88)]),
        edge=0.16,
        bulge=1.2,
    )
    hood = circle(0.3, 1.06, 0.62) & polygon([(0.3, 1.06), (1.3, 1.0), (1.0, 2.2), (-0.6, 2.0), (-0.45, 1.4)])
    p.add(hood, edge=0.3, bulge=1.2)
    for x, y in ((0.02, 1.58), (0.36, 1.66), (0.68, 1.52)):
        p.add(capsule(0.3, 1.06, x, y, 0.012), tone=0.6, plain=True, cast=0.3)
    p.add(capsule(-0.6, 0.85, -0.75, 0.5, 0.05), tone=0.85, edge=0.05)
    hubs = p.pick("light", "metal")
    for x, r in ((-0.55, 0.2), (0.55, p.vary(0.22, 0.3))):
        p.add(circle(x, r, r), "rubber", edge=0.07)
        p.add(circle(x, r, r * 0.6), hubs, edge=0.04)
        p.add(circle(x, r, r * 0.2), "dark", edge=0.03)
    p.add(box(-0.3, 0.28, 0.35, 0.46, 0.06), "dark", material="polyester", edge=0.06)


def perfume(p: Sketch) -> None:
    w, high = p.vary(0.5, 0.65), p.vary(0.85, 1.1)
    body = p.pick(
        box(-w, 0, w, high, 0.1),
        circle(0, w, w) - box(-2, -1, 2, 0.03),
        polygon([(-w, 0), (w, 0), (w * 0.65, high), (-w * 0.65, high)], 0.04),
        blob([(0, 0), (w, 0.04), (w * 0.9, high * 0.6), (0.2, high), (-0.2, high), (-w * 0.9, high * 0.6), (-w, 0.04)]),
    )
    top = body.bounds[3]
    p.add(box(-0.13, top - 0.05, 0.13, top + 0.12, 0.02), "gold", edge=0.06)
    cap = p.pick("gold", "dark", "metal")
    p.add(p.pick(box(-0.22, top + 0.1, 0.22, top + 0.46, 0.05), ball(0, top + 0.28, 0.22)), cap, edge=0.1)
    p.add(body, edge=0.12, tone=0.95)
    p.add((body & box(-2, -1, 2, top * 0.72)).grow(-0.06), edge=0.1, tone=1.0)
    p.add(
        box(-w * 0.5, top * 0.28, w * 0.5, top * 0.56, 0.02),
        p.pick("light", "paper", "gold"),
        material="paper",
        edge=0.02,
        cast=0.4,
    )
    p.add(box(-w * 0.35, top * 0.4, w * 0.35, top * 0.43), "dark", material="matte", cast=0)


def lipstick(p: Sketch) -> None:
    w, slot = p.vary(0.22, 0.27), p.pick("gold", "metal", "dark", "light")
    p.add(
        polygon([(-w * 0.72, 0.8), (w * 0.72, 0.8), (w * 0.72, 1.4), (w * 0.3, 1.6), (-w * 0.72, 1.34)], 0.02),
        "main",
        material="plastic",
        edge=0.16,
        bulge=1.6,
        plain=True,
    )
    p.add(
        ellipse(0.03, 1.45, w * 0.62, 0.1).turn(24, (0, 1.45)),
        "main",
        material="silicone",
        tone=1.15,
        edge=0.05,
        plain=True,
        cast=0.2,
    )
    p.add(lathe([(0.6, w * 0.86), (0.92, w * 0.86)], smooth=False), slot)
    p.add(lathe([(0, w), (0.66, w)], smooth=False))
    x = p.pick(-0.62, 0.62)
    p.add(lathe([(0, w * 1.04), (0.9, w * 1.04)], x=x, smooth=False))
    p.add(ellipse(x, 0.9, w * 1.04, w * 0.17), tone=1.15, plain=True, edge=0.04)
    p.add(lathe([(0.06, w * 1.07), (0.14, w * 1.07)], x=x, smooth=False), slot)


def hair_dryer(p: Sketch) -> None:
    p.stage, p.spin = "flat", 18
    p.add(strand([(0.45, -0.75), (0.5, -1.0), (0.8, -1.1), (1.15, -0.95)], 0.05), "dark", edge=0.02)
    p.add(polygon([(0.12, 0.3), (0.5, 0.3), (0.58, -0.75), (0.32, -0.78)], 0.05), edge=0.16, bulge=1.3)
    p.add(box(0.22, -0.2, 0.38, 0.12, 0.05), p.pick("dark", "light"), edge=0.04)
    p.add(
        between([(-0.75, 0.3), (0.1, 0.16), (0.75, 0.24)], [(-0.75, 0.74), (0.1, 0.92), (0.75, 0.82)]),
        edge=0.3,
        bulge=1.3,
    )
    p.add(ellipse(0.76, 0.53, 0.15, 0.32), "dark", edge=0.1)
    p.add(box(0.66, 0.28, 0.69, 0.78).repeat(3, 1, 0.06, 1) & ellipse(0.76, 0.53, 0.14, 0.3), "grey", cast=0)
    p.add(polygon([(-0.72, 0.32), (-1.15, 0.24), (-1.15, 0.8), (-0.72, 0.72)], 0.02), p.pick("dark", "metal"), edge=0.1)


def hairbrush(p: Sketch) -> None:
    p.stage, p.spin, w, h = "flat", 35, p.vary(0.4, 0.5), p.vary(0.56, 0.66)
    outline = ellipse(0, 0.5, w, h) if p.chance(0.55) else box(-w, -0.05, w, 0.5 + h, 0.16)
    p.add(outline.melt(capsule(0, 0, 0, -1.15, 0.11, 0.14), 0.16), edge=0.12, bulge=1.2)
    pad = outline.grow(-0.09)
    p.add(pad, p.pick("dark", "grey"), material="rubber", edge=0.16, bulge=1.3)
    bristles = circle(-w + 0.06, 0.5 - h + 0.08, 0.022).repeat(int(w / 0.055), int(h / 0.05), 0.11, 0.1) & pad.grow(
        -0.05
    )
    p.add(bristles, "light", edge=0.02, cast=0.6)
    p.add(circle(0, -1.16, 0.04), "dark", material="matte", cast=0)


def soap_dispenser(p: Sketch) -> None:
    w, high = p.vary(0.38, 0.48), p.vary(0.95, 1.2)
    metal = p.pick("metal", "gold", "dark", "light")
    p.add(capsule(0, high, 0, high + 0.4, 0.035), metal, edge=0.03)
    p.add(strand([(0.05, high + 0.42), (-0.3, high + 0.42), (-0.46, high + 0.32)], 0.085), metal, edge=0.04)
    p.add(box(-0.15, high + 0.36, 0.18, high + 0.5, 0.06), metal, edge=0.05)
    p.add(lathe([(high - 0.02, 0.17), (high + 0.13, 0.15)], smooth=False), metal)
    p.add(
        lathe(
            p.pick(
                [(0, w * 0.94), (0.06, w), (high * 0.78, w), (high * 0.93, w * 0.6), (high, w * 0.4)],
                [(0, w * 0.8), (high * 0.35, w * 1.08), (high * 0.8, w * 0.6), (high, w * 0.38)],
            )
        )
    )
    if p.pattern == "plain" and p.chance(0.5):
        p.add(box(-0.2, high * 0.3, 0.2, high * 0.56, 0.02), "paper", edge=0.02, cast=0.3)
        p.add(box(-0.13, high * 0.42, 0.13, high * 0.44), "dark", material="matte", cast=0)


def pet_bed(p: Sketch) -> None:
    w, deep = 1.1, p.vary(0.48, 0.58)
    p.add(ellipse(0, 0.62, w * 0.94, deep * 0.75), tone=0.88, edge=0.25, bulge=1.3)
    p.add(
        ellipse(0, 0.52, w * 0.76, deep * 0.62),
        "cloth",
        material="wool" if p.chance() else "cotton",
        edge=0.3,
        bulge=1.1,
    )
    front = ellipse(0, 0.5, w, deep) - ellipse(0, 0.66, w * 0.8, deep * 0.72)
    p.add(front & box(-2, -1, 2, 0.62), edge=0.24, bulge=1.5)
    if p.chance(0.5):  # a bone shows whose bed it is
        bone = (
            capsule(-0.13, 0.14, 0.13, 0.14, 0.03)
            | circle(0.15, 0.17, 0.045).mirror()
            | circle(0.15, 0.11, 0.045).mirror()
        )
        p.add(bone, "light", material="matte", edge=0.03, cast=0.3)


def pet_bowl(p: Sketch) -> None:
    w, high = p.vary(0.82, 0.95), p.vary(0.42, 0.55)
    p.add(lathe([(0, w), (0.04, w * 1.01), (high, w * 0.76)], smooth=False, sag=0.2))
    p.add(ellipse(0, high, w * 0.77, 0.19), tone=1.06, plain=True, edge=0.04)
    p.add(ellipse(0, high - 0.01, w * 0.67, 0.15), tone=0.6, plain=True, edge=0.05, bulge=-1)
    if p.chance(0.75):
        p.add(ellipse(0, high + 0.02, w * 0.58, 0.13), "tan", material="cork", edge=0.1)
        p.add(
            circle(-0.36, high + 0.05, 0.055).repeat(7, 2, 0.12, 0.06),
            "tan",
            material="cork",
            tone=1.1,
            edge=0.05,
            cast=0.5,
        )
    mark = (
        circle(0, high * 0.33, 0.085)
        | circle(0.1, high * 0.33 + 0.1, 0.038).mirror()
        | circle(0.04, high * 0.33 + 0.14, 0.036).mirror()
    )
    p.add(mark.at(0, -0.08), "light" if sum(p.colours["main"]) < 2.0 else "dark", material="paint", edge=0.02, cast=0)


def dog_lead(p: Sketch) -> None:
    p.stage, p.spin, p.repeat, wide = "flat", 40, 0.14, p.vary(0.11, 0.16)
    loop = [(-0.5, 0.5), (-0.95, 0.75), (-1.1, 0.3), (-0.8, 0.05), (-0.5, 0.46)]
    p.add(strand(loop, wide), edge=0.06)
    coil = [
        (-0.5, 0.5),
        (0.2, 0.75),
        (0.85, 0.3),
        (0.6, -0.45),
        (-0.1, -0.55),
        (-0.45, -0.1),
        (0.0, 0.3),
        (0.45, -0.05),
        (0.15, -0.9),
        (0.7, -1.0),
    ]
    p.add(strand(coil, wide), edge=0.06)
    p.add(box(-0.6, 0.4, -0.42, 0.62, 0.03).turn(20, (-0.5, 0.5)), "metal", edge=0.04)
    p.add(circle(0.76, -1.0, 0.06), "metal", edge=0.05)
    p.add(capsule(0.8, -1.0, 0.9, -1.0, 0.045), "metal", edge=0.04)
    p.add(box(0.9, -1.09, 1.22, -0.91, 0.09).outline(0.05), "metal", edge=0.03)


def cat_tree(p: Sketch) -> None:
    high = p.vary(1.5, 1.8)
    rope = {"slot": "rope", "material": "jute", "bulge": 1.7}
    p.block(-0.75, 0, 0.75, 0.12, (0.12, 0.14))
    p.add(box(-0.5, 0.12, -0.3, high * 0.62, 0.02), edge=0.1, **rope)
    p.add(box(0.3, 0.2, 0.5, high, 0.02), edge=0.1, **rope)
    if p.chance(0.7):  # a den
        p.add(box(-0.12, 0.12, 0.62, 0.66, 0.06), edge=0.1)
        p.add(circle(0.25, 0.4, 0.18), "dark", material="matte", edge=0.06, bulge=-1)
    p.block(-0.78, high * 0.6, 0.05, high * 0.6 + 0.11, (0.1, 0.12), edge=0.05)
    p.block(0.0, high, 0.82, high + 0.12, (0.1, 0.12), edge=0.05)
    p.add(box(-0.02, high + 0.08, 0.84, high + 0.3, 0.1), edge=0.1, tone=1.04)
    p.add(capsule(-0.62, high * 0.6, -0.62, high * 0.36, 0.012), "dark", cast=0.3)
    p.add(ball(-0.62, high * 0.33, 0.08), p.pick("red", "lit", "lamp"), material="wool")


def aquarium(p: Sketch) -> None:
    w, high = p.vary(0.95, 1.1), p.vary(0.85, 1.05)
    p.block(-w, -0.55, w, 0.0, (0.0, 0.1), "frame")
    p.add(box(0.02, -0.5, w - 0.05, -0.05).mirror(), "frame", tone=1.04, edge=0.03)
    p.add(circle(0.1, -0.26, 0.035).mirror(), "metal", edge=0.03)
    tank = box(-w, 0.1, w, high, 0.03)
    p.add(tank, "water", edge=0.06, material="matte", tone=0.92)
    for x in (-0.75, -0.6, 0.55, 0.7):
        p.add(
            strand([(x, 0.2), (x + 0.06, 0.4), (x - 0.05, 0.6), (x + 0.03, p.vary(0.6, 0.8))], 0.06), "plant", edge=0.03
        )
    sand = between([(-w, 0.1), (w, 0.1)], [(-w, 0.24), (-0.3, 0.3), (0.3, 0.22), (w, 0.28)])
    p.add(sand & tank, "rope", material="cork", edge=0.03)
    p.add(blob([(-0.12, 0.24), (0.02, 0.42), (0.2, 0.38), (0.3, 0.24)]), "grey", material="stoneware", edge=0.1)
    for _ in range(p.pick(2, 3)):
        x, y, slot = p.vary(-0.6, 0.5), p.vary(0.42, high - 0.2), p.pick("fire", "red", "gold")
        p.add(polygon([(x + 0.1, y), (x + 0.22, y + 0.07), (x + 0.22, y - 0.07)]), slot, material="plastic", edge=0.03)
        p.add(ball(x, y, 0.13, 0.075), slot, material="plastic")
        p.add(circle(x - 0.07, y + 0.02, 0.014), "dark", cast=0)
    p.add(circle(0.35, 0.5, 0.022).repeat(1, 3, 1, 0.11), "light", material="glass", cast=0)
    p.add(tank.outline(0.07), "frame", edge=0.03, plain=True)
    p.add(box(-w - 0.06, high - 0.06, w + 0.06, high + 0.14, 0.04), "frame", edge=0.06)
    p.add(box(-w - 0.06, -0.04, w + 0.06, 0.14, 0.03), "frame", edge=0.05)
