"""Draw product grids with captions, and bars with intervals."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from common.catalogue import Catalogue
from common.catalogue.images import open_image
from common.errors import CourseError

if TYPE_CHECKING:
    from IPython.display import Image as DisplayedImage
    from matplotlib.axes import Axes

_GAP, _LINE_HEIGHT, _FONT_SIZE = 8, 13, 11
_INK, _PALE = (40, 40, 40), (235, 235, 235)
GRADE_COLOURS = {3: (46, 125, 50), 2: (139, 175, 60), 1: (214, 160, 40), 0: (170, 60, 55)}
"""Frames of judged products: green exact, lime substitute, amber complement, red irrelevant."""


def product_grid(
    catalogue: Catalogue,
    product_ids: Sequence[str | None],
    *,
    captions: Sequence[str] | None = None,
    grades: Sequence[int | None] | None = None,
    columns: int = 6,
    size: int = 128,
    lines: int = 2,
) -> Image.Image:
    """Lay product photos out in a grid, each with a caption (default: its title) of at most `lines` lines.

    `grades` frames every photo in its grade's colour. A product without a usable picture gets a grey field, None an
    empty place, so that ranks stay aligned. `size` is in pixels.
    """
    captions = captions if captions is not None else _titles(catalogue, product_ids)
    if len(captions) != len(product_ids) or (grades is not None and len(grades) != len(product_ids)):
        raise CourseError(f"product_grid: {len(product_ids)} products need as many captions and grades")
    rows = -(-len(product_ids) // columns)
    height = size + _LINE_HEIGHT * lines + _GAP
    sheet = Image.new("RGB", (columns * (size + _GAP) + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for place, product_id in enumerate(product_ids):
        if product_id is None:
            continue
        left, top = _GAP + place % columns * (size + _GAP), _GAP + place // columns * height
        sheet.paste(_photo(catalogue, product_id, size), (left, top))
        if grades is not None and grades[place] is not None:
            draw.rectangle((left, top, left + size - 1, top + size - 1), outline=GRADE_COLOURS[grades[place]], width=4)
        for number, line in enumerate(_wrapped(captions[place], size // 6, lines)):
            draw.text((left, top + size + 1 + number * _LINE_HEIGHT), line, fill=_INK, font=font)
    return sheet


def as_jpeg(picture: Image.Image, quality: int = 80) -> DisplayedImage:
    """Wrap a picture for display in a notebook as JPEG: photos as PNG would make the notebook ten times as large."""
    from IPython.display import Image as DisplayedImage

    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return DisplayedImage(data=buffer.getvalue(), format="jpeg")


def interval_bars(board: pd.DataFrame, axes: Axes, *, colours: Mapping[str, str] | None = None) -> Axes:
    """Draw one horizontal bar a system with its 95% interval; `board` has `system, value, ci_low, ci_high`."""
    board = board.iloc[::-1]
    errors = [board["value"] - board["ci_low"], board["ci_high"] - board["value"]]
    shades = [(colours or {}).get(name, "#5b8db8") for name in board["system"]]
    axes.barh(board["system"], board["value"], xerr=errors, color=shades, ecolor="#333333", capsize=3)
    for place, value in enumerate(board["value"]):
        axes.text(0.005, place, f"{value:.3f}", va="center", color="white", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _titles(catalogue: Catalogue, product_ids: Sequence[str | None]) -> list[str]:
    titles = catalogue.products.set_index("product_id")["title"]
    return ["" if i is None else str(i) if pd.isna(titles[i]) else titles[i] for i in product_ids]


def _photo(catalogue: Catalogue, product_id: str, size: int) -> Image.Image:
    path = catalogue.image_path(product_id)
    if path is None or not path.is_file():
        return Image.new("RGB", (size, size), _PALE)
    picture = open_image(path, size)
    field = Image.new("RGB", (size, size), _PALE)
    field.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return field


def _wrapped(text: str, width: int, lines: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=lines, placeholder=" …")
