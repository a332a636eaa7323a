"""Draw the facts of every product: what it is, before anybody writes about it or photographs it.

Facts are the shop's truth. Titles and descriptions tell some of them (`tells_*`), photos show others, queries ask for
them, and grades follow from them alone. They are integer codes in one table, so that a million products stay small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.category_path import split_path
from common.pocket_shop.vocabulary import BRANDS, COLOURS, MATERIALS, PALETTES, PATTERNS, STYLES, Leaf, leaves

COLOUR_NAMES = tuple(COLOURS)
MATERIAL_NAMES = tuple(MATERIALS)
PATTERN_NAMES = tuple(PATTERNS)
STYLE_NAMES = tuple(STYLES)
PLAIN = PATTERN_NAMES.index("plain")

# Materials that are mostly sold in their own colour.
_NATURAL_COLOURS = {
    "brass": ("gold",),
    "copper": ("orange", "brown"),
    "terracotta": ("orange", "brown"),
    "marble": ("white", "black", "grey"),
    "cast_iron": ("black", "grey"),
    "steel": ("silver", "black"),
    "aluminium": ("silver", "black"),
} | dict.fromkeys(("oak", "pine", "beech", "bamboo", "rattan", "cork", "jute"), ("brown", "beige"))

# How often the text tells a fact. What it leaves out of colour, material and pattern stands only in the picture.
_TELLS = {
    "colour": 0.40,
    "material": 0.50,
    "pattern": 0.30,
    "features": 0.95,
    "style": 0.75,
    "brand": 0.93,
    "path": 0.85,
}
_VARIANTS = ([1, 2, 3, 4, 5], [0.36, 0.30, 0.19, 0.10, 0.05])
_FEATURE_RATE = 0.42
_PATTERN_WEIGHTS = {"striped": 3, "checked": 2, "dotted": 2, "floral": 2, "zigzag": 1.2, "stars": 1}


def products_per_leaf(size: int) -> np.ndarray:
    """Split `size` products over the leaf categories by popularity (largest remainder), at least one each."""
    # The exponent stretches the tail: the head category has some 40 times the products of the last ones.
    popularity = np.array([leaf.popularity for leaf in leaves()]) ** 1.35
    exact = popularity / popularity.sum() * size
    counts = np.maximum(np.floor(exact).astype(int), 1)
    missing = size - counts.sum()
    if missing > 0:
        counts[np.argsort(-(exact - np.floor(exact)), kind="stable")[:missing]] += 1
    while counts.sum() > size:
        counts[np.argmax(counts)] -= 1
    return counts


def draw_facts(size: int, *, seed: int) -> pd.DataFrame:
    """Draw `size` products in variant groups; the same `size` and `seed` give the same table.

    Columns: `leaf, brand, model, material, style, colour, accent, pattern` (codes), `group` (variants of one product
    share it), `features` (bit i: the leaf's i-th feature), `size_value` (NaN where a leaf has none), `price` (euros),
    `tells_*` (whether the text will tell that fact).
    """
    rng = np.random.default_rng(seed)
    tables, first_group = [], 0
    for code, (leaf, count) in enumerate(zip(leaves(), products_per_leaf(size), strict=True)):
        table = _draw_leaf(code, leaf, int(count), rng)
        table["group"] += first_group
        first_group = int(table["group"].iloc[-1]) + 1
        tables.append(table)
    facts = pd.concat(tables, ignore_index=True)
    for name, rate in _TELLS.items():
        facts[f"tells_{name}"] = rng.random(size) < rate
    # A shop lists its products in no helpful order.
    return facts.iloc[rng.permutation(size)].reset_index(drop=True)


def _draw_leaf(code: int, leaf: Leaf, count: int, rng: np.random.Generator) -> pd.DataFrame:
    variants = rng.choice(_VARIANTS[0], p=_VARIANTS[1], size=count)
    group = np.repeat(np.arange(count), variants)[:count].astype(np.int32)
    groups = int(group[-1]) + 1
    brand = rng.choice(len(BRANDS), p=_brand_weights(leaf), size=groups)
    material = rng.choice([MATERIAL_NAMES.index(m) for m in leaf.materials], size=groups)
    style = rng.choice(len(STYLE_NAMES), size=groups)
    features = (rng.random((groups, len(leaf.features))) < _FEATURE_RATE) @ (1 << np.arange(len(leaf.features)))
    colour = _draw_colours(leaf, group, material, style, rng)
    return pd.DataFrame(
        {
            "leaf": np.full(count, code, np.int16),
            "group": group,
            "brand": brand[group].astype(np.int16),
            "model": rng.integers(0, 2**15, size=groups)[group].astype(np.int16),
            "material": material[group].astype(np.int8),
            "style": style[group].astype(np.int8),
            "features": features[group].astype(np.uint8),
            "colour": colour,
            "accent": _draw_accents(colour, rng),
            "pattern": _draw_patterns(leaf, count, rng),
            "size_value": _draw_sizes(leaf, group, rng),
            "price": _draw_prices(leaf, brand, group, rng),
        }
    )


def _brand_weights(leaf: Leaf) -> np.ndarray:
    department = split_path(leaf.path)[0]
    weights = np.array([1.0 / brand.price_level if department in brand.departments else 0.0 for brand in BRANDS])
    return weights / weights.sum()


def _draw_colours(
    leaf: Leaf, group: np.ndarray, material: np.ndarray, style: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Give the variants of a group different colours: Gumbel keys rank the colours, variant j takes the j-th."""
    palette = PALETTES[leaf.palette]
    weights = np.tile([palette.get(name, 0.0) for name in COLOUR_NAMES], (len(material), 1))
    natural = np.array([[name in _NATURAL_COLOURS.get(m, ()) for name in COLOUR_NAMES] for m in MATERIAL_NAMES])
    of_style = np.array([[name in STYLES[s]["colours"] for name in COLOUR_NAMES] for s in STYLE_NAMES])
    weights = np.where(natural[material], np.maximum(weights, 1.0) * 4, weights)
    weights = weights * np.where(of_style[style], 2.5, 1.0)
    with np.errstate(divide="ignore"):
        keys = np.log(weights) + rng.gumbel(size=weights.shape)
    ranked = np.argsort(-keys, axis=1)
    return ranked[group, _position_in_group(group)].astype(np.int8)


def _position_in_group(group: np.ndarray) -> np.ndarray:
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    return np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))


def _draw_accents(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a second colour that can be told from the first: neither the same nor a near one."""
    allowed = np.array(
        [
            [other != name and other not in COLOURS[name].near and name not in COLOURS[other].near for other in COLOURS]
            for name in COLOUR_NAMES
        ],
        dtype=float,
    )
    keys = np.where(allowed[colour] > 0, rng.random((len(colour), len(COLOUR_NAMES))), -1.0)
    return keys.argmax(axis=1).astype(np.int8)


def _draw_patterns(leaf: Leaf, count: int, rng: np.random.Generator) -> np.ndarray:
    codes = [PATTERN_NAMES.index(name) for name in _PATTERN_WEIGHTS]
    weights = np.array(list(_PATTERN_WEIGHTS.values()))
    drawn = rng.choice(codes, p=weights / weights.sum(), size=count)
    return np.where(rng.random(count) < leaf.patterned, drawn, PLAIN).astype(np.int8)


def _draw_sizes(leaf: Leaf, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    values = size_values(leaf)
    if not values:
        return np.full(len(group), np.nan, np.float32)
    # Half of the groups come in one size, the other half in several.
    of_group = rng.integers(0, len(values), size=group[-1] + 1)[group]
    varied = rng.random(group[-1] + 1)[group] < 0.5
    index = np.where(varied, rng.integers(0, len(values), size=len(group)), of_group)
    return np.asarray(values, np.float32)[index]


def size_values(leaf: Leaf) -> list[float]:
    """Return the sizes that products of this leaf come in, in the unit of `leaf.size` (apparel: 0 to 5, XS to XXL)."""
    kind, _, span = leaf.size.partition(":")
    if kind == "none":
        return []
    if kind == "apparel":
        return [0, 1, 2, 3, 4, 5]
    if kind == "shoe":
        return list(range(36, 47))
    if kind == "storage_gb":
        return [64, 128, 256, 512, 1024]
    low, high = (float(part) for part in span.split("-"))
    if high - low <= 10 and low >= 1 and kind in ("seats", "volume_l", "weight_kg", "screen_inch"):
        return list(np.arange(low, high + 1))
    steps = np.linspace(low, high, 7)
    digits = 1 if high < 10 else 0 if high < 100 else -1
    return sorted({round(float(value), digits) for value in steps})


def _draw_prices(leaf: Leaf, brand: np.ndarray, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = leaf.price
    level = np.array([b.price_level for b in BRANDS])[brand]
    position = np.clip(rng.beta(1.6, 3.0, size=len(brand)) * level, 0, 1.3)
    euros = low * (high / low) ** position[group] * rng.uniform(0.95, 1.05, size=len(group))
    return (np.floor(euros) + 0.99).astype(np.float32)


def decode(names: Sequence[str], codes: np.ndarray) -> np.ndarray:
    """Turn integer codes into their names."""
    return np.asarray(names, dtype=object)[codes]
