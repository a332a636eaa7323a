"""Read the Shopify product taxonomy and its mapping to Google's: 10,535 mappings to 5,456 paths.

Source: Shopify/product-taxonomy, version 2025-08-unstable, and its integration file to the Google taxonomy of
2021-09-21; MIT. It is not a shop: a *product* is a Shopify category here. Its title is the whole path, its
`category_path` the Google path that it is mapped to, its id Shopify's own (``ap-2-1``). The 60 categories that Google
has no place for (services, add-ons, bundles) are left out. Of the Google taxonomy there are only the paths that
something is mapped to: 5,456, no two alike.

**Whole parents are held out.** Siblings are mapped alike: whoever has seen where "Bird Baths" and "Bird Perches" go
guesses the place of "Bird Toys". So the categories under one parent are one group (its name is the parent's id), and
the split is that of the parent's path, by a published hash: the first 8 hexadecimal digits of the SHA-256 of the path's
UTF-8 bytes, as an integer, modulo 100; below 20 is test, below 30 is val, the rest is train (`split_of_parent`). A
category without a parent (a department) is in the group of its own children.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from common.catalogue.catalogue import Catalogue
from common.catalogue.download import SHOPIFY_TAXONOMY, public_files
from common.category_path import join_path, leaf_of, parent_of, split_path
from common.errors import CourseError

CANDIDATES = 9
SAME_WORDS, SIBLINGS = 4, 4
"""At most so many wrong candidates whose name shares words with the product's, and so many siblings of the true one;
the others are drawn from all paths."""

_CATEGORIES, _MAPPINGS = (file.path for file in SHOPIFY_TAXONOMY.files)
_ID = re.compile(r"gid://shopify/TaxonomyCategory/(\S+)\s+: (.+)")


def find_files(*, seed: int = 0) -> dict[str, Path]:
    """Return the list of categories and the mappings."""
    return public_files(SHOPIFY_TAXONOMY)


def build_catalogue(folder: Path, *, seed: int = 0) -> Catalogue:
    """Build the catalogue: a product for each mapping, with the true Google path and up to eight others, shuffled.

    `seed` is that of the draws; those of one product do not depend on which others there are, unless the set of Google
    paths changes. Raises `CourseError` if the two files are of different versions of the taxonomy.
    """
    files = find_files(seed=seed)
    ids, mappings = read_categories(files[_CATEGORIES]), read_mappings(files[_MAPPINGS])
    parents = [parent_of(path) for path, _ in mappings]
    unknown = sorted({path for path, _ in mappings}.union(parents) - ids.keys())
    if unknown:
        raise CourseError(f"{files[_CATEGORIES]}: no category {unknown[0]!r}; get it in the version of {_MAPPINGS}")
    products = pd.DataFrame(
        {
            "product_id": [ids[path] for path, _ in mappings],
            "title": [path for path, _ in mappings],
            "category_path": [target for _, target in mappings],
            "group_id": [ids[parent] for parent in parents],
            "locale": "en",
            "split": [split_of_parent(parent) for parent in parents],
        }
    )
    return Catalogue.from_tables(
        "shopify_taxonomy",
        products=products,
        category_candidates=_draw_candidates(products, seed),
        files={"products": str(files[_MAPPINGS]), "category_candidates": str(files[_MAPPINGS])},
    )


def read_categories(path: Path) -> dict[str, str]:
    """Read ``categories.txt``: the id of each category path, in the order of the file."""
    found = [match.groups() for line in _lines(path) if (match := _ID.fullmatch(line.strip()))]
    if not found:
        raise CourseError(f"{path}: no line is 'gid://shopify/TaxonomyCategory/… : path'; get the file again")
    return {name: number for number, name in found}


def read_mappings(path: Path) -> list[tuple[str, str]]:
    """Read a file of mappings, lines ``→ from`` and ``⇒ to``: pairs (Shopify path, Google path) in its order.

    A path that is followed by no target has no pair. Raises `CourseError` for a target that follows no path, a path
    that is mapped twice, and a file without a mapping.
    """
    pairs: dict[str, str] = {}
    source = None
    for number, line in enumerate(_lines(path), start=1):
        mark, text = line[:1], line[1:].strip()
        if mark == "→":
            source = text
        elif mark == "⇒" and text:
            if not source or source in pairs:
                raise CourseError(f"{path}, line {number}: {text!r} is a second target, or one of nothing; correct it")
            pairs[source] = text
            source = None
    if not pairs:
        raise CourseError(f"{path}: no mapping (lines '→ from' and '⇒ to'); get the file again")
    return list(pairs.items())


def split_of_parent(parent: str) -> str:
    """Return the split of all categories under the path `parent`: see the module for the rule."""
    place = int(sha256(parent.encode("utf-8")).hexdigest()[:8], 16) % 100
    return "test" if place < 20 else "val" if place < 30 else "train"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path}: damaged ({error}); get the file again") from None


def _parent(path: str) -> str:
    return join_path(split_path(path)[:-1])


def _words(path: str) -> frozenset[str]:
    """Return the words of the path's last level, without plural endings."""
    return frozenset(word.removesuffix("s") for word in re.findall(r"\w+", leaf_of(path).casefold()))


def _draw_candidates(products: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Draw the table `category_candidates`: per product the true path and up to eight others, in random order."""
    targets = sorted(products["category_path"].unique())
    words = {path: _words(path) for path in targets}
    with_word, beside = defaultdict(list), defaultdict(list)
    for path in targets:
        beside[_parent(path)].append(path)
        for word in words[path]:
            with_word[word].append(path)
    rows = []
    for product_id, title, true in products[["product_id", "title", "category_path"]].itertuples(index=False):
        own = _words(title)
        shared = Counter(path for word in own for path in with_word[word] if path != true)
        named = sorted(shared, key=lambda path: (-shared[path] / len(own | words[path]), path))
        rng = np.random.default_rng([seed, int.from_bytes(sha256(product_id.encode()).digest()[:8])])
        siblings = [path for path in rng.permutation(beside[_parent(true)]) if path != true]
        anywhere = [targets[at] for at in rng.permutation(len(targets))[: 2 * CANDIDATES] if targets[at] != true]
        others = dict.fromkeys([*named[:SAME_WORDS], *siblings[:SIBLINGS], *anywhere])
        listed = rng.permutation([true, *list(others)[: CANDIDATES - 1]])
        rows += [(product_id, path, path == true, position) for position, path in enumerate(listed)]
    return pd.DataFrame(rows, columns=["product_id", "category_path", "is_true", "position"])
