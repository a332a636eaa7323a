"""Answer questions from many callers at once, with everything that the course has built.

All searchers and models run in one thread: a model uses all cores by itself, and two at once slow each other down.
Searches by text and by picture are answered in batches (`course.service.batching`). Similar products, looks and
categories are answered one after the other; the first two take a few milliseconds and encode nothing.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from PIL import Image

from common.catalogue.images import UnusableImage, open_image
from common.errors import CourseError
from common.search import COSINE, check_k
from common.shared_encoders import SharedEncoders
from course.service.answers import (
    LONGEST_QUERY,
    MOST_CATEGORIES,
    MOST_HITS,
    Answer,
    CategoryAnswer,
    Hit,
    NotBuilt,
    PictureAnswer,
    Product,
    UnknownProduct,
)
from course.service.batching import MicroBatcher
from course.service.filters import Filters, allowed_ids, why_fewer
from course.service.shop import (
    CATEGORY,
    CONSTELLATION,
    LOOK,
    PICTURE,
    RANKING,
    SCOREBOARD,
    SIMILAR,
    Shop,
    every_level,
    products_of,
)
from course.service.uploads import open_upload

LONGEST_TEXT = 20_000
"""Characters of a product's title or description: chapter 4's limit, repeated here because its module loads torch."""
MOST_CONTEXT = 50
SIDES = (96, 192, 384, 768, 1024)
"""Pixels of the thumbnails that are made; a request gets the next larger size."""
LEAST_SIDE = 32
MOST_PICTURES = 64
"""Opened uploads that may wait for their search; each takes a few megabytes."""
EXAMPLES = 6

Part = TypeVar("Part")
Found = list[tuple[str, float]]


@dataclass(frozen=True)
class TextQuestion:
    """A text search whose arguments were checked."""

    query: str
    system: str
    k: int
    filters: Filters


class Service:
    """Answer the API and the page.

    encoders: those that were loaded with the shop, for their statistics. max_batch: largest number of questions that
    are encoded together; 1 answers them one by one.
    """

    def __init__(self, shop: Shop, encoders: SharedEncoders, *, max_batch: int = 64) -> None:
        self.shop, self.missing, self._encoders = shop, shop.missing, encoders
        self.systems = list(shop.systems)
        self._products = products_of(shop.catalogue)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        batched = partial(MicroBatcher, executor=self._thread, max_batch=max_batch)
        self._texts = batched(self._search, key=lambda asked: (asked.system, asked.filters))
        self._pictures = batched(self._search_pictures, key=lambda asked: None, max_waiting=MOST_PICTURES)
        self._uploads = ThreadPoolExecutor(
            1, thread_name_prefix="uploads"
        )  # one at a time: see `course.service.uploads`
        self._others = MicroBatcher(_call_each, executor=self._thread, key=lambda call: None, max_batch=1)
        self._allowed = lru_cache(32)(partial(allowed_ids, shop.catalogue.products))
        self._thumbnail = lru_cache(1_000)(self._make_thumbnail)
        self.filter_categories = every_level(shop.catalogue.products["category_path"].dropna())
        self.brands = _sorted(shop.catalogue.products["brand"])
        self.colours = _sorted(shop.catalogue.products["colour"])
        self.look_choices, self.gap_categories = shop.look_choices, shop.gap_categories
        self.example_queries = _examples(shop.catalogue.queries)

    async def search(
        self, query: str, *, k: int = 10, system: str | None = None, filters: Filters | None = None
    ) -> Answer:
        """Find the k best products for a text. system: one of `systems`; None: the strongest.

        Raises NotBuilt for a system that is not built, and CourseError for an unknown system, a query that is empty or
        too long, and a k out of range.
        """
        name = self._system(system)
        if not query.strip():
            raise CourseError("The query is empty; say in a few words what you are looking for.")
        if len(query) > LONGEST_QUERY:
            raise CourseError(f"The query has {len(query):,} characters; say it in at most {LONGEST_QUERY:,}.")
        chosen = filters or Filters()
        found = await self._texts.ask(TextQuestion(query, name, _count(k), chosen))
        note = "" if len(found) == k else why_fewer(len(found), k, chosen, len(self._allowed(chosen) or ()))
        return Answer(self._hits(found), name, self.shop.score_means[name], note)

    async def search_picture(self, picture: bytes, *, k: int = 10) -> PictureAnswer:
        """Find the k products that look most like an uploaded picture, and its likeliest categories.

        Raises UnusablePicture, NotBuilt, and CourseError for a k out of range.
        """
        self._built(self.shop.pictures, PICTURE)
        opened, count = await self._opened(picture), _count(k)
        found, categories = await self._pictures.ask((opened, count))
        return PictureAnswer(
            self._hits(found), PICTURE, COSINE, categories=categories, category_note=self.missing.get(CATEGORY, "")
        )

    async def similar(self, item_id: str, *, k: int = 10) -> Answer:
        """Find the k products most like one of the catalogue, by text and picture together, without the product itself.

        Raises UnknownProduct, NotBuilt, and CourseError for a k out of range.
        """
        neighbours, count = self._built(self.shop.similar, SIMILAR), _count(k)
        self.product(item_id)
        found = await self._others.ask(lambda: neighbours(item_id, count))
        return Answer(self._hits(found), SIMILAR, COSINE)

    async def complete_look(
        self,
        context_ids: Sequence[str],
        *,
        gap_category: str | None = None,
        k: int = 5,
        pool: int = 100,
        use_mmr: bool = True,
        mmr_lambda: float = 0.7,
    ) -> Answer:
        """Find up to k products that go with all of `context_ids`; see `chapter03_multimodal.outfits.complete_look`.

        Raises UnknownProduct, NotBuilt, and CourseError for an empty context, an unknown category, a product without a
        picture and numbers out of range.
        """
        complete, count = self._built(self.shop.look, LOOK), _count(k)
        if len(context_ids) > MOST_CONTEXT:
            raise CourseError(f"The context has {len(context_ids):,} products; give at most {MOST_CONTEXT}.")
        if pool > 10 * MOST_HITS:
            raise CourseError(f"pool is {pool}; at most {10 * MOST_HITS:,} candidates are scored.")
        for product_id in context_ids:
            self.product(product_id)
        asked = {"gap_category": gap_category, "k": count, "pool": pool, "use_mmr": use_mmr, "mmr_lambda": mmr_lambda}
        found = await self._others.ask(lambda: complete(context_ids, **asked))
        return Answer(
            self._hits(found.items.itertuples(index=False, name=None)), LOOK, self.shop.look_means, found.note
        )

    async def categories(
        self,
        *,
        title: str | None = None,
        description: str | None = None,
        picture: bytes | None = None,
        candidates: Sequence[str] = (),
        k: int = 10,
    ) -> CategoryAnswer:
        """Rank the category paths of a visitor's product; see `chapter04_catalogue_reranker.own_product`.

        Raises UnusablePicture, NotBuilt, and CourseError if nothing is given, a text is too long, a candidate is empty
        or given twice, or k is out of range.
        """
        rank, count = self._built(self.shop.rank, RANKING), _count(k, MOST_CATEGORIES, "category paths")
        seen = None if picture is None else await self._opened(picture)
        call = partial(self._rank, rank, title, description, seen, candidates, count)
        found = await self._others.ask(call)
        return CategoryAnswer(found.ranking, found.note, found.shares["text"], self._hits(found.neighbours))

    def product(self, product_id: str) -> Product:
        """Return the product of that id; raises UnknownProduct."""
        found = self._products.get(product_id)
        if found is None:
            raise UnknownProduct(f"There is no product {product_id[:80]!r} in {self.shop.catalogue.source}.")
        return found

    async def thumbnail(self, product_id: str, side: int = 384) -> bytes:
        """Return the product's picture as JPEG, made anew from the catalogue's file.

        Its longer side has at least `side` pixels if the file has as many, and is one of `SIDES`. Raises UnknownProduct
        if there is no picture, and CourseError for a side out of range.
        """
        if not self.product(product_id).has_image:
            raise UnknownProduct(f"Product {product_id[:80]!r} has no picture.")
        if not LEAST_SIDE <= side <= SIDES[-1]:
            raise CourseError(f"side is {side} pixels; it lies between {LEAST_SIDE} and {SIDES[-1]}.")
        return await asyncio.to_thread(self._thumbnail, product_id, SIDES[bisect_left(SIDES, side)])

    def score_means(self, system: str) -> str:
        """Return what the scores of a system measure; raises as `search` does."""
        return self.shop.score_means[self._system(system)]

    def scoreboard(self) -> pd.DataFrame:
        """Return the rows of the scoreboard; raises NotBuilt."""
        return self._built(self.shop.board, SCOREBOARD)

    def constellation(self) -> str:
        """Return the map's HTML page; raises NotBuilt."""
        return self._built(self.shop.map_page, CONSTELLATION)

    def health(self) -> dict[str, Any]:
        """Report that the service answers, and how busy it is."""
        stats = self._texts.stats
        return {
            "status": "ok",
            "source": self.shop.catalogue.source,
            "products": len(self._products),
            "systems": len(self.systems),
            "waiting": stats.waiting + self._pictures.stats.waiting + self._others.stats.waiting,
            "searches": stats.questions,
            "batches": stats.batches,
            "largest_batch": stats.largest,
            "embedding_cache": {"hits": self._encoders.hits, "misses": self._encoders.misses},
        }

    def index_info(self) -> dict[str, Any]:
        """Report the catalogue, runs and systems that are served, and what is not built."""
        shop = self.shop
        return {
            "source": shop.catalogue.source,
            "digest": shop.catalogue.digest,
            "profile": shop.profile,
            "products": len(self._products),
            "systems": [
                {"name": name, "chapter": shop.chapters[name], "score_means": shop.score_means[name]}
                for name in self.systems
            ],
            "runs": shop.runs,
            "missing": shop.missing,
        }

    async def close(self) -> None:
        """Answer the questions that wait, and refuse new ones."""
        await asyncio.gather(*(batcher.close() for batcher in (self._texts, self._pictures, self._others)))
        self._thread.shutdown()
        self._uploads.shutdown()

    def _system(self, name: str | None) -> str:
        if name in self.shop.systems:
            return name
        if not self.systems:
            raise NotBuilt(next(iter(self.missing.values()), "not built: run make course"))
        if name is None:
            return self.systems[-1]
        if name in self.missing:
            raise NotBuilt(f"{name}: {self.missing[name]}")
        raise CourseError(f"There is no system {name[:80]!r}; there are: {', '.join(self.systems)}.")

    def _built(self, part: Part | None, name: str) -> Part:
        if part is None:
            raise NotBuilt(f"{name}: {self.missing.get(name, 'not built: run make course')}")
        return part

    def _search(self, asked: list[TextQuestion]) -> list[Found]:
        """Answer questions to one system with one set of filters at once: with the largest k, then cut to each."""
        first = asked[0]
        allowed = self._allowed(first.filters)
        if allowed is not None and not allowed:
            return [[] for _ in asked]
        most = max(question.k for question in asked)
        hits = self.shop.systems[first.system].search([one.query for one in asked], most, allowed=allowed)
        return [hits.row(row)[: question.k] for row, question in enumerate(asked)]

    def _search_pictures(self, asked: list[tuple[Image.Image, int]]) -> list[tuple[Found, Found]]:
        pictures = [picture for picture, _ in asked]
        hits = self.shop.pictures.search(pictures, max(k for _, k in asked))
        categories = self.shop.classify(pictures) if self.shop.classify is not None else [[] for _ in asked]
        return [(hits.row(row)[:k], categories[row]) for row, (_, k) in enumerate(asked)]

    def _rank(
        self,
        rank: Callable,
        title: str | None,
        description: str | None,
        picture: Image.Image | None,
        candidates: Sequence[str],
        k: int,
    ) -> Any:
        """Rank, with the upload in a temporary file: the model reads pictures from files."""
        with tempfile.TemporaryDirectory(prefix="course-") as folder:
            path = None
            if picture is not None:
                path = Path(folder, "picture.png")
                picture.save(path, compress_level=1)
            return rank(title, description, path, candidates=candidates, k=k)

    async def _opened(self, data: bytes) -> Image.Image:
        return await asyncio.get_running_loop().run_in_executor(self._uploads, open_upload, data)

    def _make_thumbnail(self, product_id: str, side: int) -> bytes:
        path = self.shop.catalogue.image_path(product_id)
        try:
            picture = open_image(path, side, at_least=side)
        except UnusableImage as error:  # the file was there when the catalogue was read
            raise UnknownProduct(f"The picture of {product_id!r} cannot be read: {error.reason}.") from None
        made = io.BytesIO()
        picture.save(made, "JPEG", quality=88)
        return made.getvalue()

    def _hits(self, found: Sequence[tuple[str, float]]) -> list[Hit]:
        return [
            Hit(rank, float(score), self._products[product_id])
            for rank, (product_id, score) in enumerate(found, start=1)
        ]


def _call_each(calls: list[Callable[[], Any]]) -> list[Any]:
    return [call() for call in calls]


def _count(k: int, most: int = MOST_HITS, what: str = "products") -> int:
    if check_k(k) > most:
        raise CourseError(f"k is {k}; at most {most} {what} are given at once.")
    return int(k)


def _sorted(column: pd.Series) -> list[str]:
    return sorted(column.dropna().unique())


def _examples(queries: pd.DataFrame) -> list[str]:
    """Return test queries, one of each kind first."""
    asked = queries[queries["split"] == "test"]
    order = asked.assign(nth=asked.groupby("kind", dropna=False).cumcount()).sort_values("nth", kind="stable")
    return order["query"].head(EXAMPLES).tolist()
