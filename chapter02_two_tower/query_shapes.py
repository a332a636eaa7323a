"""Draw a query from the words of one product, in one of the shapes that shoppers' queries have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from chapter02_two_tower.query_words import other_number


@dataclass(frozen=True)
class ProductWords:
    """Hold the words of one product that queries are made from, in lower case; phrases are tuples of words.

    types: phrases that name the kind of thing, with weights. runs: stretches of words of the title. values: colour,
    material and short attribute values. measures: "27 inch". uses: what it is for. codes: model numbers. leaf: of its
    category path. described: short stretches of the description.
    """

    product_id: str
    brand: tuple[str, ...]
    types: dict[tuple[str, ...], float]
    runs: list[tuple[str, ...]]
    values: list[tuple[str, ...]]
    measures: list[tuple[str, ...]]
    uses: list[tuple[str, ...]]
    codes: list[tuple[str, ...]]
    leaf: tuple[str, ...]
    described: list[tuple[str, ...]]


def make_query(offer: ProductWords, rng: np.random.Generator) -> str:
    """Make one query for a product: draw a shape by its weight, again if the product lacks the words for it."""
    while True:
        words = _SHAPES[rng.choice(len(_SHAPES), p=_SHAPE_WEIGHTS)](offer, rng)
        if words:
            return " ".join(_vary([*words], {kind[-1] for kind in offer.types}, rng))


def _type(offer: ProductWords, rng: np.random.Generator) -> tuple[str, ...]:
    weights = np.array([*offer.types.values()])
    return [*offer.types][rng.choice(len(weights), p=weights / weights.sum())]


def _one(choices: Sequence[tuple[str, ...]], rng: np.random.Generator) -> tuple[str, ...]:
    return choices[rng.integers(len(choices))] if choices else ()


def _brand_and_type(offer: ProductWords, rng: np.random.Generator) -> tuple[str, ...]:
    return offer.brand + _type(offer, rng) if offer.brand else ()


def _beside_type(extra: Callable[[ProductWords], Sequence[tuple[str, ...]]], before: float) -> Callable:
    """Return a shape of the kind of thing and one of `extra`, which comes first with probability `before`."""

    def shape(offer: ProductWords, rng: np.random.Generator) -> tuple[str, ...]:
        kind, other = _type(offer, rng), _one(extra(offer), rng)
        if not other or set(other) & set(kind):
            return ()
        return other + kind if rng.random() < before else kind + other

    return shape


def _type_for(offer: ProductWords, rng: np.random.Generator) -> tuple[str, ...]:
    use, kind = _one(offer.uses, rng), _type(offer, rng)
    return (*kind, "for", *use) if use and not set(use) & set(kind) else ()


def _title_span(offer: ProductWords, rng: np.random.Generator) -> tuple[str, ...]:
    """Take one to four consecutive words of the title, mostly of its longer runs: a lone word is often a detail."""
    if not offer.runs:
        return ()
    lengths = np.array([len(run) for run in offer.runs]) ** 2
    run = offer.runs[rng.choice(len(offer.runs), p=lengths / lengths.sum())]
    size = min(len(run), int(rng.integers(1, 5)))
    start = rng.integers(len(run) - size + 1)
    return run[start : start + size]


def _description_span(offer: ProductWords, rng: np.random.Generator) -> tuple[str, ...]:
    run = _one(offer.described, rng)
    size = min(len(run), int(rng.integers(2, 4)))
    return run[:size] if size > 1 else ()


_SHAPES_AND_WEIGHTS: tuple[tuple[Callable, float], ...] = (
    (_type, 0.34),
    (_brand_and_type, 0.17),
    (_beside_type(lambda offer: offer.values, 0.6), 0.15),
    (_beside_type(lambda offer: offer.measures, 0.5), 0.08),
    (_title_span, 0.08),
    (_description_span, 0.06),
    (lambda offer, rng: offer.leaf, 0.05),
    (_type_for, 0.04),
    (_beside_type(lambda offer: offer.codes, 0.5), 0.03),
)
_SHAPES = [shape for shape, _ in _SHAPES_AND_WEIGHTS]
_SHAPE_WEIGHTS = [weight for _, weight in _SHAPES_AND_WEIGHTS]


def _vary(words: list[str], kinds: Collection[str], rng: np.random.Generator) -> list[str]:
    """Vary a query as shoppers do: leave a word out, change the order, or the number of one of `kinds`.

    Repeated words are said once.
    """
    words = [word for at, word in enumerate(words) if word not in words[:at]]
    if len(words) > 2 and "for" not in words and rng.random() < 0.1:
        del words[rng.integers(len(words) - 1)]  # never the last one, mostly the kind of thing
    if len(words) > 1 and "for" not in words and rng.random() < 0.05:
        words = words[1:] + words[:1]
    if words[-1] in kinds and rng.random() < 0.2:
        words[-1] = other_number(words[-1])
    return words
