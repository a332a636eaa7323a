"""Keep the vectors of items on disk, so that no picture need be decoded again, and read them back checked.

An export is a folder: `embeddings.npy` (float32 [N, D], each row of length 1), `ids.json` (the N ids in the order of
the rows), `left_out.json` (what could not be used, and why) and `export.json`, written last: the encoder, and digests
that tell a whole export from the halves of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.atomic import atomic_write, read_json, write_json
from common.digests import file_sha256
from common.errors import CourseError, MissingArtifact

VECTORS, IDS, LEFT_OUT, MANIFEST = "embeddings.npy", "ids.json", "left_out.json", "export.json"
FORMAT = 1
LENGTH_TOLERANCE = 1e-3
"""How far the length of a float32 vector may be from 1."""


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

    def __contains__(self, item: str) -> bool:
        return item in self._row_of

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.ids)}

    def rows(self, items: Sequence[str]) -> np.ndarray:
        """Return the rows, int64 [n], of n items. Raises `CourseError` naming an item that was not exported."""
        try:
            return np.array([self._row_of[item] for item in items], dtype=np.int64)
        except KeyError as error:
            raise CourseError(
                f"no embedding of item {error.args[0]!r}; there are {len(self):,}, and {len(self.left_out):,} items "
                "without a usable picture were left out. Check the id, or export again with its picture."
            ) from None


def save_embeddings(
    folder: str | Path,
    vectors: np.ndarray,
    ids: Sequence[str],
    encoder_id: str,
    *,
    left_out: Sequence[dict[str, Any]] = (),
    model: str = "",
) -> None:
    """Write vectors [N, D] of N items as an export, brought to length 1; they may come from any encoder.

    model: the encoder's name, for people. Raises `CourseError` for a wrong shape, a vector without direction (zero, NaN
    or infinite) and ids that are repeated or not str.
    """
    folder, ids = Path(folder), list(ids)
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise CourseError(f"export_embeddings: {len(ids)} ids for embeddings {vectors.shape}; give one id a row")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    usable = (np.isfinite(lengths) & (lengths > 0))[:, 0]
    if not usable.all():
        item = ids[int(usable.argmin())]
        raise CourseError(f"export_embeddings: the vector of item {item!r} has no direction; look at its picture")
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
        "sha256": {name: file_sha256(folder / name) for name in (VECTORS, IDS, LEFT_OUT)},
    }
    write_json(folder / MANIFEST, manifest)


def load_embeddings(folder: str | Path) -> ItemEmbeddings:
    """Read an export and check it: complete, one id a row, float32 vectors of length 1.

    Raises `MissingArtifact` where there is none, `CourseError` for a damaged one.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise MissingArtifact(
            f"{folder}: no exported embeddings here. Make them with: "
            "python -m chapter03_multimodal.outfits.export_embeddings"
        )
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CourseError(f"{folder / MANIFEST}: no export of format {FORMAT}; export the embeddings again")
    for name, digest in manifest["sha256"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            raise CourseError(
                f"{folder / name}: missing, or changed since it was exported; export the embeddings again"
            )
    vectors, ids = np.load(folder / VECTORS, allow_pickle=False), read_json(folder / IDS)
    shape = (manifest["count"], manifest["dimension"])
    if vectors.dtype != np.float32 or vectors.shape != shape or len(ids) != len(vectors):
        raise CourseError(
            f"{folder}: {len(ids)} ids and embeddings {vectors.dtype} {vectors.shape}, the manifest says float32 "
            f"{shape}; export the embeddings again"
        )
    _check_ids(ids, str(folder))
    if not (np.abs(np.linalg.norm(vectors, axis=1) - 1) < LENGTH_TOLERANCE).all():
        raise CourseError(f"{folder}: not all embeddings are of length 1; export them again")
    left_out = pd.DataFrame(read_json(folder / LEFT_OUT), columns=["row", "id", "path", "reason"])
    return ItemEmbeddings(vectors, ids, manifest["encoder_id"], left_out)


def _check_ids(ids: list[str], where: str) -> None:
    if not all(isinstance(item, str) for item in ids):
        raise CourseError(f"{where}: ids must be str; cast them")
    if len(set(ids)) != len(ids):
        raise CourseError(f"{where}: {len(ids) - len(set(ids))} ids are repeated; give each item one row")
