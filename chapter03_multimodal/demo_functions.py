"""What the demo does, as plain functions: search by text, search by picture, complete the look.

    state = load_state(artifacts, catalogue)
    found = search_text(state, "a green rug", k=8)
    found.gallery      # [(path of the picture or None, caption), ...]
    found.table        # rank, score, product_id, title, brand, category_path

Nothing here knows of a user interface, and nothing is written. What a person can put right (an empty query, a picture
that cannot be read, a part that is not built) is a CourseError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

import pandas as pd
from PIL import Image

from chapter03_multimodal.categories.classifier import load_classifier, load_encoder_of
from chapter03_multimodal.encoder import Picture
from chapter03_multimodal.outfits.complete_look import LookFinder, complete_look, load_look_finder
from chapter03_multimodal.outfits.pairs import SEPARATOR
from chapter03_multimodal.reindex import PictureIndices, PictureSearcher, load_pictures
from chapter03_multimodal.systems import CLIP, systems
from common.artifacts import Artifacts
from common.catalogue import Catalogue
from common.catalogue.images import UnusableImage, open_image
from common.errors import CourseError
from common.search import Searcher, check_k

TEXT, PICTURE, CATEGORY, LOOK = "search by text", "search by picture", "predicted category", "complete the look"
MOST = 50
"""Products that one question may ask for."""
LONGEST_QUERY = 2_000
TOP_CATEGORIES = 3
LONGEST_CAPTION = 70
COLUMNS = ("rank", "score", "product_id", "title", "brand", "category_path")

Gallery = list[tuple[Path | None, str]]
"""Pictures with their captions; None for a product without one."""
Predictor = Callable[[Image.Image], list[tuple[str, float]]]
Part = TypeVar("Part")


@dataclass(frozen=True)
class DemoState:
    """What is built of a catalogue.

    searchers: those for texts, by name, the strongest last. pictures: search by picture. predict: from a picture to its
    likeliest categories with their probabilities, the likeliest first. finder: completes a look. missing: the parts
    that are not there (`TEXT`, `PICTURE`, `CATEGORY`, `LOOK`), each with the reason and the command that builds it;
    `searchers` may hold CLIP while `TEXT`, for the rest of them, is missing.
    """

    catalogue: Catalogue
    searchers: dict[str, Searcher]
    pictures: PictureSearcher | None
    predict: Predictor | None
    finder: LookFinder | None
    missing: dict[str, str]

    @cached_property
    def products(self) -> pd.DataFrame:
        """The catalogue's products by id."""
        return self.catalogue.products.set_index("product_id")


@dataclass(frozen=True)
class Found:
    """An answer. gallery and table: the products, best first. table: `COLUMNS`, texts that are missing are empty.
    categories: (path, probability), for a picture. note: why there is less than was asked for."""

    gallery: Gallery
    table: pd.DataFrame
    categories: list[tuple[str, float]] = field(default_factory=list)
    note: str = ""


def load_state(artifacts: Artifacts, catalogue: Catalogue) -> DemoState:
    """Load every part that is built; the others are named in `DemoState.missing`."""
    missing: dict[str, str] = {}

    def load(part: str, loader: Callable[[], Part]) -> Part | None:
        try:
            return loader()
        except CourseError as error:
            missing[part] = str(error)
            return None

    indices = load(PICTURE, lambda: load_pictures(artifacts))
    searchers = load(TEXT, lambda: systems(artifacts, catalogue)) or {}
    if indices is not None:
        searchers = {CLIP: indices.by_text} | {name: found for name, found in searchers.items() if name != CLIP}
    return DemoState(
        catalogue=catalogue,
        searchers=searchers,
        pictures=None if indices is None else indices.by_picture,
        predict=load(CATEGORY, lambda: load_predictor(artifacts, indices)),
        finder=load(LOOK, lambda: load_look_finder(artifacts, catalogue)),
        missing=missing,
    )


def load_predictor(artifacts: Artifacts, indices: PictureIndices | None = None) -> Predictor:
    """The category classifier with its encoder, which is that of `indices` where they are of the same.

    Raises `MissingArtifact` with the command that trains a classifier.
    """
    classifier = load_classifier(artifacts)
    shared = indices is not None and indices.encoder.encoder_id == classifier.encoder_id
    encoder = indices.encoder if shared else load_encoder_of(classifier, artifacts)
    return lambda picture: classifier.predict(encoder.encode_images([picture]).vectors, TOP_CATEGORIES)[0]


def search_text(state: DemoState, query: str, system: str | None = None, k: int = 12) -> Found:
    """The k best products for a text. system: one of `state.searchers`; None: the strongest.

    Raises CourseError for a query that is empty or longer than `LONGEST_QUERY`, an unknown system and a k out of range.
    """
    if not state.searchers:
        raise CourseError(state.missing[TEXT])
    name = system or list(state.searchers)[-1]
    if name not in state.searchers:
        raise CourseError(f"demo: no system {name!r}; there are: {', '.join(state.searchers)}.")
    if not query.strip():
        raise CourseError("The query is empty; say in a few words what you are looking for.")
    if len(query) > LONGEST_QUERY:
        raise CourseError(f"The query has {len(query):,} characters; say it in at most {LONGEST_QUERY:,}.")
    return _found(state, state.searchers[name].search([query], _count(k)).row(0))


def search_picture(state: DemoState, picture: Picture | None, k: int = 12, *, product_id: str | None = None) -> Found:
    """The k products that look most like a picture, and its three likeliest categories.

    picture: a file, or a picture in memory; None: that of the product `product_id`. product_id: a product that is left
    out, since every product looks like itself. Without a category classifier there are no categories, and `Found.note`
    says how to get one. Raises CourseError without a picture, for one that cannot be used, an unknown product and a k
    out of range.
    """
    searcher = _built(state, state.pictures, PICTURE)
    count, exclude = _count(k), None
    if product_id is not None:
        exclude = [{_known(state, product_id)}]
        picture = picture if picture is not None else state.catalogue.image_path(product_id)
        if picture is None:
            raise CourseError(f"Product {product_id!r} has no picture; give one, or another product.")
    seen = _opened(picture)
    hits = searcher.search([seen], count, exclude=exclude).row(0)
    if state.predict is None:
        return _found(state, hits, note=state.missing[CATEGORY])
    return _found(state, hits, categories=state.predict(seen))


def look(
    state: DemoState,
    context_ids: Sequence[str],
    gap_category: str | None = None,
    k: int = 5,
    mmr_lambda: float = 0.7,
) -> Found:
    """Up to k products that go with all of `context_ids`; see `complete_look` for the arguments.

    Raises CourseError for an empty context, unknown products, an unknown category and numbers out of range.
    """
    finder = _built(state, state.finder, LOOK)
    found = complete_look(finder, context_ids, gap_category=gap_category, k=_count(k), mmr_lambda=mmr_lambda)
    return _found(state, list(found.items.itertuples(index=False, name=None)), note=found.note)


def shown(state: DemoState, product_ids: Sequence[str]) -> Gallery:
    """Products with their titles, in the given order. Raises CourseError for an unknown one."""
    return [(state.catalogue.image_path(_known(state, one)), _title(state, one)) for one in product_ids]


def context_choices(state: DemoState, most: int = 300) -> list[tuple[str, str]]:
    """(title, product id) of products to start a look with: those of the catalogue's outfits, at most so many."""
    if state.finder is None:
        return []
    pairs = state.catalogue.pairs
    together = pairs.loc[pairs["label"] == 1, ["a_id", "b_id"]].to_numpy().ravel().tolist()
    items = [item for item in dict.fromkeys(together) if item in state.finder.embeddings][:most]
    return [(f"{_title(state, item)} ({item})", item) for item in items]


def gap_categories(state: DemoState) -> list[str]:
    """The categories that a look may lack: all paths of items that can be found, and the starts of these paths."""
    if state.finder is None:
        return []
    categories = state.finder.facts.categories
    paths = {categories[item] for item in state.finder.embeddings.ids if item in categories}
    levels = (path.split(SEPARATOR) for path in paths)
    return sorted({SEPARATOR.join(path[:depth]) for path in levels for depth in range(1, len(path) + 1)})


def _found(
    state: DemoState,
    hits: Sequence[tuple[str, float]],
    *,
    categories: Sequence[tuple[str, float]] = (),
    note: str = "",
) -> Found:
    ids, scores = [one for one, _ in hits], [float(score) for _, score in hits]
    facts = state.products.loc[ids, ["title", "brand", "category_path"]].fillna("").reset_index()
    table = facts.assign(rank=range(1, len(ids) + 1), score=pd.Series(scores, dtype=float))[list(COLUMNS)]
    gallery = [
        (path, f"{rank}. {title} · {score:.2f}")
        for rank, ((path, title), score) in enumerate(zip(shown(state, ids), scores, strict=True), start=1)
    ]
    return Found(gallery, table, list(categories), note)


def _built(state: DemoState, part: Part | None, name: str) -> Part:
    if part is None:
        raise CourseError(state.missing[name])
    return part


def _count(k: int) -> int:
    if check_k(k) > MOST:
        raise CourseError(f"search: k is {k}; at most {MOST} products are shown at once.")
    return int(k)


def _known(state: DemoState, product_id: str) -> str:
    if product_id not in state.products.index:
        raise CourseError(f"There is no product {product_id!r} in {state.catalogue.source}; check the id.")
    return product_id


def _opened(picture: Picture | None) -> Image.Image:
    """The picture, checked, and decoded once for search and classifier."""
    if picture is None:
        raise CourseError("There is no picture; give one, or the id of a product that has one.")
    try:
        return open_image(picture)
    except UnusableImage as error:
        raise CourseError(f"The picture cannot be used: {error.reason}. Give another one.") from None


def _title(state: DemoState, product_id: str) -> str:
    title = state.products.at[product_id, "title"]
    return shorten(product_id if pd.isna(title) else title, LONGEST_CAPTION, placeholder=" …")
