"""Draw the product photos of the pocket shop from the facts of the products.

`draw_photo` draws one, `draw_catalogue` writes many. A photo shows what the catalogue's text may leave out: the
category (a shape), the colour, the material and the pattern, each under changing light, pose and surroundings.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from common.errors import CourseError
from common.pocket_shop.materials import MATERIALS, PATTERNS
from common.pocket_shop.painter import paint
from common.pocket_shop.sketch import Sketch
from common.pocket_shop.vocabulary import COLOURS
from common.progress import progress

__all__ = ["PATTERNS", "PhotoFacts", "draw_catalogue", "draw_photo"]

JPEG_QUALITY = 88
POOL_FROM = 32  # fewer photos than this are drawn sooner than processes start
_SHAPE_MODULES = (
    "furniture",
    "decor",
    "kitchen",
    "clothing",
    "shoes_bags",
    "accessories",
    "electronics",
    "sports",
    "office_garden",
    "kids_care_pets",
)


@dataclass(frozen=True)
class PhotoFacts:
    """What a photo shows.

    `leaf` is a key of leaves.csv, `colour` and `accent` are names of `vocabulary.COLOURS` (the accent is the pattern's
    colour), `material` is one of the catalogue's materials and `pattern` one of `PATTERNS`.
    """

    leaf: str
    colour: str
    accent: str
    material: str
    pattern: str = "plain"


@cache
def shapes() -> dict[str, Callable[[Sketch], None]]:
    """Return the shape of every leaf category: the public functions of the `shapes_*` modules by name."""
    modules = [import_module(f"{__package__}.shapes_{name}") for name in _SHAPE_MODULES]
    return {
        name: shape
        for module in modules
        for name, shape in vars(module).items()
        if callable(shape) and getattr(shape, "__module__", "") == module.__name__ and not name.startswith("_")
    }


def draw_photo(facts: PhotoFacts, *, seed: int, size: int = 256) -> np.ndarray:
    """Draw a product photo: uint8 [size, size, 3], the same bytes for the same arguments.

    Raises `CourseError` if a fact is unknown or the size is below 32 pixels.
    """
    _check(facts, size)
    return paint(sketch_product(facts, seed), size)


def sketch_product(facts: PhotoFacts, seed: int) -> Sketch:
    """Lay out the product's parts, ready to be painted once (`painter.paint`, `painter.cut_out`)."""
    # The leaf takes part in the seed, so that products with neighbouring seeds do not share their surroundings.
    rng = np.random.default_rng([seed, crc32(facts.leaf.encode())])
    colours = {slot: _rgb(name) for slot, name in (("main", facts.colour), ("accent", facts.accent))}
    sketch = Sketch(rng, colours, facts.material, facts.pattern)
    shapes()[facts.leaf](sketch)
    return sketch


def draw_catalogue(
    facts: Sequence[PhotoFacts], seeds: Sequence[int], paths: Sequence[Path], *, size: int = 256, workers: int = 2
) -> None:
    """Draw many photos into JPEG files, in `workers` processes.

    Every file appears whole or not at all; missing folders are made. Raises `CourseError` if the three lists differ in
    length or a fact is unknown; photos that were finished before stay.
    """
    if not len(facts) == len(seeds) == len(paths):
        raise CourseError(f"{len(facts)} facts, {len(seeds)} seeds and {len(paths)} paths: give one of each a photo")
    for fact in facts:
        _check(fact, size)
    jobs = [(fact, int(seed), Path(path), size) for fact, seed, path in zip(facts, seeds, paths, strict=True)]
    for folder in {path.parent for _, _, path, _ in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    bar = {"total": len(jobs), "desc": "photos", "unit": "photo"}
    if workers <= 1 or len(jobs) < POOL_FROM:
        for job in progress(jobs, **bar):
            _write_photo(job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in progress(pool.map(_write_photo, jobs, chunksize=16), **bar):
            pass


def _write_photo(job: tuple[PhotoFacts, int, Path, int]) -> None:
    facts, seed, path, size = job
    buffer = BytesIO()
    Image.fromarray(draw_photo(facts, seed=seed, size=size)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        staging.write_bytes(buffer.getvalue())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def _rgb(colour: str) -> tuple[float, float, float]:
    r, g, b = COLOURS[colour].rgb
    return r / 255, g / 255, b / 255


def _check(facts: PhotoFacts, size: int) -> None:
    known = (
        ("leaf", facts.leaf, shapes()),
        ("colour", facts.colour, COLOURS),
        ("accent", facts.accent, COLOURS),
        ("material", facts.material, MATERIALS),
        ("pattern", facts.pattern, PATTERNS),
    )
    for name, value, values in known:
        if value not in values:
            raise CourseError(f"photo: unknown {name} {value!r}; choose one of {', '.join(sorted(values))}")
    if size < 32:
        raise CourseError(f"photo: size {size} is too small to show anything; use 32 pixels or more")
