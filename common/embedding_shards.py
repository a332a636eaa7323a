"""Store embeddings of more products than fit in memory: a folder of shards, each of a few thousand products.

    folder/texts/plan.json                   which encoder, which input, how many shards
    folder/texts/00000.parquet, …            what is embedded: product_id, text
    folder/vectors/00000/, …                 vectors.npy [n, D], product_ids.json, manifest.json

A shard of vectors appears in one move, so it is there whole or not at all. The texts of a shard are always encoded
together, so its bytes are the same whatever was killed before. `common.sharded_embedding` fills such a folder; a reader
holds one shard at a time:

    for product_ids, embeddings in iterate_shards(folder):
        faiss_index.add(embeddings.vectors)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.artifacts import fingerprint
from common.atomic import atomic_folder, read_json, write_json
from common.catalogue.columns import require_columns
from common.catalogue.load import SOURCES, load_catalogue
from common.catalogue.store import MANIFEST as CATALOGUE
from common.catalogue.text import TEXT_FIELDS, product_text
from common.digests import file_sha256
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact

Batch = Mapping[str, np.ndarray]
PLAN, MANIFEST, VECTORS, PRODUCT_IDS = "plan.json", "manifest.json", "vectors.npy", "product_ids.json"
AGAIN = "run the command that makes this folder again: finished shards stay."
COLUMN_BUFFER = 1 << 20  # bytes; without it the column of a whole row group is read, up to a million products


@dataclass(frozen=True)
class Plan:
    """Hold what decides the bytes of a folder. rows, sha256: of each shard of texts."""

    encoder_id: str
    input_digest: str
    shard_size: int
    rows: list[int]
    sha256: list[str]


@dataclass(frozen=True)
class EmbeddingShards:
    """Read and write a folder of shards, finished or not. Make one with `prepare_shards`, or `open` an existing one.

    `read` and `write` are the two ends of a pipeline of batches, with an embedder in between. They keep no state
    between batches, so any process that sees the folder can call them.
    """

    folder: Path
    plan: Plan

    @classmethod
    def open(cls, folder: str | Path) -> EmbeddingShards:
        """Open an existing folder. Raises MissingArtifact if there is none."""
        folder = Path(folder)
        if not (folder / "texts" / PLAN).is_file():
            raise MissingArtifact(
                f"{folder}: no embedding shards here. "
                f"Make them with: python -m common.sharded_embedding --input CATALOGUE --output {folder}"
            )
        return cls(folder, Plan(**read_json(folder / "texts" / PLAN)))

    def __len__(self) -> int:
        return len(self.plan.rows)

    def unfinished(self, part: int = 1, of: int = 1) -> list[int]:
        """Return the numbers of the shards in part 1, 2, … `of` that have yet to be made. Every finished shard is read
        and compared with its manifest; a damaged one is removed, to be made again."""
        found = []
        for number in range(part - 1, len(self), of):
            if self._place(number).is_dir():
                if self._is_whole(number):
                    continue
                shutil.rmtree(self._place(number), ignore_errors=True)
            found.append(number)
        return found

    def read(self, batch: Batch) -> Batch:
        """Map {shard: one number} to the texts of this shard: {shard, product_id, text}, each [n]."""
        number = _one_number(batch)
        file = _texts_file(self.folder / "texts", number)
        if not file.is_file() or file_sha256(file) != self.plan.sha256[number]:
            raise CourseError(
                f"{file}: missing or changed since it was written. Remove {file.parent} and run the command again: "
                "the texts are split anew, and finished shards stay."
            )
        table = pq.read_table(file)
        columns = {name: table[name].to_numpy() for name in ("product_id", "text")}
        return {"shard": np.full(len(table), number), **columns}

    def write(self, batch: Batch) -> Batch:
        """Save {shard, product_id, vector} of one whole shard; return {shard, rows}, each [1]. A shard that another
        process finished in the meantime is left as it is."""
        number = _one_number(batch)
        ids, vectors = batch["product_id"].tolist(), np.ascontiguousarray(batch["vector"], dtype=np.float32)
        if len(ids) != self.plan.rows[number]:
            raise ValueError(f"shard {number}: {len(ids)} of its {self.plan.rows[number]} rows came in one batch")
        with atomic_folder(self._place(number)) as staging:
            np.save(staging / VECTORS, vectors, allow_pickle=False)
            write_json(staging / PRODUCT_IDS, ids)
            files = {name: file_sha256(staging / name) for name in (VECTORS, PRODUCT_IDS)}
            write_json(staging / MANIFEST, self._made_from(number) | {"files": files})
        return {"shard": np.array([number]), "rows": np.array([len(ids)])}

    def load(self, number: int) -> tuple[list[str], Embeddings]:
        """Return product ids [n] and embeddings [n, D] of a shard, its vectors memory-mapped. Raises CourseError if it
        was damaged."""
        if not self._is_whole(number):
            raise CourseError(f"{self._place(number)}: this shard was damaged; {AGAIN}")
        vectors = np.load(self._place(number) / VECTORS, mmap_mode="r", allow_pickle=False)
        return read_json(self._place(number) / PRODUCT_IDS), Embeddings(vectors, self.plan.encoder_id)

    def exists(self, number: int) -> bool:
        """Return whether the shard has been made, without looking inside."""
        return self._place(number).is_dir()

    def _place(self, number: int) -> Path:
        return self.folder / "vectors" / f"{number:05d}"

    def _made_from(self, number: int) -> dict[str, object]:
        plan = self.plan
        return {"encoder_id": plan.encoder_id, "texts_sha256": plan.sha256[number], "rows": plan.rows[number]}

    def _is_whole(self, number: int) -> bool:
        try:
            manifest = read_json(self._place(number) / MANIFEST)
            files = {name: file_sha256(self._place(number) / name) for name in (VECTORS, PRODUCT_IDS)}
        except (CourseError, OSError):
            return False
        return manifest == self._made_from(number) | {"files": files}


def prepare_shards(folder: str | Path, source: str, shard_size: int, encoder_id: str) -> EmbeddingShards:
    """Split the texts of `source` into shards of `shard_size` products, in their order, unless that was done before.

    source: a catalogue's name, the folder of a saved one, or parquet (a file, or a folder of files in the order of
    their names) with the columns `product_id` and `text`. All but a name is read in pieces; a catalogue by name is
    loaded first. Repeated product ids are not noticed here, but every index refuses them.

    Raises CourseError if `folder` was made from another input, by another encoder or in shards of another size, if
    there is no such source, or if it holds no product or one without an id.
    """
    folder, (files, columns) = Path(folder), _tables(source)
    wanted = {
        "encoder_id": encoder_id,
        "input_digest": fingerprint([columns, [file_sha256(file) for file in files]]),
        "shard_size": shard_size,
    }
    if not (folder / "texts").is_dir():
        with atomic_folder(folder / "texts") as staging:
            plan = Plan(**wanted, **_split(files, columns, shard_size, staging))
            write_json(staging / PLAN, asdict(plan))
    shards = EmbeddingShards.open(folder)  # another process may have been faster
    for name, value in wanted.items():
        found = getattr(shards.plan, name)
        if found != value:
            raise CourseError(
                f"{folder} was made with {name.replace('_', ' ')} {found!r}, and this would be {value!r}. "
                "Choose another output folder, or remove this one."
            )
    return shards


def iterate_shards(folder: str | Path) -> Iterator[tuple[list[str], Embeddings]]:
    """Yield product ids [n] and embeddings [n, D] of every shard in order, its vectors memory-mapped, one shard at a
    time. Raises CourseError if a shard is missing or damaged."""
    shards = EmbeddingShards.open(folder)
    missing = [number for number in range(len(shards)) if not shards.exists(number)]
    if missing:
        raise CourseError(f"{folder}: {len(missing)} of {len(shards)} shards are missing; {AGAIN}")
    return (shards.load(number) for number in range(len(shards)))


def load_embeddings(folder: str | Path) -> tuple[list[str], Embeddings]:
    """Return all N product ids and embeddings [N, D], in the order of the input; errors as `iterate_shards`."""
    plan = EmbeddingShards.open(folder).plan
    ids: list[str] = []
    vectors = None
    for shard_ids, embeddings in iterate_shards(folder):
        if vectors is None:
            vectors = np.empty((sum(plan.rows), embeddings.vectors.shape[1]), dtype=np.float32)
        vectors[len(ids) : len(ids) + len(shard_ids)] = embeddings.vectors
        ids += shard_ids
    return ids, Embeddings(vectors, plan.encoder_id)


def _tables(source: str) -> tuple[list[Path], list[str]]:
    """Return the parquet files of a source, and the columns of them that make the text of a product."""
    path = Path(source)
    if source in SOURCES:
        path = load_catalogue(source).folder
    if (path / CATALOGUE).is_file():
        return [path / "products.parquet"], list(TEXT_FIELDS)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise CourseError(
            f"{source!r} is neither a catalogue nor parquet; give one of {', '.join(SOURCES)}, the folder of a saved "
            "catalogue, a parquet file or a folder of them."
        )
    return files, ["text"]


def _split(files: list[Path], columns: list[str], shard_size: int, folder: Path) -> dict[str, list]:
    """Write the shards of texts; return their `rows` and `sha256`."""
    rows: list[int] = []
    digests: list[str] = []
    for table in _regrouped((table for file in files for table in _pieces(file, columns, shard_size)), shard_size):
        target = _texts_file(folder, len(rows))
        pq.write_table(table, target, compression="zstd")
        rows.append(len(table))
        digests.append(file_sha256(target))
    pa.default_memory_pool().release_unused()  # Arrow would keep freed memory, more than a shard takes
    if not rows:
        raise CourseError(f"{files[0]}: holds no products; there is nothing to embed.")
    return {"rows": rows, "sha256": digests}


def _pieces(file: Path, columns: list[str], rows: int) -> Iterator[pa.Table]:
    """Yield tables of `product_id` and `text` of at most `rows` products each."""
    try:
        with pq.ParquetFile(file, buffer_size=COLUMN_BUFFER) as table:
            require_columns(table.schema_arrow.names, ["product_id", *columns], file)
            for batch in table.iter_batches(rows, columns=["product_id", *columns]):
                ids = batch.column("product_id").cast(pa.string())
                if ids.null_count:
                    raise CourseError(f"{file}: {ids.null_count} products have no product_id; give each one.")
                yield pa.table({"product_id": ids, "text": _texts(batch, columns)})
    except pa.ArrowException as error:
        raise CourseError(
            f"{file}: cannot be read as parquet with text ({str(error)[:120]}); write it again."
        ) from None


def _texts(batch: pa.RecordBatch, columns: list[str]) -> pa.Array:
    if columns == ["text"]:
        return batch.column("text").cast(pa.string()).fill_null("")
    texts = product_text(batch.to_pandas(), columns)  # JSON can contain half a surrogate pair, a UTF-8 file cannot
    return pa.array([text.encode("utf-8", "replace").decode("utf-8") for text in texts], pa.string())


def _regrouped(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of `size` rows; the last may be shorter."""
    held = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) >= size:
            yield held.slice(0, size).combine_chunks()
            held = held.slice(size)
    if held is not None and len(held):
        yield held.combine_chunks()


def _texts_file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def _one_number(batch: Batch) -> int:
    (number,) = set(batch["shard"].tolist())
    return number
