"""Embed the catalogue with the trained product tower and build its indices, Flat and HNSW, beside chapter 1's.

`python -m chapter02_two_tower.reindex --catalogue pocket_shop`

The other models of the training (after stage 1, the control) are indexed too, Flat, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from chapter01_baseline.reindex import Indices, load_indices, save_vectors
from chapter02_two_tower.model import DESCRIPTION
from chapter02_two_tower.train import tower_folders
from common.artifacts import Artifacts, RunFolder, fingerprint
from common.atomic import read_json
from common.catalogue import Catalogue, load_catalogue, product_text
from common.cli import run_step
from common.encoders import Embeddings, TextEncoder, load_text_encoder
from common.errors import CourseError
from common.index import DenseIndex, DenseSearcher
from common.settings import artifacts_root

CHAPTER, STEP = "chapter02_two_tower", "reindex"


@dataclass(frozen=True)
class ReindexConfig:
    """Embed a catalogue with the trained towers and build their indices."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    hnsw_m: int = 32
    """HNSW: links of each vector."""
    ef_construction: int = 200
    """HNSW: candidates compared while building."""
    ef_search: int = 100
    """HNSW: candidates compared while searching."""


class PairedEncoder:
    """Search the vectors of a product tower with its query tower: the `encoder` of a `DenseSearcher`.

    An index refuses the vectors of another encoder. Two towers are two encoders, for they differ in length even with
    one network; but they were trained together, so their vectors compare. Hence both have one `encoder_id`, that of the
    pair, and the towers of another training are refused.

    query, product: the towers. Raises CourseError if their vectors differ in dimension.
    """

    def __init__(self, query: TextEncoder, product: TextEncoder) -> None:
        if query.dimension != product.dimension:
            raise CourseError(
                f"the query tower makes vectors of {query.dimension} dimensions, the product tower of "
                f"{product.dimension}; train the towers together: python -m {CHAPTER}.train"
            )
        self.query, self.product, self.dimension = query, product, query.dimension
        self.encoder_id = f"towers-{fingerprint([query.encoder_id, product.encoder_id])}"

    def encode(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings:
        """Return the vectors of N queries, [N, D]; see `common.encoders.TextEncoder.encode`."""
        return Embeddings(self.query.encode(texts, desc=desc).vectors, self.encoder_id)

    def encode_products(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings:
        """Return the vectors of N product texts, [N, D]."""
        return Embeddings(self.product.encode(texts, desc=desc).vectors, self.encoder_id)


@dataclass(frozen=True)
class Towers:
    """Hold the indices of chapter 2: `dense` is exact (Flat), `hnsw` approximate.

    Both hold `embeddings`, the catalogue's vectors from the product tower of the best model, and are searched with its
    query tower.
    """

    run: RunFolder
    catalogue: Catalogue
    encoder: PairedEncoder
    embeddings: Embeddings
    dense: DenseSearcher
    hnsw: DenseSearcher
    other_folders: dict[str, Path]

    @property
    def query_encoder(self) -> TextEncoder:
        """Return the query tower of the best model."""
        return self.encoder.query

    @property
    def product_encoder(self) -> TextEncoder:
        """Return the product tower of the best model."""
        return self.encoder.product

    @cached_property
    def others(self) -> dict[str, DenseSearcher]:
        """Return exact search with the other models of the training, "stage1" and "control"; loaded on first use."""
        return {name: _searcher(folder, self.run.path / name) for name, folder in self.other_folders.items()}

    def as_indices(self, indices: Indices) -> Indices:
        """Return chapter 1's indices with these vectors instead of its own.

        All that chapter 1 does with an encoder (fusion, feedback, choosing, cross-validation) then uses the towers.
        """
        return replace(indices, encoder=self.encoder, embeddings=self.embeddings, dense=self.dense, hnsw=self.hnsw)


def main(config: ReindexConfig) -> Towers:
    """Embed a catalogue with every trained model and build the indices, or read them if they were built before."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = {"train": artifacts.current(CHAPTER, "train")}
    if artifacts.reuse(CHAPTER, STEP, config=config, inputs=inputs) is None:
        texts, ids = product_text(catalogue.products), catalogue.products["product_id"].tolist()
        hnsw = {"M": config.hnsw_m, "ef_construction": config.ef_construction, "ef_search": config.ef_search}
        with artifacts.new_run(CHAPTER, STEP, config=config, inputs=inputs) as folder:
            for name, model in tower_folders(artifacts).items():
                embeddings = load_towers_of(model).encode_products(texts, desc=f"embedding products ({name})")
                if name == "best":
                    save_vectors(folder, embeddings, ids, **hnsw)
                else:
                    DenseIndex.build(embeddings, ids, kind="flat").save(folder / name)
    return load_towers(artifacts, catalogue)


def load_towers(artifacts: Artifacts, catalogue: Catalogue) -> Towers:
    """Read the indices in force for a catalogue; raises `MissingArtifact` with the command that builds them, and
    CourseError if the towers were trained again since."""
    run = artifacts.current(CHAPTER, STEP)
    folders = tower_folders(artifacts)
    dense = _searcher(folders.pop("best"), run.path / "flat")
    vectors = np.load(run.path / "embeddings.npy", allow_pickle=False)
    return Towers(
        run=run,
        catalogue=catalogue,
        encoder=dense.encoder,
        embeddings=Embeddings(vectors, dense.encoder.encoder_id),
        dense=dense,
        hnsw=DenseSearcher(dense.encoder, DenseIndex.load(run.path / "hnsw")),
        other_folders=folders,
    )


def load_both(artifacts: Artifacts, catalogue: Catalogue) -> tuple[Indices, Towers]:
    """Read chapter 1's indices and the towers' of one catalogue."""
    return load_indices(artifacts, catalogue), load_towers(artifacts, catalogue)


def load_towers_of(folder: Path) -> PairedEncoder:
    """Load the two towers of a saved model for searching."""
    architecture = read_json(folder / DESCRIPTION)["architecture"]
    lengths = {name: architecture[f"{name}_length"] for name in ("query", "product")}
    # Loaded under two names, one network would be converted for this machine twice, at ten seconds each.
    longest = max(lengths, key=lengths.__getitem__)
    sources = dict.fromkeys(lengths, longest) if architecture["shared"] else {name: name for name in lengths}
    cache = artifacts_root() / "embeddings"
    towers = {
        name: load_text_encoder(str(folder / sources[name]), max_length=length, cache=cache)
        for name, length in lengths.items()
    }
    return PairedEncoder(**towers)


def _searcher(model: Path, index_folder: Path) -> DenseSearcher:
    encoder, index = load_towers_of(model), DenseIndex.load(index_folder)
    if index.encoder_id != encoder.encoder_id:
        raise CourseError(
            f"{CHAPTER}: the index in {STEP} holds the vectors of other towers than those in {CHAPTER}.train now.\n"
            f"Build it again with: python -m {CHAPTER}.{STEP}"
        )
    return DenseSearcher(encoder, index)


if __name__ == "__main__":
    run_step(main)
