"""Draw the shoppers' queries: seven kinds, each with an intent behind it, in shoppers' words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from common.pocket_shop.facts import COLOUR_NAMES, MATERIAL_NAMES, PATTERN_NAMES, PLAIN, STYLE_NAMES
from common.pocket_shop.intents import Constraint, Intent, grade
from common.pocket_shop.text import leaf_features
from common.pocket_shop.vocabulary import BRANDS, COLOURS, FEATURES, MATERIALS, PATTERNS, STYLES, Leaf, leaves

KINDS = ("category", "attribute", "brand", "jargon", "use-case", "negation", "misspelt")
# A query is kept if this many products are relevant (grade 2 or 3): enough to rank, few enough to be worth finding.
RELEVANT_RANGE = (5, 40)
_RARE_RELEVANT_RANGE = (2, 80)
_RARE_SHARE = 0.1
_SMALL_LEAF = 40
_SHOPPER_WORD_RATE = 0.5
_NEIGHBOUR_KEYS = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopqsdfghjklaxcvbnmz", strict=True))

Draft = tuple[Intent, str]


def draw_queries(facts: pd.DataFrame, per_kind: int, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw `per_kind` queries of each of the seven kinds over the products in `facts`.

    Returns `queries` (`query_id, query, kind, intent`; no two share an intent or their words) and `truth` (`query_id`,
    `product` (row number in `facts`), `grade` > 0; a pair that is absent has grade 0).
    """
    rng = np.random.default_rng(seed)
    sampler = _ProductSampler(facts, rng)
    rows, truth, seen = [], [], set()
    for kind in KINDS:
        kept, attempts = 0, 0
        while kept < per_kind:
            attempts += 1
            if attempts > 400 * per_kind:
                raise ValueError(f"{len(facts)} products are too few for {per_kind} {kind} queries; ask for fewer")
            intent, words = _DRAFTS[kind](sampler, rng)
            # A use-case is asked about once, so that no split can give away another split's phrase.
            phrase = _core(words) if kind == "use-case" else words
            if intent in seen or phrase in seen:
                continue
            grades = grade(intent, facts)
            if not _worth_asking(grades, rng):
                continue
            seen |= {intent, phrase}
            query_id = f"q{len(rows):05d}"
            rows.append((query_id, words, kind, intent.to_json()))
            products = np.flatnonzero(grades)
            truth.append(pd.DataFrame({"query_id": query_id, "product": products, "grade": grades[products]}))
            kept += 1
    queries = pd.DataFrame(rows, columns=["query_id", "query", "kind", "intent"])
    return queries, pd.concat(truth, ignore_index=True)


def _core(words: str) -> str:
    return words.removeprefix("something for ").split(",")[0]


def _worth_asking(grades: np.ndarray, rng: np.random.Generator) -> bool:
    low, high = _RARE_RELEVANT_RANGE if rng.random() < _RARE_SHARE else RELEVANT_RANGE
    return low <= (grades >= 2).sum() <= high and (grades == 3).any()


class _ProductSampler:
    """Draws the product that a shopper has in mind, so that every query has at least one exact answer."""

    def __init__(self, facts: pd.DataFrame, rng: np.random.Generator) -> None:
        self.facts, self.rng = facts, rng
        leaf = facts["leaf"].to_numpy()
        self.rows_of_leaf = [np.flatnonzero(leaf == code) for code in range(len(leaves()))]
        # Shoppers ask for the tail more often than it sells: square root of the number of products.
        weights = np.sqrt([len(rows) for rows in self.rows_of_leaf])
        self.chances = weights / weights.sum()

    def draw(self) -> tuple[Leaf, pd.Series, int]:
        """Return a leaf, one of its products, and how many products the leaf has."""
        code = self.rng.choice(len(self.chances), p=self.chances)
        rows = self.rows_of_leaf[code]
        return leaves()[code], self.facts.iloc[self.rng.choice(rows)], len(rows)


def _one(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def _noun(leaf: Leaf, rng: np.random.Generator) -> str:
    return _one(leaf.shopper if rng.random() < _SHOPPER_WORD_RATE else leaf.nouns, rng)


def _visible(product: pd.Series, leaf: Leaf, rng: np.random.Generator) -> list[tuple[Constraint, str]]:
    """Return what one could say of the product's looks, most telling first in random order: (constraint, words)."""
    colour, material = COLOUR_NAMES[product["colour"]], MATERIAL_NAMES[product["material"]]
    said = [(Constraint("colour", colour), _one(COLOURS[colour].shopper, rng))]
    if len(leaf.materials) > 1:
        said.append((Constraint("material", material), _one(MATERIALS[material].shopper, rng)))
    if product["pattern"] != PLAIN:
        pattern = PATTERN_NAMES[product["pattern"]]
        said.append((Constraint("pattern", pattern), _one(PATTERNS[pattern].shopper, rng)))
    rng.shuffle(said)
    return said


def _describe(noun: str, words: list[str], rng: np.random.Generator) -> str:
    """Put attribute words around a noun as shoppers do: "red leather couch", "couch with stripes", "couch red"."""
    before = [word for word in words if not word.startswith(("with ", "that ", "for ", "without ", "no ", "to "))]
    after = [word for word in words if word not in before]
    if before and rng.random() < 0.2:
        return " ".join([noun, *before, *after])
    return " ".join([*before, noun, *after])


def _category(sampler: _ProductSampler, rng: np.random.Generator) -> Draft:
    leaf, product, count = sampler.draw()
    noun = _noun(leaf, rng)
    if count <= _SMALL_LEAF and rng.random() < 0.6:
        return Intent(leaf.key), noun
    if rng.random() < 0.6:
        style = STYLE_NAMES[product["style"]]
        return Intent(leaf.key, (Constraint("style", style),)), f"{_one(tuple(STYLES[style]['words']), rng)} {noun}"
    limit = _round_price(float(product["price"]))
    return Intent(leaf.key, (Constraint("price_below", limit),)), f"{noun} under {limit:.0f} euros"


def _round_price(price: float) -> float:
    step = 5 if price < 50 else 10 if price < 200 else 50
    return float(np.ceil(price / step) * step)


def _attribute(sampler: _ProductSampler, rng: np.random.Generator) -> Draft:
    leaf, product, count = sampler.draw()
    said = _visible(product, leaf, rng)
    features = leaf_features(leaf, int(product["features"]))
    if features and rng.random() < 0.4:
        feature = _one(tuple(features), rng)
        said.insert(0, (Constraint("feature", feature), _one(FEATURES[feature].shopper, rng)))
    chosen = said[: 2 if count > _SMALL_LEAF else rng.integers(1, 3)]
    return Intent(leaf.key, tuple(c for c, _ in chosen)), _describe(_noun(leaf, rng), [w for _, w in chosen], rng)


def _brand(sampler: _ProductSampler, rng: np.random.Generator) -> Draft:
    leaf, product, _ = sampler.draw()
    brand = BRANDS[product["brand"]].name
    constraints, noun = [Constraint("brand", brand)], _noun(leaf, rng)
    if rng.random() < 0.4:
        constraint, word = _visible(product, leaf, rng)[0]
        constraints.append(constraint)
        noun = _describe(noun, [word], rng)
    words = f"{brand} {noun}" if rng.random() < 0.7 else f"{noun} {brand}"
    return Intent(leaf.key, tuple(constraints)), words.lower() if rng.random() < 0.6 else words


def _jargon(sampler: _ProductSampler, rng: np.random.Generator) -> Draft:
    leaf, product, count = sampler.draw()
    noun = _one(leaf.jargon, rng)
    if count <= _SMALL_LEAF and rng.random() < 0.4:
        return Intent(leaf.key), noun
    constraint, word = _visible(product, leaf, rng)[0]
    return Intent(leaf.key, (constraint,)), _describe(noun, [word], rng)


def _use_case(sampler: _ProductSampler, rng: np.random.Generator) -> Draft:
    leaf, product, count = sampler.draw()
    phrase, feature = leaf.uses[rng.integers(len(leaf.uses))]
    constraints = [Constraint("feature", feature)] if feature else []
    if not feature and (count > _SMALL_LEAF or rng.random() < 0.3):
        constraint, word = _visible(product, leaf, rng)[0]
        constraints, phrase = [constraint], f"{phrase}, {word}"
    frame = _one(("{}", "something for {}", "{}, any ideas"), rng)
    return Intent(leaf.key, tuple(constraints)), frame.format(phrase)


def _negation(sampler: _ProductSampler, rng: np.random.Generator) -> Draft:
    leaf, product, count = sampler.draw()
    others = sampler.facts.iloc[sampler.rows_of_leaf[product["leaf"]]]
    other = others.iloc[rng.integers(len(others))]
    kind = _one(("colour", "material", "pattern"), rng)
    names = {"colour": COLOUR_NAMES, "material": MATERIAL_NAMES, "pattern": PATTERN_NAMES}[kind]
    terms = {"colour": COLOURS, "material": MATERIALS, "pattern": PATTERNS}[kind]
    unwanted = names[other[kind]]
    if unwanted in (names[product[kind]], "plain"):
        return _negation(sampler, rng)
    constraints = [Constraint(kind, unwanted, wanted=False)]
    noun, word = _noun(leaf, rng), terms[unwanted].shopper[0]
    if count > _SMALL_LEAF // 2:
        positive = [(c, w) for c, w in _visible(product, leaf, rng) if c.kind != kind]
        if positive:
            constraints.append(positive[0][0])
            noun = _describe(noun, [positive[0][1]], rng)
    bare = word.removeprefix("with ")
    frame = _one(("{} not {}", "{}, but not {}", "{}, anything but {}", "{} no {}"), rng)
    return Intent(leaf.key, tuple(constraints)), frame.format(noun, bare)


def _misspelt(sampler: _ProductSampler, rng: np.random.Generator) -> Draft:
    intent, words = (_category, _attribute, _brand)[rng.integers(3)](sampler, rng)
    return intent, misspell(words, rng)


def misspell(words: str, rng: np.random.Generator) -> str:
    """Put one typing error (swap, omission, doubling, neighbouring key) into the one or two longest words."""
    tokens = words.split(" ")
    longest = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))[: rng.integers(1, 3)]
    for index in longest:
        if len(tokens[index]) >= 4:
            tokens[index] = _typo(tokens[index], rng)
    return " ".join(tokens)


def _typo(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(1, len(word) - 1))
    letter = word[at]
    changed = [
        word[:at] + word[at + 1] + letter + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at:],
        word[:at] + _NEIGHBOUR_KEYS.get(letter, "e") + word[at + 1 :],
    ][rng.integers(4)]
    return changed if changed != word else word[:at] + word[at + 1 :]


_DRAFTS: dict[str, Callable[[_ProductSampler, np.random.Generator], Draft]] = {
    "category": _category,
    "attribute": _attribute,
    "brand": _brand,
    "jargon": _jargon,
    "use-case": _use_case,
    "negation": _negation,
    "misspelt": _misspelt,
}
