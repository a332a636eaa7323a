"""Measure products a second: embedding in shards on the disk beside one plain loop in memory, in one run.

The same encoder does both. Ours splits the products, checks digests, and writes every shard so that a kill loses only
that one; the peer reads all texts, encodes them in one call and saves one file. Both get the same slices of the
catalogue in turn, so that other load on the machine affects both.

`python -m course.benchmarks.sharded_embedding --size 100000 --shard-size 5000`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.cli import run_step
from common.embedding_shards import load_embeddings, prepare_shards
from common.errors import CourseError
from common.sharded_embedding import Embedder, embed_here

SIZE, SHARD_SIZE, ROUNDS = 100_000, 5_000, 4


def main(
    size: int = SIZE, shard_size: int = SHARD_SIZE, rounds: int = ROUNDS, embedder: Embedder | None = None
) -> list[dict[str, Any]]:
    """Measure on `size` products of a text-only pocket shop, in `rounds` slices of at least two shards each.

    Returns one row: name, ours, peer, unit, our_value and peer_value (products a second, medians over the slices),
    ratio (median of the slices' ratios), cosine (the least between our vector of a product and the peer's), note.
    Raises CourseError if a slice would be less than two shards.
    """
    if size < 2 * shard_size * rounds:
        raise CourseError(f"bench sharded-embedding: {size} products are too few; give {2 * shard_size * rounds}.")
    embedder = embedder or Embedder()
    with TemporaryDirectory() as folder:
        slices = _slices(Path(folder), size, rounds)
        return [_row(embedder, slices, shard_size)]


def _row(embedder: Embedder, slices: list[Path], shard_size: int) -> dict[str, Any]:
    encoder = embedder.encoder

    def ours(source: Path) -> Path:
        shards = prepare_shards(source.with_suffix(".shards"), str(source), shard_size, encoder.encoder_id)
        list(embed_here(shards, shards.unfinished(), embedder))
        return shards.folder

    def peer(source: Path) -> Path:
        texts = pq.read_table(source)["text"].to_pylist()
        np.save(source.with_suffix(".npy"), encoder.encode(texts).vectors, allow_pickle=False)
        return source.with_suffix(".npy")

    encoder.encode(["warm up"] * 16)
    rates, least = [], 1.0
    for number, source in enumerate(slices):
        measured = {run: _timed(run, source) for run in ((ours, peer) if number % 2 == 0 else (peer, ours))}
        rates.append([pq.read_metadata(source).num_rows / measured[run][0] for run in (ours, peer)])
        sharded, plain = load_embeddings(measured[ours][1])[1].vectors, np.load(measured[peer][1])
        least = min(least, float((sharded * plain).sum(axis=1).min()))
    our_rates, peer_rates = np.array(rates).T
    count = sum(pq.read_metadata(source).num_rows for source in slices)
    return {
        "name": "sharded-embedding",
        "ours": f"shards of {shard_size:,} on the disk",
        "peer": "one call, all in memory",
        "unit": "products/s",
        "our_value": round(float(np.median(our_rates)), 1),
        "peer_value": round(float(np.median(peer_rates)), 1),
        "ratio": round(float(np.median(our_rates / peer_rates)), 3),
        "cosine": round(least, 5),
        "note": f"{count:,} products of pocket_shop in {len(slices)} slices; {encoder!r}",
    }


def _timed(run: Callable[[Path], Path], source: Path) -> tuple[float, Path]:
    started = time.perf_counter()
    made = run(source)
    return time.perf_counter() - started, made


def _slices(folder: Path, size: int, rounds: int) -> list[Path]:
    from common.catalogue import product_text
    from common.pocket_shop.shop import build_catalogue

    products = build_catalogue(folder, size=size, photos=False, queries_per_kind=0).products
    table = pa.table({"product_id": products["product_id"].tolist(), "text": product_text(products)})
    ends = np.linspace(0, len(table), rounds + 1).astype(int)
    files = [folder / f"slice-{number}.parquet" for number in range(rounds)]
    for file, start, end in zip(files, ends, ends[1:], strict=False):
        pq.write_table(table.slice(start, end - start), file)
    return files


@dataclass(frozen=True)
class Sizes:
    """Measure embedding in shards beside one plain loop."""

    size: int = SIZE
    """Products."""
    shard_size: int = SHARD_SIZE
    """Products of a shard."""
    rounds: int = ROUNDS
    """Slices that the products are cut into."""


def print_rows(sizes: Sizes) -> None:
    """Measure, and print the row as JSON."""
    print(json.dumps(main(sizes.size, sizes.shard_size, sizes.rounds), indent=2))


if __name__ == "__main__":
    run_step(print_rows)
