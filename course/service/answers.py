"""Define what the service is asked and what it answers: plain values, the same for the API and the page.

**Scores.** `Hit.score` orders the hits of one answer: higher is better, and `score_means` beside it says what it
measures. Scores of different systems cannot be compared. A `probability` is between 0 and 1; over all categories that
were ranked, probabilities add up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import CourseError

MOST_HITS = 100
"""Products that one question may ask for."""
MOST_CATEGORIES = 50
"""Category paths that one question may ask for: chapter 4's limit, repeated here because its module loads torch."""
LONGEST_QUERY = 2_000
"""Characters."""
LARGEST_PICTURE = 10 * 2**20
"""Bytes of an uploaded file."""

GOES_WITH = "mean chance of going with each product of the context, from 0 to 1"
GOES_WITH_BY_COSINE = (
    "mean cosine with each product of the context, of vectors in which what goes together is near, from -1 to 1"
)


class UnknownProduct(CourseError):
    """Report that no product has that id, or that it lacks a picture that is needed."""


class NotBuilt(CourseError):
    """Report that a part of the course was not built; the message says what to run."""


class Overloaded(CourseError):
    """Report that too many questions wait; ask again later."""


class UnusablePicture(CourseError):
    """Report that an upload is not a picture, or not one that is safe to decode; the message says why."""


@dataclass(frozen=True)
class Product:
    """A product as it is shown; missing fields are None. has_image: whether `/images/{product_id}` has a picture."""

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
    """hits: best first. system: the system that found them. score_means: what their scores measure. note: why there are
    fewer hits than were asked for; else empty."""

    hits: list[Hit]
    system: str
    score_means: str
    note: str = ""


@dataclass(frozen=True)
class PictureAnswer(Answer):
    """categories: (category path, probability) of the picture, the likeliest first. Without a classifier it is empty,
    and `category_note` says why."""

    categories: list[tuple[str, float]] = field(default_factory=list)
    category_note: str = ""


@dataclass(frozen=True)
class CategoryAnswer:
    """ranking: (category path, probability), the likeliest first. note: why not to trust the first, else empty.
    text_share: the share of the text in the product's vector, from 0 to 1; the rest is the picture's. neighbours: the
    nearest products of the catalogue, by cosine."""

    ranking: list[tuple[str, float]]
    note: str
    text_share: float
    neighbours: list[Hit]
