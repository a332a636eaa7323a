"""Find the files of the public sources: in the data home, else downloaded and checked against their SHA-256.

The checksums of Chorus's products are those of the files that this adapter was written for; those of ESCI are published
in the project's own repository (as Git LFS object ids). The downloads themselves were tested with a stand-in for pooch
only, for want of a network.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from common.errors import CourseError
from common.settings import artifacts_root, data_home


@dataclass(frozen=True)
class PublicFile:
    """Name a file below the source's folder. Without `url` and `sha256` it must be put there by hand."""

    path: str
    url: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class PublicSource:
    """Describe a source: its `folder` below the data home, the project's `page`, its `licence`, its `files`."""

    folder: str
    page: str
    licence: str
    files: tuple[PublicFile, ...]


_CHORUS = "https://raw.githubusercontent.com/querqy/chorus/main/data-encoder/ecommerce/vectors/data"
_ESCI = (
    "https://github.com/amazon-science/esci-data/raw/7e0e3073f5ca36c0b5ff79e847cf99a74597645d/shopping_queries_dataset"
)

_CHORUS_PRODUCTS = {
    "1.json.zip": "15b622a11a6267aa0c450919a84b0fc41d7748db552f4c9c0e04167bbc7c38cb",
    "2.json.zip": "17d95160289440d03ca50af65c1363d9edd1d5e82678ddb874b27aeac1f87c33",
    "3.json.zip": "d4d088908fa648da7e79682872a77771ba42f065b253c4fb0f333e630d94f45a",
    "4.json.zip": "533329e5173eac349ce61512fc86a352d5f6651e31694e03aa6e8428cbeaf3c0",
}
CHORUS_ICECAT = PublicSource(
    "chorus-icecat",
    "https://github.com/querqy/chorus (the CSV file is in its folder katas)",
    "products: Open Content Licence of Open Icecat",
    (
        *(PublicFile(f"products/{name}", f"{_CHORUS}/{name}", sha256) for name, sha256 in _CHORUS_PRODUCTS.items()),
        PublicFile("Broad_Query_Set_rated.csv"),  # judged again from time to time, so it has no checksum
    ),
)

ESCI = PublicSource(
    "esci",
    "https://github.com/amazon-science/esci-data",
    "Apache-2.0",
    (
        PublicFile(
            "shopping_queries_dataset_examples.parquet",
            f"{_ESCI}/shopping_queries_dataset_examples.parquet",
            "4a735b693b4a424a6fc67f5be6e4c811495c488bbf66d02a602d308b2744263a",
        ),
        PublicFile(
            "shopping_queries_dataset_products.parquet",
            f"{_ESCI}/shopping_queries_dataset_products.parquet",
            "25124442d064d64b26f74082d6fa09438d679efc0c183cf28d19064a2b65a265",
        ),
    ),
)

WANDS = PublicSource(
    "wands",
    "https://github.com/wayfair/WANDS (its folder dataset)",
    "MIT",
    (PublicFile("query.csv"), PublicFile("product.csv"), PublicFile("label.csv")),
)

ABO = PublicSource(
    "abo",
    "https://amazon-berkeley-objects.s3.amazonaws.com (unpack abo-listings.tar and abo-images-small.tar)",
    "CC BY 4.0",
    # The first of 16 listing files stands for all: the archive holds them together.
    (PublicFile("listings/metadata/listings_0.json.gz"), PublicFile("images/metadata/images.csv.gz")),
)

ABO_TEXT = PublicSource(
    "abo-mini",
    "a preparation of https://amazon-berkeley-objects.s3.amazonaws.com as text tables",
    "CC BY 4.0",
    (PublicFile("train.parquet"), PublicFile("val.parquet")),
)

GROCERY_STORE = PublicSource(
    "grocery-store",
    "https://github.com/marcusklasson/GroceryStoreDataset (its folder dataset)",
    "MIT",
    (PublicFile("dataset/classes.csv"), PublicFile("dataset/train.txt"), PublicFile("dataset/val.txt")),
)

LUMA = PublicSource(
    "magento-luma",
    "https://github.com/magento/magento2-sample-data (its folders app and pub)",
    "OSL-3.0",
    (PublicFile("app/code/Magento/ConfigurableSampleData/fixtures/products.csv"),),
)

FASHION_PRODUCTS = PublicSource(
    "fashion-products",
    "https://www.kaggle.com/datasets/paramaggarwal/fashion-product-images-small (unpack the archive)",
    "as its page on Kaggle says",
    (PublicFile("styles.csv"),),
)

SHOPIFY_TAXONOMY = PublicSource(
    "shopify-taxonomy",
    "https://github.com/Shopify/product-taxonomy (version 2025-08: dist/en/categories.txt, and the mapping in "
    "dist/en/integrations/google)",
    "MIT",
    (PublicFile("categories.txt"), PublicFile("shopify_2025-08_to_google_2021-09-21.txt")),
)


def public_files(source: PublicSource) -> dict[str, Path]:
    """Return the path of each file of `source` by its name in `source.files`, downloading missing ones where possible.

    Downloads go below the artifacts (a data home may be read-only). Raises `CourseError`, saying what to put where, if
    a file cannot be had.
    """
    home = data_home()
    folders = [artifacts_root() / "downloads" / source.folder]
    if home is not None:
        folders.insert(0, home / source.folder)
    found = {f.path: next((d / f.path for d in folders if (d / f.path).is_file()), None) for f in source.files}
    missing = [file for file in source.files if found[file.path] is None]
    by_hand = [file for file in missing if file.url is None]
    if by_hand:
        raise _cannot_find(source, by_hand, folders[0], "")
    for file in missing:
        found[file.path] = _download(source, file, folders[-1])
    return {name: path for name, path in found.items() if path is not None}


def _download(source: PublicSource, file: PublicFile, folder: Path) -> Path:
    import pooch

    target = folder / file.path
    print(f"downloading {file.url} (licence: {source.licence})", file=sys.stderr)
    try:
        pooch.retrieve(
            url=file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=target.name,
            path=target.parent,
            progressbar=sys.stderr.isatty(),
        )
    except Exception as error:  # the network, the disk and the checksum raise errors of many kinds
        raise _cannot_find(source, [file], folder, f" (download failed: {str(error)[:200]})") from None
    return target


def _cannot_find(source: PublicSource, files: list[PublicFile], folder: Path, why: str) -> CourseError:
    names = ", ".join(file.path for file in files)
    where = folder if data_home() is not None else f"{source.folder}/ below the folder that COURSE_DATA_HOME names"
    return CourseError(f"{source.folder}: missing {names}{why}; get it from {source.page} and put it in {where}")
