"""Search the shop with a picture: what looks like it, and which category it shows.

shop = load_picture_search(artifacts, catalogue)
found = search_picture(shop, "mug.jpg", 8)
found.table         # rank, score, product_id, title, brand, category_path
found.categories    # [(category path, probability), ...]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image

from chapter03_multimodal.categories.classifier import load_classifier, load_encoder_of
from chapter03_multimodal.encoder import Picture
from chapter03_multimodal.reindex import PictureIndices, PictureSearcher, load_pictures
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.catalogue.images import UnusableImage, open_image
from common.errors import CourseError

TOP_CATEGORIES = 3
COLUMNS = ("rank", "score", "product_id", "title", "brand", "category_path")

Classify = Callable[[Sequence[Image.Image]], list[list[tuple[str, float]]]]
"""From pictures to the likeliest categories of each with their probabilities, the likeliest first."""


@dataclass(frozen=True)
class PictureSearch:
    """A catalogue, the searcher of its pictures, and the classifier of what a picture shows."""

    catalogue: Catalogue
    searcher: PictureSearcher
    classify: Classify


@dataclass(frozen=True)
class PictureAnswer:
    """table: `COLUMNS` of the products found, best first; missing texts are empty. categories: the picture's likeliest
    category paths with their probabilities."""

    table: pd.DataFrame
    categories: list[tuple[str, float]]


def load_picture_search(artifacts: Artifacts, catalogue: Catalogue) -> PictureSearch:
    """Load the pictures' index and the classifier; raises `MissingArtifact` with the command that makes them."""
    indices = load_pictures(artifacts)
    return PictureSearch(catalogue, indices.by_picture, load_classify(artifacts, indices))


def load_classify(artifacts: Artifacts, indices: PictureIndices | None = None) -> Classify:
    """Load the category classifier and its encoder, which is that of `indices` if both are of the same CLIP.

    Raises `MissingArtifact` with the command that trains a classifier.
    """
    classifier = load_classifier(artifacts)
    shared = indices is not None and indices.encoder.encoder_id == classifier.encoder_id
    encoder = indices.encoder if shared else load_encoder_of(classifier, artifacts)
    return lambda pictures: classifier.predict(encoder.encode_images(pictures).vectors, TOP_CATEGORIES)


def search_picture(
    shop: PictureSearch, picture: Picture | None, k: int = 12, *, product_id: str | None = None
) -> PictureAnswer:
    """Find the k products that look most like a picture, and its three likeliest categories.

    picture: a file, or a picture in memory; None: that of the product `product_id`. product_id: a product to leave
    out, since every product looks like itself. Raises CourseError without a picture, for one that cannot be used, an
    unknown product and a k below 1.
    """
    products = shop.catalogue.products.set_index("product_id")
    if product_id is not None and product_id not in products.index:
        raise CourseError(f"There is no product {product_id!r} in {shop.catalogue.source}; check the id.")
    if picture is None and product_id is not None:
        picture = shop.catalogue.image_path(product_id)
    seen = _opened(picture)
    hits = shop.searcher.search([seen], k, exclude=None if product_id is None else [{product_id}]).row(0)
    ids = [one for one, _ in hits]
    facts = products.loc[ids, ["title", "brand", "category_path"]].fillna("").reset_index()
    scores = pd.Series([float(score) for _, score in hits], dtype=float)
    table = facts.assign(rank=range(1, len(ids) + 1), score=scores)[list(COLUMNS)]
    return PictureAnswer(table, shop.classify([seen])[0])


def _opened(picture: Picture | None) -> Image.Image:
    """Check a picture, and decode it once for search and classifier."""
    if picture is None:
        raise CourseError("There is no picture; give one, or the id of a product that has one.")
    try:
        return open_image(picture)
    except UnusableImage as error:
        raise CourseError(f"The picture cannot be used: {error.reason}. Give another one.") from None
