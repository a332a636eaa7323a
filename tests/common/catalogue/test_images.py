from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms

from common.catalogue import Catalogue
from common.catalogue.images import MAX_SIDE, UnusableImage, check_image, check_images, open_image
from common.errors import CourseError


def png_of(width: int, height: int) -> bytes:
    """A valid PNG header for a picture of that size with almost no data behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.fixture
def hostile(tmp_path, noise_jpeg):
    """Files that are no picture of a product, with a word of the reason each must get."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    files = {
        "zero.jpg": (b"", "0 bytes"),
        "truncated.jpg": (noise_jpeg.read_bytes()[:2_000], "truncated"),
        "words.jpg": (b"this is no picture at all", "not an image"),
        "huge.png": (png_of(30_000, 10), "30,000"),
        "bomb.png": (png_of(15_000, 15_000), "more than 50,000,000"),
        "damaged.png": (png_of(64, 64), "damaged"),
        "vector.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    expected = {name: word for name, (_, word) in files.items()}
    for name in ("animated.gif", "animated.png", "animated.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        expected[name] = "animated (3 frames)"
    Image.new("RGB", (30_000, 2)).save(tmp_path / "long.png")
    expected["long.png"] = "30,000 x 2 pixels: longer than 20,000"
    (tmp_path / "folder.jpg").mkdir()
    return expected | {"missing.jpg": "no such", "folder.jpg": "no such"}


def test_every_hostile_file_gets_its_reason_and_nothing_raises(hostile, tmp_path):
    for name, word in hostile.items():
        reason = check_image(tmp_path / name)
        assert reason and word in reason, (name, reason)
        with pytest.raises(CourseError, match=name):
            open_image(tmp_path / name)


def test_hostile_files_are_quarantined_and_a_product_without_title_goes_with_its_only_picture(hostile, draw, tmp_path):
    draw("good.jpg")
    names = [*hostile, "good.jpg", "good.jpg"]
    products = pd.DataFrame({"product_id": ["a", "b", "c"], "title": [None, "has words", None]})
    images = pd.DataFrame({"product_id": ["a"] * len(hostile) + ["b", "c"], "path": names})
    catalogue = Catalogue.from_tables("test", products=products, images=images, folder=tmp_path)
    assert catalogue.products["product_id"].tolist() == ["b", "c"]
    assert catalogue.images["path"].tolist() == ["good.jpg", "good.jpg"]
    aside = catalogue.quarantine.set_index("table")["reason"]
    assert len(aside["images"]) == len(hostile)
    assert aside["products"] == "no title and no usable image"


def test_positions_stay_dense_when_the_first_picture_is_set_aside(draw, tmp_path):
    (tmp_path / "zero.jpg").write_bytes(b"")
    draw("good.jpg")
    images = pd.DataFrame({"product_id": ["a", "a"], "path": ["zero.jpg", "good.jpg"], "position": [0, 1]})
    products = pd.DataFrame({"product_id": ["a"], "title": ["x"]})
    catalogue = Catalogue.from_tables("test", products=products, images=images, folder=tmp_path)
    assert catalogue.image_path("a") == tmp_path / "good.jpg"
    assert catalogue.images["position"].tolist() == [0]


def test_the_threaded_check_equals_one_at_a_time(hostile, draw, tmp_path):
    paths = [tmp_path / name for name in hostile] + [draw(f"{i}.png", (i, i, i)) for i in range(10)]
    assert check_images(paths) == [check_image(path) for path in paths]
    assert check_images([]) == []


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_comes_out_in_its_colours(tmp_path, suffix):
    inks = {(0, 255, 255, 0): (255, 0, 0), (255, 0, 255, 0): (0, 255, 0), (0, 0, 0, 0): (255, 255, 255),
            (0, 0, 0, 255): (0, 0, 0), (0, 128, 128, 0): (255, 127, 127), (255, 0, 0, 128): (0, 127, 127)}  # fmt: skip
    for number, (ink, expected) in enumerate(inks.items()):
        path = tmp_path / f"{number}{suffix}"
        Image.new("CMYK", (16, 16), ink).save(path, **({"quality": 95} if suffix == ".jpg" else {}))
        assert check_image(path) is None
        assert np.abs(np.asarray(open_image(path)).astype(int) - expected).max() <= 4, ink


def test_cmyk_with_a_profile_goes_through_it(tmp_path):
    """The profile made here says that the inks of red print green, which the plain formula would never say."""
    path = tmp_path / "profiled.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, icc_profile=odd_cmyk_profile())
    red, green, blue = open_image(path).getpixel((8, 8))
    assert green > red + 60 and green > blue + 20
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, icc_profile=b"no profile at all")
    assert np.abs(np.asarray(open_image(path)).astype(int) - (255, 0, 0)).max() <= 4


def odd_cmyk_profile() -> bytes:
    """A minimal ICC v2 printer profile: paper is white, black ink black, magenta with yellow green, the rest grey."""
    nodes = [(0 if k else 255 if not (c or m or y) else 128, 78 if (c, m, y) == (0, 1, 1) and not k else 128, 128)
             for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)]  # fmt: skip
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    grid = bytes(value for node in nodes for value in node)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + grid + ramp * 3
    table += bytes(-len(table) % 4)
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    description += bytes(-len(description) % 4)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags, offset, body = [], 128 + 4 + 12 * 3, b""
    for name, content in ((b"desc", description), (b"wtpt", white), (b"A2B0", table)):
        tags.append(name + struct.pack(">II", offset + len(body), len(content)))
        body += content
    size = offset + len(body)
    header = struct.pack(">I", size) + b"lcms" + struct.pack(">I", 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    header += bytes(128 - len(header))
    profile = header + struct.pack(">I", 3) + b"".join(tags) + body
    assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip() == "CMYK"
    return profile


def test_open_image_is_rgb_upright_on_white_and_fits(tmp_path, draw):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(path)
    assert open_image(path).getpixel((5, 5)) == (255, 255, 255)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 4), 32_768, dtype=np.uint16)).save(deep)
    assert open_image(deep).getpixel((1, 1)) == (128, 128, 128)
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = draw("turned.jpg", size=(40, 20), exif=turned)
    assert open_image(sideways).size == (20, 40)
    assert open_image(sideways, size=10).size == (5, 10)
    assert open_image(sideways).mode == "RGB"
    assert MAX_SIDE < 30_000


def test_a_phone_photo_with_a_second_frame_is_no_animation(tmp_path):
    path = tmp_path / "phone.mpo"
    Image.new("RGB", (16, 16), "red").save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    path = path.rename(tmp_path / "phone.jpg")
    with Image.open(path) as image:
        assert image.format == "MPO" and image.n_frames == 2
    assert check_image(path) is None


@pytest.mark.parametrize(("name", "least"), [("big.jpg", 100), ("big.png", 100), ("big.jpg", 75), ("big.png", 401)])
def test_a_large_picture_may_come_smaller_but_not_too_small(tmp_path, name, least):
    """As a whole, and turned upright: its left half is red."""
    big = Image.new("RGB", (400, 600), "blue")
    big.paste("red", (0, 0, 400, 300))
    turned = Image.Exif()
    turned[0x0112] = 8  # turned by a quarter: 600 x 400
    big.save(tmp_path / name, exif=turned)
    whole, picture = open_image(tmp_path / name), open_image(tmp_path / name, at_least=least)
    assert whole.size == (600, 400)
    assert min(picture.size) >= min(least, 400) and (least > 200 or picture.width <= 300)
    assert picture.width / picture.height == pytest.approx(1.5, rel=0.02)
    across, down = picture.width // 4, picture.height // 2
    assert [picture.getpixel((x, down)) for x in (across, 3 * across)] == [
        pytest.approx(whole.getpixel((x, 200)), abs=6) for x in (150, 450)
    ]


def test_a_smaller_copy_passes_the_same_checks(hostile, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:200_000])
    for name, word in {**hostile, "cut.jpg": "truncated"}.items():
        with pytest.raises(UnusableImage, match=name) as refused:
            open_image(tmp_path / name, at_least=8)
        assert word in refused.value.reason and refused.value.reason == check_image(tmp_path / name)


def test_a_picture_in_memory_is_opened_as_a_file_is():
    clear = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    assert open_image(clear).getpixel((5, 5)) == (255, 255, 255)
    assert open_image(clear, at_least=5).size == (10, 5)
    assert clear.mode == "RGBA" and clear.size == (40, 20)
    with pytest.raises(UnusableImage, match="picture in memory: 0 x 4 pixels"):
        open_image(Image.new("RGB", (0, 4)))
    with pytest.raises(UnusableImage, match="longer than"):
        open_image(Image.new("1", (MAX_SIDE + 1, 1)))
