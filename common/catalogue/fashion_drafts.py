"""Draft what a shopper of fashion_products may ask: a product in mind, a word for the thing, and wishes.

A shopper adds wishes until few enough products are relevant (`RELEVANT_RANGE`). What may be said, by kind:

| kind | the thing is named by | wishes |
| --- | --- | --- |
| category | a shopper's word | for whom, for what, season of clothes; or none |
| attribute | a shopper's word | the colour, and what a category may add |
| brand | a shopper's word | the brand, and anything else |
| jargon | a trade word | anything but the brand, or none |
| use-case | what it is for (`fashion_uses`) | the colour, for whom, the brand; or none |
| negation | a shopper's word | a colour that it must not have, and anything else |
| misspelt | a word of the first three kinds, with typing errors | as there |

A quarter of the shoppers' words are the catalogue's own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from common.catalogue.contract import RELEVANT_GRADE
from common.catalogue.fashion_intents import Grader, Intent, Wish, make_intent
from common.catalogue.fashion_uses import USES
from common.catalogue.fashion_words import (
    COLOURS,
    GENDERS,
    MAKEUP,
    NOUNS,
    SCENTS_AND_CARE,
    SEASONAL,
    SEASONS,
    USAGES,
    Noun,
)
from common.pocket_shop.queries import misspell

RELEVANT_RANGE = (3, 100)
"""How many products may be relevant (grade 2 or 3) to a query: enough to rank, few enough to be worth finding."""

_PLAIN_RATE = 0.25
_BEYOND_RATE = 0.3
_MOST_WISHES = 4
_VAGUE = ("gender", "usage", "season")
_ALL = ("colour", *_VAGUE)
_OPTIONS = {
    "gender": GENDERS,
    **{
        fact: {(value,): words for value, words in table.items()}
        for fact, table in (("colour", COLOURS), ("usage", USAGES), ("season", SEASONS))
    },
}
"""Of each fact, what may be asked for (values of which any will do) and the words for it."""

Said = tuple[Wish, str]
Draft = tuple[Intent, str, str]
"""What is asked for, the words, and the phrase by which queries are split."""


class Shopper:
    """Holds the products, the nouns and uses that the catalogue can answer, and the random numbers."""

    def __init__(self, facts: pd.DataFrame, rng: np.random.Generator) -> None:
        self.rng, self.grader = rng, Grader(facts)
        self.facts = facts.to_dict("records")
        known = self.grader.rows_of_type
        self.nouns = [noun for noun in NOUNS if any(name in known for name in noun.types)]
        self.uses = [use for use in USES if any(name in known for name in use[1])]
        # Shoppers ask for the tail more often than it sells: square root of the number of products.
        weights = np.sqrt([len(self.rows(noun.types)) for noun in self.nouns])
        self.chances = weights / weights.sum()

    def rows(self, types: tuple[str, ...]) -> np.ndarray:
        """Return the rows of all products of these types."""
        found = [self.grader.rows_of_type[name] for name in types if name in self.grader.rows_of_type]
        return np.concatenate(found) if found else np.empty(0, dtype=int)

    def noun(self) -> Noun:
        """Draw a noun."""
        return self.nouns[self.rng.choice(len(self.nouns), p=self.chances)]

    def product(self, types: tuple[str, ...]) -> dict:
        """Draw the product that the shopper has in mind."""
        return self.facts[self.rng.choice(self.rows(types))]

    def one(self, options: tuple) -> object:
        """Draw one of the options."""
        return options[self.rng.integers(len(options))]

    def relevant(self, types: tuple[str, ...], wishes: list[Wish]) -> int:
        """Count the products that are relevant for these types and wishes."""
        return int((self.grader.grade(make_intent(types, wishes))[1] >= RELEVANT_GRADE).sum())


def _word(shopper: Shopper, noun: Noun) -> str | None:
    """Draw a word for the noun; None if only the trade has one."""
    words = noun.plain if shopper.rng.random() < _PLAIN_RATE else noun.shopper
    words = words or noun.shopper or noun.plain
    return shopper.one(words) if words else None


def _sayable(shopper: Shopper, product: dict, facts: tuple[str, ...]) -> list[Said]:
    """Return what could be said of the product's `facts`, in random order: wishes and words."""
    said = []
    for fact in facts:
        options = _OPTIONS[fact]
        values = [values for values in options if product[fact] in values]
        if values and _is_asked(fact, product["type"]):
            chosen = shopper.one(tuple(values))
            said.append((Wish(fact, chosen), shopper.one(options[chosen])))
    return [said[at] for at in shopper.rng.permutation(len(said))]


def _is_asked(fact: str, kind: str) -> bool:
    """Return whether anybody asks about this fact of a thing of this type."""
    if fact == "season":
        return kind in SEASONAL
    return fact == "gender" or kind not in (SCENTS_AND_CARE if fact == "colour" else SCENTS_AND_CARE | MAKEUP)


def _narrowed(shopper: Shopper, types: tuple[str, ...], said: list[Said], more: list[Said]) -> list[Said] | None:
    """Return `said` with as much of `more` as brings the relevant products into the range, now and then with one wish
    beyond that; None if nothing does."""
    for count in range(len(more) + 1):
        if shopper.relevant(types, [wish for wish, _ in [*said, *more[:count]]]) <= RELEVANT_RANGE[1]:
            found = [*said, *more[: count + (shopper.rng.random() < _BEYOND_RATE)]]
            return found if len(found) <= _MOST_WISHES else None
    return None


def _asked(shopper: Shopper, noun: Noun, word: str | None, said: list[Said], more: list[Said]) -> Draft | None:
    found = None if word is None else _narrowed(shopper, noun.types, said, more)
    if found is None:
        return None
    words = describe(word, [words for _, words in found], shopper.rng)
    return make_intent(noun.types, [wish for wish, _ in found]), words, words


def describe(noun: str, words: list[str], rng: np.random.Generator) -> str:
    """Put words around a noun as shoppers do: "ladies red tee for the gym", "tee red ladies for the gym"."""
    after = [word for word in words if word.startswith(("for ", "from ", "to "))]
    before = [word for word in words if word not in after]
    if before and rng.random() < 0.2:
        return " ".join([noun, *before, *after])
    return " ".join([*before, noun, *after])


def _category(shopper: Shopper) -> Draft | None:
    noun = shopper.noun()
    more = _sayable(shopper, shopper.product(noun.types), _VAGUE)
    return _asked(shopper, noun, _word(shopper, noun), [], more)


def _attribute(shopper: Shopper) -> Draft | None:
    noun = shopper.noun()
    product = shopper.product(noun.types)
    colour = _sayable(shopper, product, ("colour",))
    return _asked(shopper, noun, _word(shopper, noun), colour, _sayable(shopper, product, _VAGUE)) if colour else None


def _brand(shopper: Shopper) -> Draft | None:
    noun = shopper.noun()
    product = shopper.product(noun.types)
    brand = _brand_said(product)
    return _asked(shopper, noun, _word(shopper, noun), brand, _sayable(shopper, product, _ALL)) if brand else None


def _brand_said(product: dict) -> list[Said]:
    brand = product["brand"]
    return [] if brand is None else [(Wish("brand", (brand,)), brand)]


def _jargon(shopper: Shopper) -> Draft | None:
    noun = shopper.noun()
    more = _sayable(shopper, shopper.product(noun.types), _ALL)
    return _asked(shopper, noun, shopper.one(noun.jargon) if noun.jargon else None, [], more)


def _use_case(shopper: Shopper) -> Draft | None:
    phrase, types, facts = shopper.one(shopper.uses)
    fixed = [(Wish(fact, (value,)), "") for fact, value in facts.items()]
    product = shopper.product(types)
    more = [*_sayable(shopper, product, ("colour", "gender")), *_brand_said(product)]
    found = _narrowed(shopper, types, fixed, more)
    if found is None:
        return None
    extra = [words for _, words in found if words]
    frame = shopper.one(("{}", "something to {}", "{}, any ideas"))
    words = ", ".join([str(frame).format(phrase), *extra])
    return make_intent(types, [wish for wish, _ in found]), words, phrase


def _negation(shopper: Shopper) -> Draft | None:
    """Draw a query that rules out a colour which some product has that meets all else."""
    noun = shopper.noun()
    product = shopper.product(noun.types)
    said = _sayable(shopper, product, _VAGUE)[: shopper.rng.integers(3)]
    if shopper.rng.random() < 0.5:
        said += _brand_said(product)
    rows, grades = shopper.grader.grade(make_intent(noun.types, [wish for wish, _ in said]))
    colours = {shopper.facts[row]["colour"] for row in rows[grades == 3]} - {product["colour"]}
    colours = sorted(colour for colour in colours if colour in COLOURS)
    word = _word(shopper, noun)
    if not colours or word is None or not _is_asked("colour", product["type"]):
        return None
    unwanted = shopper.one(tuple(colours))
    frame = shopper.one(("{}, not {}", "{} but not {}", "{}, anything but {}"))
    words = str(frame).format(describe(word, [words for _, words in said], shopper.rng), COLOURS[unwanted][0])
    return make_intent(noun.types, [*(w for w, _ in said), Wish("colour", (unwanted,), wanted=False)]), words, words


def _misspelt(shopper: Shopper) -> Draft | None:
    draft = shopper.one((_category, _attribute, _brand))(shopper)
    if draft is None:
        return None
    words = misspell(draft[1], shopper.rng)
    return draft[0], words, words


MAKERS: dict[str, Callable[[Shopper], Draft | None]] = {
    "category": _category,
    "attribute": _attribute,
    "brand": _brand,
    "jargon": _jargon,
    "use-case": _use_case,
    "negation": _negation,
    "misspelt": _misspelt,
}
