"""Uploads: pictures come out as `open_image` opens them, only smaller; everything else is refused with its reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from common.catalogue.images import open_image
from course.service import uploads
from course.service.answers import LARGEST_PICTURE, UnusablePicture
from course.service.uploads import LONGER_SIDE, MOST_PIXELS, SIDE, open_upload


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *before: bytes, rows: bytes | None = None, after: tuple[bytes, ...] = ()) -> bytes:
    """An RGB PNG with chunks before and after its pixels, which are black, or hardly any."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" if rows is None else rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + b"".join(after) + chunk(b"IEND")


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def noise(*shape: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


PHOTO = Image.fromarray(noise(40, 60, 3))
JPEG = saved(PHOTO, "JPEG")
BLACK = bytes((8 * 3 + 1) * 8)
BOMB_OF_WORDS = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def frames(kind: str, count: int = 3) -> bytes:
    pictures = [Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in range(count)]
    return saved(pictures[0], kind, save_all=True, append_images=pictures[1:])


def many_scans() -> bytes:
    """A progressive JPEG that says all its scans again and again."""
    whole = saved(PHOTO, "JPEG", progressive=True)
    start = whole.index(b"\xff\xda")
    return whole[:start] + whole[start:-2] * 12 + whole[-2:]


HOSTILE = {
    "empty": (b"", "the file is empty"),
    "too many bytes": (JPEG + bytes(LARGEST_PICTURE), "bytes, and at most"),
    "words": (b"this is no picture at all", "no picture that is known here"),
    "svg": (SVG, "an SVG drawing"),
    "svg late": (b"<!-- " + b"x" * 500 + b" -->" + SVG[21:], "an SVG drawing"),
    "html": (b"\n <!DOCTYPE html><script>alert(1)</script>", "a page"),
    "php": (b"<?php system($_GET[0]); ?>" + JPEG, "a page"),
    "gif": (saved(PHOTO, "GIF"), "a GIF"),
    "gif and script": (b"GIF89a=1;alert(1)//", "a GIF"),
    "bmp": (saved(PHOTO, "BMP"), "a BMP"),
    "tiff": (saved(PHOTO, "TIFF"), "a TIFF"),
    "pdf": (saved(PHOTO, "PDF"), "a PDF"),
    "eps": (saved(PHOTO, "EPS"), "PostScript"),
    "zip before a picture": (b"PK\3\4" + bytes(26) + JPEG, "a ZIP archive"),
    "icon": (saved(PHOTO, "ICO"), "no picture that is known here"),
    "page before a picture": (b"<html>" + JPEG, "a page"),
    "header bomb": (png(15_000, 15_000), "more than 25,000,000"),
    "larger still": (png(60_000, 60_000), "more than 25,000,000 pixels"),
    "long": (png(30_000, 2), "longer than 20,000"),
    "no pixels": (png(0, 8), "damaged|nothing to see|no picture"),
    "truncated jpeg": (saved(Image.fromarray(noise(400, 400, 3)), "JPEG")[:20_000], "truncated"),
    "truncated png": (saved(PHOTO, "PNG")[:3_000], "damaged"),
    "truncated webp": (saved(PHOTO, "WEBP")[:800], "damaged|no picture"),
    "header alone": (JPEG[:300], "damaged|no picture"),
    "damaged": (png(64, 64), "damaged"),
    "animated png": (frames("PNG"), "it is animated"),
    "animated webp": (frames("WEBP", 200), "it is animated"),
    "words unpacked": (png(8, 8, *[BOMB_OF_WORDS] * 100, rows=BLACK), "text"),
    "words unpacked late": (png(8, 8, rows=BLACK, after=(BOMB_OF_WORDS,) * 100), "text"),
    "profile unpacked": (png(8, 8, chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(9_000_000))), rows=BLACK), "damaged"),
    "chunks": (png(8, 8, *[chunk(b"abCd")] * 50_000, rows=BLACK), "too many parts"),
    "empty pixels": (png(8, 8, *[chunk(b"IDAT")] * 50_000, rows=BLACK), "too many parts"),
    "comments": (b"\xff\xd8" + b"\xff\xfe\0\2" * 500_000, "too many parts"),
    "filling": (b"\xff\xd8" + b"\xff" * 1_000_000, "too many parts"),
    "scans": (many_scans(), "more than 64 scans"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_safe_picture_is_refused_with_its_reason(name):
    data, reason = HOSTILE[name]
    with pytest.raises(UnusablePicture, match=reason) as refused:
        open_upload(data)
    assert str(refused.value).startswith("The picture cannot be used: ") and str(refused.value).endswith(".")


def transparent(mode: str) -> Image.Image:
    return Image.fromarray(noise(40, 60, 4)).convert(mode)


def with_palette() -> Image.Image:
    picture = PHOTO.quantize(16)
    picture.info["transparency"] = 3
    return picture


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


SMALL = {
    "jpeg": JPEG,
    "progressive": saved(PHOTO, "JPEG", progressive=True),
    "sideways": saved(PHOTO, "JPEG", exif=turned()),
    "sideways png": saved(PHOTO, "PNG", exif=turned()),
    "grey": saved(PHOTO.convert("L"), "JPEG"),
    "inks": saved(PHOTO.convert("CMYK"), "JPEG"),
    "png": saved(PHOTO, "PNG"),
    "clear": saved(transparent("RGBA"), "PNG"),
    "clear grey": saved(transparent("LA"), "PNG"),
    "palette": saved(with_palette(), "PNG"),
    "two colours": saved(PHOTO.convert("1"), "PNG"),
    "deep": saved(Image.fromarray(noise(40, 60, dtype=np.uint16)), "PNG"),
    "webp": saved(PHOTO, "WEBP"),
    "clear webp": saved(transparent("RGBA"), "WEBP", lossless=True),
    "telephone": saved(PHOTO, "MPO", save_all=True, append_images=[PHOTO.resize((8, 8))]),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_picture_is_that_of_open_image(name, tmp_path):
    (tmp_path / "picture").write_bytes(SMALL[name])
    expected = open_image(tmp_path / "picture")
    found = open_upload(SMALL[name])
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(expected))


def halves(mode: str) -> Image.Image:
    """1,200 x 800: the left half red, the right blue, in the middle a clear band where the mode has such a thing."""
    picture = Image.new("RGBA", (1200, 800), "blue")
    picture.paste((255, 0, 0, 255), (0, 0, 600, 800))
    if mode in ("RGBA", "P"):
        picture.paste((0, 0, 0, 0), (500, 0, 700, 800))
    if mode == "1":
        return picture.getchannel("R").convert("1")
    return picture.quantize(8) if mode == "P" else picture.convert(mode)


LARGE = {
    "jpeg": saved(halves("RGB"), "JPEG", quality=95),
    "sideways": saved(halves("RGB"), "JPEG", quality=95, exif=turned()),
    "inks": saved(halves("CMYK"), "JPEG", quality=95),
    "png": saved(halves("RGB"), "PNG"),
    "clear": saved(halves("RGBA"), "PNG"),
    "palette": saved(halves("P"), "PNG"),
    "two colours": saved(halves("1"), "PNG"),
    "one colour clear": saved(halves("RGB"), "PNG", transparency=(255, 0, 0)),
    "deep": saved(Image.fromarray(np.full((800, 1200), 40_000, dtype=np.uint16)), "PNG"),
    "clear webp": saved(halves("RGBA"), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_picture_is_that_of_open_image_but_smaller(name, tmp_path):
    (tmp_path / "picture").write_bytes(LARGE[name])
    whole, found = open_image(tmp_path / "picture"), open_upload(LARGE[name])
    assert min(found.size) == SIDE and found.mode == "RGB"
    assert found.width / found.height == pytest.approx(whole.width / whole.height, rel=0.01)
    expected = whole.resize(found.size, Image.Resampling.BOX)
    differences = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
    assert differences.mean() < 1.5, "the same picture"
    assert np.median(differences) <= 2


def test_what_hangs_behind_a_picture_goes_nowhere():
    """A polyglot is opened as the picture that it is; of the rest, nothing can be in the pixels."""
    for tail in (
        b"PK\3\4" + bytes(100),
        b"<script>alert(1)</script>",
        b"<?php system($_GET[0]); ?>",
        saved(PHOTO, "PDF"),
    ):
        for data in (JPEG, SMALL["png"], SMALL["webp"]):
            assert open_upload(data + tail).tobytes() == open_upload(data).tobytes()
    commented = saved(PHOTO, "JPEG", comment=b"*/=alert(1);/*")
    assert open_upload(commented).tobytes() == open_upload(JPEG).tobytes()
    assert open_upload(commented).info == {} and "comment" in Image.open(io.BytesIO(commented)).info


def test_no_colour_profile_is_read(monkeypatch):
    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda _: pytest.fail("a stranger's profile was parsed"))
    inks = PHOTO.convert("CMYK")
    profiled = saved(inks, "JPEG", icc_profile=b"a profile")
    assert open_upload(profiled).tobytes() == open_upload(saved(inks, "JPEG")).tobytes()


def test_the_most_pixels_are_opened(monkeypatch):
    side = 400
    monkeypatch.setattr(uploads, "MOST_PIXELS", side * side)
    assert open_upload(saved(Image.new("L", (side, side)), "PNG")).size == (side, side)
    with pytest.raises(UnusablePicture, match="401 x 400 pixels, more than 160,000"):
        open_upload(saved(Image.new("L", (side + 1, side)), "PNG"))
    assert MOST_PIXELS == 25_000_000


@pytest.mark.parametrize("size", [(512, 20_000), (20_000, 512), (1, 20_000), (600, 3_000), (300, 2_049), (512, 2_048)])
def test_of_a_thin_picture_the_longer_side_is_shrunk_too(size):
    """A few ten kilobytes would else be 30 MB of pixels, for as long as they wait."""
    data = saved(Image.new("L", size, 200), "PNG")
    found = open_upload(data)
    assert len(data) < 50_000
    assert max(found.size) == LONGER_SIDE and min(found.size) <= SIDE and found.size[0] * found.size[1] * 3 < 2**22
    assert min(found.size) == pytest.approx(min(size) * LONGER_SIDE / max(size), abs=1)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["jpeg", "progressive", "png", "palette", "webp", "clear webp", "telephone"]),
    at=st.integers(0, 5_000),
    new=st.binary(max_size=12),
    cut=st.integers(0, 12),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow also tells of damage that it gets over
def test_a_damaged_file_is_a_picture_or_a_reason(kind, at, new, cut):
    data = SMALL[kind]
    at %= len(data)
    try:
        picture = open_upload(data[:at] + new + data[at + cut :])
    except UnusablePicture as refused:
        assert str(refused).isprintable()
    else:
        assert picture.mode == "RGB" and picture.width * picture.height <= MOST_PIXELS


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_no_picture(data):
    with pytest.raises(UnusablePicture):
        open_upload(data)
