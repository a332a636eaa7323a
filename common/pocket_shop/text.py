"""Write what the catalogue says about each product: titles, descriptions and columns, with a real feed's gaps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd

from common.pocket_shop.facts import COLOUR_NAMES, MATERIAL_NAMES, PATTERN_NAMES, PLAIN, STYLE_NAMES
from common.pocket_shop.vocabulary import BRANDS, COLOURS, FEATURES, MATERIALS, PATTERNS, STYLES, Leaf, leaves

_APPAREL_SIZES = ("XS", "S", "M", "L", "XL", "XXL")
_UNITS = {
    "volume_ml": "ml",
    "volume_l": "l",
    "weight_kg": "kg",
    "screen_inch": "inch",
    "storage_gb": "GB",
    "seats": "seater",
    "pieces": "pieces",
}
# Model names are two syllables put together, as in the shops that sell furniture by first name.
_MODEL_HEADS = (
    *("Al", "Bel", "Cor", "Del", "El", "Fal", "Gren", "Hol", "Iv", "Jun", "Kal", "Lor", "Mar"),
    *("Nor", "Ol", "Pel", "Quin", "Ras", "Sol", "Tor", "Ul", "Ver", "Wil", "Yor", "Zan"),
)
_MODEL_TAILS = (
    *("ma", "da", "vik", "sen", "ra", "lund", "to", "na"),
    *("bo", "lia", "by", "mo", "ston", "rik", "ve", "dal"),
)
_OPENINGS = (
    "For every day: {style} {noun}.",
    "This {noun} brings a {style} note to your home.",
    "Our {style} {noun}, made to last.",
    "{style_title} design meets function in this {noun}.",
    "New this season: the {model} {noun}.",
    "Customers love the {model}.",
    "The {model} {noun} by {brand}.",
)
_CLOSINGS = (
    "Delivered in two working days.",
    "Two-year warranty.",
    "Designed in our own studio.",
    "Goes well with our {complement} in {other_colour}.",
    "Also available in {other_colour}.",
    "Not suitable for commercial use.",
    "Please note that colours may differ from the picture.",
    "Combine with {complement}.",
    "A popular gift.",
)


def model_name(code: int) -> str:
    """Return the model name of a code: 400 names, some of them with a number."""
    name = _MODEL_HEADS[code % len(_MODEL_HEADS)] + _MODEL_TAILS[code // len(_MODEL_HEADS) % len(_MODEL_TAILS)]
    number = code // 400
    return name if number % 3 else f"{name} {number * 10 + 10}"


def size_text(leaf: Leaf, value: float) -> str:
    """Write a size as the catalogue does: "350 ml", "EU 42", "XL", "24 cm"; an empty text where there is none."""
    kind = leaf.size.partition(":")[0]
    if kind == "none" or value != value:
        return ""
    if kind == "apparel":
        return _APPAREL_SIZES[int(value)]
    if kind == "shoe":
        return f"EU {int(value)}"
    unit = _UNITS.get(kind, "cm")
    return f"{value:g}-{unit}" if unit == "seater" else f"{value:g} {unit}"


def leaf_features(leaf: Leaf, bits: int) -> list[str]:
    """Return the names of the features that are set in `bits`."""
    return [name for i, name in enumerate(leaf.features) if bits >> i & 1]


def write_products(facts: pd.DataFrame, *, seed: int, first: int = 0) -> pd.DataFrame:
    """Write the `products` table (see the catalogue contract) for `facts`; ids count from `first`.

    Every product has a title. Colour, material, pattern, style, features, brand and category path are told only where
    the facts say so, in catalogue words, sometimes in a column, sometimes in the title, sometimes in the description.
    """
    rng = np.random.default_rng(seed)
    rows = [_write(row) for row in _iterate(facts, rng)]
    columns = ["title", "description", "brand", "colour", "material", "category_path", "attributes"]
    products = pd.DataFrame(rows, columns=columns, dtype="str")
    products.insert(0, "product_id", product_ids(len(facts), first))
    products["price"] = facts["price"].to_numpy(float).round(2)
    products["group_id"] = pd.Series([f"g{group:07d}" for group in facts["group"]], dtype="str")
    products["locale"] = pd.Series(["en"] * len(facts), dtype="str")
    return products


def product_ids(count: int, first: int = 0) -> pd.Series:
    """Return the ids `p0000000`, `p0000001`, … from number `first`."""
    return pd.Series([f"p{number:07d}" for number in range(first, first + count)], dtype="str")


def _iterate(facts: pd.DataFrame, rng: np.random.Generator) -> Iterator[tuple]:
    names = ["leaf", "brand", "model", "material", "style", "colour", "accent", "pattern", "features", "size_value"]
    tells = [f"tells_{name}" for name in ("colour", "material", "pattern", "features", "style", "brand", "path")]
    columns = [facts[name].tolist() for name in names + tells]
    dice = rng.integers(0, 2**20, size=(len(facts), 12), dtype=np.int32)
    yield from zip(*columns, map(np.ndarray.tolist, dice), strict=True)


def _pick(options: tuple[str, ...], die: int) -> str:
    return options[die % len(options)]


def _write(row: tuple) -> tuple[str | None, ...]:
    leaf_code, brand_code, model, material, style, colour, accent, pattern, bits, size_value, *tells, die = row
    tells_colour, tells_material, tells_pattern, tells_features, tells_style, tells_brand, tells_path = tells
    leaf, brand = leaves()[leaf_code], BRANDS[brand_code]
    noun = leaf.nouns[0] if die[0] % 10 < 6 else leaf.nouns[-1]
    colour_word = _pick(COLOURS[COLOUR_NAMES[colour]].catalogue, die[1]) if tells_colour else ""
    material_word = _pick(MATERIALS[MATERIAL_NAMES[material]].catalogue, die[2]) if tells_material else ""
    style_word = _pick(tuple(STYLES[STYLE_NAMES[style]]["words"]), die[3])
    pattern_word = ""
    if tells_pattern and pattern != PLAIN:
        accent_word = _pick(COLOURS[COLOUR_NAMES[accent]].catalogue, die[9])
        pattern_word = _pick(PATTERNS[PATTERN_NAMES[pattern]].catalogue, die[4]) + f" with {accent_word.lower()}"
    # A told fact stands in the title, or only further down.
    in_title = {
        "colour": die[5] % 3 > 0,
        "material": die[6] % 2 == 0,
        "pattern": die[7] % 2 == 0,
        "size": die[8] % 2 == 0,
    }
    size = size_text(leaf, size_value)
    title = _title(
        style=brand.title_style,
        brand=brand.name if tells_brand else "",
        model=model_name(model),
        code=f"{leaf.key[:2].upper()}-{model % 9000 + 1000}",
        noun=noun,
        colour=colour_word if in_title["colour"] else "",
        material=material_word if in_title["material"] else "",
        pattern=pattern_word if in_title["pattern"] else "",
        size=size if in_title["size"] else "",
    )
    features = [_pick(FEATURES[name].catalogue, die[10] + i) for i, name in enumerate(leaf_features(leaf, bits))]
    description = _description(
        die,
        opening={"noun": noun, "model": model_name(model), "brand": brand.name if tells_brand else "the house"}
        | ({"style": style_word, "style_title": style_word[0].upper() + style_word[1:]} if tells_style else {}),
        material=material_word if not in_title["material"] else "",
        pattern=pattern_word if not in_title["pattern"] else "",
        features=features if tells_features and die[11] % 3 else [],
        extras=_extras(leaf, bits, die),
        complement=leaves_by_key()[leaf.complements[die[2] % len(leaf.complements)]].nouns[0],
        other_colour=_pick(COLOURS[COLOUR_NAMES[die[4] % len(COLOUR_NAMES)]].catalogue, die[5]).lower(),
    )
    attributes = {}
    if tells_features and not die[11] % 3 and features:
        attributes["features"] = ", ".join(features)
    if size and not in_title["size"]:
        attributes["size"] = size
    return (
        title,
        description,
        brand.name if tells_brand else None,
        colour_word if colour_word and (not in_title["colour"] or die[9] % 2) else None,
        material_word if material_word and die[7] % 3 == 0 else None,
        leaf.path if tells_path else None,
        json.dumps(attributes) if attributes else None,
    )


def _extras(leaf: Leaf, bits: int, die: list[int]) -> list[str]:
    """Add what a careful merchandiser adds: another name for the thing (one in eight), a use (one in six)."""
    extras = []
    if die[8] % 8 == 1:
        extras.append(f"Also known as {_pick(leaf.shopper + leaf.jargon, die[9])}.")
    use, feature = _pick(leaf.uses, die[7])
    if die[1] % 6 == 1 and (feature is None or feature in leaf_features(leaf, bits)):
        extras.append(f"Made for {use}.")
    return extras


@cache
def leaves_by_key() -> dict[str, Leaf]:
    """Return the leaf categories by their key."""
    return {leaf.key: leaf for leaf in leaves()}


def _title(*, style: str, brand: str, model: str, code: str, noun: str, **told: str) -> str:
    colour, material, pattern, size = (told[name] for name in ("colour", "material", "pattern", "size"))
    if style == "model":
        parts = [brand, model, noun, material, pattern, colour.lower(), size]
    elif style == "code":
        parts = [brand.upper(), code, noun, size, colour, material, pattern]
    elif style == "long":
        by = f"by {brand}" if brand else ""
        parts = [model, colour.lower(), material, noun, pattern, by, f"({size})" if size else ""]
    else:
        parts = [noun.capitalize() if noun[0].islower() else noun, colour.lower(), pattern, size, brand]
    return " ".join(part for part in parts if part)


def _description(
    die: list[int],
    *,
    opening: dict[str, str],
    material: str,
    pattern: str,
    features: list[str],
    extras: list[str],
    complement: str,
    other_colour: str,
) -> str | None:
    usable = [text for text in _OPENINGS if "style" in opening or "{style" not in text]
    sentences = [usable[die[3] % len(usable)].format(**opening)]
    if "style" in opening and opening["style"].lower() not in sentences[0].lower():
        sentences.append(f"{opening['style_title']} look.")
    if material:
        sentences.append(f"Made of {material}.")
    if pattern:
        sentences.append(f"Design: {pattern}.")
    if features:
        sentences.append(f"Features: {', '.join(features)}.")
    sentences += extras
    # Where there is nothing to say, half of the descriptions are left empty.
    if len(sentences) == 1 and "style" not in opening and die[10] % 2:
        return None
    for offset in range(die[0] % 3):
        closing = _CLOSINGS[(die[6] + 4 * offset) % len(_CLOSINGS)]
        sentences.append(closing.format(complement=complement, other_colour=other_colour))
    return " ".join(sentences)
