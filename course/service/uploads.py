"""Pictures that strangers send, opened with less trust than those of a catalogue (`common.catalogue.images`).

Three formats, by their first bytes; no other decoder sees the file. What the header says is believed only to refuse:
too many pixels, an animation. Nothing but decoded pixels leaves this module, so what else a file holds (an archive or
a page behind the picture, a script in a comment, a colour profile) goes nowhere, and is not read.

A picture is opened in memory, and shrunk before anything else is done with it. A file of a few kilobytes may hold
`MOST_PIXELS` of one colour: decoding those takes up to 400 MB for a moment (WebP; a tenth of that for most JPEGs), and
at full size every step from there to RGB would take another 100. What is kept has 3 MB at most, for many may wait.
"""

from __future__ import annotations

import io
import math

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from common.catalogue.images import LONGEST_SIDE, UnusableImage, open_image
from course.service.answers import LARGEST_PICTURE, UnusablePicture

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 25_000_000
"""What a telephone's camera makes, as a rule; a catalogue may hold twice that."""
SIDE, LONGER_SIDE = 512, 4 * 512
"""Pixels of the shorter side that are kept, no encoder here looks at more; and of the longer one, of a thin picture."""
MOST_SCANS = 64
"""Of a progressive JPEG, where 10 are usual: each passes over the whole picture again."""
MOST_READS = 20_000
"""Of the file by its decoder: one or a few for each segment or chunk, where 10 MB of empty ones would take seconds."""

OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"PK\3\4": "a ZIP archive",
}
"""First bytes of what is sent by mistake, for a better reason than "no picture"."""

PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20  # a PNG's comments, unpacked; Pillow would take 64 MB of them


def open_upload(data: bytes) -> Image.Image:
    """Return the picture in `data` as RGB, upright, on white, at most `SIDE` x `LONGER_SIDE` pixels or the reverse.

    Decoding takes hundreds of megabytes for a moment: the caller opens one at a time, in a thread kept for that.
    Raises `UnusablePicture` with the reason: empty or over `LARGEST_PICTURE`, no JPEG, PNG or WebP, truncated, damaged,
    animated, longer than `common.catalogue.images.LONGEST_SIDE` or larger than `MOST_PIXELS`, or made to take long.
    """
    if not data:
        raise _unusable("the file is empty")
    if len(data) > LARGEST_PICTURE:
        raise _unusable(f"the file has {len(data):,} bytes, and at most {LARGEST_PICTURE:,} are taken")
    try:
        with Image.open(_CountedReads(data), formats=FORMATS) as image:
            _check(image, data)
            image.info.pop("icc_profile", None)  # a CMYK picture's colours without it are near enough to search by
            picture = open_image(_shrunk(image))
            picture.info = {}  # comments and the like
            return picture
    except UnusablePicture:
        raise
    except UnusableImage as error:
        raise _unusable(error.reason) from None
    except UnidentifiedImageError:
        raise _unusable(f"the file is {_what_it_is(data)}, not a JPEG, PNG or WebP") from None
    except Image.DecompressionBombError:
        raise _unusable(f"more than {MOST_PIXELS:,} pixels") from None
    except Exception as error:  # a decoder may raise anything on a hostile file
        raise _unusable(f"damaged image ({str(error)[:80] or type(error).__name__})") from None


class _CountedReads(io.BytesIO):
    """A file whose decoder gives up after `MOST_READS`."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise ValueError("cut into too many parts")
        return super().read(size)


def _check(image: Image.Image, data: bytes) -> None:
    """Refuse by the header what would be costly to decode; `open_image` refuses the rest."""
    width, height = image.size
    if max(width, height) > LONGEST_SIDE:
        raise _unusable(f"{width:,} x {height:,} pixels, longer than {LONGEST_SIDE:,} on a side")
    if width * height > MOST_PIXELS:
        raise _unusable(f"{width:,} x {height:,} pixels, more than {MOST_PIXELS:,} in all")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a telephone's JPEG with its depth map
        raise _unusable("it is animated")
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MOST_SCANS:
        raise _unusable(f"a JPEG of more than {MOST_SCANS} scans")


def _shrunk(image: Image.Image) -> Image.Image:
    """The picture within `SIDE` and `LONGER_SIDE`; a JPEG is decoded at a fraction of its size for that."""
    scale = min(SIDE / min(image.size), LONGER_SIDE / max(image.size))
    if scale >= 1:
        return image
    transparent = image.has_transparency_data
    if image.mode in ("1", "P") or (transparent and image.mode in ("L", "RGB")):  # colours of these do not average
        image = image.convert("RGBA" if transparent else "RGB")
    gap = None if image.mode.startswith("I;16") else 2.0  # 16-bit grey is resized, but not in two steps
    image.thumbnail((math.ceil(image.width * scale), math.ceil(image.height * scale)), reducing_gap=gap)
    return image


def _what_it_is(data: bytes) -> str:
    head = data[:1000].lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if head.lstrip().startswith((b"<!doctype", b"<html", b"<?php")):
        return "a page"
    return next((kind for start, kind in OTHERS.items() if data.startswith(start)), "no picture that is known here")


def _unusable(reason: str) -> UnusablePicture:
    return UnusablePicture(f"The picture cannot be used: {reason}.")
