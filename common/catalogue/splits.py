"""Split groups of products and wordings of queries without leaks, each by a hash of its own name.

A key's split depends on the key, the fractions and the seed only, so adding or removing others moves nothing. In return
the fractions hold on average, not exactly: of 100 keys, 0.25 gives about 25 +- 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from itertools import accumulate

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.catalogue.contract import SPLITS
from common.catalogue.text import normalise_query
from common.errors import CourseError

PRODUCT_FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
QUERY_FRACTIONS = {"train": 0.6, "val": 0.15, "test": 0.25}


def split_by_group(
    products: pd.DataFrame, fractions: Mapping[str, float] = PRODUCT_FRACTIONS, seed: int = 0
) -> pd.Series:
    """Return the split of each row of `products` (same index); rows with one `group_id` share it. A row without a group
    is a group of its own. Raises `CourseError` if the fractions are not of train, val, test or do not sum to 1."""
    keys = products["product_id"]
    if "group_id" in products.columns:
        keys = products["group_id"].fillna(keys)
    return _split_keys(keys, fractions, seed)


def carve_validation(products: pd.DataFrame, split: pd.Series, share: float = 0.1, seed: int = 0) -> pd.Series:
    """Return `split` with `share` of the training groups of `products` moved to val. For a source that published train
    and test only; every other split stays."""
    drawn = split_by_group(products, {"train": 1 - share, "val": share}, seed)
    return drawn.where(split == "train", split)


def split_queries(queries: pd.DataFrame, fractions: Mapping[str, float] = QUERY_FRACTIONS, seed: int = 0) -> pd.Series:
    """Return the split of each row of `queries` (same index); the same words (`normalise_query`) share it."""
    return _split_keys(queries["query"].map(normalise_query), fractions, seed)


def linked_groups(first: pd.Series, second: pd.Series) -> pd.Series:
    """Number the groups of rows that share a value of `first` or of `second`, directly or through other rows.

    They are the connected components of the graph whose nodes are the values and whose edges are the rows.
    """
    (one, one_names), (two, two_names) = pd.factorize(first), pd.factorize(second)
    size = len(one_names) + len(two_names)
    edges = coo_array((np.ones(len(one)), (one, two + len(one_names))), shape=(size, size))
    return pd.Series(connected_components(edges, directed=False)[1][one], index=first.index)


def _split_keys(keys: pd.Series, fractions: Mapping[str, float], seed: int) -> pd.Series:
    unknown = [name for name in fractions if name not in SPLITS]
    if unknown or abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) < 0:
        raise CourseError(f"fractions {dict(fractions)}: give shares of train, val and test that sum to 1")
    places = {key: _place(str(key), fractions, seed) for key in keys.unique()}
    return keys.map(places).astype("str").rename("split")


def _place(key: str, fractions: Mapping[str, float], seed: int) -> str:
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, salt=seed.to_bytes(8, "little", signed=True))
    position = int.from_bytes(digest.digest(), "little") / 2**64
    for name, end in zip(fractions, accumulate(fractions.values()), strict=True):
        if position < end:
            return name
    return next(name for name in reversed(list(fractions)) if fractions[name] > 0)
