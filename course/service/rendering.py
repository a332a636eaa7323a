"""Write the answers of the API as JSON, in the form of `course.service.schemas`."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from course.service import answers


def render(value: Any) -> bytes:
    """Write JSON in ASCII, which no text of a catalogue can break. Raises ValueError for nan and infinity."""
    return _ENCODER.encode(value).encode("ascii")


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def product(found: answers.Product) -> dict[str, Any]:
    """Convert to the form of `schemas.Product`."""
    return {
        "product_id": found.product_id,
        "title": found.title,
        "description": found.description,
        "brand": found.brand,
        "colour": found.colour,
        "material": found.material,
        "price": found.price,
        "category_path": found.category_path,
        "attributes": dict(found.attributes),
        "image": f"/images/{quote(found.product_id, safe='')}" if found.has_image else None,
    }


def hits(found: list[answers.Hit]) -> list[dict[str, Any]]:
    """Convert to the form of `schemas.Hit`, in the given order."""
    return [{"rank": hit.rank, "score": hit.score, "product": product(hit.product)} for hit in found]


def answer(found: answers.Answer) -> dict[str, Any]:
    """Convert to the form of `schemas.SearchAnswer`."""
    return {"hits": hits(found.hits), "system": found.system, "score_means": found.score_means, "note": found.note}


def picture_answer(found: answers.PictureAnswer) -> dict[str, Any]:
    """Convert to the form of `schemas.PictureAnswer`."""
    return answer(found) | {"categories": _chances(found.categories), "category_note": found.category_note}


def category_answer(found: answers.CategoryAnswer) -> dict[str, Any]:
    """Convert to the form of `schemas.CategoryAnswer`."""
    return {
        "ranking": _chances(found.ranking),
        "note": found.note,
        "text_share": found.text_share,
        "neighbours": hits(found.neighbours),
    }


def _chances(ranked: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"category_path": path, "probability": chance} for path, chance in ranked]
