"""Encode pictures and texts with a CLIP model into one space, as fast as this machine allows.

    encoder = load_clip_encoder()
    pictures = encoder.encode_images(["chair.jpg", "lamp.jpg"])
    texts = encoder.encode(["a wooden chair"])
    texts.vectors @ pictures.vectors.T          # cosines
    pictures.rows, pictures.unusable            # which pictures have a vector, and why the others have none

Threads read and shrink the next pictures while the model encodes, in half precision where the hardware computes in it
natively.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms import Compose

from chapter03_multimodal.clip import POCKET_CLIP, Clip, load_clip
from common.artifacts import fingerprint
from common.catalogue.images import MAX_THREADS, UnusableImage, open_image
from common.devices import Placement, choose_placement
from common.digests import file_sha256
from common.embedding_cache import EmbeddingCache
from common.encoders import Embeddings, TextEncoder
from common.errors import CourseError
from common.prefetch import prefetch
from common.progress import announce, progress
from common.shared_encoders import TextMemory, load_shared

PREPARATION = 1  # raise it when pictures are prepared in another way: vectors cached before are then not used
BATCH = {"cpu": 32, "cuda": 256, "mps": 64}
BATCHES_AHEAD = 2
PICTURES_A_CHUNK = 4096  # looked up in the cache and added to it together: a kill loses no more than these
TIMES_THE_SIDE = 2  # a large picture is first shrunk, cheaply, to at least this multiple of the model's side
MAX_ASPECT_RATIO = 50
"""Longer pictures are cut to their middle: scaled until its shorter side fits, a line of 20,000 x 1 pixels would fill
gigabytes."""

Picture = str | Path | Image.Image


@dataclass(frozen=True)
class ImageEmbeddings:
    """The vectors of the pictures that could be used; only vectors of equal encoder_id compare."""

    vectors: np.ndarray
    """Float32 [M, D], each of length 1."""
    rows: np.ndarray
    """Int64 [M], rising: the position of each vector's picture in what was given."""
    unusable: dict[int, str]
    """Position to reason, for the pictures that have no vector."""
    encoder_id: str
    """Of the encoder that made them."""

    def __len__(self) -> int:
        return len(self.vectors)


class ClipEncoder:
    """Encodes pictures and texts. Make one with `load_clip_encoder`.

    encoder_id: digests weights, config, dimension, precision and how pictures are prepared; the same for pictures and
    texts. dimension: D. device, precision, reason: where it runs, how, and why.
    """

    def __init__(self, clip: Clip, placement: Placement, *, cache: Path | None = None) -> None:
        """Copy the model, so that training it further does not change the encoder. cache: see `load_clip_encoder`."""
        self.dimension, self.device = clip.dimension, placement.device
        self.precision, self.reason = placement.precision, placement.reason
        label = clip.name.replace("/", "-").replace("@", "-")
        parts = [clip.digest, clip.dimension, placement.precision, PREPARATION]
        self.encoder_id = f"{label}-{placement.precision}-{fingerprint(parts)}"
        self._towers = _Towers(clip, placement, self.encoder_id)
        self._geometry, self._enough = _geometry(clip)
        kept = {name: _store(cache, self.encoder_id, name, self.dimension) for name in ("pictures", "texts")}
        self._cache, length = kept["pictures"], clip.tokenise.context_length
        self._texts = TextEncoder(self._towers, placement, self.encoder_id, length, kept["texts"])

    def __repr__(self) -> str:
        return f"ClipEncoder({self.encoder_id}, {self.device})"

    def with_memory(self, memory: TextMemory | None) -> ClipEncoder:
        """Return the same encoder with a memory for texts in place of its embedding caches, or with neither."""
        encoder = copy(self)
        encoder._cache, encoder._texts = None, self._texts.with_memory(memory)
        return encoder

    def encode(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings:
        """Encode N texts: vectors [N, D], in their order; see `common.encoders.TextEncoder.encode`."""
        return self._texts.encode(texts, desc=desc)

    def encode_images(self, images: Sequence[Picture], *, desc: str | None = None) -> ImageEmbeddings:
        """Encode those of N pictures, files or pictures in memory, that can be used.

        desc: the label of the progress bar; None shows none. A picture that cannot be used (missing, empty, damaged,
        animated, too large: see `common.catalogue.images.check_image`) is left out and reported with its reason.
        Pictures are turned upright and put on white. One that comes several times is encoded once. The other pictures
        of a call change a vector by no more than rounding. Files are cached by content, pictures in memory are not.
        Raises CourseError if images is not a collection of files and pictures.
        """
        images = _checked_images(images)
        first: dict[str | int, int] = {}
        source = np.array([first.setdefault(_identity(image), at) for at, image in enumerate(images)], dtype=np.int64)
        distinct = list(first.values())
        vectors = np.zeros((len(images), self.dimension), dtype=np.float32)
        reasons: dict[int, str] = {}
        with _threads() as pool, progress(total=len(distinct), desc=desc, unit="picture", shown=bool(desc)) as bar:
            for start in range(0, len(distinct), PICTURES_A_CHUNK):
                chunk = {at: images[at] for at in distinct[start : start + PICTURES_A_CHUNK]}
                self._encode_chunk(chunk, vectors, reasons, pool, bar.update)
        unusable = {at: reasons[origin] for at, origin in enumerate(source.tolist()) if origin in reasons}
        rows = np.array([at for at in range(len(images)) if at not in unusable], dtype=np.int64)
        return ImageEmbeddings(vectors[source[rows]], rows, unusable, self.encoder_id)

    def _encode_chunk(
        self,
        chunk: dict[int, Picture],
        vectors: np.ndarray,
        reasons: dict[int, str],
        pool: ThreadPoolExecutor,
        advance: Callable[[int], object],
    ) -> None:
        """Fill the rows of `vectors` at the positions in `chunk`; those that stay empty get a reason in `reasons`."""
        keys = self._fill_from_cache(chunk, vectors, pool) if self._cache is not None else dict.fromkeys(chunk)
        advance(len(chunk) - len(keys))
        new = []
        usable = self._prepared({at: chunk[at] for at in keys}, reasons, pool, advance)
        while batch := list(islice(usable, BATCH[self.device])):
            positions, pictures = map(list, zip(*batch, strict=True))
            vectors[positions] = self._towers.of_pictures(np.stack(pictures))
            new += [at for at in positions if keys[at] is not None]
            advance(len(batch))
        if self._cache is not None and new:
            self._cache.add([keys[at] for at in new], vectors[new])

    def _fill_from_cache(
        self, chunk: dict[int, Picture], vectors: np.ndarray, pool: ThreadPoolExecutor
    ) -> dict[int, str | None]:
        """Fill what the cache knows; return the other positions, each with its key in the cache (None: not cached)."""
        keys = dict(zip(chunk, pool.map(_content, chunk.values()), strict=True))
        positions = np.array([at for at, key in keys.items() if key is not None], dtype=np.int64)
        known = np.empty((len(positions), self.dimension), dtype=np.float32)
        missing = self._cache.fill([keys[at] for at in positions.tolist()], known)
        found = np.setdiff1d(np.arange(len(positions)), missing, assume_unique=True)
        vectors[positions[found]] = known[found]
        done = set(positions[found].tolist())
        return {at: key for at, key in keys.items() if at not in done}

    def _prepared(
        self,
        chunk: dict[int, Picture],
        reasons: dict[int, str],
        pool: ThreadPoolExecutor,
        advance: Callable[[int], object],
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (position, picture) of the usable ones, in order; the reasons of the others go into `reasons`."""
        depth = BATCHES_AHEAD * BATCH[self.device]
        for at, made in prefetch(chunk, lambda at: self._prepare(chunk[at]), pool=pool, depth=depth):
            if isinstance(made, str):
                reasons[at] = made
                advance(1)
            else:
                yield at, made

    def _prepare(self, image: Picture) -> np.ndarray | str:
        """Return what the model sees before scaling, uint8 [S, S, 3], or the reason why the picture cannot be used."""
        try:
            return np.asarray(self._geometry(_without_ends(open_image(image, at_least=self._enough))))
        except UnusableImage as error:
            return error.reason


def load_clip_encoder(name: str | Path = POCKET_CLIP, *, cache: Path | None = None) -> ClipEncoder:
    """Load a CLIP model for encoding, where it runs fastest, and print once how and why it runs.

    name: what `chapter03_multimodal.clip.load_clip` takes. cache: folder of an embedding cache; None encodes
    everything in every call. Raises CourseError if the model cannot be loaded.
    """
    return load_shared(("clip", str(name)), lambda: _load(name, cache))


def _load(name: str | Path, cache: Path | None) -> ClipEncoder:
    clip, placement = load_clip(name), choose_placement("torch")
    encoder = ClipEncoder(clip, placement, cache=cache)
    announce(f"{clip.name}: torch, {encoder.precision}, on {encoder.device}. Reason: {encoder.reason}.")
    return encoder


class _Towers:
    """A copy of a CLIP's towers on the device and in the precision of a placement. Vectors are float32, of length 1.

    `dimension` and `embed` make it a `common.engines.Engine`.
    """

    def __init__(self, clip: Clip, placement: Placement, encoder_id: str) -> None:
        self.dimension, self._encoder_id, self._device = clip.dimension, encoder_id, placement.device
        self._tokenise = clip.tokenise
        # A CPU is fastest with all weights in half precision; a GPU can afford autocast, which keeps sums in float32.
        self._half = getattr(torch, placement.precision)
        self._weights = self._half if placement.device == "cpu" else torch.float32
        self._model = deepcopy(clip.model).eval().requires_grad_(False).to(placement.device, self._weights)
        last = clip.preprocess.transforms[-1]
        self._mean, self._deviation = (
            torch.tensor(values, device=placement.device).view(3, 1, 1) * 255 for values in (last.mean, last.std)
        )

    @torch.inference_mode()
    def of_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """Encode pictures: uint8 [N, S, S, 3] to [N, D]."""
        pixels = torch.from_numpy(pictures).to(self._device).permute(0, 3, 1, 2).contiguous().float()
        pixels.sub_(self._mean).div_(self._deviation)
        return self._run(self._model.encode_image, pixels.to(self._weights))

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], advance: Callable[[int], object]) -> np.ndarray:
        """Encode N texts to [N, D]; call advance(n) after every n of them."""
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), BATCH[self._device]):
            batch = slice(start, start + BATCH[self._device])
            tokens = self._tokenise(list(texts[batch])).to(self._device)
            vectors[batch] = self._run(self._model.encode_text, tokens)
            advance(len(tokens))
        return vectors

    def _run(self, tower: Callable[[Tensor], Tensor], inputs: Tensor) -> np.ndarray:
        with torch.autocast(self._device, self._half, enabled=self._device == "cuda"):
            vectors = tower(inputs)
        vectors = normalize(vectors.float(), dim=-1)
        if not bool(torch.isfinite(vectors).all()):
            raise CourseError(f"{self._encoder_id}: the model gave vectors that are not numbers; load another model.")
        return vectors.cpu().numpy()


def _geometry(clip: Clip) -> tuple[Callable[[Image.Image], Image.Image], int]:
    """Return open_clip's transform without its last two steps, and the side to which a picture may be shrunk before it.

    The last two make a tensor and scale it; `_Towers` does that for a whole batch at once.
    """
    side = clip.config["preprocess_cfg"]["size"]
    longest = side if isinstance(side, int) else max(side)
    return Compose(clip.preprocess.transforms[:-2]), TIMES_THE_SIDE * longest


def _without_ends(picture: Image.Image) -> Image.Image:
    longest = MAX_ASPECT_RATIO * min(picture.size)
    if max(picture.size) <= longest:
        return picture
    width, height = (min(side, longest) for side in picture.size)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Start threads that drop what they have not begun when the caller fails."""
    pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _checked_images(images: Sequence[Picture]) -> list[Picture]:
    if isinstance(images, Picture) or not isinstance(images, Iterable):
        raise CourseError("encode_images: images must be a list of pictures; write encode_images([picture]) for one.")
    checked = list(images)
    for position, image in enumerate(checked):
        if not isinstance(image, Picture):
            raise CourseError(
                f"encode_images: picture {position} is {type(image).__name__}, neither a file's path nor a PIL image."
            )
    return checked


def _identity(image: Picture) -> str | int:
    return id(image) if isinstance(image, Image.Image) else os.fspath(image)


def _content(image: Picture) -> str | None:
    """Return a digest of the content of a file; None for what is not a readable file."""
    if isinstance(image, Image.Image) or not Path(image).is_file():
        return None
    try:
        return file_sha256(image)
    except OSError:
        return None


def _store(cache: Path | None, encoder_id: str, name: str, dimension: int) -> EmbeddingCache | None:
    return EmbeddingCache(Path(cache) / "embeddings" / encoder_id / name, dimension) if cache is not None else None
