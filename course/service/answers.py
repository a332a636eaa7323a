"""What the service is asked and what it answers: plain values, the same for the API and the page.

**Scores.** A name has one meaning. `Hit.score` orders the hits of one answer: higher is better, and what it measures is
said beside it in `score_means`; scores of different systems do not compare. A `probability` is between 0 and 1, and
adds up to 1 over all categories that were ranked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import CourseError

MOST_HITS = 100
"""Products that one question may ask for."""
MOST_CATEGORIES = 50
"""Category paths that one question may ask for: chapter 4's limit, whose module would load torch for it."""
LONGEST_QUERY = 2_000
"""Characters."""
LARGEST_PICTURE = 10 * 2**20
"""Bytes of an uploaded file."""

COSINE = "cosine of the two vectors, from -1 to 1"
GOES_WITH = "mean chance of going with each product of the context, from 0 to 1"
GOES_WITH_BY_COSINE = (
    "mean cosine with each product of the context, of vectors in which what goes together is near, from -1 to 1"
)


class UnknownProduct(CourseError):
    """No product has that id, or it has no picture where one is needed."""


class NotBuilt(CourseError):
    """A part of the course that is asked for was not built; the message says what to run."""


class Overloaded(CourseError):
    """More questions wait than the service takes; ask again later."""


class UnusablePicture(CourseError):
    """An upload that is no picture, or none that is safe to decode; the message says why."""


@dataclass(frozen=True)
class Filters:
    """Which products may be found; what is None does not filter.

    category: a path or the start of one, level by level ("Garden" holds "Garden > Tools"). brand, colour: equal but for
    case. price_min, price_max: both included; a product without a price fits neither.
    """

    category: str | None = None
    brand: str | None = None
    colour: str | None = None
    price_min: float | None = None
    price_max: float | None = None

    @property
    def given(self) -> bool:
        """Whether anything is filtered."""
        return self != Filters()


@dataclass(frozen=True)
class Product:
    """A product as it is shown; what is missing is None. has_image: whether `/images/{product_id}` has a picture."""

    product_id: str
    title: str | None
    description: str | None
    brand: str | None
    colour: str | None
    material: str | None
    price: float | None
    category_path: str | None
    attributes: Mapping[str, Any]
    has_image: bool


@dataclass(frozen=True)
class Hit:
    """A product that was found. rank: from 1. score: see the module."""

    rank: int
    score: float
    product: Product


@dataclass(frozen=True)
class Answer:
    """hits: best first. system: who found them. score_means: what their scores measure. note: why there are fewer hits
    than were asked for, or none; else empty."""

    hits: list[Hit]
    system: str
    score_means: str
    note: str = ""


@dataclass(frozen=True)
class PictureAnswer(Answer):
    """categories: (category path, probability) of the picture, the likeliest first; empty, and `category_note` says
    why, where there is no classifier."""

    categories: list[tuple[str, float]] = field(default_factory=list)
    category_note: str = ""


@dataclass(frozen=True)
class CategoryAnswer:
    """ranking: (category path, probability), the likeliest first. note: why not to believe the first, else empty.
    text_share: how much of the product's vector is its text's, from 0 to 1; the rest is its picture's. neighbours: the
    nearest products of the catalogue, by cosine."""

    ranking: list[tuple[str, float]]
    note: str
    text_share: float
    neighbours: list[Hit]
