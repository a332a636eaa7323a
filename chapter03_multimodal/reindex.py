"""Embed the catalogue's pictures and build their indices: Flat, HNSW and IVF-PQ.

`python -m chapter03_multimodal.reindex --catalogue pocket_shop`

Texts and pictures search the same indices, because one CLIP makes the vectors of both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from chapter03_multimodal.align import starting_point
from chapter03_multimodal.clip import POCKET_CLIP
from chapter03_multimodal.encoder import ClipEncoder, Picture, load_clip_encoder
from chapter03_multimodal.train import clip_folders
from common.artifacts import Artifacts, RunFolder
from common.catalogue import Catalogue, load_catalogue
from common.cli import run_step
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex, DenseSearcher
from common.search import Hits, check_request, empty_hits
from common.settings import artifacts_root

CHAPTER, STEP = "chapter03_multimodal", "reindex"
FINE_TUNED = "fine-tuned"
KINDS = ("flat", "hnsw", "ivf_pq")
FEWEST_TO_QUANTISE = 1000


@dataclass(frozen=True)
class ReindexConfig:
    """Embed the pictures of a catalogue and build their indices."""

    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""
    encoder: str = POCKET_CLIP
    """The folder or name of a CLIP, or fine-tuned (the best of chapter03_multimodal.train). Fine-tuned on titles, it
    finds titles better; combined with the towers, the CLIP before fine-tuning is better on the validation queries."""


@dataclass(frozen=True)
class PictureIndices:
    """The indices of a catalogue's pictures.

    run: its folder holds the indices, `pictures.npy` and `metadata.parquet` (product_id, title, category_path, split,
    in the order of the rows). encoder: the CLIP of products and queries. embeddings: [M, D] of the M products that have
    a picture. indices: by kind ("flat", "hnsw" and, for catalogues large enough to train it, "ivf_pq").
    """

    run: RunFolder
    encoder: ClipEncoder
    product_ids: list[str]
    embeddings: Embeddings
    indices: dict[str, DenseIndex]

    @property
    def by_text(self) -> DenseSearcher:
        """Return exact search for the pictures that fit a text (text to image)."""
        return DenseSearcher(self.encoder, self.indices["flat"])

    @property
    def by_picture(self) -> PictureSearcher:
        """Return exact search for the pictures that look like a given one (image to image)."""
        return PictureSearcher(self.encoder, self.indices["flat"])


class PictureSearcher:
    """Finds products whose pictures look like a given one; a `common.search.Searcher` whose queries are pictures."""

    def __init__(self, encoder: ClipEncoder, index: DenseIndex) -> None:
        self.encoder, self.index = encoder, index

    def search(
        self,
        queries: Sequence[Picture],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products for each picture (a file, or a picture in memory); see `common.search.Searcher`.

        A picture that cannot be used has an empty row. To search with a product's own picture, `exclude` the product.
        """
        request = check_request(queries, k, allowed, exclude, texts=False)
        found = self.encoder.encode_images(request.queries)
        excluded = None if request.exclude is None else [request.exclude[row] for row in found.rows]
        asked = Embeddings(found.vectors, found.encoder_id)
        part = self.index.search_vectors(asked, request.k, allowed=request.allowed, exclude=excluded)
        hits = empty_hits(len(request.queries), request.k)
        hits.ids[found.rows], hits.scores[found.rows] = part.ids, part.scores
        return hits


def main(config: ReindexConfig) -> PictureIndices:
    """Embed the pictures and build the indices, or read them if they were built from the same before."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    inputs = {"train": artifacts.current(CHAPTER, "train")} if config.encoder == FINE_TUNED else {}
    encoder = encoder_of(artifacts, config.encoder)
    recorded = {**asdict(config), "encoder_id": encoder.encoder_id}  # the weights under a name may have changed
    if artifacts.reuse(CHAPTER, STEP, config=recorded, inputs=inputs) is None:
        embeddings, has = embed_products(catalogue, encoder)
        shown = catalogue.products[has]
        if not len(embeddings):
            raise CourseError(
                f"{catalogue.source}: none of the products has a usable picture; there is nothing to index."
            )
        with artifacts.new_run(CHAPTER, STEP, config=recorded, inputs=inputs) as folder:
            for kind in KINDS if len(embeddings) >= FEWEST_TO_QUANTISE else KINDS[:2]:
                DenseIndex.build(embeddings, shown["product_id"].tolist(), kind=kind).save(folder / kind)
            np.save(folder / "pictures.npy", embeddings.vectors, allow_pickle=False)
            facts = shown[["product_id", "title", "category_path", "split"]]
            facts.to_parquet(folder / "metadata.parquet", index=False)
    return load_pictures(artifacts)


def load_pictures(artifacts: Artifacts) -> PictureIndices:
    """Read the current indices.

    Raises `MissingArtifact` with the command that builds them, and CourseError if CLIP was trained again since.
    """
    run = artifacts.current(CHAPTER, STEP)
    encoder = encoder_of(artifacts, run.manifest["config"]["encoder"])
    indices = {kind: DenseIndex.load(run.path / kind) for kind in KINDS if (run.path / kind).exists()}
    if indices["flat"].encoder_id != encoder.encoder_id:
        raise CourseError(
            f"{CHAPTER}: the pictures' index holds the vectors of another CLIP than is there now.\n"
            f"Build it again with: python -m {CHAPTER}.{STEP}"
        )
    vectors = np.load(run.path / "pictures.npy", allow_pickle=False)
    ids = pd.read_parquet(run.path / "metadata.parquet")["product_id"].tolist()
    return PictureIndices(run, encoder, ids, Embeddings(vectors, encoder.encoder_id), indices)


def encoder_of(artifacts: Artifacts, name: str = FINE_TUNED) -> ClipEncoder:
    """Load the CLIP of that name, with the course's embedding cache.

    "fine-tuned" is the best of the last training, "aligned" the result of the last alignment.
    """
    folder = str(clip_folders(artifacts)["best"]) if name == FINE_TUNED else starting_point(artifacts, name)
    return load_clip_encoder(folder, cache=artifacts_root() / "embeddings")


def embed_products(catalogue: Catalogue, encoder: ClipEncoder) -> tuple[Embeddings, np.ndarray]:
    """Encode all pictures: return the vectors [M, D] of the products that have a usable one, and which these are.

    Several pictures of a product are averaged. Which: bool [N], over all products.
    """
    rows = pd.Index(catalogue.products["product_id"]).get_indexer(catalogue.images["product_id"])
    paths = [Path(catalogue.folder or ".", path) for path in catalogue.images["path"]]
    found = encoder.encode_images(paths, desc="embedding pictures")
    sums = np.zeros((len(catalogue.products), encoder.dimension), dtype=np.float32)
    np.add.at(sums, rows[found.rows], found.vectors)
    has = np.isin(np.arange(len(sums)), rows[found.rows])
    means = sums[has] / np.maximum(np.linalg.norm(sums[has], axis=1, keepdims=True), 1e-12)
    return Embeddings(means, found.encoder_id), has


if __name__ == "__main__":
    run_step(main)
