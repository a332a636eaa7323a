"""A text encoder without a model, for what is about files and processes: vectors from a hash of each text, moved a
little by whatever else is encoded with it, as a real model's are. Run as a program it embeds with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from unittest import mock
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common import sharded_embedding
from common.devices import Placement
from common.embedding_shards import EmbeddingShards
from common.encoders import TextEncoder
from common.sharded_embedding import ShardedEmbeddingConfig

ROUNDING = 1e-4


class HashEngine:
    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def embed(self, texts: Sequence[str], advance: Callable[[int], None]) -> np.ndarray:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")
            vectors[row] = np.random.default_rng(seed).standard_normal(self.dimension)
        advance(len(texts))
        company = crc32("\0".join(texts).encode()) / 2**32  # which texts were encoded together
        return vectors * (1 + ROUNDING * np.sin(company * np.arange(self.dimension, dtype=np.float32)))


def stand_in(dimension: int = 8) -> TextEncoder:
    placement = Placement("cpu", "torch", "float32", "a stand-in")
    return TextEncoder(HashEngine(dimension), placement, f"stand-in-{dimension}", max_length=256)


def embed(source: Path, output: Path, shard_size: int, dimension: int = 8, **more: object) -> EmbeddingShards:
    """Run the step with the stand-in for its encoder."""
    config = ShardedEmbeddingConfig(input=str(source), output=output, shard_size=shard_size, **more)
    with mock.patch.object(sharded_embedding, "load_text_encoder", lambda *_, **__: stand_in(dimension)):
        return sharded_embedding.main(config)


def write_products(file: Path, count: int, words: int = 4, first: int = 0) -> Path:
    """`count` products with texts of about `words` words, every tenth of them the same."""
    numbers = range(first, first + count)
    texts = ["the same" if n % 10 == 9 else f"product {n} " + "of many words " * (words // 3) for n in numbers]
    pq.write_table(pa.table({"product_id": [f"p{n}" for n in numbers], "text": texts}), file)
    return file


if __name__ == "__main__":
    from common.memory import peak_memory

    before = peak_memory()
    embed(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), dimension=384)
    print(before, peak_memory())
