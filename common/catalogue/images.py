"""Open pictures from anywhere without trusting them: sizes are read from the header before a pixel is decoded."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from common.errors import CourseError
from common.progress import progress

MAX_SIDE = 20_000
MAX_PIXELS = 50_000_000
"""150 MB once decoded; `check_images` decodes one picture in each thread."""

MAX_THREADS = 8
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow warns when it opens a large picture; the stricter limit here makes that warning redundant.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnusableImage(CourseError):
    """Report a picture that cannot be used; `reason` says why, without the picture's name."""

    def __init__(self, name: str | Path, reason: str) -> None:
        super().__init__(f"{name}: {reason}; replace the file or remove it from the catalogue")
        self.reason = reason


class _Unusable(Exception):
    """Carry the reason why a picture cannot be used."""


def check_image(path: str | Path) -> str | None:
    """Return why the file cannot serve as a product picture, or None if it can. Never raises.

    It cannot if it is missing, empty, no image of `FORMATS`, truncated or damaged, animated, longer than `MAX_SIDE`
    pixels or larger than `MAX_PIXELS`. The whole picture is decoded: a truncated file has an intact header.
    """
    try:
        _decode(path)
    except _Unusable as reason:
        return str(reason)
    return None


def check_images(paths: Sequence[Path]) -> list[str | None]:
    """Call `check_image` for many files, in threads (Pillow releases the interpreter lock), with a progress bar."""
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        checks = pool.map(check_image, paths)
        return list(progress(checks, total=len(paths), desc="checking pictures", leave=False))


def open_image(
    source: str | Path | Image.Image, size: int | None = None, *, at_least: int | None = None
) -> Image.Image:
    """Return the picture of a file, or one that is open already, as RGB, upright.

    size: shrink it to fit inside `size` x `size` pixels. at_least: a larger picture may come with fewer pixels, but
    with at least so many on a side. A JPEG is then decoded at a half, a quarter or an eighth of its size, in a fraction
    of the time; any other is averaged down.

    Transparent parts become white. CMYK is converted through the colour profile in the file, if there is one, else by
    ``channel = (255 - ink)(255 - black) / 255``. Raises `UnusableImage` naming the file and why it is unusable.
    """
    try:
        picture = _decode(source, at_least)
    except _Unusable as reason:
        name = "picture in memory" if isinstance(source, Image.Image) else source
        raise UnusableImage(name, str(reason)) from None
    if size is not None:
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    return picture


def _decode(source: str | Path | Image.Image, at_least: int | None = None) -> Image.Image:
    try:
        if isinstance(source, Image.Image):
            _check_header(source)
            return _upright(source, at_least)
        path = Path(source)
        if not path.is_file():
            raise _Unusable("there is no such image file")
        if path.stat().st_size == 0:
            raise _Unusable("the image file is empty (0 bytes)")
        with Image.open(path, formats=FORMATS) as image:
            _check_header(image)
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # only a JPEG takes the hint
            return _upright(image, at_least)
    except _Unusable:
        raise
    except UnidentifiedImageError:
        raise _Unusable("not an image of format " + ", ".join(FORMATS)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _Unusable(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # a decoder may raise anything on a hostile file
        raise _Unusable(f"damaged image ({str(error)[:80] or type(error).__name__})") from None


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) == 0:
        raise _Unusable(f"{width} x {height} pixels: nothing to see")
    if max(width, height) > MAX_SIDE:
        raise _Unusable(f"{width:,} x {height:,} pixels: longer than {MAX_SIDE:,} on a side")
    if width * height > MAX_PIXELS:
        raise _Unusable(f"{width:,} x {height:,} pixels: more than {MAX_PIXELS:,} in all")
    # MPO is the JPEG of many phones: its first frame is the photo, then comes a preview or a depth map.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise _Unusable(f"animated ({image.n_frames} frames)")


def _upright(image: Image.Image, at_least: int | None) -> Image.Image:
    image.load()
    picture = _as_rgb(ImageOps.exif_transpose(image))
    factor = min(picture.size) // at_least if at_least is not None else 1
    return picture.reduce(factor) if factor > 1 else picture


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return _cmyk_as_rgb(image)
    if image.mode.startswith("I;16"):  # convert() would clip 16-bit grey to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _cmyk_as_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile: the plain formula gets lightness and hue right
    return image.convert("RGB")


def pixel_digest(picture: Image.Image) -> str:
    """Return a digest of the size and the pixels of a picture."""
    size = f"{picture.width}x{picture.height}:".encode()
    return blake2b(size + picture.tobytes(), digest_size=16).hexdigest()


def pixel_digests(paths: Sequence[Path]) -> list[str | None]:
    """Return the `pixel_digest` of each file, None for one that cannot be decoded."""

    def digest(path: Path) -> str | None:
        try:
            return pixel_digest(open_image(path))
        except UnusableImage:
            return None

    with ThreadPoolExecutor(MAX_THREADS) as pool:
        return list(pool.map(digest, paths))
