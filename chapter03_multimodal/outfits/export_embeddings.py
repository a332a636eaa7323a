"""Embed pictures once and write the vectors to a folder, for whatever is trained on top of them.

    python -m chapter03_multimodal.outfits.export_embeddings  # the catalogue's first pictures
    python -m chapter03_multimodal.outfits.export_embeddings --items items.csv --output vectors
    python -m chapter03_multimodal.outfits.export_embeddings --model trained                  # with the fine-tuned CLIP

`embeddings` describes the folder and reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from chapter03_multimodal.outfits.embeddings import (
    LEFT_OUT,
    MANIFEST,
    ItemEmbeddings,
    load_embeddings,
    save_embeddings,
)
from common.artifacts import Artifacts, RunFolder
from common.atomic import read_json
from common.catalogue import Catalogue, load_catalogue
from common.catalogue.readers import read_table
from common.cli import run_step
from common.errors import CourseError
from common.progress import tell
from common.settings import artifacts_root

if TYPE_CHECKING:
    from chapter03_multimodal.encoder import ClipEncoder

CHAPTER, STEP = "chapter03_multimodal", "outfits.export_embeddings"
TRAINED = "trained"


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
    """Name of a catalogue, or the path of a saved one; ignored if there are items."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""


@dataclass(frozen=True)
class ExportResult:
    """folder: where the export is. embeddings: what it holds. run: the run folder, None for an `output` folder."""

    folder: Path
    embeddings: ItemEmbeddings
    run: RunFolder | None = None


def main(config: ExportConfig) -> ExportResult:
    """Embed pictures and write the export, unless the run in force is the same."""
    artifacts = None
    if config.items is not None:
        if config.output is None:
            raise CourseError("export_embeddings: say with --output which folder the vectors of --items should go to")
        items = read_items(config.items)
    else:
        catalogue = load_catalogue(config.catalogue, profile=config.profile)
        artifacts, items = Artifacts.for_catalogue(catalogue, config.profile), catalogue_items(catalogue)
    encoder = load_encoder(config.model, artifacts)
    if config.output is not None:
        export_embeddings(config.output, items, encoder, model=config.model)
        return ExportResult(config.output, load_embeddings(config.output))
    inputs = {"train": artifacts.current(CHAPTER, "train")} if config.model == TRAINED else {}
    run = artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs)
    # A manifest knows the name of a model, not its weights.
    if run is None or read_json(run.path / MANIFEST)["encoder_id"] != encoder.encoder_id:
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            export_embeddings(folder, items, encoder, model=config.model)
    return load_export(artifacts)


def load_export(artifacts: Artifacts) -> ExportResult:
    """Read the export in force for a catalogue; raises `MissingArtifact` with the command that makes one."""
    run = artifacts.current(CHAPTER, STEP)
    return ExportResult(run.path, load_embeddings(run.path), run)


def load_encoder(model: str, artifacts: Artifacts | None = None) -> ClipEncoder:
    """Load a CLIP for pictures; "trained" is the best one of the catalogue's training.

    Raises `CourseError` for "trained" without a catalogue.
    """
    # Imported here: reading an export, and training on one, needs no CLIP.
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
    """Return the products of a catalogue that have a picture as a table `id, path`, each with its first picture."""
    first = catalogue.images.sort_values("position", kind="stable").drop_duplicates("product_id")
    paths = [str(Path(catalogue.folder or ".", path)) for path in first["path"]]
    table = pd.DataFrame({"id": first["product_id"].to_numpy(), "path": paths})
    if table.empty:
        raise CourseError(f"{catalogue.source}: the catalogue has no pictures to embed")
    return table


def read_items(file: str | Path) -> pd.DataFrame:
    """Read a table of ids and picture paths as `id, path`; relative paths start at the table's own folder.

    A row that lacks one of them stays, with an empty cell, and is counted as left out later. Raises `CourseError` if a
    column is missing or an id stands in two rows.
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


def export_embeddings(folder: str | Path, items: pd.DataFrame, encoder: ClipEncoder, *, model: str = "") -> None:
    """Embed the pictures of `items` (`id, path`) and write the export into `folder`, over an older one if need be.

    Items without a usable picture (no path, no file, damaged and so on) are left out, counted on standard error and
    listed in the export. Raises `CourseError` if no item is left.
    """
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
    save_embeddings(folder, found.vectors, ids, found.encoder_id, left_out=left_out, model=model)


def _text(cell: Any) -> str:
    return "" if pd.isna(cell) else str(cell)


if __name__ == "__main__":
    run_step(main)
