"""Make outfits, compatible pairs, category candidates and captions, from which later chapters learn.

Products go together when their colours share a harmony and at most one of them is patterned. A photo shows both; the
text often does not. Negative pairs keep the two categories and break the rule, so that categories alone tell nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from common.category_path import parent_of, split_path
from common.pocket_shop.facts import COLOUR_NAMES, MATERIAL_NAMES, PATTERN_NAMES, PLAIN
from common.pocket_shop.vocabulary import PATTERNS, leaves

HARMONIES: dict[str, tuple[str, ...]] = {
    "earth": ("beige", "brown", "orange", "yellow", "red", "gold"),
    "cool": ("white", "grey", "silver", "blue", "turquoise", "green"),
    "night": ("black", "purple", "pink"),
}
_HARMONY_OF_COLOUR = np.array(
    [next(i for i, colours in enumerate(HARMONIES.values()) if name in colours) for name in COLOUR_NAMES]
)
_LARGEST_OUTFIT = 4
CANDIDATES = 9


def go_together(facts: pd.DataFrame, a: int, b: int) -> bool:
    """Say whether the products in rows `a` and `b` of `facts` share a colour harmony and are not both patterned."""
    harmony = _HARMONY_OF_COLOUR[facts["colour"].to_numpy()[[a, b]]]
    patterned = facts["pattern"].to_numpy()[[a, b]] != PLAIN
    return bool(harmony[0] == harmony[1] and not patterned.all())


def draw_pairs(facts: pd.DataFrame, splits: np.ndarray, outfits: int, *, seed: int) -> pd.DataFrame:
    """Draw `outfits` outfits, each within one product split, and as many broken pairs as compatible ones.

    Returns `a, b` (row numbers in `facts`), `label`, `outfit_id`, `split`.
    """
    rng = np.random.default_rng(seed)
    rows_of = {
        (leaf, split): np.flatnonzero((facts["leaf"].to_numpy() == leaf) & (splits == split))
        for leaf in range(len(leaves()))
        for split in np.unique(splits)
    }
    code = {leaf.key: number for number, leaf in enumerate(leaves())}
    rows, made = [], 0
    for anchor in itertools.islice(itertools.cycle(rng.permutation(len(facts))), 20 * outfits):
        if made == outfits:
            break
        leaf, split = leaves()[facts["leaf"].iat[anchor]], splits[anchor]
        outfit = [anchor]
        for key in rng.permutation(leaf.complements)[: _LARGEST_OUTFIT - 1]:
            fitting = [r for r in rng.permutation(rows_of[code[key], split])[:12] if _fits(facts, outfit, r)]
            outfit += fitting[:1]
        if len(outfit) < 2:
            continue
        made += 1
        for a, b in itertools.combinations(outfit, 2):
            rows.append((a, b, 1, f"o{made:05d}", split))
            same_leaf = rng.permutation(rows_of[facts["leaf"].iat[b], split])
            clash = next((r for r in same_leaf if not go_together(facts, a, r)), None)
            if clash is not None:
                rows.append((a, clash, 0, f"o{made:05d}", split))
    pairs = pd.DataFrame(rows, columns=["a", "b", "label", "outfit_id", "split"])
    return pairs.drop_duplicates(["a", "b", "outfit_id"], ignore_index=True)


def _fits(facts: pd.DataFrame, outfit: list[int], row: int) -> bool:
    return row not in outfit and all(go_together(facts, worn, row) for worn in outfit)


def draw_candidates(facts: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Give every product up to nine candidate category paths in random order: the true one, siblings, look-alikes.

    Returns `row` (row number in `facts`), `category_path`, `is_true`, `position`.
    """
    rng = np.random.default_rng(seed)
    pools = [_look_alikes(code) for code in range(len(leaves()))]
    paths = np.array([leaf.path for leaf in leaves()], dtype=object)
    rows = []
    for row, leaf in enumerate(facts["leaf"].tolist()):
        siblings, others = pools[leaf]
        near = list(rng.permutation(siblings)[:4])
        far = list(rng.permutation(others)[: CANDIDATES - 1 - len(near)])
        codes = rng.permutation([leaf, *near, *far])
        rows += [(row, paths[code], bool(code == leaf), place) for place, code in enumerate(codes)]
    return pd.DataFrame(rows, columns=["row", "category_path", "is_true", "position"])


def _look_alikes(code: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the siblings of a leaf, and the leaves outside that a title or photo of it may be mistaken for."""
    own = leaves()[code]
    parent, department = parent_of(own.path), split_path(own.path)[0]
    siblings, others = [], []
    for number, leaf in enumerate(leaves()):
        if number == code:
            continue
        if parent_of(leaf.path) == parent:
            siblings.append(number)
        elif (
            leaf.path.startswith(department) or leaf.key in own.complements or set(leaf.materials) == set(own.materials)
        ):
            others.append(number)
    return np.array(siblings, int), np.array(others, int)


def write_captions(facts: pd.DataFrame) -> list[str]:
    """Write a plain caption `[N]` of what each photo shows: colour, pattern, material and the everyday noun."""
    captions = []
    columns = zip(*(facts[name].tolist() for name in ("leaf", "colour", "material", "pattern", "accent")), strict=True)
    for leaf, colour, material, pattern, accent in columns:
        look = "" if pattern == PLAIN else f" {PATTERNS[PATTERN_NAMES[pattern]].shopper[0].removeprefix('with ')}"
        accent_words = "" if pattern == PLAIN else f" with {COLOUR_NAMES[accent]}"
        stuff = MATERIAL_NAMES[material].replace("_", " ")
        captions.append(f"a photo of a {COLOUR_NAMES[colour]}{look} {stuff} {leaves()[leaf].nouns[0]}{accent_words}")
    return captions
