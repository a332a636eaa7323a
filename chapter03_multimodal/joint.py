"""Text and picture in one vector: chapter 2's towers and CLIP side by side, searched as one index.

Each encoder is asked what it knows best: the towers how shoppers speak of products, CLIP what can be seen. A product's
vector is its text's vector and its picture's vector, one after the other, scaled so that the inner product with a query
is the weighted sum of both cosines,

    (1 - share) * cos(query, text) + share * cos(query, picture)

so that one exact index gives the same ranking as two searches whose scores are added, and everything that works on
vectors (HNSW, feedback) works on both at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chapter02_two_tower.reindex import PairedEncoder, Towers
from chapter03_multimodal.encoder import ClipEncoder
from chapter03_multimodal.reindex import PictureIndices
from common.artifacts import fingerprint
from common.encoders import Embeddings
from common.errors import CourseError


class JointEncoder:
    """Asks with both query encoders: the `encoder` of a `DenseSearcher` over `joint_vectors`.

    towers: chapter 2's. clip: the CLIP whose pictures are indexed. share: of the pictures, from 0 to 1. encoder_id
    names both and the share, so that an index of another pair, or another share, refuses its queries.
    """

    def __init__(self, towers: PairedEncoder, clip: ClipEncoder, share: float) -> None:
        if not 0 <= share <= 1:
            raise CourseError(f"the pictures' share is {share}; it lies between 0 and 1.")
        self.towers, self.clip, self.share = towers, clip, share
        self.dimension = towers.dimension + clip.dimension
        self.encoder_id = f"joint-{fingerprint([towers.encoder_id, clip.encoder_id, share])}"

    def encode(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings:
        """The vectors of N queries, [N, E + D], of length 1; see `common.encoders.TextEncoder.encode`."""
        asked = self.towers.encode(texts, desc=desc).vectors, self.clip.encode(texts, desc=desc).vectors
        return Embeddings(side_by_side(*asked, self.share), self.encoder_id)


def side_by_side(texts: np.ndarray, pictures: np.ndarray, share: float) -> np.ndarray:
    """[sqrt(1 - share) * text, sqrt(share) * picture], float32 [N, E + D]; of length 1 if both parts are.

    texts: [N, E], pictures: [N, D]. The square roots meet in the inner product of a query with a product.
    """
    parts = [np.sqrt(1 - share) * texts, np.sqrt(share) * pictures]
    return np.concatenate(parts, axis=1).astype(np.float32)


def pictures_of_all(product_ids: Sequence[str], pictures: PictureIndices) -> np.ndarray:
    """The picture vector of every product, float32 [N, D]; a product without one gets the mean of all pictures.

    Zeros would put it behind every product that has a picture, whatever is asked; the mean says as little, and costs
    or gains nothing on average.
    """
    place = {product_id: row for row, product_id in enumerate(pictures.product_ids)}
    mean = pictures.embeddings.vectors.mean(axis=0)
    rows = [place.get(product_id) for product_id in product_ids]
    return np.stack([mean if row is None else pictures.embeddings.vectors[row] for row in rows])


def joint_towers(towers: Towers, pictures: PictureIndices, share: float) -> tuple[JointEncoder, Embeddings]:
    """The encoder of joint queries, and the joint vectors [N, E + D] of the products of `towers`, in their order."""
    encoder = JointEncoder(towers.encoder, pictures.encoder, share)
    seen = pictures_of_all(towers.catalogue.products["product_id"].tolist(), pictures)
    return encoder, Embeddings(side_by_side(towers.embeddings.vectors, seen, share), encoder.encoder_id)
