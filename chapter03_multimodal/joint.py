"""Put text and picture into one vector: chapter 2's towers and CLIP, concatenated and searched as one index.

The towers know how shoppers speak of products, CLIP knows what can be seen. A product's vector is its text's vector
followed by its picture's vector, scaled so that the inner product with a query is the weighted sum of both cosines:

    (1 - share) * cos(query, text) + share * cos(query, picture)

One exact index then gives the same ranking as two searches whose scores are added, and everything that works on vectors
(HNSW, feedback) works on both at once.
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
    """Encodes queries with both encoders; the `encoder` of a `DenseSearcher` over the vectors of `joint_towers`.

    towers: chapter 2's. clip: the CLIP whose pictures are indexed. share: of the pictures, from 0 to 1. encoder_id
    covers both and the share, so that an index of another pair or another share refuses its queries.
    """

    def __init__(self, towers: PairedEncoder, clip: ClipEncoder, share: float) -> None:
        if not 0 <= share <= 1:
            raise CourseError(f"the pictures' share is {share}; it lies between 0 and 1.")
        self.towers, self.clip, self.share = towers, clip, share
        self.dimension = towers.dimension + clip.dimension
        self.encoder_id = f"joint-{fingerprint([towers.encoder_id, clip.encoder_id, share])}"

    def encode(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings:
        """Encode N queries: vectors [N, E + D] of length 1; see `common.encoders.TextEncoder.encode`."""
        asked = self.towers.encode(texts, desc=desc).vectors, self.clip.encode(texts, desc=desc).vectors
        return Embeddings(side_by_side(*asked, self.share), self.encoder_id)


def side_by_side(texts: np.ndarray, pictures: np.ndarray, share: float) -> np.ndarray:
    """Concatenate sqrt(1 - share) * text and sqrt(share) * picture: float32 [N, E + D], of length 1 if both parts are.

    texts: [N, E], pictures: [N, D]. In the inner product of a query with a product the square roots become the weights.
    """
    parts = [np.sqrt(1 - share) * texts, np.sqrt(share) * pictures]
    return np.concatenate(parts, axis=1).astype(np.float32)


def pictures_of_all(product_ids: Sequence[str], pictures: PictureIndices) -> np.ndarray:
    """Return the picture vector of every product, float32 [N, D]; a product without one gets the mean of all pictures.

    With zeros, a product without a picture would rank behind all others for every query. The mean says as little, and
    on average neither gains nor loses.
    """
    place = {product_id: row for row, product_id in enumerate(pictures.product_ids)}
    mean = pictures.embeddings.vectors.mean(axis=0)
    rows = [place.get(product_id) for product_id in product_ids]
    return np.stack([mean if row is None else pictures.embeddings.vectors[row] for row in rows])


def joint_towers(towers: Towers, pictures: PictureIndices, share: float) -> tuple[JointEncoder, Embeddings]:
    """Return the encoder of joint queries, and the joint vectors [N, E + D] of the products of `towers`, in order."""
    encoder = JointEncoder(towers.encoder, pictures.encoder, share)
    seen = pictures_of_all(towers.catalogue.products["product_id"].tolist(), pictures)
    return encoder, Embeddings(side_by_side(towers.embeddings.vectors, seen, share), encoder.encoder_id)
