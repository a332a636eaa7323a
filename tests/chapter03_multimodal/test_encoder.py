"""The encoder against the naive loop: open a file, prepare it with open_clip's transform, encode it in float32."""

from __future__ import annotations

import functools
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chapter03_multimodal import encoder as encoders
from chapter03_multimodal.clip import CONFIG, load_clip
from chapter03_multimodal.encoder import ClipEncoder, load_clip_encoder
from common.atomic import read_json, write_json
from common.catalogue.images import check_image
from common.devices import Placement, choose_placement
from common.errors import CourseError
from common.progress import announce

FLOAT32 = Placement("cpu", "torch", "float32", "the test")
BFLOAT16 = Placement("cpu", "torch", "bfloat16", "the test")


def a_photo(seed: int, size: tuple[int, int] = (60, 44)) -> Image.Image:
    """Soft blobs of colour: like a photo, it looks the same at any size."""
    grid = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Twelve different small photos of several formats and shapes, none large enough to be shrunk beforehand."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.{('jpg', 'png', 'webp')[number % 3]}" for number in range(12)]
    for number, path in enumerate(paths):
        a_photo(number, (30 + 7 * number, 100 - 6 * number)).save(path)
    return paths


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> dict[str, Path]:
    """A file for each way in which a picture can be of no use."""
    folder = tmp_path_factory.mktemp("bad")
    names = ("missing.jpg", "empty.jpg", "words.jpg", "cut.jpg", "moving.gif", "bomb.png", "long.png", "folder.jpg")
    files = {name: folder / name for name in names}
    files["empty.jpg"].write_bytes(b"")
    files["words.jpg"].write_bytes(b"this is no picture at all")
    a_photo(0, (400, 400)).save(files["cut.jpg"], quality=95)
    files["cut.jpg"].write_bytes(files["cut.jpg"].read_bytes()[:6_000])
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(files["moving.gif"], save_all=True, append_images=frames[1:])
    Image.new("1", (9_000, 9_000)).save(files["bomb.png"])
    Image.new("1", (30_000, 1)).save(files["long.png"])
    files["folder.jpg"].mkdir()
    assert all(check_image(path) for path in files.values())
    return files


@pytest.fixture(scope="module")
def encoder(tiny_clip) -> ClipEncoder:
    return ClipEncoder(load_clip(tiny_clip), FLOAT32)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setitem(encoders.BATCH, "cpu", 4)


def with_resize_mode(tiny_clip: Path, folder: Path, mode: str) -> Path:
    shutil.copytree(tiny_clip, folder)
    config = read_json(folder / CONFIG)
    config["preprocess_cfg"]["resize_mode"] = mode
    write_json(folder / CONFIG, config)
    return folder


@functools.cache
def naive(folder: Path, path: Path) -> np.ndarray:
    clip = loaded(folder)
    with torch.no_grad(), Image.open(path) as picture:
        vector = clip.model.encode_image(clip.preprocess(picture.convert("RGB")).unsqueeze(0))[0]
    return (vector / vector.norm()).numpy()


loaded = functools.cache(load_clip)


def naive_all(folder, paths):
    return np.stack([naive(folder, path) for path in paths])


def cosines(first, second):
    return (first * second).sum(axis=1)


def spy_on(monkeypatch, encoder, method="_prepare") -> list:
    """What `method` of the encoder is called with from now on."""
    seen, original = [], getattr(encoder, method)
    monkeypatch.setattr(encoder, method, lambda argument: seen.append(argument) or original(argument))
    return seen


@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
def test_in_float32_it_equals_the_naive_loop_in_its_order(tiny_clip, photos, tmp_path, mode, small_batches):
    folder = with_resize_mode(tiny_clip, tmp_path / mode, mode)
    found = ClipEncoder(load_clip(folder), FLOAT32).encode_images([*photos[::-1], str(photos[3])])
    assert found.vectors.dtype == np.float32 and found.vectors.shape == (13, 16) and len(found) == 13
    assert found.rows.dtype == np.int64 and found.rows.tolist() == list(range(13))
    assert found.unusable == {}
    np.testing.assert_allclose(found.vectors, naive_all(folder, [*photos[::-1], photos[3]]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    distances = np.abs(found.vectors[:12, None] - found.vectors[None, :12]).max(axis=2)
    assert distances[~np.eye(12, dtype=bool)].min() > 1e-3  # so that a wrong order would be seen


def test_in_bfloat16_it_agrees_with_float32(tiny_clip, photos, encoder):
    half = ClipEncoder(load_clip(tiny_clip), BFLOAT16)
    found = half.encode_images(photos).vectors
    assert cosines(found, naive_all(tiny_clip, photos)).mean() > 0.999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert not np.array_equal(found, encoder.encode_images(photos).vectors)
    texts = ["a red chair", "lamp"]
    assert cosines(half.encode(texts).vectors, encoder.encode(texts).vectors).mean() > 0.999


@pytest.mark.parametrize(("name", "size"), [("big.jpg", (700, 500)), ("big.png", (300, 410)), ("grey.jpg", (640, 640))])
def test_a_large_picture_is_shrunk_cheaply_first(tiny_clip, encoder, tmp_path, monkeypatch, name, size):
    picture = a_photo(3, size).convert("L" if name.startswith("grey") else "RGB")
    picture.save(tmp_path / name)
    sizes, original = [], encoder._geometry
    monkeypatch.setattr(encoder, "_geometry", lambda shrunk: sizes.append(shrunk.size) or original(shrunk))
    found = encoder.encode_images([tmp_path / name])
    assert cosines(found.vectors, naive_all(tiny_clip, [tmp_path / name])).min() > 0.999
    assert 64 <= min(sizes[0]) < 128
    assert sizes[0][0] / sizes[0][1] == pytest.approx(size[0] / size[1], rel=0.03)


def test_the_texts_equal_the_naive_way_and_share_the_id(tiny_clip, encoder, photos, small_batches):
    clip, texts = loaded(tiny_clip), ["a blue chair", "", "größe 電池", "lamp", "a blue chair", "long words " * 5000]
    with torch.no_grad():
        expected = torch.cat([clip.model.encode_text(clip.tokenise([text])) for text in texts])
    found = encoder.encode(texts)
    np.testing.assert_allclose(found.vectors, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)
    assert (found.vectors[0] == found.vectors[4]).all()
    assert found.encoder_id == encoder.encode_images(photos[:1]).encoder_id == encoder.encoder_id
    assert encoder.encode([]).vectors.shape == (0, encoder.dimension)
    for texts, message in (("one", "must be a list"), ([None], "text 0 is NoneType")):
        with pytest.raises(CourseError, match=message):
            encoder.encode(texts)


def test_what_comes_several_times_is_encoded_once(encoder, photos, bad, monkeypatch):
    seen = spy_on(monkeypatch, encoder)
    picture = a_photo(7)
    first, second, missing = photos[0], photos[1], bad["missing.jpg"]
    images = [first, missing, picture, str(first), second, picture, str(missing), first]
    found = encoder.encode_images(images, desc="pictures")
    assert seen == [first, missing, picture, second]
    assert found.rows.tolist() == [0, 2, 3, 4, 5, 7] and set(found.unusable) == {1, 6}
    np.testing.assert_array_equal(found.vectors[[0, 1]], found.vectors[[2, 4]])
    np.testing.assert_array_equal(found.vectors[0], found.vectors[5])


@settings(max_examples=15, deadline=None)
@given(choice=st.lists(st.integers(0, 19), max_size=14), batch=st.integers(1, 5), chunk=st.integers(1, 6))
def test_bad_pictures_among_good_ones_change_nothing_for_these(tiny_clip, encoder, photos, bad, choice, batch, chunk):
    files = [*photos, *bad.values()]
    images = [files[number] for number in choice]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoders.BATCH, "cpu", batch)
        patch.setattr(encoders, "PICTURES_A_CHUNK", chunk)
        found = encoder.encode_images(images)
    good = [at for at, number in enumerate(choice) if number < len(photos)]
    assert found.rows.tolist() == good
    assert found.unusable == {at: check_image(image) for at, image in enumerate(images) if at not in good}
    assert found.vectors.shape == (len(good), 16)
    if good:
        np.testing.assert_allclose(found.vectors, naive_all(tiny_clip, [images[at] for at in good]), atol=1e-5)


@pytest.mark.parametrize("all_bad", [True, False])
def test_without_a_usable_picture_the_model_is_not_asked(encoder, bad, monkeypatch, all_bad):
    asked = spy_on(monkeypatch, encoder._towers, "of_pictures")
    images = list(bad.values()) if all_bad else []
    found = encoder.encode_images(images)
    assert asked == []
    assert (found.vectors.shape, found.vectors.dtype) == ((0, 16), np.float32)
    assert (found.rows.shape, found.rows.dtype) == ((0,), np.int64)
    assert list(found.unusable) == list(range(len(images)))
    assert len(set(found.unusable.values())) >= (7 if all_bad else 0)


def test_pictures_in_memory_are_treated_as_files_are(encoder, tmp_path):
    clear = Image.new("RGBA", (40, 30), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    a_photo(1, (640, 400)).save(tmp_path / "turned.jpg", exif=turned)
    with Image.open(tmp_path / "turned.jpg") as lazy:
        images = [tmp_path / "clear.png", clear, tmp_path / "turned.jpg", lazy, Image.new("RGB", (0, 5))]
        found = encoder.encode_images(images)
        assert lazy.size == (640, 400)  # the caller's picture is as it was
    assert found.unusable == {4: "0 x 5 pixels: nothing to see"}
    np.testing.assert_allclose(found.vectors[0], found.vectors[1], atol=1e-6)
    assert cosines(found.vectors[2:3], found.vectors[3:4]).min() > 0.999


@pytest.mark.parametrize("size", [(20_000, 1), (3, 20_000)])
def test_a_line_does_not_fill_the_memory(tiny_clip, tmp_path, size):
    """Scaled until its shorter side fits, it would be 640,000 pixels long."""
    longest = max(size)
    ramp = np.linspace(0, 255, longest, dtype=np.uint8)
    shape = (1, longest, 1) if size[0] == longest else (longest, 1, 1)
    line = Image.fromarray(np.broadcast_to(ramp.reshape(shape), (size[1], size[0], 3)).copy())
    encoder = ClipEncoder(load_clip(with_resize_mode(tiny_clip, tmp_path / "model", "shortest")), FLOAT32)
    strip, original = [], encoder._geometry
    encoder._geometry = lambda picture: strip.append(picture) or original(picture)
    assert np.isfinite(encoder.encode_images([line]).vectors).all()
    assert max(strip[0].size) <= encoders.MAX_ASPECT_RATIO * min(strip[0].size)
    assert abs(np.asarray(strip[0]).mean() - 127) < 2  # its middle


@pytest.fixture
def many(tmp_path) -> list[Path]:
    """As many photos as the cache needs to keep any."""
    paths = [tmp_path / "photos" / f"{number}.png" for number in range(66)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        a_photo(number, (20, 20)).save(path)
    return paths


def test_what_was_encoded_before_is_only_looked_up(tiny_clip, many, bad, tmp_path, monkeypatch):
    clip, cache = loaded(tiny_clip), tmp_path / "cache"
    images = [bad["cut.jpg"], *many, bad["missing.jpg"], many[3]]
    first = ClipEncoder(clip, FLOAT32, cache=cache).encode_images(images)
    again = ClipEncoder(clip, FLOAT32, cache=cache)  # reads what the other left on the disk
    prepared, hashed = spy_on(monkeypatch, again), []
    monkeypatch.setattr(encoders, "_content", lambda image, read=encoders._content: hashed.append(image) or read(image))
    moved = many[5].rename(many[5].with_name("moved.png"))
    a_photo(99, (20, 20)).save(many[7])
    images[6] = moved
    second = again.encode_images(images)
    assert sorted(map(str, prepared)) == sorted(map(str, (bad["cut.jpg"], bad["missing.jpg"], many[7])))
    assert len(hashed) == len(set(map(str, hashed))) == 68  # each file once
    unchanged = np.flatnonzero(second.rows != 8)
    np.testing.assert_array_equal(second.vectors[unchanged], first.vectors[unchanged])
    np.testing.assert_allclose(second.vectors[7], naive(tiny_clip, many[7]), atol=1e-5)
    assert second.unusable == first.unusable and set(second.unusable) == {0, 67}
    plain = ClipEncoder(clip, FLOAT32).encode_images(images)
    np.testing.assert_allclose(second.vectors, plain.vectors, atol=1e-6)


def test_texts_are_cached_apart_and_every_encoder_for_itself(tiny_clip, many, tmp_path, monkeypatch):
    clip, texts = loaded(tiny_clip), [f"chair {number}" for number in range(70)]
    for placement in (FLOAT32, BFLOAT16):
        one = ClipEncoder(clip, placement, cache=tmp_path)
        first, pictures = one.encode(texts), one.encode_images(many)
        kept = sorted(path.parent for path in tmp_path.rglob("shard-*"))
        assert {path.name for path in kept if path.parent.name == one.encoder_id} == {"pictures", "texts"}
        again = ClipEncoder(clip, placement, cache=tmp_path)
        monkeypatch.setattr(again._towers, "_run", None)  # the model cannot be asked any more
        np.testing.assert_array_equal(again.encode(texts).vectors, first.vectors)
        np.testing.assert_array_equal(again.encode_images(many).vectors, pictures.vectors)
    assert len(kept) == 4


def test_pictures_in_memory_are_not_cached(tiny_clip, many, tmp_path):
    pictures = [Image.open(path).copy() for path in many]
    assert len(ClipEncoder(loaded(tiny_clip), FLOAT32, cache=tmp_path / "cache").encode_images(pictures)) == len(many)
    assert not list(tmp_path.rglob("shard-*"))


def test_the_id_tells_model_and_precision_apart(tiny_clip, tmp_path):
    clip = load_clip(tiny_clip)
    ids = {ClipEncoder(clip, placement).encoder_id for placement in (FLOAT32, BFLOAT16)}
    ids.add(ClipEncoder(replace(clip, digest="another"), FLOAT32).encoder_id)
    assert len(ids) == 3
    assert ClipEncoder(load_clip(tiny_clip), FLOAT32).encoder_id in ids
    assert all("float" in name and "/" not in name for name in ids)


def test_training_a_model_further_does_not_change_its_encoder(tiny_clip, photos):
    clip = load_clip(tiny_clip)
    encoder = ClipEncoder(clip, BFLOAT16)
    before = encoder.encode_images(photos[:2]).vectors
    assert clip.model.visual.proj.dtype == torch.float32 and clip.model.visual.proj.requires_grad
    with torch.no_grad():
        clip.model.visual.proj.zero_()
    np.testing.assert_array_equal(encoder.encode_images(photos[:2]).vectors, before)


def test_a_failing_thread_ends_the_call(encoder, photos, monkeypatch, small_batches):
    def fail(picture):
        raise RuntimeError("out of the thread")

    monkeypatch.setattr(encoder, "_geometry", fail)
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="out of the thread"):
        encoder.encode_images(photos)
    assert threading.active_count() == threads


def test_a_failing_model_stops_the_reading(encoder, many, monkeypatch, small_batches):
    def fail(pictures):
        raise RuntimeError("the model failed")

    monkeypatch.setattr(encoder._towers, "of_pictures", fail)
    prepared = spy_on(monkeypatch, encoder)
    with pytest.raises(RuntimeError, match="the model failed"):
        encoder.encode_images(many)
    assert len(prepared) <= 4 + encoders.BATCHES_AHEAD * 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_not_numbers_are_an_error(tiny_clip, photos, value):
    clip = load_clip(tiny_clip)
    with torch.no_grad():
        clip.model.visual.proj[0, 0] = value
        clip.model.text_projection[0, 0] = value
    broken = ClipEncoder(clip, FLOAT32)
    for run in (lambda: broken.encode_images(photos[:1]), lambda: broken.encode(["a chair"])):
        with pytest.raises(CourseError, match="not numbers"):
            run()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("one.jpg", "must be a list"),
        (Path("one.jpg"), "must be a list"),
        (Image.new("RGB", (4, 4)), "must be a list"),
        (None, "must be a list"),
        (["a.jpg", None], "picture 1 is NoneType"),
        ([np.zeros((4, 4, 3))], "picture 0 is ndarray"),
    ],
)
def test_what_is_no_picture_is_refused(encoder, images, message):
    with pytest.raises(CourseError, match=message):
        encoder.encode_images(images)


def test_it_is_placed_by_the_machine_and_says_why(tiny_clip, capsys, monkeypatch):
    monkeypatch.setattr("common.progress.is_interactive", lambda: True)
    announce.cache_clear()
    for _ in range(2):
        encoder = load_clip_encoder(tiny_clip)
    placement = choose_placement("torch")
    assert (encoder.device, encoder.precision) == (placement.device, placement.precision)
    assert capsys.readouterr().err.count(placement.reason) == 1
    assert encoder.encoder_id in repr(encoder)
