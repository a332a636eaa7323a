"""Keep vectors on disk by the content of their text, so that no text is encoded twice by the same encoder.

A cache is a folder of shards, each a folder with `keys.npy` (uint8 [n, 16], digests of the texts) and `vectors.npy`
(float32 [n, D]), written aside and renamed: a killed writer leaves whole shards or none.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from common.atomic import atomic_folder

KEY_BYTES = 16
MIN_SHARD = 64  # a few texts (a query) are encoded faster than a shard is written


class EmbeddingCache:
    """Keep the vectors of one encoder: the keys in memory (about 150 bytes per text), the vectors on disk until asked
    for."""

    def __init__(self, folder: Path, dimension: int) -> None:
        self.folder, self.dimension = Path(folder), dimension
        self._shards: list[np.ndarray] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        for shard in sorted(self.folder.glob("shard-*")):
            self._take(shard)

    def __len__(self) -> int:
        return len(self._places)

    def fill(self, texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """Write the vectors of known texts into their rows of `vectors` [N, D]; return the positions [M] of unknown
        ones."""
        missing, found = [], {}
        for position, text in enumerate(texts):
            place = self._places.get(text_key(text))
            if place is None:
                missing.append(position)
            else:
                found.setdefault(place[0], []).append((position, place[1]))
        for shard, pairs in found.items():
            positions, rows = np.array(pairs).T
            vectors[positions] = self._shards[shard][rows]
        return np.array(missing, dtype=np.int64)

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Save the vectors [N, D] of texts, if there are enough of them to be worth a shard."""
        if len(texts) < MIN_SHARD:
            return
        keys = b"".join(text_key(text) for text in texts)
        shard = self.folder / f"shard-{blake2b(keys, digest_size=KEY_BYTES).hexdigest()}"
        with atomic_folder(shard) as staging:
            np.save(staging / "keys.npy", np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES))
            np.save(staging / "vectors.npy", np.ascontiguousarray(vectors, dtype=np.float32))
        self._take(shard)

    def _take(self, shard: Path) -> None:
        try:
            keys = np.load(shard / "keys.npy", allow_pickle=False)
            vectors = np.load(shard / "vectors.npy", mmap_mode="r", allow_pickle=False)
            if (keys.dtype, keys.shape) != (np.uint8, (len(vectors), KEY_BYTES)):
                raise ValueError("keys do not fit the vectors")
            if (vectors.dtype, vectors.shape[1:]) != (np.float32, (self.dimension,)):
                raise ValueError("vectors are not the encoder's")
        except (OSError, ValueError, EOFError):
            # It was damaged from outside: no writer of ours leaves such a shard. Its texts are encoded again.
            shutil.rmtree(shard, ignore_errors=True)
            return
        self._places.update((key.tobytes(), (len(self._shards), row)) for row, key in enumerate(keys))
        self._shards.append(vectors)


def text_key(text: str) -> bytes:
    """Return the key of a text, 16 bytes."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
