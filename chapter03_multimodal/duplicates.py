"""Find pictures that are in two splits, and move products until none is.

A split by product separates the rows, not the pictures. Shops reuse one photo for ten listings, and a model answers
from memory for a test picture that it was trained on. In a public preparation of such a data set a fifth of the
validation pictures were training pictures. So there are three steps before anything is trained:

1. `hash_pictures`: a digest of the pixels (exact copies), a perceptual hash (what stays the same when a picture is
   saved again, shrunk, or cut by a hair), and a small colour signature.
2. `near_pairs`: pictures whose hashes differ in few bits *and* whose colours agree. The perceptual hash is taken of the
   grey picture: the red and the blue version of one shirt have the same hash and are not the same picture.
3. `move_together`: products whose pictures are nearly the same, and the variants of one product, go to one split.

`audit` does all three and reports what it found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.catalogue.contract import SPLITS
from common.catalogue.images import MAX_THREADS, open_image, pixel_digest
from common.errors import CourseError
from common.progress import progress

HASH_SIDE = 16
"""The hash has 16 x 16 = 256 bits. The usual 64 are too few for a shop, where all shirts are photographed alike: among
725 garments on models, 35 pairs of different products were within 6 of 64 bits, and none within 32 of 256."""

HASH_BITS = HASH_SIDE**2
THRESHOLD = 28
"""Bits of 256. Measured on drawn and real product pictures: shrinking to 64 pixels changes at most 6 bits, saving as
JPEG of quality 30 at most 18, brightening by 15% usually 3 to 15, cutting 1% off every side about 17 (at most 30).
Cutting 2% changes 35 and is missed: from 30 bits on, different products of one shape are among the pairs."""

COLOUR_SIDE = 4
COLOUR_TOLERANCE = 32
"""Of 255, in the cell of 4 x 4 that differs most. Brightening by 15% changes at most 33, cutting 1% at most 9."""

_BLOCK_PAIRS = 2_000_000
_DTYPES = {"a_path": "str", "b_path": "str", "a_id": "str", "b_id": "str", "distance": "int64", "exact": "bool"}
_DTYPES |= {"a_split": "str", "b_split": "str"}


@dataclass(frozen=True)
class PictureHashes:
    """Hashes of M usable pictures.

    pixels: [M], digests (text). hashes: uint64 [M, 4], 256 bits. colours: int16 [M, 48], mean red, green, blue of 4 x 4
    cells. rows: int64 [M], their positions in the input. unusable: the reasons of the others, by position.
    """

    pixels: np.ndarray
    hashes: np.ndarray
    colours: np.ndarray
    rows: np.ndarray
    unusable: dict[int, str]


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    duplicates: pairs of pictures that were in two splits, as ``a_path, b_path, a_id, b_id, distance`` (bits), ``exact``
    (the same pixels), ``a_split, b_split`` (before the moves; a's is the earlier one). moved: ``product_id, from_split,
    to_split``. splits: [N], the new split of each product. hashes: of the pictures, in the order of the images.
    """

    duplicates: pd.DataFrame
    moved: pd.DataFrame
    splits: pd.Series
    hashes: PictureHashes


def audit(
    products: pd.DataFrame,
    images: pd.DataFrame,
    *,
    folder: Path | None = None,
    threshold: int = THRESHOLD,
    colour_tolerance: int = COLOUR_TOLERANCE,
) -> Audit:
    """Find the pictures that are in two splits, and move whole groups of products until none is.

    products: ``product_id, group_id`` (may be missing), ``split`` (a value in every row). images: ``product_id, path``,
    paths below `folder` or absolute. threshold, colour_tolerance: see `near_pairs`.

    A picture that cannot be read is left out. Raises CourseError for a product without a split.
    """
    if not products["split"].isin(SPLITS).all():
        raise CourseError(f"the audit needs every product in a split ({', '.join(SPLITS)}); fill the column first")
    hashes = hash_pictures([Path(folder or ".", path) for path in images["path"]])
    pairs = near_pairs(hashes, threshold, colour_tolerance)
    shown = images.iloc[hashes.rows].reset_index(drop=True)
    place = pd.Series(np.arange(len(products)), index=products["product_id"])
    owner = shown["product_id"].map(place).to_numpy(dtype=np.int64)
    splits = move_together(products, owner[pairs["a"]], owner[pairs["b"]])
    changed = splits != products["split"]
    moved = pd.DataFrame(
        {
            "product_id": products["product_id"][changed],
            "from_split": products["split"][changed],
            "to_split": splits[changed],
        }
    ).reset_index(drop=True)
    shown = shown.assign(split=products["split"].to_numpy()[owner])
    return Audit(_across_splits(pairs, shown), moved.astype("str"), splits, hashes)


def hash_pictures(pictures: Sequence[Path | str | Image.Image]) -> PictureHashes:
    """Compute digest, perceptual hash and colours of pictures, in threads, with a progress bar.

    A picture that cannot be used is left out with its reason; none raises an error.

    The perceptual hash (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010): shrink
    the grey picture, take its cosine transform, keep the 16 x 16 lowest frequencies; a bit says whether one is above
    their median.
    """
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        work = progress(pool.map(_hash_or_reason, pictures), total=len(pictures), desc="hashing pictures", leave=False)
        results = list(work)
    unusable = {at: result for at, result in enumerate(results) if isinstance(result, str)}
    usable = [result for result in results if not isinstance(result, str)]
    return PictureHashes(
        pixels=np.array([pixels for pixels, _, _ in usable], dtype="U32"),
        hashes=np.array([bits for _, bits, _ in usable], dtype=np.uint64).reshape(-1, HASH_BITS // 64),
        colours=np.array([colours for _, _, colours in usable], dtype=np.int16).reshape(-1, 3 * COLOUR_SIDE**2),
        rows=np.array([at for at in range(len(results)) if at not in unusable], dtype=np.int64),
        unusable=unusable,
    )


def _hash_or_reason(picture: Path | str | Image.Image) -> tuple[str, np.ndarray, np.ndarray] | str:
    try:
        image = picture.convert("RGB") if isinstance(picture, Image.Image) else open_image(picture)
    except (CourseError, OSError) as error:
        return str(error)
    bits = np.packbits(imagehash.phash(image, HASH_SIDE).hash).view(np.uint64)
    cells = np.asarray(image.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))
    return pixel_digest(image), bits, cells.astype(np.int16).ravel()


def near_pairs(
    pictures: PictureHashes, threshold: int = THRESHOLD, colour_tolerance: int = COLOUR_TOLERANCE
) -> pd.DataFrame:
    """Find all pairs of pictures that look alike: ``a < b`` (positions in `pictures`), ``distance``, ``exact``.

    distance: bits that differ. exact: whether the pixels are the same.

    threshold: bits that may differ, of 256. colour_tolerance: how far a cell of 4 x 4 may be off, of 255, as the mean
    over red, green and blue. Raises CourseError for a value out of range.

    All pairs are compared, in blocks, so none is missed. Exclusive or and a bit count are so cheap that the 200 million
    pairs of 20,000 pictures take a few seconds.
    """
    if not 0 <= threshold < HASH_BITS // 2:
        raise CourseError(
            f"threshold is {threshold} bits; choose 0 to {HASH_BITS // 2 - 1} (of {HASH_BITS}; unrelated pictures "
            f"differ in about {HASH_BITS // 2})"
        )
    if not 0 <= colour_tolerance <= 255:
        raise CourseError(f"colour_tolerance is {colour_tolerance}; choose 0 to 255")
    count = len(pictures.hashes)
    words = np.ascontiguousarray(pictures.hashes.T)
    step = max(1, _BLOCK_PAIRS // max(count, 1))
    found = [np.empty((0, 3), dtype=np.int64)]
    for start in range(0, count, step):
        block = sum(np.bitwise_count(w[start : start + step, None] ^ w[None, start:]).astype(np.int16) for w in words)
        a, b = np.nonzero(block <= threshold)
        a, b, distance = a[a < b] + start, b[a < b] + start, block[a[a < b], b[a < b]]
        off = np.abs(pictures.colours[a] - pictures.colours[b]).reshape(len(a), COLOUR_SIDE**2, 3).mean(2).max(1)
        found.append(np.stack([a, b, distance], axis=1)[off <= colour_tolerance])
    pairs = pd.DataFrame(np.concatenate(found), columns=["a", "b", "distance"])
    return pairs.assign(exact=pictures.pixels[pairs["a"]] == pictures.pixels[pairs["b"]])


def move_together(products: pd.DataFrame, a: np.ndarray, b: np.ndarray) -> pd.Series:
    """Return the split of each product after everything that belongs together was moved into one split.

    Products ``a[i]`` and ``b[i]`` (positions) share a picture; rows of one ``group_id`` are variants of one product. A
    set that belongs together, directly or through others, goes to train if any of it is there, else to val if any of it
    is there. So test only loses products, its pictures stay unseen, and no training picture is given up. Moving twice
    changes nothing more.
    """
    groups, names = pd.factorize(products["group_id"].astype(object).where(products["group_id"].notna()))
    grouped = np.flatnonzero(groups >= 0)
    size = len(products) + len(names)
    starts = np.concatenate([a, grouped])
    ends = np.concatenate([b, groups[grouped] + len(products)])
    edges = coo_array((np.ones(len(starts), dtype=bool), (starts, ends)), shape=(size, size))
    part = connected_components(edges, directed=False)[1][: len(products)]
    rank = products["split"].map(SPLITS.index)
    earliest = rank.groupby(part).transform("min")
    return earliest.map(dict(enumerate(SPLITS))).astype("str").rename("split")


def _across_splits(pairs: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs whose pictures are in two splits, nearest first, each with the earlier split as a."""
    rank = shown["split"].map(SPLITS.index).to_numpy()
    pairs = pairs[rank[pairs["a"]] != rank[pairs["b"]]].sort_values("distance", kind="stable")
    swapped = rank[pairs["a"]] > rank[pairs["b"]]
    sides = {"a": np.where(swapped, pairs["b"], pairs["a"]), "b": np.where(swapped, pairs["a"], pairs["b"])}
    columns = {"path": "path", "id": "product_id", "split": "split"}
    table = {
        f"{side}_{name}": shown[column].to_numpy()[at] for side, at in sides.items() for name, column in columns.items()
    }
    table |= {"distance": pairs["distance"].to_numpy(), "exact": pairs["exact"].to_numpy()}
    return pd.DataFrame(table)[list(_DTYPES)].astype(_DTYPES)
