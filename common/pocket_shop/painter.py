"""Paint the product photos: parts laid from back to front, each lit as a relief of its own material.

A shape (see `shapes_*.py`) is a function that adds parts to a `Sketch`. `paint` poses the sketch in front of a backdrop
and lights it: the height of every part gives its normals, the normals and the material give diffuse light, highlights
and reflections. A part's own distance field gives anti-aliased edges and a soft shadow on the parts below.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from common.pocket_shop.backdrops import backdrop, enlarge, grid
from common.pocket_shop.fields import Bounds
from common.pocket_shop.materials import Rgb, pattern_mask
from common.pocket_shop.sketch import Part, Sketch
from common.pocket_shop.textures import look_up, texture


class _Pose:
    """How the product's units lie in the picture: an affine map with a little perspective."""

    def __init__(self, sketch: Sketch, size: int) -> None:
        rng = sketch.rng
        x0, y0, x1, y1 = sketch.bounds()
        wide, high = x1 - x0, y1 - y0
        turn = np.radians(rng.uniform(-sketch.spin, sketch.spin))
        c, s = abs(np.cos(turn)), abs(np.sin(turn))
        slim = min(wide, high) < 0.5 * max(wide, high)
        fill = size * rng.uniform(0.78 if slim else 0.7, 0.9 if slim else 0.86)
        self.scale = float(fill / max(wide * c + high * s, wide * s + high * c))
        self.size, self.middle = size, ((x0 + x1) / 2, (y0 + y1) / 2)
        self.column = size * rng.uniform(0.46, 0.54)
        self.row = size * rng.uniform(0.47, 0.53)
        if sketch.stage == "floor":
            half = high * self.scale / 2
            self.row = max(min(size * rng.uniform(0.84, 0.91) - half, size * 0.56), half + 0.035 * size)
        flip = -1.0 if rng.random() < 0.5 else 1.0
        shear = rng.uniform(-0.05, 0.05)
        self.keystone = float(rng.uniform(-0.06, 0.06))
        # picture -> product (before perspective)
        self.matrix = np.array([[np.cos(turn) * flip, np.sin(turn) * flip], [-np.sin(turn), np.cos(turn)]]) @ np.array(
            [[1, shear], [0, 1]]
        )
        x, y = grid(size)
        u = (x * np.float32(size / 2) + np.float32(size / 2 - self.column)) / np.float32(self.scale)
        v = (y * np.float32(size / 2) - np.float32(size / 2 - self.row)) / np.float32(self.scale)
        (a, b), (d, e) = self.matrix.astype(np.float32)
        across, up = a * u + b * v, d * u + e * v
        self.x = across * (1 + np.float32(self.keystone) * up) + np.float32(self.middle[0])
        self.y = up + np.float32(self.middle[1])

    def crop(self, bounds: Bounds, margin: float) -> tuple[slice, slice]:
        """Return the rows and columns of the picture that hold a box of the product, widened by `margin` units."""
        x0, y0, x1, y1 = bounds
        corners = np.array([[x, y] for x in (x0 - margin, x1 + margin) for y in (y0 - margin, y1 + margin)])
        corners -= self.middle
        corners[:, 0] /= 1 + self.keystone * corners[:, 1]
        u, v = np.linalg.inv(self.matrix) @ corners.T * self.scale
        columns, rows = u + self.column, self.row - v
        first, last = np.floor([rows.min(), columns.min()]) - 2, np.ceil([rows.max(), columns.max()]) + 3
        (r0, c0), (r1, c1) = first.clip(0, self.size).astype(int), last.clip(0, self.size).astype(int)
        return slice(r0, r1), slice(c0, c1)


def paint(sketch: Sketch, size: int) -> np.ndarray:
    """Photograph the sketch: uint8 [size, size, 3]. All chance comes from the sketch's generator."""
    rng = sketch.rng
    layer, side = cut_out(sketch, size)
    scene, reflecting = backdrop(sketch.stage, rng, size // 2, sketch.colours["main"], side)
    scene = enlarge(scene * (1 - _shadow(layer[3], sketch.stage, side, rng)), size)
    if reflecting and rng.random() < 0.5:
        _reflect(scene, layer, float(rng.uniform(0.1, 0.22)))
    x, y = grid(size)
    scene *= 1 - layer[3]
    scene += layer[:3] * (1 + np.float32(0.05) * (np.float32(side) * x + y))
    return _develop(scene, rng)


def cut_out(sketch: Sketch, size: int) -> tuple[np.ndarray, float]:
    """Light the product alone, without its surroundings.

    Returns float32 [4, size, size], its colour (premultiplied) and its opacity in 0..1, and the side that the light
    comes from (-1 left, 1 right).
    """
    rng = sketch.rng
    pose = _Pose(sketch, size)
    side = -1.0 if rng.random() < 0.5 else 1.0
    lamp = np.array([side * rng.uniform(0.35, 0.65), rng.uniform(0.45, 0.75), 0.62])
    lamp /= np.linalg.norm(lamp)
    layer = np.zeros((4, size, size), np.float32)
    turn, offset = int(rng.integers(3)), (int(rng.integers(256)), int(rng.integers(256)))
    for part in sketch.parts:
        _lay(layer, part, sketch, pose, tuple(map(float, lamp)), turn, offset)
    return layer, side


def _lay(
    layer: np.ndarray, part: Part, sketch: Sketch, pose: _Pose, lamp: Rgb, turn: int, offset: tuple[int, int]
) -> None:
    """Light one part and put it onto the layer (premultiplied colour and opacity)."""
    x0, y0, x1, y1 = part.figure.bounds
    halo = 0.0 if part.glow else min(0.09, 0.6 * min(x1 - x0, y1 - y0)) * part.cast
    window = pose.crop(part.figure.bounds, halo)
    x, y = pose.x[window], pose.y[window]
    if x.shape[0] < 3 or x.shape[1] < 3:
        return
    d = part.figure.distance(x, y)
    cover = np.clip(0.5 - d * np.float32(pose.scale), 0, 1)
    under = layer[(slice(None), *window)]
    if halo:
        _shade_below(under, d, halo, pose.scale, lamp)
    across, upward = x, y
    rise = part.figure.height(x, y) if part.figure.height else None
    if part.figure.turned:  # its surface, unrolled
        middle = (x0 + x1) / 2
        across = np.arctan2(x - np.float32(middle), rise + 1e-3) * np.float32((x1 - x0) / 2)
    look = part.material
    grain = look_up(look.texture, across, upward, look.tiles, offset) if look.grain or look.bump else None
    normal = _normals(part, d, rise, x, y, grain, pose.scale, offset)
    rgb = [np.float32(c + (o - c) * look.tint) for c, o in zip(part.rgb, look.own, strict=True)]
    if part.patterned:
        repeat = np.float32(1 / sketch.repeat)
        mask = pattern_mask(sketch.pattern, across * repeat, upward * repeat, float(repeat / pose.scale), turn)
        tinted = [a + (o - a) * look.tint for a, o in zip(sketch.colours["accent"], look.own, strict=True)]
        rgb = [c + (np.float32(a) - c) * mask for c, a in zip(rgb, tinted, strict=True)]
    light, shine, opaque = _light(part, normal, lamp, grain, x, y)
    alpha = cover * opaque
    keep = 1 - alpha
    for channel in range(3):
        under[channel] *= keep
        under[channel] += alpha * np.minimum(rgb[channel] * light + shine, 1.1)
    under[3] *= keep
    under[3] += alpha


def _shade_below(under: np.ndarray, d: np.ndarray, halo: float, scale: float, lamp: Rgb) -> None:
    """Darken what lies around a part, away from the lamp, before the part covers it."""
    shift = max(1, round(halo * 0.35 * scale))
    moved = np.roll(d, (shift, -shift if lamp[0] > 0 else shift), (0, 1))
    near = np.clip(1 - moved * np.float32(1 / halo), 0, 1)
    under[:3] *= 1 - np.float32(0.4) * near * near


def _normals(
    part: Part,
    d: np.ndarray,
    rise: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    grain: np.ndarray | None,
    scale: float,
    offset: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return unit normals in the picture's axes, from the slope of the part's height."""
    if rise is None:
        t = np.clip(-d * np.float32(1 / part.edge), 0, 1)
        rise = t * (2 - t) * np.float32(0.6 * part.edge)
    if part.bulge != 1:
        rise = rise * np.float32(part.bulge)
    if grain is not None and part.material.bump:
        rise = rise + grain * np.float32(part.material.bump)
    if part.material.soft:
        rise = rise + look_up("drape", x, y, 0.55, offset) * np.float32(0.1)
    if part.folds:
        direction, often, deep = part.folds
        along = x * np.float32(np.cos(np.radians(direction))) + y * np.float32(np.sin(np.radians(direction)))
        along = along + np.float32(0.12) * look_up("drape", x, y, 0.5, offset)
        rise = rise + np.sin(along * np.float32(2 * np.pi * often)) * np.float32(deep)
    nx, ny = np.empty_like(rise), np.empty_like(rise)
    half = np.float32(scale / 2)
    nx[:, 1:-1] = (rise[:, :-2] - rise[:, 2:]) * half
    ny[1:-1] = (rise[2:] - rise[:-2]) * half
    nx[:, 0], nx[:, -1], ny[0], ny[-1] = nx[:, 1], nx[:, -2], ny[1], ny[-2]
    nz = 1 / np.sqrt(1 + nx * nx + ny * ny)
    return nx * nz, ny * nz, nz


# Brightness of the studio as a mirror sees it, along the direction that the lamp comes from.
_STUDIO = np.interp(
    np.linspace(-1.6, 1.6, 256),
    [-1.6, -1.1, -0.85, -0.7, -0.35, -0.12, 0.0, 0.2, 0.5, 0.62, 0.85, 1.0, 1.6],
    [0.25, 0.5, 0.75, 0.4, 0.3, 0.55, 0.72, 0.8, 1.25, 1.35, 0.7, 0.45, 0.35],
).astype(np.float32)


def _light(
    part: Part,
    normal: tuple[np.ndarray, np.ndarray, np.ndarray],
    lamp: Rgb,
    grain: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | float]:
    """Return the factor on the colour, the light on top of it, and the opacity."""
    nx, ny, nz = normal
    look = part.material
    if part.glow:
        return np.float32(1) - (1 - nz) * 0.3, np.full_like(nx, 0.12 * part.glow), 1.0
    toward = nx * np.float32(lamp[0]) + ny * np.float32(lamp[1]) + nz * np.float32(lamp[2])
    light = np.float32(0.5) + np.float32(0.86) * np.maximum(toward, 0)
    rim = 1 - nz
    if look.mirror:
        side = np.float32(1 if lamp[0] > 0 else -1)
        seen = 2 * nz * (side * nx * np.float32(0.8) + ny * np.float32(0.75)) + np.float32(0.3) * (y - side * x) * nz
        studio = _STUDIO[np.clip((seen + 1.6) * np.float32(80), 0, 255).astype(np.int32)]
        light = light + (studio * np.float32(1.25) - light) * np.float32(look.mirror * 0.8)
    if grain is not None and look.grain:
        light = light * (1 + np.float32(look.grain) * grain)
    shine = np.zeros_like(nx) if not look.sheen else rim * np.float32(0.22 * look.sheen)
    if look.sheen:
        light = light * (1 - np.float32(0.2 * look.sheen) + np.float32(1.1 * look.sheen) * rim)
    if look.gloss:
        # An upright lamp: its height counts little, so that turned bodies carry a long streak of light.
        hx, hy, hz = lamp[0], 0.35 * lamp[1], lamp[2] + 1
        length = (hx * hx + hy * hy + hz * hz) ** 0.5
        half = (nx * np.float32(hx) + ny * np.float32(hy) + nz * np.float32(hz)) / np.float32(length)
        flat = np.float32(hz / length)
        glint = np.clip((half - flat) * np.float32(1 / (1 - flat)), 0, 1)
        shine = shine + np.float32(0.6 * look.gloss) * glint ** np.float32(0.7 + look.sharp / 18)
    if not look.clear:
        return light, shine, 1.0
    opaque = 1 - np.float32(look.clear) * nz + shine
    return light, shine, np.clip(opaque, 0, 1)


def _shadow(alpha: np.ndarray, stage: str, side: float, rng: np.random.Generator) -> np.ndarray:
    """Return the darkness 0..1 of the product's shadow on the set, computed at a quarter of the size."""
    size = alpha.shape[0]
    small = Image.fromarray((alpha * 255).clip(0, 255).astype(np.uint8)).resize(
        (size // 4, size // 4), Image.Resampling.BOX
    )
    n, strength = size // 4, float(rng.uniform(0.35, 0.6))
    unit = n / 64
    if stage != "floor":
        far = (1.2 if stage == "flat" else 2.0) * float(rng.uniform(0.7, 1.6)) * unit
        moved = small.transform((n, n), Image.Transform.AFFINE, (1, 0, far * side, 0, 1, -far))
        dark = np.asarray(moved.filter(ImageFilter.GaussianBlur(1.4 * far))).astype(np.float32) * (strength / 255)
    else:
        ground = small.getbbox()[3] if small.getbbox() else n
        # The shadow lies on the floor: the silhouette squashed towards the ground line and sheared from the lamp.
        squash, lean = 1 / float(rng.uniform(0.12, 0.3)), side * float(rng.uniform(0.6, 1.6))
        lying = (1, -lean * 1.0, lean * ground, 0, squash, ground * (1 - squash))
        cast = small.transform((n, n), Image.Transform.AFFINE, lying).filter(ImageFilter.GaussianBlur(2.2 * unit))
        feet = small.crop((0, max(0, int(ground - 4 * unit)), n, ground))
        contact = Image.new("L", (n, n))
        contact.paste(feet.resize((n, max(1, int(2.5 * unit)))), (0, int(ground - 1.2 * unit)))
        contact = contact.filter(ImageFilter.GaussianBlur(1.1 * unit))
        dark = np.asarray(cast).astype(np.float32) * (0.6 * strength / 255)
        dark = np.maximum(dark, np.asarray(contact).astype(np.float32) * (0.75 / 255))
    return np.asarray(Image.fromarray(dark).resize((size // 2, size // 2), Image.Resampling.BILINEAR))


def _reflect(scene: np.ndarray, layer: np.ndarray, strength: float) -> None:
    """Mirror the product in the floor, fading downwards."""
    rows = np.flatnonzero(layer[3].max(1) > 0.5)
    size = layer.shape[1]
    if len(rows) == 0 or rows[-1] + 2 >= size:
        return
    ground = int(rows[-1]) + 1
    deep = min(size - ground, ground)
    image = layer[:, ground - deep : ground][:, ::-1]
    fade = np.linspace(strength, 0, deep, dtype=np.float32)[:, None]
    floor = scene[:, ground : ground + deep]
    floor += (image[:3] - floor * image[3]) * fade


def _develop(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply exposure, white balance, a shoulder for the highlights and a trace of sensor noise."""
    size = picture.shape[1]
    gain = (rng.uniform(0.95, 1.05) * (1 + rng.uniform(-0.025, 0.025, 3))).astype(np.float32)
    top, left = int(rng.integers(256)), int(rng.integers(256))
    rows, columns = np.arange(top, top + size) & 255, np.arange(left, left + size) & 255
    picture *= gain[:, None, None]
    picture += texture("fine")[rows][:, columns] * np.float32(rng.uniform(0.01, 0.03))
    np.minimum(picture, 0.43 + picture * np.float32(0.5), out=picture)  # above 0.86 half as steep
    picture *= 255
    return np.ascontiguousarray(picture.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
