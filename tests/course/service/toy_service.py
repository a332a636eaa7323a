"""A real `Service` over a toy shop of 60 products: chapter 1's BM25, vectors of hashed words, and drawn pictures.

Looks and categories are answered by a few lines each, so that what is tested is the service.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from chapter01_baseline.keyword import KeywordSearcher, tokenize
from chapter01_baseline.systems import SCORES
from common.catalogue import Catalogue, product_text
from common.encoders import Embeddings
from common.errors import CourseError
from common.index import DenseIndex, DenseSearcher
from common.search import Hits, hits_from_scores
from common.shared_encoders import SharedEncoders, TextMemory
from course.service import answers
from course.service import shop as parts
from course.service.service import Service
from course.service.shop import Shop

DIMENSION = 64
COLOURS = {"red": "#c03030", "green": "#308040", "blue": "#3050a0", "black": "#202020", "white": "#f2f2ee"}
THINGS = {
    "mug": "Kitchen & Dining > Tableware > Mugs",
    "kettle": "Kitchen & Dining > Kettles",
    "lamp": "Home > Lighting > Lamps",
    "jacket": "Clothing > Outerwear > Jackets",
}
BRANDS = ("Corbo", "Everday", "Nørd & Søn")
HOSTILE = "p0002"
"""A product whose title is HTML."""
UNPICTURED, UNPRICED = "p0003", "p0004"


class HashedWords:
    """An encoder without weights: a vector is the sum of its words' random directions."""

    encoder_id, dimension = "hashed-words", DIMENSION

    def __init__(self, memory: TextMemory | None = None) -> None:
        self.memory = memory

    def with_memory(self, memory: TextMemory | None) -> HashedWords:
        return HashedWords(memory)

    def encode(self, texts: Sequence[str], *, desc: str | None = None) -> Embeddings:
        vectors = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        todo = self.memory.fill(texts, vectors) if self.memory is not None else np.arange(len(texts))
        for at in todo:
            vectors[at] = sum((_direction(word) for word in tokenize(texts[at])), _direction(""))
            vectors[at] /= np.linalg.norm(vectors[at])
        if self.memory is not None:
            self.memory.add([texts[at] for at in todo], vectors[todo])
        return Embeddings(vectors, self.encoder_id)


class ByColour:
    """Searches by the mean colour of a picture."""

    def __init__(self, ids: list[str], pictures: list[Image.Image]) -> None:
        self.ids, self.means = ids, np.stack([_mean_colour(picture) for picture in pictures])

    def search(self, queries: Sequence[Image.Image], k: int, *, allowed=None, exclude=None) -> Hits:
        asked = np.stack([_mean_colour(picture) for picture in queries])
        return hits_from_scores((asked @ self.means.T).astype(np.float32), self.ids, k)


def toy_catalogue(folder: Path, products: int = 60) -> Catalogue:
    """Products of four kinds, five colours and three brands, with a picture each but one, and a few queries."""
    rows, images = [], []
    (folder / "pictures").mkdir(parents=True)
    for number in range(products):
        thing = list(THINGS)[number % len(THINGS)]
        colour = list(COLOURS)[number // len(THINGS) % len(COLOURS)]
        product_id = f"p{number:04d}"
        title = f"{colour.title()} {thing} {number}"
        rows.append(
            {
                "product_id": product_id,
                "title": '<img src=x onerror="alert(1)"> <b>mug</b>' if product_id == HOSTILE else title,
                "description": f"A {colour} {thing} for every day.",
                "brand": BRANDS[number % len(BRANDS)],
                "colour": colour,
                "price": np.nan if product_id == UNPRICED else 5.0 + number,
                "category_path": THINGS[thing],
                "attributes": json.dumps({"size": f"{number} cm"}),
            }
        )
        if product_id != UNPICTURED:
            path = folder / "pictures" / f"{product_id}.png"
            _draw(colour, number).save(path)
            images.append({"product_id": product_id, "path": str(path), "position": 0})
    queries = [
        ("q0", "red mug", "attribute", "test"),
        ("q1", "kettle", "category", "test"),
        ("q2", "a", "brand", "val"),
    ]
    return Catalogue.from_tables(
        "toy",
        products=pd.DataFrame(rows),
        images=pd.DataFrame(images),
        queries=pd.DataFrame(queries, columns=["query_id", "query", "kind", "split"]),
    )


def toy_service(folder: Path, *, products: int = 60, max_batch: int = 64, remember: int = 1_000) -> Service:
    """The service over `toy_catalogue`, everything built."""
    catalogue, encoders = toy_catalogue(folder, products), SharedEncoders(remember)
    encoder = encoders.get("hashed words", HashedWords)
    ids, texts = catalogue.products["product_id"].tolist(), product_text(catalogue.products)
    dense = DenseSearcher(encoder, DenseIndex.build(HashedWords().encode(texts), ids))
    pictured = catalogue.images["product_id"].tolist()
    pictures = ByColour(pictured, [Image.open(catalogue.image_path(one)).convert("RGB") for one in pictured])
    shop = Shop(
        catalogue=catalogue,
        profile="smoke",
        runs={"chapter01_baseline/reindex": "20260101T000000-00000000"},
        systems={"BM25": KeywordSearcher(ids, texts), "MiniLM": dense},
        chapters=dict.fromkeys(("BM25", "MiniLM"), parts.CHAPTERS[0]),
        score_means=SCORES,
        pictures=pictures,
        classify=lambda seen: [[(path, 1 / len(THINGS)) for path in THINGS.values()] for _ in seen],
        similar=_similar(dense.index, HashedWords().encode(texts), ids),
        look=_look(pictured, catalogue),
        look_means=answers.GOES_WITH,
        look_choices=[
            (f"{title} ({one})", one) for one, title in zip(ids[:8], catalogue.products["title"], strict=False)
        ],
        gap_categories=sorted({*THINGS.values(), *(path.split(" > ")[0] for path in THINGS.values())}),
        rank=_rank(ids),
        board=_board(),
        map_page="<!doctype html><title>map</title><p>a toy map</p>",
        missing={"two towers": "not built: run python -m chapter02_two_tower.reindex"},
    )
    return Service(shop, encoders, max_batch=max_batch)


def empty_service(folder: Path) -> Service:
    """The service over the same catalogue with nothing built."""
    run = "not built: run python -m chapter01_baseline.reindex"
    names = ("BM25", "MiniLM", parts.PICTURE, parts.CATEGORY, parts.SIMILAR, parts.LOOK, parts.RANKING)
    missing = dict.fromkeys((*names, parts.SCOREBOARD, parts.CONSTELLATION), run)
    shop = Shop(toy_catalogue(folder), "smoke", runs={}, systems={}, chapters={}, score_means={}, missing=missing)
    return Service(shop, SharedEncoders(0))


def _similar(index: DenseIndex, embeddings: Embeddings, ids: list[str]):
    def neighbours(product_id: str, k: int) -> list[tuple[str, float]]:
        own = Embeddings(embeddings.vectors[[ids.index(product_id)]], embeddings.encoder_id)
        return index.search_vectors(own, k, exclude=[{product_id}]).row(0)

    return neighbours


def _look(pictured: list[str], catalogue: Catalogue):
    paths = dict(catalogue.products[["product_id", "category_path"]].itertuples(index=False))

    def complete(context_ids, *, gap_category=None, k=5, pool=100, use_mmr=True, mmr_lambda=0.7):
        if not context_ids:
            raise CourseError("The context is empty; give at least one item that is there already.")
        if not 1 <= k <= pool or not 0 <= mmr_lambda <= 1:
            raise CourseError("k is at least 1 and at most the pool, mmr_lambda between 0 and 1.")
        if gap_category is not None and not any(
            f"{path} > ".startswith(f"{gap_category} > ") for path in paths.values()
        ):
            raise CourseError(f"There is no category {gap_category!r}.")
        fits = [
            one
            for one in pictured
            if one not in context_ids and f"{paths[one]} > ".startswith(f"{gap_category or paths[one]} > ")
        ][:k]
        items = pd.DataFrame({"product_id": fits, "score": np.linspace(0.9, 0.5, len(fits))})
        return SimpleNamespace(items=items, note="" if len(fits) == k else f"only {len(fits)} items to choose from")

    return complete


def _rank(ids: list[str]):
    def rank(title, description, picture, *, candidates=(), k=10):
        if not title and not description and picture is None:
            raise CourseError("Nothing is given; give a title, a description or a picture of the product.")
        paths = list(candidates) or list(THINGS.values())
        if len(set(paths)) < len(paths) or not all(path.strip() for path in paths):
            raise CourseError("A candidate is empty or there more than once; name each once.")
        chances = np.arange(len(paths), 0, -1) / sum(range(len(paths) + 1))
        neighbours = list(zip(ids, (0.9, 0.8, 0.7), strict=False))
        ranking = list(zip(paths, chances.tolist(), strict=True))[:k]
        share = 1.0 if picture is None else 0.4
        return SimpleNamespace(
            ranking=ranking, note="", shares={"text": share, "picture": 1 - share}, neighbours=neighbours
        )

    return rank


def _board() -> pd.DataFrame:
    shared = {"chapter": parts.CHAPTERS[0], "source": "toy", "split": "test", "n_queries": 2, "seconds": 0.1}
    rows = [("BM25", "nDCG@10", 0.4, 0.3, 0.5), ("MiniLM", "nDCG@10", 0.5, 0.4, 0.6), ("BM25", "MRR", 0.5, 0.4, 0.6)]
    names = ["system", "metric", "value", "ci_low", "ci_high"]
    return pd.DataFrame([dict(zip(names, row, strict=True)) | shared for row in rows])


def _direction(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)


def _mean_colour(picture: Image.Image) -> np.ndarray:
    mean = np.asarray(picture.resize((8, 8)), dtype=np.float32).reshape(-1, 3).mean(axis=0) - 128
    return mean / max(float(np.linalg.norm(mean)), 1e-6)


def _draw(colour: str, number: int) -> Image.Image:
    picture = Image.new("RGB", (120, 120), "#e8e4da")
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle((20 + number % 9, 25, 100, 105), radius=18, fill=COLOURS[colour])
    return picture


if __name__ == "__main__":  # python toy_service.py FOLDER PORT [page]: for the tests that need a process of their own
    import os

    from course import serve

    folder, port, page = Path(sys.argv[1]), int(sys.argv[2]), "page" in sys.argv[3:]
    config = serve.Serve(port=port, page=page)
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    with serve.ending_on_signals(), serve.listen(config.host, config.port) as listener:
        serve.run(toy_service(folder), config, listener)
