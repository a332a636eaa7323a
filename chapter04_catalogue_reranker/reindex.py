"""Export the vectors of a catalogue's products and categories, and an index of each.

    python -m chapter04_catalogue_reranker.reindex                       # the best checkpoint, all products
    python -m chapter04_catalogue_reranker.reindex stage_1 --split test
    python -m chapter04_catalogue_reranker.reindex my/checkpoint --split train

`product_emb_fused.npy`, `product_emb_text.npy` and `product_emb_image.npy` are float32 [N, D] in the order of
`products.parquet`; `unique_category_emb.npy` is float32 [C, D] in the order of `categories.parquet`. Rows have length
1. A product without a text, or without a usable picture, has zeros in the file of that modality, and `has_text` or
`has_image` is False.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import tyro

from chapter04_catalogue_reranker.encode import encode_categories, encode_products
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.prepare_data import RerankerData, load_reranker_data
from chapter04_catalogue_reranker.train import check_training, model_folders
from common.artifacts import Artifacts, RunFolder, fingerprint
from common.catalogue import load_catalogue
from common.category_path import split_path
from common.cli import run_step
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex
from common.progress import tell

CHAPTER, STEP = "chapter04_catalogue_reranker", "reindex"
MODALITIES = ("fused", "text", "image")
PRODUCTS, CATEGORIES, CATEGORY_VECTORS = "products.parquet", "categories.parquet", "unique_category_emb.npy"
CATEGORY_INDEX, PRODUCT_INDEX = "category_index", "product_index"
ROWS_A_BLOCK = 1024


@dataclass(frozen=True)
class ReindexConfig:
    """Embed products and categories with a trained model, and index both."""

    checkpoint: Annotated[str, tyro.conf.Positional] = "best"
    """A model of chapter04_catalogue_reranker.train (best, stage_0, stage_1, stage_2), or a folder that holds one, as a
    path with a slash in it."""
    split: Literal["train", "val", "test", "all"] = "all"
    """Split of the products to embed. Categories are always all of the catalogue's."""
    catalogue: str = "pocket_shop"
    """Name of a catalogue, or the path of a saved one."""
    profile: str | None = None
    """smoke, pocket or full; None: COURSE_PROFILE, else pocket."""


@dataclass(frozen=True)
class Export:
    """Hold vectors and indices of N products and C categories, as a run folder does.

    products: product_id, title, category_path (the true one, missing if unknown), predicted_path (the likeliest of
    all C), predicted_score (its probability among them), split, image (as in the catalogue), has_text, has_image.
    categories: category_path, level (number of levels), n_train (products of the training split with this path; a
    training may use a sample of them), in_train. fused, text, image: [N, D]. category_vectors: [C, D]. category_index:
    by path. product_index: the fused vectors by product id. load_model: loads the model of these vectors; raises
    `CourseError` if its folder holds other weights now.
    """

    run: RunFolder
    products: pd.DataFrame
    categories: pd.DataFrame
    fused: Embeddings
    text: Embeddings
    image: Embeddings
    category_vectors: Embeddings
    category_index: DenseIndex
    product_index: DenseIndex
    load_model: Callable[[], CatalogueReranker]

    @property
    def encoder_id(self) -> str:
        """Return the id of the model: only `Embeddings` of the same id can be compared."""
        return self.fused.encoder_id


def main(config: ReindexConfig) -> Export:
    """Embed and index, or return the result of an earlier run of the same data and weights."""
    catalogue = load_catalogue(config.catalogue, profile=config.profile)
    artifacts = Artifacts.for_catalogue(catalogue, config.profile)
    data = load_reranker_data(artifacts, catalogue)
    checkpoint, folder, inputs = find_checkpoint(artifacts, config.checkpoint)
    model = CatalogueReranker.load(folder)
    inputs = {"prepare_data": data.run} | inputs
    recorded = {**asdict(config), "checkpoint": checkpoint, "encoder_id": encoder_id_of(model)}
    if artifacts.reuse(CHAPTER, STEP, config=recorded, inputs=inputs) is None:
        chosen = data.products
        if config.split != "all":
            chosen = chosen[chosen["split"] == config.split]
        if chosen.empty:
            raise CourseError(f"{catalogue.source}: the split {config.split} has no products; choose another --split.")
        with artifacts.new_run(CHAPTER, STEP, config=recorded, inputs=inputs) as run:
            write_export(run, model, data, chosen, recorded["encoder_id"])
    return load_export(artifacts)


def load_export(artifacts: Artifacts) -> Export:
    """Read the current export. Raises `MissingArtifact` with the command that makes one, and `CourseError` if the model
    was trained again since."""
    run = artifacts.current(CHAPTER, STEP)
    check_training(run, artifacts)
    recorded = run.manifest["config"]
    encoder_id = recorded["encoder_id"]

    def vectors(name: str) -> Embeddings:
        return Embeddings(np.load(run.path / name, allow_pickle=False), encoder_id)

    def load_model() -> CatalogueReranker:
        model = CatalogueReranker.load(find_checkpoint(artifacts, recorded["checkpoint"])[1])
        if encoder_id_of(model) != encoder_id:
            raise CourseError(
                f"{recorded['checkpoint']}: other weights than those that the vectors were made with.\n"
                f"Export them again with: python -m {CHAPTER}.{STEP} {recorded['checkpoint']}"
            )
        return model

    fused, text, image = (vectors(f"product_emb_{modality}.npy") for modality in MODALITIES)
    return Export(
        run=run,
        products=pd.read_parquet(run.path / PRODUCTS),
        categories=pd.read_parquet(run.path / CATEGORIES),
        fused=fused,
        text=text,
        image=image,
        category_vectors=vectors(CATEGORY_VECTORS),
        category_index=DenseIndex.load(run.path / CATEGORY_INDEX),
        product_index=DenseIndex.load(run.path / PRODUCT_INDEX),
        load_model=load_model,
    )


def find_checkpoint(artifacts: Artifacts, checkpoint: str) -> tuple[str, Path, dict[str, RunFolder]]:
    """Return the name of a checkpoint to record (or its absolute path), its folder, and its training run as input if it
    belongs to the current training.

    Raises `CourseError` if there is no such folder or trained model, and `MissingArtifact` for a name if nothing is
    trained.
    """
    if "/" in checkpoint or os.sep in checkpoint:
        folder = Path(checkpoint).expanduser().resolve()
        if not folder.is_dir():
            raise CourseError(f"reindex: there is no folder {checkpoint}; check the path, or name a trained model.")
        return str(folder), folder, {}
    folders = model_folders(artifacts)
    if checkpoint not in folders:
        raise CourseError(
            f"reindex: no trained model {checkpoint!r}; there are: {', '.join(folders)}. A folder of the place where "
            f"you are is written ./{checkpoint}"
        )
    return checkpoint, folders[checkpoint], {"train": artifacts.current(CHAPTER, "train")}


def encoder_id_of(model: CatalogueReranker) -> str:
    """Return an id of the model's architecture and all its weights: models of one id give the same vectors."""
    # By content: a tower's folder may have been moved.
    towers = {"text": model.text_tower.digest, "vision": model.vision_tower.digest}
    digest = sha256(fingerprint(asdict(model.architecture) | towers).encode())
    for name, value in sorted(model.own_state().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return f"reranker-{model.architecture.dimension}-{digest.hexdigest()[:16]}"


def rank_all_categories(export: Export, vectors: Embeddings, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of all C categories for each of N products: paths, object [N, k], and cosines, float32 [N, k].

    Best first, equal scores in the order of the paths; k is cut to C. Exact, through the FAISS index. Raises
    `CourseError` for vectors of another model and a k below 1.
    """
    hits = export.category_index.search_vectors(vectors, k)
    k = min(hits.k, len(export.category_index))
    return hits.ids[:, :k], hits.scores[:, :k]


def likeliest(vectors: np.ndarray, categories: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the likeliest category of each product, int64 [N], and its probability, float32 [N].

    The probability is the softmax of scale * cosine over all categories. vectors: [N, D]. categories: [C, D]. scale:
    the model's factor of the cosines.
    """
    rows, probabilities = np.empty(len(vectors), dtype=np.int64), np.empty(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), ROWS_A_BLOCK):
        block = slice(start, start + ROWS_A_BLOCK)
        logits = scale * (vectors[block] @ categories.T)
        rows[block] = logits.argmax(axis=1)
        probabilities[block] = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    return rows, probabilities


def write_export(
    folder: Path, model: CatalogueReranker, data: RerankerData, chosen: pd.DataFrame, encoder_id: str
) -> None:
    """Embed the `chosen` rows of `data.products` and all of `data.paths`, and write the files of an export."""
    home = Path(data.catalogue.folder or ".")
    images = [None if pd.isna(image) else home / image for image in chosen["image"]]
    made = encode_products(model, chosen["text"].tolist(), images, desc="embedding products")
    if made.unusable:
        first = next(iter(made.unusable.values()))
        tell(f"reindex: {len(made.unusable):,} pictures could not be used, the first: {first}")
    for modality in MODALITIES:
        np.save(folder / f"product_emb_{modality}.npy", getattr(made, modality), allow_pickle=False)
    category_vectors = encode_categories(model, data.paths, desc="embedding categories")
    np.save(folder / CATEGORY_VECTORS, category_vectors, allow_pickle=False)

    ids, true_paths = chosen["product_id"].tolist(), _true_paths(data)
    best, probabilities = likeliest(made.fused, category_vectors, float(model.scale.detach()))
    products = pd.DataFrame(
        {
            "product_id": ids,
            "title": data.catalogue.products.set_index("product_id")["title"].loc[ids].to_numpy(),
            "category_path": true_paths.loc[ids].to_numpy(),
            "predicted_path": np.array(data.paths, dtype=object)[best],
            "predicted_score": probabilities,
            "split": chosen["split"].to_numpy(),
            "image": chosen["image"].to_numpy(),
            "has_text": made.has_text,
            "has_image": made.has_image,
        }
    )
    products.to_parquet(folder / PRODUCTS, index=False)
    category_table(data.paths, true_paths, data.products).to_parquet(folder / CATEGORIES, index=False)
    DenseIndex.build(Embeddings(category_vectors, encoder_id), data.paths).save(folder / CATEGORY_INDEX)
    DenseIndex.build(Embeddings(made.fused, encoder_id), ids).save(folder / PRODUCT_INDEX)


def category_table(paths: list[str], true_paths: pd.Series, products: pd.DataFrame) -> pd.DataFrame:
    """Return category_path, level, n_train and in_train of each path. true_paths: by product id."""
    of_train = products.loc[products["split"] == "train", "product_id"].map(true_paths).value_counts()
    counts = np.array([int(of_train.get(path, 0)) for path in paths], dtype=np.int64)
    depths = [len(split_path(path)) for path in paths]
    return pd.DataFrame({"category_path": paths, "level": depths, "n_train": counts, "in_train": counts > 0})


def _true_paths(data: RerankerData) -> pd.Series:
    """Return the true path by product id; if none of its candidates is true, the path in the catalogue."""
    given = data.catalogue.products.set_index("product_id")["category_path"]
    listed = data.products.set_index("product_id")["true_path"]
    return listed.where(listed.notna(), given.reindex(listed.index))


if __name__ == "__main__":
    run_step(main)
