"""Build a toy shop of 48 products, searchers that guess, and everything that `QueryFeatures` reads, without a model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd

from chapter01_baseline.keyword import KeywordSearcher, tokenize
from chapter04_catalogue_reranker.search_ranker.category_agreement import probabilities
from chapter04_catalogue_reranker.search_ranker.pair_similarity import Encoded
from chapter04_catalogue_reranker.search_ranker.query_features import CANDIDATES_FROM, SYSTEMS, QueryFeatures
from common.catalogue import Catalogue, product_text
from common.encoders import Embeddings
from common.search import Hits, check_request, hits_from_scores

THINGS = ("lamp", "chair", "kettle", "rug", "shelf", "mirror")
COLOURS = ("red", "blue", "green", "white")
BRANDS = ("Tidy Home", "Lumora")
WIDTH = 12


def toy_shop() -> Catalogue:
    """Return every thing in every colour of both brands, and queries that name a colour or refuse one. Half of the
    grades are judged."""
    rows = [(thing, colour, brand) for thing in THINGS for colour in COLOURS for brand in BRANDS]
    products = pd.DataFrame(rows, columns=["thing", "colour", "brand"])
    products["product_id"] = [f"p{at:02d}" for at in np.random.default_rng(3).permutation(len(rows))]
    products["title"] = products["colour"] + " " + products["thing"]
    products["price"] = 10.0 + np.arange(len(rows)) % 7
    products["category_path"] = "Home > " + products["thing"]
    products.loc[products.index % 5 == 0, "category_path"] = None
    products.loc[products.index % 3 == 0, "colour"] = None
    products.loc[products.index % 4 == 0, "brand"] = None
    wishes = [(thing, colour) for thing in THINGS for colour in COLOURS]
    queries, grades = [], []
    for at, (thing, colour) in enumerate(wishes * 2):
        refuses = at >= len(wishes)
        split = ("train", "train", "val", "test")[at % 4]
        text = f"{thing}, but not {colour}" if refuses else f"{colour} {thing}"
        queries.append((f"q{at:02d}", text, "negation" if refuses else "attribute", split))
        for row, product in products.iterrows():
            fits = rows[row][1] == colour
            if rows[row][0] == thing:
                grades.append((f"q{at:02d}", product["product_id"], 3 if fits != refuses else 1))
            elif fits:
                grades.append((f"q{at:02d}", product["product_id"], 0))
    queries = pd.DataFrame(queries, columns=["query_id", "query", "kind", "split"])
    truth = pd.DataFrame(grades, columns=["query_id", "product_id", "grade"])
    tables = {"products": products.drop(columns="thing"), "queries": queries}
    return Catalogue.from_tables("toy", **tables, truth=truth[truth["grade"] > 0], judgements=truth.iloc[::2])


class Guesses:
    """Finds products by the number of the query's words that they have, plus noise."""

    encoder_id = "guesses"

    def __init__(self, catalogue: Catalogue, seed: int) -> None:
        self.ids = catalogue.products["product_id"].tolist()
        self.words = [{*tokenize(text)} for text in product_text(catalogue.products)]
        self.noise = np.random.default_rng(seed).random(len(self.ids)) * 0.4

    def search(self, queries, k, *, allowed=None, exclude=None) -> Hits:
        request = check_request(queries, k, allowed, exclude)
        shared = [[len({*tokenize(text)} & words) for words in self.words] for text in request.queries]
        shared = np.array(shared, dtype=float).reshape(len(request.queries), len(self.ids))
        scores = np.where(shared > 0, shared + self.noise, -np.inf)
        for row in range(len(scores)):
            for at, product_id in enumerate(self.ids):
                excluded = request.exclude is not None and product_id in request.exclude[row]
                if excluded or (request.allowed is not None and product_id not in request.allowed):
                    scores[row, at] = -np.inf
        return hits_from_scores(scores / 10, self.ids, request.k)


class Encoder:
    """Encodes a text as the mean of its words' random vectors: equal words, equal vectors."""

    def encode(self, texts, *, desc=None) -> Embeddings:
        vectors = np.array([self.vector(text) for text in texts], dtype=np.float32)
        return Embeddings(vectors.reshape(len(texts), WIDTH), "toy")

    def vector(self, text: str) -> np.ndarray:
        words = tokenize(text) or ["nothing"]
        return np.mean([np.random.default_rng([*word.encode()]).normal(size=WIDTH) for word in words], axis=0)


def toy_features(catalogue: Catalogue, depth: int = 20) -> QueryFeatures:
    """Return what `QueryFeatures.load` would, over guesses; every sixth product has no picture."""
    ids, texts = catalogue.products["product_id"].tolist(), product_text(catalogue.products)
    names = dict.fromkeys([*CANDIDATES_FROM, *(name for systems in SYSTEMS.values() for name in systems)])
    searchers = {name: Guesses(catalogue, seed) for seed, name in enumerate(names)}
    encoder = Encoder()
    vectors = encoder.encode(texts).vectors
    seen = vectors.copy()
    seen[::6] = np.nan
    paths = [f"Home > {thing}" for thing in sorted(THINGS)]
    places = encoder.encode(paths).vectors
    categories = SimpleNamespace(
        paths=paths,
        product_probs=probabilities(vectors @ places.T, 3.0),
        of_queries=lambda queries: probabilities(encoder.encode(queries).vectors @ places.T, 3.0),
    )
    keyword = KeywordSearcher(ids[::-1], texts[::-1])
    return QueryFeatures(
        catalogue, searchers, keyword, Encoded(encoder, vectors), Encoded(encoder, seen), categories, depth=depth
    )
