"""Make one page of points: script, style, data and thumbnails in one HTML file that needs no server and no network.

The page runs only its own script: a Content Security Policy names the digests of script and style and forbids all else.
Titles reach it as JSON that cannot close a tag, and are shown as text, never as markup.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isqrt
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from common.catalogue.images import UnusableImage, open_image
from common.category_path import split_path
from common.progress import progress

FOLDER = Path(__file__).with_name("assets")
SCRIPTS = ("data", "camera", "points", "overlay", "panel", "input", "start")
PALETTE = (
    *("#5ab4f5", "#f7b955", "#6fdc8c", "#f2748c", "#b794f6", "#4fd8d0"),
    *("#f58f4f", "#d9e45b", "#f39ad9", "#8f9dff", "#cfa77c", "#b8ecff"),
)
GREY = "#8891a5"  # departments beyond the palette, and products without a category
UNCATEGORISED = "No category"
MOST_THUMBNAILS = 5_000
ATLAS_PIXELS, LARGEST_TILE = 12_000_000, 96
WEBP_QUALITY = 72
STAR_LEVELS = 2


@dataclass(frozen=True)
class Sky:
    """Hold the contents of a page. name: of the catalogue. points: product_id, title, category_path, predicted_path,
    split, image, x, y, z, each coordinate in [-1, 1]. near: positions [N, k] of each product's neighbours. stars: path,
    level, x, y, z, n."""

    name: str
    points: pd.DataFrame
    near: np.ndarray
    stars: pd.DataFrame


def render(sky: Sky, catalogue_folder: Path | None = None) -> str:
    """Return the text of the page. catalogue_folder: where the paths in `image` start. Unusable pictures are left out,
    and all pictures beyond 5,000 products."""
    script, style = "\n".join(_file(f"{name}.js") for name in SCRIPTS), _file("page.css")
    atlas, slots, tile = thumbnails(sky.points["image"], catalogue_folder)
    data = page_data(sky) | {"tile": tile, "slots": packed(slots, integer_type(sky))}
    return Template(_file("page.html")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src '{_source(style)}'; script-src '{_source(script)}'",
        style=style,
        script=script,
        data=as_script_data(data),
        atlas=f"data:image/webp;base64,{b64encode(atlas).decode()}" if atlas else "data:,",
    )


def page_digest() -> str:
    """Return the digest of the page's source files: a page made from others is out of date."""
    return sha256(b"".join(path.read_bytes() for path in sorted(FOLDER.iterdir()))).hexdigest()[:16]


def page_data(sky: Sky) -> dict[str, Any]:
    """Return the script's input, in JSON types.

    Numbers of products are little-endian, in base64: `points` int16 [N, 3] in units of 1/32767, all others of the type
    `integers`. A path is its position in `paths`, where 0 stands for none.
    """
    points, integers = sky.points, integer_type(sky)
    department, names, colours = departments_of(points["category_path"])
    counts = np.bincount(department, minlength=len(names))
    truth, predicted = (points[column].fillna("") for column in ("category_path", "predicted_path"))
    paths = ["", *sorted({*truth, *predicted} - {""})]
    splits = sorted(set(points["split"].dropna()))
    places = np.rint(points[["x", "y", "z"]].to_numpy(np.float64) * 32767).astype("<i2")
    drawn = sky.stars[sky.stars["level"] <= STAR_LEVELS]
    top = [names.index(split_path(path)[0]) for path in drawn["path"]]
    return {
        "name": sky.name,
        "count": len(points),
        "integers": np.dtype(integers).itemsize * 8,
        "points": packed(places, "<i2"),
        "department": packed(department, integers),
        "truth": packed(pd.Index(paths).get_indexer(truth), integers),
        "predicted": packed(pd.Index(paths).get_indexer(predicted), integers),
        "split": packed(pd.Index(["", *splits]).get_indexer(points["split"].fillna("")), integers),
        "near": packed(sky.near, integers),
        "neighbours": int(sky.near.shape[1]),
        "ids": points["product_id"].tolist(),
        "titles": points["title"].fillna("").tolist(),
        "paths": paths,
        "splits": ["", *splits],
        "departments": [
            {"name": name, "colour": colour, "count": int(count)}
            for name, colour, count in zip(names, colours, counts, strict=True)
        ],
        "stars": [
            {"name": split_path(row.path)[-1], "level": row.level, "n": row.n, "department": number}
            | {axis: round(float(getattr(row, axis)), 4) for axis in "xyz"}
            for row, number in zip(drawn.itertuples(), top, strict=True)
        ],
    }


def departments_of(paths: Sequence[str | None]) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the department of each product, int64 [N], the departments' names, largest first, and their colours.

    A department is the first level of a path; products without a path come last, as "No category".
    """
    top = pd.Series([split_path(path)[0] if isinstance(path, str) and path else None for path in paths], dtype=object)
    names = top.value_counts().sort_index().sort_values(ascending=False, kind="stable").index.tolist()
    colours = [PALETTE[number] if number < len(PALETTE) else GREY for number in range(len(names))]
    if top.isna().any():
        names, colours = [*names, UNCATEGORISED], [*colours, GREY]
    number = pd.Index(names).get_indexer(top.fillna(UNCATEGORISED))
    return number, names, colours


def thumbnails(pictures: Sequence[str | None], folder: Path | None) -> tuple[bytes, np.ndarray, int]:
    """Return all thumbnails as one WebP picture, a square grid filled row by row; each product's place in it from 1, 0
    for none, int64 [N]; and the side of a tile in pixels, 0 if there is no thumbnail.

    A tile has 96 pixels, or fewer so that all tiles fit in 12 million pixels: 48 for 5,000 products.
    """
    slots = np.zeros(len(pictures), dtype=np.int64)
    if not len(pictures) or len(pictures) > MOST_THUMBNAILS:
        return b"", slots, 0
    side = isqrt(len(pictures) - 1) + 1
    tile = min(LARGEST_TILE, int(np.sqrt(ATLAS_PIXELS / len(pictures))) // 8 * 8)
    atlas, used = Image.new("RGB", (side * tile, side * tile), "white"), 0
    for row, path in enumerate(progress(pictures, desc="thumbnails")):
        try:
            picture = open_image(Path(folder or ".", path), at_least=tile) if isinstance(path, str) else None
        except UnusableImage:
            continue
        if picture is not None:
            picture.thumbnail((tile, tile), Image.Resampling.LANCZOS)
            left, top = used % side * tile, used // side * tile
            atlas.paste(picture, (left + (tile - picture.width) // 2, top + (tile - picture.height) // 2))
            used += 1
            slots[row] = used
    if not used:
        return b"", slots, 0
    buffer = io.BytesIO()
    atlas.crop((0, 0, side * tile, -(-used // side) * tile)).save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return buffer.getvalue(), slots, tile


def integer_type(sky: Sky) -> str:
    """Return the narrowest type for the numbers of products and paths: "<u2" or "<u4"."""
    most_paths = sky.points["category_path"].nunique() + sky.points["predicted_path"].nunique() + 1
    return "<u2" if max(len(sky.points), most_paths) < 2**16 else "<u4"


def packed(values: np.ndarray, kind: str) -> str:
    """Return the array's bytes, as numbers of the type `kind`, in base64."""
    return b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()


def as_script_data(value: Any) -> str:
    """Return JSON for a script element: without "<", it can start no end tag and no comment."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
