"""Embeds pictures once and keeps the vectors, so that whatever is trained on top of them never decodes a picture again.

    python -m chapter03_multimodal.outfits.export_embeddings  # the catalogue's first pictures
    python -m chapter03_multimodal.outfits.export_embeddings --items items.csv --output vectors
    python -m chapter03_multimodal.outfits.export_embeddings --model trained                  # with the fine-tuned CLIP

An export is a folder: `embeddings.npy` (float32 [N, D], each row of length 1), `ids.json` (the N ids in the order of
the rows), `left_out.json` (what could not be used, and why) and `export.json`, written last: the encoder, and digests
that tell a whole export from the halves of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from common.artifacts import Artifacts, RunFolder
from common.atomic import atomic_write, read_json, write_json
from common.catalogue import Catalogue, load_catalogue
from common.catalogue.readers import read_table
from common.cli import run_step
from common.errors import CourseError, MissingArtifact
from common.progress import tell
from common.settings import artifacts_root

CHAPTER, STEP = "chapter03_multimodal", "outfits.export_embeddings"
VECTORS, IDS, LEFT_OUT, MANIFEST = "embeddings.npy", "ids.json", "left_out.json", "export.json"
TRAINED = "trained"
FORMAT = 1
OFF_LENGTH = 1e-3  # how far a float32 vector's length may be from 1


@dataclass(frozen=True)
class ExportConfig:
    """Embed the pictures of a catalogue, or of a table of ids and paths, and write the vectors to a folder."""

    items: Path | None = None
    """A table with the columns id and path (.csv, .tsv, .jsonl, .parquet); None: the catalogue. Relative paths start at
    the table's own folder."""
    output: Path | None = None
    """Folder to write to; None: a run folder of the artifacts (catalogues only)."""
    model: str = "pocket_clip"
    """"pocket_clip", a folder or name that chapter 3 loads a CLIP by, or "trained": the fine-tuned one."""
    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one; not looked at if there are items."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""


class ImageEncoder(Protocol):
    """As much of `chapter03_multimodal.encoder.ClipEncoder` as an export needs."""

    encoder_id: str
    dimension: int

    def encode_images(self, images: Sequence[Any], *, desc: str | None = None) -> Any: ...


@dataclass(frozen=True)
class ItemEmbeddings:
    """The vectors of N items.

    vectors: float32 [N, D], each of length 1. ids: N distinct ids, in the order of the rows. encoder_id: whose vectors
    they are. left_out: `row, id, path, reason` of the items without a usable picture.
    """

    vectors: np.ndarray
    ids: list[str]
    encoder_id: str
    left_out: pd.DataFrame

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def __contains__(self, item: str) -> bool:
        return item in self._row_of

    def rows(self, items: Sequence[str]) -> np.ndarray:
        """The rows, int64 [n], of n items. Raises `CourseError` naming an item that was not exported."""
        try:
            return np.array([self._row_of[item] for item in items], dtype=np.int64)
        except KeyError as error:
            raise CourseError(
                f"no embedding of item {error.args[0]!r}; there are {len(self):,}, and {len(self.left_out):,} items "
                "were left out for want of a usable picture. Check the id, or export again with its picture."
            ) from None


@dataclass(frozen=True)
class ExportResult:
    """folder: where the export is. embeddings: what it holds. run: the run folder, None for an `output` folder."""

    folder: Path
    embeddings: ItemEmbeddings
    run: RunFolder | None = None


def main(config: ExportConfig) -> ExportResult:
    """Embed pictures and write the export, or find that the run in force is the same."""
    if config.items is not None:
        if config.output is None:
            raise CourseError("export_embeddings: say with --output which folder the vectors of --items should go to")
        table = read_items(config.items)
        return _written(config.output, table, load_encoder(config.model), config.model)
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    encoder = load_encoder(config.model, artifacts)
    if config.output is not None:
        return _written(config.output, catalogue_items(catalogue), encoder, config.model)
    inputs = {"train": artifacts.current(CHAPTER, "train")} if config.model == TRAINED else {}
    run = artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs)
    # A manifest knows the name of a model, not its weights.
    if run is None or read_json(run.path / MANIFEST)["encoder_id"] != encoder.encoder_id:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            export_embeddings(folder, catalogue_items(catalogue), encoder, model=config.model)
    return load_export(artifacts)


def load_export(artifacts: Artifacts) -> ExportResult:
    """Read the export in force for a catalogue; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    return ExportResult(run.path, load_embeddings(run.path), run)


def load_encoder(model: str, artifacts: Artifacts | None = None) -> ImageEncoder:
    """Load a CLIP for pictures; "trained" is the best of the catalogue's training.

    Raises `CourseError` if "trained" is asked for without a catalogue: which training would be meant?
    """
    # Only here: to read an export, and to train on one, nobody needs CLIP.
    from chapter03_multimodal.encoder import load_clip_encoder

    if model == TRAINED:
        from chapter03_multimodal.train import clip_folders

        if artifacts is None:
            raise CourseError(
                "export_embeddings: --model trained is the model trained on a catalogue; with --items give the folder "
                "of that model"
            )
        model = str(clip_folders(artifacts)["best"])
    return load_clip_encoder(model, cache=artifacts_root() / "embeddings")


def catalogue_items(catalogue: Catalogue) -> pd.DataFrame:
    """The items of a catalogue as a table `id, path`: each product that has a picture, with its first one."""
    first = catalogue.images.sort_values("position", kind="stable").drop_duplicates("product_id")
    paths = [str(Path(catalogue.folder or ".", path)) for path in first["path"]]
    table = pd.DataFrame({"id": first["product_id"].to_numpy(), "path": paths})
    if table.empty:
        raise CourseError(f"{catalogue.source}: the catalogue has no pictures to embed")
    return table


def read_items(file: str | Path) -> pd.DataFrame:
    """Read a table of ids and picture paths as `id, path`; relative paths start at the table's own folder.

    A row that lacks one of them keeps its place with an empty cell, to be counted as left out. Raises `CourseError` if
    a column is missing or an id stands in two rows.
    """
    file = Path(file)
    frame = read_table(file, "products").frame
    for name in ("id", "path"):
        if name not in frame.columns:
            raise CourseError(f"{file}: there is no column {name!r}; a table of items has the columns id and path")
    frame = frame[["id", "path"]].reset_index(drop=True)
    frame["id"] = frame["id"].map(str, na_action="ignore")
    frame["path"] = frame["path"].map(lambda path: str(file.parent / str(path)), na_action="ignore")
    repeated = frame["id"].dropna()[frame["id"].dropna().duplicated()]
    if len(repeated):
        raise CourseError(f"{file}: id {repeated.iloc[0]!r} stands in more than one row; give each item one picture")
    return frame


def export_embeddings(folder: str | Path, items: pd.DataFrame, encoder: ImageEncoder, *, model: str = "") -> None:
    """Embed the pictures of `items` (`id, path`) and write the export into `folder`, over an older one if need be.

    Items without a usable picture (none named, no file, damaged, ...) are left out, counted on standard error and
    listed in the export. model: the encoder's name, kept for people. Raises `CourseError` if no item is left.
    """
    folder = Path(folder)
    named = np.flatnonzero(items["id"].notna() & items["path"].notna())
    found = encoder.encode_images([Path(path) for path in items["path"].iloc[named]], desc="embedding pictures")
    reasons = {int(row): "no id or no path" for row in np.setdiff1d(np.arange(len(items)), named)}
    reasons |= {int(named[at]): reason for at, reason in found.unusable.items()}
    left_out = [
        {"row": row, "id": _text(items["id"].iloc[row]), "path": _text(items["path"].iloc[row]), "reason": reason}
        for row, reason in sorted(reasons.items())
    ]
    if not len(found.rows):
        why = f"; the first: {left_out[0]['reason']}" if left_out else ""
        raise CourseError(f"export_embeddings: none of the {len(items):,} items has a usable picture{why}")
    if left_out:
        tell(f"export_embeddings: {len(left_out):,} of {len(items):,} items left out, see {LEFT_OUT}")
    ids = items["id"].iloc[named[found.rows]].tolist()
    vectors = np.ascontiguousarray(found.vectors, dtype=np.float32)
    save_embeddings(folder, vectors, ids, found.encoder_id, left_out=left_out, model=model)


def save_embeddings(
    folder: str | Path,
    vectors: np.ndarray,
    ids: Sequence[str],
    encoder_id: str,
    *,
    left_out: Sequence[dict[str, Any]] = (),
    model: str = "",
) -> None:
    """Write vectors [N, D] of N items as an export, for instance those of an encoder that is not ours.

    They are brought to length 1. Raises `CourseError` for a wrong shape, a vector without direction (zero, NaN or
    infinite) and ids that are repeated or not str.
    """
    folder, ids = Path(folder), list(ids)
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise CourseError(f"export_embeddings: {len(ids)} ids for embeddings {vectors.shape}; give one id a row")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
        raise CourseError(f"export_embeddings: the vector of item {ids[row]!r} has no direction; look at its picture")
    _check_ids(ids, "export_embeddings")
    with atomic_write(folder / VECTORS) as temporary:
        np.save(temporary, vectors / lengths, allow_pickle=False)
    write_json(folder / IDS, ids)
    write_json(folder / LEFT_OUT, list(left_out))
    manifest = {
        "format": FORMAT,
        "encoder_id": encoder_id,
        "model": model,
        "count": len(ids),
        "dimension": int(vectors.shape[1]),
        "left_out": len(left_out),
        "sha256": {name: _sha256(folder / name) for name in (VECTORS, IDS, LEFT_OUT)},
    }
    write_json(folder / MANIFEST, manifest)


def load_embeddings(folder: str | Path, *, encoder_id: str | None = None) -> ItemEmbeddings:
    """Read an export and check it: whole, one id a row, float32 vectors of length 1, and of `encoder_id` if given.

    Raises `MissingArtifact` where there is none, `CourseError` for what is damaged or of another encoder.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise MissingArtifact(f"{folder}: no exported embeddings here. Make them with: python -m {CHAPTER}.{STEP}")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CourseError(f"{folder / MANIFEST}: no export of format {FORMAT}; export the embeddings again")
    for name, digest in manifest["sha256"].items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise CourseError(
                f"{folder / name}: missing, or changed since it was exported; export the embeddings again"
            )
    if encoder_id is not None and manifest["encoder_id"] != encoder_id:
        raise CourseError(
            f"{folder}: holds embeddings of {manifest['encoder_id']!r}, not of {encoder_id!r}; export again with that "
            "encoder"
        )
    vectors, ids = np.load(folder / VECTORS, allow_pickle=False), read_json(folder / IDS)
    _check_vectors(folder, vectors, ids, manifest)
    left_out = pd.DataFrame(read_json(folder / LEFT_OUT), columns=["row", "id", "path", "reason"])
    return ItemEmbeddings(vectors, ids, manifest["encoder_id"], left_out)


def _written(folder: Path, items: pd.DataFrame, encoder: ImageEncoder, model: str) -> ExportResult:
    export_embeddings(folder, items, encoder, model=model)
    return ExportResult(Path(folder), load_embeddings(folder))


def _check_vectors(folder: Path, vectors: np.ndarray, ids: list[str], manifest: dict[str, Any]) -> None:
    """Digests say that the files are as they were written; this, that what was written is an export."""
    shape = (manifest["count"], manifest["dimension"])
    if vectors.dtype != np.float32 or vectors.shape != shape or len(ids) != len(vectors):
        raise CourseError(
            f"{folder}: {len(ids)} ids and embeddings {vectors.dtype} {vectors.shape}, the manifest says float32 "
            f"{shape}; export the embeddings again"
        )
    _check_ids(ids, str(folder))
    if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < OFF_LENGTH).all():
        raise CourseError(f"{folder}: not all embeddings are of length 1; export them again")


def _check_ids(ids: list[str], where: str) -> None:
    if not all(isinstance(item, str) for item in ids):
        raise CourseError(f"{where}: ids must be str; cast them")
    if len(set(ids)) != len(ids):
        raise CourseError(f"{where}: {len(ids) - len(set(ids))} ids are repeated; give each item one row")


def _text(cell: Any) -> str:
    return "" if pd.isna(cell) else str(cell)


def _sha256(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    run_step(main)
