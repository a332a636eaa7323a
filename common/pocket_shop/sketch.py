"""Collect the parts of a product's picture and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from common.pocket_shop.fields import Bounds, Field, capsule, polygon
from common.pocket_shop.materials import MATERIALS, WOODS, Material, Rgb

# Parts that are not in the product's colour: their colour and material.
SLOTS: dict[str, tuple[Rgb, str]] = {
    "metal": ((0.74, 0.76, 0.79), "steel"),
    "gold": ((0.84, 0.66, 0.32), "brass"),
    "dark": ((0.13, 0.13, 0.145), "plastic"),
    "light": ((0.93, 0.92, 0.9), "plastic"),
    "grey": ((0.5, 0.51, 0.53), "plastic"),
    "rubber": ((0.16, 0.16, 0.17), "rubber"),
    "wood": ((0.62, 0.43, 0.26), "oak"),
    "glass": ((0.85, 0.92, 0.94), "glass"),
    "screen": ((0.09, 0.11, 0.16), "screen"),
    "paper": ((0.95, 0.94, 0.9), "paper"),
    "cloth": ((0.9, 0.88, 0.83), "cotton"),
    "tan": ((0.6, 0.4, 0.24), "leather"),
    "plant": ((0.27, 0.47, 0.22), "foliage"),
    "lamp": ((1.0, 0.93, 0.74), "matte"),
    "water": ((0.55, 0.78, 0.86), "glass"),
    "fire": ((0.95, 0.55, 0.15), "matte"),
    "rope": ((0.78, 0.68, 0.5), "jute"),
    "earth": ((0.25, 0.18, 0.13), "cork"),
    "skin": ((0.85, 0.68, 0.5), "cork"),
    "red": ((0.8, 0.14, 0.12), "plastic"),
    "lit": ((0.3, 0.75, 0.9), "matte"),
}


@dataclass(frozen=True)
class Part:
    """One piece of a product: a figure, what it is made of and how it bulges."""

    figure: Field
    rgb: Rgb
    material: Material
    edge: float
    bulge: float
    folds: tuple[float, float, float] | None
    glow: float
    patterned: bool
    cast: float


@dataclass
class Sketch:
    """A product being drawn. Shapes call `add` from back to front, in units of about -1..1, y upwards.

    `colours` maps "main" and "accent" to the product's colours. `stage` says how it is photographed (see
    `backdrop`), `spin` how far it may be turned in degrees, `repeat` how long one repeat of its pattern is.
    """

    rng: np.random.Generator
    colours: Mapping[str, Rgb]
    material: str
    pattern: str = "plain"
    parts: list[Part] = field(default_factory=list)
    stage: str = "floor"
    spin: float = 2.0
    repeat: float = 0.25

    def vary(self, low: float, high: float) -> float:
        """Return a proportion of this specimen, between low and high."""
        return float(self.rng.uniform(low, high))

    def chance(self, share: float = 0.5) -> bool:
        """Return whether this specimen has something that this share of specimens has."""
        return bool(self.rng.random() < share)

    def pick(self, *options):
        """Return one of several variants."""
        return options[int(self.rng.integers(len(options)))]

    def made_of(self, *materials: str) -> bool:
        """Return whether the product's material is one of these."""
        return self.material in materials

    def add(
        self,
        figure: Field,
        slot: str = "main",
        *,
        tone: float = 1.0,
        edge: float = 0.1,
        bulge: float = 1.0,
        material: str | None = None,
        folds: tuple[float, float, float] | None = None,
        glow: float = 0.0,
        plain: bool = False,
        cast: float = 1.0,
    ) -> None:
        """Lay a part on top of those before it.

        `slot` is "main", "accent", "frame" or a key of `SLOTS`; `tone` lightens or darkens its colour; its rim is
        rounded over `edge` units and rises by `bulge`; `folds` are (direction in degrees, folds a unit, depth); `glow`
        shines; `plain` leaves the pattern out; `cast` is the strength of its shadow on the parts below.
        """
        rgb, own = self._paint_of(slot)
        rgb = tuple(min(c * tone, 1.0) for c in rgb)
        patterned = slot == "main" and not plain and self.pattern != "plain"
        look = MATERIALS[material or own]
        self.parts.append(Part(figure, rgb, look, edge, bulge, folds, glow, patterned, cast))

    def block(
        self, x0: float, y0: float, x1: float, y1: float, depth: tuple[float, float], slot: str = "main", **more
    ) -> None:
        """Add a box seen from the front with its top and its right (left, if depth[0] < 0) side."""
        dx, dy = depth
        side = x1 if dx > 0 else x0
        if dy:
            self.add(polygon([(x0, y1), (x1, y1), (x1 + dx, y1 + dy), (x0 + dx, y1 + dy)]), slot, tone=1.16, edge=0.02)
        if dx:
            corners = [(side, y0), (side, y1), (side + dx, y1 + dy), (side + dx, y0 + dy)]
            self.add(polygon(corners), slot, tone=0.68, edge=0.02)
        self.add(polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), slot, **{"edge": 0.03, **more})

    def legs(
        self,
        xs: tuple[float, ...],
        top: float,
        r: float = 0.035,
        splay: float = 0.0,
        slot: str = "frame",
        foot: float = 0.0,
    ) -> None:
        """Add straight legs from `top` down to `foot`, leaning outwards by `splay`."""
        for x in xs:
            lean = splay if x > 0 else -splay
            self.add(capsule(x, top, x + lean, foot, r, r * 0.75), slot, edge=r, plain=True)

    def bounds(self) -> Bounds:
        """Return the box around all parts."""
        boxes = np.array([part.figure.bounds for part in self.parts])
        return (*map(float, boxes[:, :2].min(0)), *map(float, boxes[:, 2:].max(0)))

    def _paint_of(self, slot: str) -> tuple[Rgb, str]:
        if slot == "frame":  # legs and rails: of the material itself if it can stand, else painted metal
            sturdy = not (MATERIALS[self.material].soft or MATERIALS[self.material].clear or self.material == "marble")
            return self.colours["main"], self.material if sturdy else "paint"
        if slot in ("main", "accent"):
            return self.colours[slot], self.material
        rgb, material = SLOTS[slot]
        if slot == "wood" and self.material in WOODS:
            material = self.material
        if slot == "metal" and self.material in ("brass", "copper"):
            rgb, material = MATERIALS[self.material].own, self.material
        return rgb, material
