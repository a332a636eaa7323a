"""Define what a shopper of fashion_products wants, and grade every product for it from its attributes.

The grades mean what they mean in the pocket shop (`common.pocket_shop.intents`), and the same function gives them:

| grade | label | rule |
| --- | --- | --- |
| 3 | E, exact | a type that was asked for, every wish met |
| 2 | S, substitute | a type that was asked for, one wish met only nearly (navy for blue; unisex for men) |
| 1 | C, complement | a type that was asked for with one miss; or a sibling type that meets every wish |
| 0 | I, irrelevant | everything else, and whatever the shopper has ruled out ("not black") |

A shade of a colour that is ruled out (navy for "not blue") is a near miss. A fact that the catalogue does not know
misses every wish about it, and is never ruled out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from common.catalogue.fashion_words import FAMILIES, NEAR_VALUES
from common.pocket_shop.intents import MISS, NEAR_MISS, RULED_OUT, grade_from_misses


@dataclass(frozen=True)
class Wish:
    """Ask for a fact: one of `values`, or none of them if it is not `wanted`."""

    fact: str
    values: tuple[str, ...]
    wanted: bool = True


@dataclass(frozen=True)
class Intent:
    """Hold the types that a shopper means and the wishes, in the order of their facts."""

    types: tuple[str, ...]
    wishes: tuple[Wish, ...] = ()

    def to_json(self) -> str:
        """Write the intent as JSON; equal intents give equal texts."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Intent:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        wishes = (Wish(wish["fact"], tuple(wish["values"]), wish["wanted"]) for wish in fields["wishes"])
        return cls(tuple(fields["types"]), tuple(wishes))

    def in_words(self) -> str:
        """Return what must hold: "type: Tshirts; colour: Red; not brand: puma"."""
        wishes = ("; {}{}: {}".format("" if w.wanted else "not ", w.fact, " or ".join(w.values)) for w in self.wishes)
        return "type: " + " or ".join(self.types) + "".join(wishes)


def make_intent(types: tuple[str, ...], wishes: list[Wish]) -> Intent:
    """Return the intent with its wishes in a fixed order, so that the same wishes make the same intent."""
    return Intent(types, tuple(sorted(wishes, key=lambda wish: (wish.fact, wish.values, wish.wanted))))


def misses(wish: Wish, value: str | None) -> float:
    """Say how badly a product whose fact has `value` misses a wish: 0, `NEAR_MISS`, `MISS` or `RULED_OUT`."""
    met, pairs = value in wish.values, NEAR_VALUES.get(wish.fact, ())
    if not met and any((value, one) in pairs or (one, value) in pairs for one in wish.values):
        return NEAR_MISS
    if wish.wanted:
        return 0.0 if met else MISS
    return RULED_OUT if met else 0.0


def related_types(types: tuple[str, ...]) -> set[str]:
    """Return the types that share a family with one of `types`, without `types` themselves."""
    return {other for family in FAMILIES if set(family) & set(types) for other in family} - set(types)


class Grader:
    """Grade all products of a table of facts; it keeps the facts as codes and the rows of each type."""

    def __init__(self, facts: pd.DataFrame) -> None:
        self.codes, self.values = {}, {}
        for fact in facts.columns.drop("product_id"):
            codes, values = pd.factorize(facts[fact])
            self.codes[fact], self.values[fact] = codes, [*values, None]  # the code of a missing fact is -1
        self.rows_of_type = {
            name: np.flatnonzero(self.codes["type"] == code) for code, name in enumerate(self.values["type"][:-1])
        }

    def grade(self, intent: Intent) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of all products with a grade above 0, ascending, and their grades (int8)."""
        none = np.empty(0, dtype=int)
        target = np.concatenate([self.rows_of_type.get(name, none) for name in intent.types])
        related = [self.rows_of_type.get(name, none) for name in related_types(intent.types)]
        rows = np.concatenate([target, *related])
        relation = np.where(np.arange(len(rows)) < len(target), 2, 1)
        total = np.zeros(len(rows))
        for wish in intent.wishes:
            of_value = np.array([misses(wish, value) for value in self.values[wish.fact]])
            total += of_value[self.codes[wish.fact][rows]]
        grades = grade_from_misses(total, relation)
        order = np.argsort(rows)
        kept = order[grades[order] > 0]
        return rows[kept], grades[kept]
