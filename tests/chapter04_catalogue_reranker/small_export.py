"""Forty-eight products with everything that may be missing, a tiny model, and what passes for its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from chapter04_catalogue_reranker.architecture import Architecture
from chapter04_catalogue_reranker.model import CatalogueReranker
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from tests.chapter04_catalogue_reranker.towers_fixtures import small, tiny_vision

CHAPTER = "chapter04_catalogue_reranker"
TEXTLESS, BARE, BROKEN, UNKNOWN = range(4)  # rows of products: no text, no picture, a destroyed one, no true candidate


def small_shop(shop: Catalogue, folder: Path) -> Catalogue:
    """The first 48 products of `shop` that have a text and a picture, with the faults that the rows' names say; the
    picture is destroyed by `destroy`."""
    pictured = shop.products["product_id"].isin(shop.images["product_id"]) & shop.products["title"].notna()
    products = shop.products[pictured].head(48).reset_index(drop=True)
    ids = products["product_id"]
    products.loc[TEXTLESS, ["title", "description"]] = np.nan
    images = shop.images[shop.images["product_id"].isin(ids) & (shop.images["product_id"] != ids[BARE])]
    paths = [str(shop.folder / path) for path in images["path"]]
    paths[int(np.flatnonzero(images["product_id"] == ids[BROKEN])[0])] = str(folder / "broken.jpg")
    Path(folder, "broken.jpg").write_bytes(shop.image_path(ids[BROKEN]).read_bytes())
    candidates = shop.category_candidates[shop.category_candidates["product_id"].isin(ids)]
    is_true = candidates["is_true"] & (candidates["product_id"] != ids[UNKNOWN])
    made = Catalogue.from_tables(
        "small",
        products=products,
        images=images.assign(path=paths),
        category_candidates=candidates.assign(is_true=is_true),
        verify_images=False,
    )
    return made.save(folder / "catalogue")


def destroy(folder: Path) -> None:
    """Destroy the picture of the product `BROKEN`, after it was catalogued."""
    Path(folder, "broken.jpg").write_bytes(b"no picture")


def tiny_architecture(text_encoder: Path, folder: Path) -> Architecture:
    """Two random towers, read into 16 dimensions."""
    return small(str(text_encoder), tiny_vision("vit", folder))


def tiny_model(architecture: Architecture, seed: int) -> CatalogueReranker:
    """Untrained, but for a gate that chooses."""
    model = CatalogueReranker.build(architecture, seed=seed)
    torch.manual_seed(seed)
    nn.init.normal_(model.gate.weight, std=3)
    return model.eval()


def pretend_training(artifacts: Artifacts, architecture: Architecture, seed: int = 0) -> None:
    """A run of the training step with the models "best" and "stage_1"."""
    with artifacts.new_run(CHAPTER, "train", config={"seed": seed}) as folder:
        for number, name in enumerate(("best", "checkpoint_1")):
            tiny_model(architecture, 10 * seed + number).save(folder / name)
