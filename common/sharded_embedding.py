"""Embed a catalogue of any size shard by shard: in this process, in several, or on a Ray cluster.

`python -m common.sharded_embedding --input pocket_shop --output shop_vectors --shard-size 5000`

Stopped at any moment and started again, it continues with the missing shards and ends with the same bytes. The one
function that computes, `Embedder.embed_batch`, maps a dict of arrays to a dict of arrays: Ray Data's `map_batches` can
call it, and so can a loop.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.cli import run_step
from common.embedding_shards import Batch, EmbeddingShards, prepare_shards
from common.encoders import MINILM, load_text_encoder
from common.errors import CourseError
from common.progress import progress, tell


@dataclass(frozen=True)
class ShardedEmbeddingConfig:
    """Embed a catalogue in shards; a restart skips those that are finished."""

    input: str
    """A catalogue's name, the folder of a saved one, or parquet (a file or a folder) with product_id and text."""
    output: Path
    """Folder of the shards. Several processes may fill the same one."""
    shard_size: int = 5000
    """Products of a shard: bounds memory, and the work that a kill can lose."""
    model: str = MINILM
    """Text encoder: the packaged "all-MiniLM-L6-v2", a hub name, or a local folder."""
    max_length: int = 256
    """Tokens of a product's text that the encoder reads."""
    runtime: Literal["auto", "openvino", "torch"] = "auto"
    """Engine of the model. Name one if machines of several kinds share the work: their vectors must be comparable."""
    part: int = 1
    """With --of: make only every of-th shard, from this one on. Start one process for each part."""
    of: int = 1
    """Number of parts that the shards are divided into."""
    engine: Literal["local", "ray"] = "local"
    """local: this process. ray: workers of the cluster at RAY_ADDRESS, else of a small one started on this machine."""
    workers: int = 2
    """ray: encoders at work at the same time."""
    cpus: int = 1
    """ray: CPUs of each worker."""
    gpus: float = 0
    """ray: GPUs of each worker."""


class Embedder:
    """Map batches of texts to batches of vectors. It holds a model and no state between batches, so Ray Data can take
    it as it is: `dataset.map_batches(Embedder, compute=ray.data.ActorPoolStrategy(size=2))`."""

    def __init__(
        self, model: str = MINILM, max_length: int = 256, runtime: str = "auto", encoder_id: str | None = None
    ) -> None:
        """Load the encoder, without its cache: the shards are one. Raises CourseError if `encoder_id` is given and this
        machine's encoder has another."""
        self.encoder = load_text_encoder(model, max_length=max_length, engine=runtime)
        if encoder_id not in (None, self.encoder.encoder_id):
            raise CourseError(
                f"this machine's encoder is {self.encoder.encoder_id!r}, the others' is {encoder_id!r}; name a "
                "runtime that all of them have, and give each the same kind of device."
            )

    def embed_batch(self, batch: Batch) -> Batch:
        """Map {product_id [N], text [N]} to {product_id [N], vector float32 [N, D]}, each vector of length 1. Other
        columns pass through. The texts of a batch are encoded together, so equal batches give equal bytes."""
        kept = {name: column for name, column in batch.items() if name != "text"}
        return {**kept, "vector": self.encoder.encode(batch["text"].tolist()).vectors}

    __call__ = embed_batch


def main(config: ShardedEmbeddingConfig) -> EmbeddingShards:
    """Embed the products of a catalogue or of parquet files, shard by shard, skipping finished ones.

    Raises CourseError for an input that cannot be read, an output folder of another input, encoder or shard size, and
    numbers out of range.
    """
    _check(config)
    with _ray_workers(config) if config.engine == "ray" else _this_process(config) as (encoder_id, run):
        shards = prepare_shards(config.output, config.input, config.shard_size, encoder_id)
        todo = shards.unfinished(config.part, config.of)
        mine = len(range(config.part - 1, len(shards), config.of))
        tell(f"{config.output}: {mine} shards, {mine - len(todo)} of them finished before, {len(todo)} to make")
        products = sum(shards.plan.rows[number] for number in todo)
        with progress(total=products, desc="embedding products", unit="text") as bar:
            for rows in run(shards, todo):
                bar.update(rows)
    return shards


def embed_here(shards: EmbeddingShards, todo: Iterable[int], embedder: Embedder) -> Iterator[int]:
    """Make shards one after another in this process; yield the products of each."""
    for number in todo:
        if not shards.exists(number):  # no other process has made it since
            done = shards.write(embedder(shards.read({"shard": np.array([number])})))
            yield int(done["rows"][0])


def embed_on_ray(
    shards: EmbeddingShards, todo: list[int], embedder: dict[str, Any], workers: int, **resources: float
) -> Iterator[int]:
    """Make shards in `workers` actors of a Ray cluster whose machines all see the folder.

    Yields the products of each shard when it is finished. embedder: arguments of `Embedder`; resources: num_cpus and
    num_gpus of an actor. A row of the data set stands for a shard, and blocks are never cut, so a batch is always a
    shard.
    """
    import ray.data

    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size, context.enable_progress_bars, context.print_on_execution_start = None, False, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # hides remarks about its plans
    with ray.data.DataContext.current(context):
        numbers = ray.data.from_items([{"shard": number} for number in todo], override_num_blocks=len(todo))
        pool = ray.data.ActorPoolStrategy(size=min(workers, len(todo)))
        embedded = numbers.map_batches(shards.read, batch_size=1).map_batches(
            Embedder, batch_size=None, compute=pool, fn_constructor_kwargs=embedder, **resources
        )
        for done in embedded.map_batches(shards.write, batch_size=None).iter_rows():
            yield int(done["rows"])


@contextmanager
def _this_process(config: ShardedEmbeddingConfig) -> Iterator[tuple[str, Any]]:
    embedder = Embedder(config.model, config.max_length, config.runtime)
    yield embedder.encoder.encoder_id, lambda shards, todo: embed_here(shards, todo, embedder)


@contextmanager
def _ray_workers(config: ShardedEmbeddingConfig) -> Iterator[tuple[str, Any]]:
    """Start a cluster for the run. A worker tells the encoder's id: this machine may have no GPU."""
    try:
        import ray
    except ImportError:
        raise CourseError("engine 'ray' is not installed; run `pip install 'ray[data]'`.") from None

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # One CPU more than the workers need reads and writes shards. An existing cluster has its own number.
    here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": config.workers * config.cpus + 1}
    resources = {"num_cpus": config.cpus, "num_gpus": config.gpus}
    arguments = {"model": config.model, "max_length": config.max_length, "runtime": config.runtime}
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **here)
    try:
        encoder_id = ray.get(ray.remote(**resources)(_encoder_id).remote(**arguments))
        embedder = {**arguments, "encoder_id": encoder_id}
        yield (
            encoder_id,
            lambda shards, todo: embed_on_ray(shards, todo, embedder, config.workers, **resources) if todo else (),
        )
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]  # the lines before it are the worker's traceback
        raise CourseError(
            f"ray: {reason}\nFinished shards stay: solve the problem and run the command again."
        ) from error
    finally:
        if started:
            ray.shutdown()


def _encoder_id(**arguments: Any) -> str:
    return Embedder(**arguments).encoder.encoder_id


def _check(config: ShardedEmbeddingConfig) -> None:
    for name in ("shard_size", "of", "workers", "cpus"):
        if getattr(config, name) < 1:
            raise CourseError(f"{name} must be at least 1, not {getattr(config, name)}.")
    if not 1 <= config.part <= config.of:
        raise CourseError(f"part must be between 1 and {config.of} (of), not {config.part}.")


if __name__ == "__main__":
    run_step(main)
