"""Define what a shopper wants, and the grade that every product deserves for it.

An `Intent` is a target leaf category and constraints on the facts. Grades follow from counting misses, so the truth is
known for *every* pair of query and product, which no real data set can offer:

| grade | label | rule |
| --- | --- | --- |
| 3 | E, exact | the target leaf, every constraint met |
| 2 | S, substitute | the target leaf, one constraint met only nearly (turquoise for blue, say) |
| 1 | C, complement | the target leaf with one miss; or a sibling or complementary leaf that meets every constraint |
| 0 | I, irrelevant | everything else, and whatever the shopper has ruled out ("not black") |
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from common.category_path import parent_of
from common.pocket_shop.facts import COLOUR_NAMES, MATERIAL_NAMES, PATTERN_NAMES, STYLE_NAMES
from common.pocket_shop.text import leaves_by_key
from common.pocket_shop.vocabulary import BRANDS, COLOURS, MATERIALS, PATTERNS, leaves

NEAR_MISS, MISS, RULED_OUT = 0.5, 1.0, 2.0
_NAMES = {
    "colour": COLOUR_NAMES,
    "material": MATERIAL_NAMES,
    "pattern": PATTERN_NAMES,
    "style": STYLE_NAMES,
    "brand": tuple(brand.name for brand in BRANDS),
}
_TERMS = {"colour": COLOURS, "material": MATERIALS, "pattern": PATTERNS}


@dataclass(frozen=True)
class Constraint:
    """One wish about a fact: `kind` is colour, material, pattern, style, brand, feature or price_below."""

    kind: str
    value: str | float
    wanted: bool = True


@dataclass(frozen=True)
class Intent:
    """A target leaf (its key) and up to three constraints."""

    leaf: str
    constraints: tuple[Constraint, ...] = ()

    def to_json(self) -> str:
        """Write the intent as JSON; equal intents give equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Intent:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        return cls(fields["leaf"], tuple(Constraint(**constraint) for constraint in fields["constraints"]))


def misses(constraint: Constraint, value: object) -> float:
    """Say how badly a product whose fact has `value` misses a constraint: 0, `NEAR_MISS`, `MISS` or `RULED_OUT`.

    `value` is a name for colour, material, pattern, style and brand, a price in euros for `price_below`, and for
    `feature` whether the product has it.
    """
    if constraint.kind == "price_below":
        return 0.0 if value < constraint.value else NEAR_MISS if value < 1.2 * constraint.value else MISS
    met = bool(value) if constraint.kind == "feature" else value == constraint.value
    if not constraint.wanted:
        return RULED_OUT if met else 0.0
    if met:
        return 0.0
    terms = _TERMS.get(constraint.kind)
    return NEAR_MISS if terms and value in terms[constraint.value].near else MISS


def grade_from_misses(total: np.ndarray, relation: np.ndarray) -> np.ndarray:
    """Grade products by their summed misses `[N]` and `relation` `[N]`: 2 target leaf, 1 related leaf, 0 neither."""
    in_target = np.select([total == 0, total <= NEAR_MISS, total <= MISS], [3, 2, 1], default=0)
    related = np.where(total == 0, 1, 0)
    return np.select([relation == 2, relation == 1], [in_target, related], default=0).astype(np.int8)


def leaf_relations(key: str) -> np.ndarray:
    """Relate every leaf to the leaf `key`: 2 is itself, 1 a sibling in the taxonomy or a complement, 0 neither."""
    target = leaves_by_key()[key]
    parent = parent_of(target.path)
    related = [parent_of(leaf.path) == parent or leaf.key in target.complements for leaf in leaves()]
    return np.where([leaf.key == key for leaf in leaves()], 2, np.asarray(related, int)).astype(np.int8)


def constraint_misses(constraint: Constraint, facts: pd.DataFrame) -> np.ndarray:
    """Return the misses `[N]` of one constraint for every product in `facts`."""
    if constraint.kind == "price_below":
        price = facts["price"].to_numpy()
        return np.select([price < constraint.value, price < 1.2 * constraint.value], [0.0, NEAR_MISS], default=MISS)
    if constraint.kind == "feature":
        return np.where(has_feature(facts, constraint.value), misses(constraint, True), misses(constraint, False))
    table = np.array([misses(constraint, name) for name in _NAMES[constraint.kind]])
    return table[facts[constraint.kind].to_numpy()]


def has_feature(facts: pd.DataFrame, name: str) -> np.ndarray:
    """Return whether each product `[N]` has the named feature; a leaf that cannot have it never does."""
    bit_of_leaf = np.array([leaf.features.index(name) if name in leaf.features else -1 for leaf in leaves()])
    bit = bit_of_leaf[facts["leaf"].to_numpy()]
    return (bit >= 0) & ((facts["features"].to_numpy().astype(int) >> np.maximum(bit, 0)) & 1 == 1)


def grade(intent: Intent, facts: pd.DataFrame) -> np.ndarray:
    """Grade every product `[N]`, int8 in 0 to 3, for an intent: the full truth for one query."""
    relation = leaf_relations(intent.leaf)[facts["leaf"].to_numpy()]
    grades = np.zeros(len(facts), np.int8)
    candidates = np.flatnonzero(relation)
    table = facts.iloc[candidates]
    total = np.zeros(len(candidates))
    for constraint in intent.constraints:
        total += constraint_misses(constraint, table)
    grades[candidates] = grade_from_misses(total, relation[candidates])
    return grades


def expected_gain(
    miss_chances: Sequence[Sequence[tuple[float, float]]], relation: int, gains: Sequence[float]
) -> float:
    """Return the expected gain of a product of which not all is known.

    `miss_chances` lists for every constraint the possible (misses, probability); `gains[g]` is the gain of grade g.
    The facts are taken as independent.
    """
    expected = 0.0
    for outcome in itertools.product(*miss_chances):
        total = np.array([sum(miss for miss, _ in outcome)])
        chance = float(np.prod([probability for _, probability in outcome]))
        expected += chance * gains[int(grade_from_misses(total, np.array([relation]))[0])]
    return expected
