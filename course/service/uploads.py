"""Open pictures that strangers send, with less trust than those of a catalogue (`common.catalogue.images`).

Three formats are accepted, by their first bytes; no other decoder sees the file. The header is used only to refuse: too
many pixels, an animation. Only decoded pixels leave this module. Whatever else a file contains (an archive or a page
behind the picture, a script in a comment, a colour profile) is neither read nor passed on.

A picture is opened in memory, and shrunk before anything else is done with it. A file of a few kilobytes may contain
`MOST_PIXELS` of one colour: decoding them takes up to 400 MB for a moment (WebP; a tenth of that for most JPEGs), and
at full size each further step to RGB would take another 100. The result takes 3 MB at most, because many may wait.
"""

from __future__ import annotations

import io
import math

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from common.catalogue.images import MAX_SIDE, UnusableImage, open_image
from course.service.answers import LARGEST_PICTURE, UnusablePicture

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_PIXELS = 25_000_000
"""The usual size of a phone's photo; a catalogue may have pictures of twice that."""
SIDE, LONGER_SIDE = 512, 4 * 512
"""Pixels that are kept of the shorter side (no encoder here uses more), and of the longer side of a thin picture."""
MOST_SCANS = 64
"""Scans of a progressive JPEG, where 10 are usual; each passes over the whole picture again."""
MOST_READS = 20_000
"""Reads by the decoder, a few for each segment or chunk; 10 MB of empty ones would take seconds."""

OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"PK\3\4": "a ZIP archive",
}
"""First bytes of files that are sent by mistake, for a clearer message."""

PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20  # unpacked comments of a PNG; Pillow would accept 64 MB


def open_upload(data: bytes) -> Image.Image:
    """Return the picture in `data` as RGB, upright, on white, at most `SIDE` x `LONGER_SIDE` pixels or the reverse.

    Decoding takes hundreds of megabytes for a moment, so callers should open one at a time, in a thread of its own.
    Raises `UnusablePicture` with the reason: empty or over `LARGEST_PICTURE`, not a JPEG, PNG or WebP, truncated,
    damaged, animated, longer than `common.catalogue.images.MAX_SIDE`, larger than `MOST_PIXELS`, or slow to decode.
    """
    if not data:
        raise _unusable("the file is empty")
    if len(data) > LARGEST_PICTURE:
        raise _unusable(f"the file has {len(data):,} bytes, and at most {LARGEST_PICTURE:,} are taken")
    try:
        with Image.open(_CountedReads(data), formats=FORMATS) as image:
            _check(image, data)
            image.info.pop("icc_profile", None)  # without it, a CMYK picture's colours are close enough for search
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
    """A file in memory that raises ValueError after `MOST_READS` reads."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise ValueError("cut into too many parts")
        return super().read(size)


def _check(image: Image.Image, data: bytes) -> None:
    """Refuse by its header a picture that is costly to decode; `open_image` refuses the rest."""
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise _unusable(f"{width:,} x {height:,} pixels, longer than {MAX_SIDE:,} on a side")
    if width * height > MOST_PIXELS:
        raise _unusable(f"{width:,} x {height:,} pixels, more than {MOST_PIXELS:,} in all")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a phone's JPEG with a depth map
        raise _unusable("it is animated")
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MOST_SCANS:
        raise _unusable(f"a JPEG of more than {MOST_SCANS} scans")


def _shrunk(image: Image.Image) -> Image.Image:
    """Shrink the picture to `SIDE` and `LONGER_SIDE`; a JPEG is decoded at a fraction of its size."""
    scale = min(SIDE / min(image.size), LONGER_SIDE / max(image.size))
    if scale >= 1:
        return image
    transparent = image.has_transparency_data
    if image.mode in ("1", "P") or (transparent and image.mode in ("L", "RGB")):  # their colours cannot be averaged
        image = image.convert("RGBA" if transparent else "RGB")
    gap = None if image.mode.startswith("I;16") else 2.0  # 16-bit grey cannot be resized in two steps
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
