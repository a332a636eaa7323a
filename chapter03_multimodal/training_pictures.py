"""Pictures for training: decoded once if they fit into memory, else batch by batch in threads; bad ones are set aside.

A picture is kept as whole numbers from 0 to 255, as the evaluation transform leaves it before it scales them, and a
little larger than the model sees it: every epoch then sees another window of it. Of several processes that train
together, each decodes its share.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Compose

from chapter03_multimodal.clip import Clip
from chapter03_multimodal.encoder import MAX_ASPECT_RATIO, TIMES_THE_SIDE
from common.catalogue.images import MAX_THREADS, open_image
from common.errors import CourseError
from common.processes import ALONE, Processes
from common.progress import progress

IN_MEMORY = 1 << 30
"""Bytes of pixels that are kept at most: 72,000 pictures of 70 x 70."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """The input format of a model: squares of `side` pixels, scaled by `mean` and `std` of the three channels.

    settings: open_clip's `preprocess_cfg`, which says how a picture becomes a square.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: dict[str, Any]

    @classmethod
    def of(cls, clip: Clip) -> ImagePreprocessing:
        """Return the input format of this model."""
        settings = clip.config["preprocess_cfg"]
        size = settings["size"]
        return cls(size if isinstance(size, int) else size[0], settings["mean"], settings["std"], settings)

    def squares(self, side: int) -> Callable[[Image.Image], Image.Image]:
        """Return the function that makes an RGB picture a square of `side` pixels, as the evaluation transform does."""
        steps = image_transform_v2(PreprocessCfg(**{**self.settings, "size": side}), is_train=False).transforms
        return Compose(steps[:-2])  # the last two make a tensor of it and scale it

    def as_input(self, pixels: np.ndarray) -> torch.Tensor:
        """Return the model's input for squares of pixels: uint8 [N, S, S, 3] to scaled float [N, 3, S, S]."""
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return (scaled - mean) / std


@dataclass
class Pictures:
    """M picture files as squares of pixels.

    paths: [M]. side: of the squares. processes: those that train on the pictures; what fits into memory is read by all
    of them together and kept by each. unusable: by row, why a file that was asked for could not be read.
    """

    paths: Sequence[Path]
    preprocessing: ImagePreprocessing
    side: int
    processes: Processes = ALONE
    unusable: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._square_of = self.preprocessing.squares(self.side)
        self._pool = ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1))
        self._kept: tuple[np.ndarray, np.ndarray] | None = None
        if len(self.paths) * self.side**2 * 3 <= IN_MEMORY:
            rows = np.arange(len(self.paths))
            pixels, usable = self._read(rows[self.processes.share(len(rows))], desc="reading pictures")
            self._kept = _of_all(pixels, self.processes, len(rows)), self.synchronised(rows, usable)

    def take(self, rows: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of N rows, uint8 [N, side, side, 3], and which of them are usable, bool [N]."""
        if self._kept is not None:
            pixels, usable = self._kept
            return pixels[rows], usable[rows]
        return self._read(rows)

    def synchronised(self, rows: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """Return which of N rows are usable, bool [N], from what `take` told each process of its share of them.

        All processes must ask for the same rows in the same order, from the thread that trains, not from one that
        prefetches.
        """
        usable = _of_all(usable, self.processes, len(rows))
        self._read([row for row in rows[~usable] if row not in self.unusable])  # another read them: for the reasons
        return usable

    def _read(self, rows: Sequence[int], desc: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.zeros((len(rows), self.side, self.side, 3), dtype=np.uint8)
        usable = np.zeros(len(rows), dtype=bool)
        squares = self._pool.map(self._square, rows)
        shown = desc is not None and self.processes.is_main
        bar = progress(squares, total=len(rows), desc=desc, leave=False, shown=shown)
        for at, (row, square) in enumerate(zip(rows, bar, strict=True)):
            if isinstance(square, str):
                self.unusable[int(row)] = square
            else:
                pixels[at], usable[at] = square, True
        return pixels, usable

    def _square(self, row: int) -> np.ndarray | str:
        try:
            picture = open_image(self.paths[row], at_least=TIMES_THE_SIDE * self.side)
        except CourseError as error:
            return str(error)
        if max(picture.size) > MAX_ASPECT_RATIO * min(picture.size):
            return f"{self.paths[row]}: more than {MAX_ASPECT_RATIO} times as long as wide"
        return np.asarray(self._square_of(picture))


def contents(paths: Sequence[Path]) -> list[str]:
    """Return a digest of every file, equal for copies; a file that cannot be read has its own."""
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        return list(progress(pool.map(_digest, paths), total=len(paths), desc="comparing files", leave=False))


def random_windows(
    pixels: np.ndarray, side: int, rng: np.random.Generator, *, share: slice = slice(None), of: int | None = None
) -> np.ndarray:
    """Cut a random window out of each picture, mirrored or not: uint8 [N, L, L, 3] to [N, side, side, 3].

    share, of: which rows of how many pictures these are, if not all; each gets the window that it has among all.
    """
    n, room = len(pixels), pixels.shape[1] - side
    drawn = n if of is None else of
    down, right = rng.integers(0, room + 1, (2, drawn, 1))[:, share]
    along = np.arange(side)
    columns = right + np.where(rng.random((drawn, 1))[share] < 0.5, along[::-1], along)
    return pixels[np.arange(n)[:, None, None], (down + along)[:, :, None], columns[:, None, :]]


def _of_all(own: np.ndarray, processes: Processes, rows: int) -> np.ndarray:
    """Gather all `rows` of bytes or truth values, of which each process brings its share."""
    if processes.count == 1:
        return own
    shared = torch.from_numpy(own.view(np.uint8)).to(processes.accelerator.device)
    return processes.gather(shared, rows).cpu().numpy().view(own.dtype)


def _digest(path: Path) -> str:
    try:
        return blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return str(path)
