"""Inputs of the fine-tuning: the pictures and texts to train on, and each batch ready for the model.

Of several processes that train together, all draw the same batches; each decodes and tokenises its share of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from chapter03_multimodal.batches import Batch, BatchMaker, text_variants
from chapter03_multimodal.clip import Clip
from chapter03_multimodal.encoder import ClipEncoder
from chapter03_multimodal.mine_hard_negatives import visual_neighbours
from chapter03_multimodal.prepare_data import MultimodalData
from chapter03_multimodal.train_config import TrainConfig
from chapter03_multimodal.training_pictures import ImagePreprocessing, Pictures, contents, random_windows
from common.devices import choose_placement
from common.errors import CourseError
from common.prefetch import prefetch
from common.processes import ALONE, Processes

Read = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ReadyBatch:
    """A batch as one process encodes it.

    batch: without the pictures that cannot be read. usable: bool, of all pictures of the drawn batch. pixels: float
    [P, 3, S, S], the windows of the usable pictures of this process's share. tokens: long [T, L], its share of the
    texts.
    """

    batch: Batch
    usable: np.ndarray
    pixels: torch.Tensor
    tokens: torch.Tensor

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def skipped(self) -> int:
        """Number of pictures that were left out."""
        return len(self.usable) - len(self.batch)


class TrainingInputs:
    """The training split of a catalogue as `config` asks for it, for the model `clip`.

    pairs: M rows of `data.pairs` and `content` (equal for copies of one file). texts: the variants of their texts.
    pictures: their files. Raises `CourseError` if there are fewer than two pictures with a text.
    """

    def __init__(self, config: TrainConfig, clip: Clip, data: MultimodalData, processes: Processes = ALONE) -> None:
        self.config, self.clip, self.processes = config, clip, processes
        self.preprocessing = ImagePreprocessing.of(clip)
        pairs = data.with_text("train")
        if len(pairs) < 2:
            raise CourseError(
                f"train: needs two pictures that have a text, or more; there are {len(pairs)} in the training split. "
                "prepare_data prints how many each split has."
            )
        if len(pairs) > config.pictures:
            pairs = pairs.sample(config.pictures, random_state=config.seed).sort_index()
        folder, side = Path(data.catalogue.folder or "."), self.preprocessing.side
        # An eighth larger than the model sees them: room for another window in every epoch.
        paths = [folder / path for path in pairs["path"]]
        self.pictures = Pictures(paths, self.preprocessing, side + side // 8, processes)
        content = processes.from_main(lambda: contents(paths))
        self.pairs = pairs.reset_index(drop=True).assign(content=content)
        self.texts = text_variants(self.pairs, data.catalogue.products)

    def neighbours(self) -> np.ndarray:
        """Look up the visual neighbours of each picture with the model that training starts from.

        Returns rows of `pairs`, int64 [M, K], nearest first, -1 for none. Nothing is looked up if no batch needs it.
        """
        config = self.config
        found = np.full((len(self.pairs), max(1, config.neighbours)), -1, dtype=np.int64)
        if config.neighbours and config.hard_share:
            encoder = ClipEncoder(self.clip, choose_placement("torch"))
            seen = encoder.encode_images(self.pictures.paths, desc="looking for neighbours")
            near, _ = visual_neighbours(seen.vectors, self.pairs.iloc[seen.rows], keep=config.neighbours)
            found[seen.rows] = np.where(near >= 0, seen.rows[near], -1)
        return found

    def batches(self, neighbours: np.ndarray) -> BatchMaker:
        """Return the maker of batches. neighbours: as `neighbours` returns them."""
        config = self.config
        return BatchMaker(
            pairs=self.pairs,
            texts=self.texts,
            neighbours=neighbours,
            batch_size=config.batch_size,
            hard_share=config.hard_share,
            shorten=config.shorten,
            seed=config.seed,
        )

    def ready(self, batches: Iterable[Batch]) -> Iterator[ReadyBatch]:
        """Yield each batch ready for the model; the next ones are decoded and tokenised meanwhile."""
        read = self._synchronised(prefetch(batches, self._read))
        for _, ready in prefetch(read, self._prepare):
            yield ready

    def _read(self, batch: Batch) -> Read:
        """Take the pixels of this process's share of a batch, and which of them are usable."""
        return self.pictures.take(batch.rows[self.processes.share(len(batch))])

    def _synchronised(self, read: Iterable[tuple[Batch, Read]]) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
        """Yield each batch with this process's pixels, and which of all its pictures are usable, bool [B]."""
        for batch, (pixels, usable) in read:
            yield batch, pixels, self.pictures.synchronised(batch.rows, usable)

    def _prepare(self, read: tuple[Batch, np.ndarray, np.ndarray]) -> ReadyBatch:
        """Leave out the pictures that are not usable, cut windows out of the others, and tokenise the texts."""
        whole, pixels, usable = read
        batch, share = whole.only(usable), self.processes.share(len(whole))
        pixels, before = pixels[usable[share]], int(usable[: share.start].sum())
        own, rng = slice(before, before + len(pixels)), np.random.default_rng(batch.seed)
        windows = random_windows(pixels, self.preprocessing.side, rng, share=own, of=len(batch))
        texts = batch.texts[self.processes.share(len(batch))]
        return ReadyBatch(batch, usable, self.preprocessing.as_input(windows), self.clip.tokenise(texts))
