"""Build the chapter's indices: BM25 over the words, and two FAISS indices, Flat and HNSW, over MiniLM's vectors.

`python -m chapter01_baseline.reindex --catalogue pocket_shop`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chapter01_baseline.keyword import KeywordSearcher, keyword_text
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue, load_catalogue, product_text
from common.cli import run_step
from common.encoders import Embeddings, TextEncoder, load_text_encoder
from common.errors import CourseError
from common.index import DenseIndex, DenseSearcher
from common.settings import artifacts_root

CHAPTER, STEP = "chapter01_baseline", "reindex"


@dataclass(frozen=True)
class ReindexConfig:
    """Embed a catalogue and build its keyword and vector indices."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    model: str = "all-MiniLM-L6-v2"
    """Text encoder: the packaged "all-MiniLM-L6-v2", a hub name, or a local folder."""
    max_length: int = 256
    """Tokens of a product's text that the encoder reads."""
    hnsw_m: int = 32
    """HNSW: links of each vector."""
    ef_construction: int = 200
    """HNSW: candidates examined while building."""
    ef_search: int = 100
    """HNSW: candidates examined while searching."""


@dataclass(frozen=True)
class Indices:
    """The indices of chapter 1: `dense` is exact (Flat), `hnsw` approximate; both hold `embeddings` of `encoder`."""

    run: RunFolder
    catalogue: Catalogue
    encoder: TextEncoder
    embeddings: Embeddings
    keyword: KeywordSearcher
    dense: DenseSearcher
    hnsw: DenseSearcher

    @property
    def product_ids(self) -> list[str]:
        """Return the products in the order of `embeddings`."""
        return self.catalogue.products["product_id"].tolist()


def main(config: ReindexConfig) -> Indices:
    """Build BM25, embeddings, Flat and HNSW of a catalogue, or read them if the same were built before."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    if artifacts.reuse(CHAPTER, STEP, config=config) is None:
        encoder = _encoder(config.model, config.max_length)
        ids = catalogue.products["product_id"].tolist()
        with artifacts.new_run(CHAPTER, STEP, config=config) as folder:
            KeywordSearcher(ids, keyword_text(catalogue.products)).save(folder / "keyword")
            embeddings = encoder.encode(product_text(catalogue.products), desc="embedding products")
            hnsw = {"ef_construction": config.ef_construction, "ef_search": config.ef_search}
            save_vectors(folder, embeddings, ids, M=config.hnsw_m, **hnsw)
    return load_indices(artifacts, catalogue)


def save_vectors(folder: Path, embeddings: Embeddings, ids: Sequence[str], **hnsw: int) -> None:
    """Write embeddings [N, D] of N products and their two indices, Flat and HNSW, into the folder of a run."""
    np.save(folder / "embeddings.npy", embeddings.vectors, allow_pickle=False)
    DenseIndex.build(embeddings, ids, kind="flat").save(folder / "flat")
    DenseIndex.build(embeddings, ids, kind="hnsw", **hnsw).save(folder / "hnsw")


def load_indices(artifacts: Artifacts, catalogue: Catalogue) -> Indices:
    """Read the current indices of a catalogue; raises `MissingArtifact` with the command that builds them."""
    run = artifacts.current(CHAPTER, STEP)
    encoder = _encoder(run.manifest["config"]["model"], run.manifest["config"]["max_length"])
    flat, hnsw = DenseIndex.load(run.path / "flat"), DenseIndex.load(run.path / "hnsw")
    if flat.encoder_id != encoder.encoder_id:
        raise CourseError(
            f"{CHAPTER}: the index in {STEP} was built by another encoder than the one that is here now.\n"
            f"Build it again with: python -m {CHAPTER}.{STEP}"
        )
    vectors = np.load(run.path / "embeddings.npy", allow_pickle=False)
    return Indices(
        run=run,
        catalogue=catalogue,
        encoder=encoder,
        embeddings=Embeddings(vectors, flat.encoder_id),
        keyword=KeywordSearcher.load(run.path / "keyword"),
        dense=DenseSearcher(encoder, flat),
        hnsw=DenseSearcher(encoder, hnsw),
    )


def _encoder(model: str, max_length: int) -> TextEncoder:
    return load_text_encoder(model, max_length=max_length, cache=artifacts_root() / "embeddings")


if __name__ == "__main__":
    run_step(main)
