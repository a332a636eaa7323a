"""What is known of a query and a product: the columns that the learned ranker reads, from every chapter.

Candidates of a query are the union of the first hits of several systems (`CANDIDATES_FROM`). Each (query, product)
pair among them becomes a row; what is missing (no picture, no price limit, not among a system's hits) is NaN.

**A trap.** The towers of chapter 2 were trained on the very judgements that a ranker learns from: on training queries
they rank as they never will again (nDCG@10 0.68, on validation queries 0.57, while MiniLM has 0.39 and 0.44). A ranker
that reads their scores learns to trust them too much (on validation queries 0.71 in place of 0.75). So it is with all
systems that the towers take part in. Their columns are made (`SEEN_THE_JUDGEMENTS`), to show what they cost, but the
ranker does not read them: the towers enter through the `start`, the score of chapter 3's best system, whose weights
were chosen on validation queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from chapter01_baseline.keyword import KeywordSearcher, tokenize
from chapter01_baseline.reindex import load_indices
from chapter01_baseline.systems import first_stages, load_choices
from chapter02_two_tower import systems as text
from chapter03_multimodal import systems as pictures
from chapter03_multimodal.reindex import load_pictures
from chapter04_catalogue_reranker.search_ranker.category_agreement import (
    Categories,
    catalogue_rows,
    entropy,
    first_mass,
    load_categories,
)
from chapter04_catalogue_reranker.search_ranker.field_matches import FieldMatches, has_tokens, tokens_of, words_of
from chapter04_catalogue_reranker.search_ranker.query_words import Speller, Understood, encoder_words, understand
from common.artifacts import Artifacts
from common.catalogue import Catalogue, product_text
from common.encoders import TextEncoder
from common.search import Hits, Searcher

WORDS, TOWERS, PICTURES, CATEGORIES, QUERY = (
    "chapter 1: words and MiniLM",
    "chapter 2: towers",
    "chapter 3: pictures",
    "chapter 4: categories",
    "chapter 4: the query read",
)
GROUPS = (WORDS, TOWERS, PICTURES, CATEGORIES, QUERY)
BEST_OF_CHAPTER = {
    WORDS: "fusion + feedback",
    TOWERS: "two towers + BM25 + feedback",
    PICTURES: pictures.BEST,
}
"""The best system of each chapter before this one: what a ranker with no more than its features starts from."""

SYSTEMS = {
    WORDS: ("BM25", "BM25 + RM3", "MiniLM", "MiniLM + Rocchio", "fusion + feedback"),
    TOWERS: ("two towers", "two towers + BM25 + feedback", "text + image", pictures.BEST),
    PICTURES: (pictures.CLIP,),
}
"""The systems whose scores and ranks are columns, by group. What the towers take part in counts as theirs."""

SEEN_THE_JUDGEMENTS = TOWERS
CANDIDATES_FROM = (pictures.BEST, "two towers + BM25 + feedback", "text + image", "fusion + feedback", pictures.CLIP)
DEPTH = 200
"""Hits of each system that ranks and scores are read from."""
START_DEPTH = 1_000
"""The same of chapter 3's best system, on whose scores the ranker builds."""
FEEDBACK = 10
"""First hits whose categories say where the query leads."""


@dataclass(frozen=True)
class Encoded:
    """encoder: asks. vectors: [N, D] of the catalogue's products, rows of NaN for those without one."""

    encoder: TextEncoder
    vectors: np.ndarray

    @cached_property
    def mean_and_spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean [D] and covariance [D, D] of the vectors that are there."""
        there = self.vectors[np.isfinite(self.vectors[:, 0])].astype(np.float64)
        if not len(there):
            return np.zeros(self.vectors.shape[1]), np.zeros((self.vectors.shape[1],) * 2)
        mean = there.mean(axis=0)
        return mean, (there - mean).T @ (there - mean) / len(there)


@dataclass(frozen=True)
class PairTable:
    """M pairs. row: the query's position [M], ascending. product: the product's row in the catalogue [M]. values: a
    column a feature, float32. groups: of `GROUPS`, by column. starts: by group of `BEST_OF_CHAPTER`, that system's
    score [M], 0 where it is no hit. best: the hits [Q, START_DEPTH] of chapter 3's best system."""

    row: np.ndarray
    product: np.ndarray
    values: pd.DataFrame
    groups: dict[str, str]
    starts: dict[str, np.ndarray]
    best: Hits

    def columns_of(self, groups: Collection[str]) -> list[str]:
        """The columns of some groups, in the order of the table."""
        return [name for name in self.values if self.groups[name] in groups]


class QueryFeatures:
    """Finds the candidates of queries and makes their features.

    searchers: by name, all that `SYSTEMS` and `CANDIDATES_FROM` name. keyword: chapter 1's BM25. minilm, clip: text
    encoders with the products' vectors of chapter 1, and of their pictures. categories: what the chapter's model says.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        searchers: Mapping[str, Searcher],
        keyword: KeywordSearcher,
        minilm: Encoded,
        clip: Encoded,
        categories: Categories,
        *,
        depth: int = 100,
    ) -> None:
        self.catalogue, self.searchers, self.keyword = catalogue, searchers, keyword
        self.minilm, self.clip, self.categories, self.depth = minilm, clip, categories, depth
        self.product_ids = catalogue.products["product_id"].to_numpy(dtype=object)
        self._place = {product_id: row for row, product_id in enumerate(self.product_ids)}
        self._keyword_rows = catalogue_rows(catalogue, keyword.product_ids)
        train = catalogue.split_queries("train")["query"]
        self.speller = Speller(product_text(catalogue.products), train, encoder_words())
        self.fields = FieldMatches(catalogue.products)
        self._values = {field: tokens_of(catalogue.products[field]) for field in ("colour", "material")}

    @classmethod
    def load(cls, artifacts: Artifacts, catalogue: Catalogue) -> QueryFeatures:
        """Read all that the chapters made; raises `MissingArtifact` with the command for what is not there."""
        indices, shown = load_indices(artifacts, catalogue), load_pictures(artifacts)
        searchers = first_stages(indices, load_choices(artifacts)) | text.systems(artifacts, catalogue)
        searchers |= pictures.systems(artifacts, catalogue)
        seen = np.full((len(catalogue.products), shown.encoder.dimension), np.nan, dtype=np.float32)
        seen[catalogue_rows(catalogue, shown.product_ids)] = shown.embeddings.vectors
        minilm = Encoded(indices.encoder, indices.embeddings.vectors)
        categories = load_categories(artifacts, catalogue)
        return cls(catalogue, searchers, indices.keyword, minilm, Encoded(shown.encoder, seen), categories)

    def of(
        self,
        queries: Sequence[str],
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> PairTable:
        """The candidates of each query and their features; `allowed` and `exclude` as in `common.search.Searcher`."""
        queries = list(queries)
        hits = self._search(queries, allowed, exclude)
        row, product = self._candidates(hits, len(queries))
        read = [understand(self.speller.correct(query)) for query in queries]
        columns: dict[str, dict[str, np.ndarray]] = {group: {} for group in GROUPS}
        for group, systems in SYSTEMS.items():
            for name in systems:
                columns[group] |= self._of_system(name, hits[name], row, product)
        columns[PICTURES] |= self._of_pictures(queries, row, product)
        wanted = [asked.wanted for asked in read]
        columns[CATEGORIES] |= self._of_categories(wanted, hits[BEST_OF_CHAPTER[WORDS]], row, product)
        columns[QUERY] |= self._of_reading(read, row, product) | self.fields.of(read, row, product)
        found = {name: column for part in columns.values() for name, column in part.items()}
        return PairTable(
            row,
            product,
            values=pd.DataFrame({name: column.astype(np.float32) for name, column in found.items()}),
            groups={name: group for group, part in columns.items() for name in part},
            starts={group: self._scores(hits[name], row, product, 0.0) for group, name in BEST_OF_CHAPTER.items()},
            best=hits[pictures.BEST],
        )

    def _search(
        self, queries: list[str], allowed: Collection[str] | None, exclude: Sequence[Collection[str]] | None
    ) -> dict[str, Hits]:
        named = dict.fromkeys([*CANDIDATES_FROM, *(name for systems in SYSTEMS.values() for name in systems)])
        depths = {name: START_DEPTH if name == pictures.BEST else DEPTH for name in named}
        return {
            name: self.searchers[name].search(queries, depth, allowed=allowed, exclude=exclude)
            for name, depth in depths.items()
        }

    def _candidates(self, hits: Mapping[str, Hits], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of queries and of products: the first `depth` hits of every system of `CANDIDATES_FROM`, each once."""
        pairs = [np.empty(0, dtype=np.int64)]
        for name in CANDIDATES_FROM:
            rows, products, _ = self._flat(Hits(hits[name].ids[:, : self.depth], hits[name].scores[:, : self.depth]))
            pairs.append(rows * len(self.product_ids) + products)
        return np.divmod(np.unique(np.concatenate(pairs)), max(1, len(self.product_ids)))

    def _flat(self, hits: Hits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row of the query, row of the product and rank (from 1) of every hit."""
        rows, columns = np.nonzero(np.not_equal(hits.ids, None))
        products = np.array([self._place[product_id] for product_id in hits.ids[rows, columns]], dtype=np.int64)
        return rows, products, columns + 1

    def _scores(self, hits: Hits, row: np.ndarray, product: np.ndarray, missing: float, *, rank: bool = False):
        """Of each pair the score (or the rank) among the hits, `missing` where it is none."""
        rows, products, ranks = self._flat(hits)
        n = len(self.product_ids)
        order = np.argsort(rows * n + products)
        found, wanted = (rows * n + products)[order], row * n + product
        at = np.minimum(np.searchsorted(found, wanted), max(0, len(found) - 1))
        if not len(found):
            return np.full(len(row), missing, dtype=np.float32)
        values = (ranks if rank else hits.scores[rows, ranks - 1])[order]
        return np.where(found[at] == wanted, values[at], missing).astype(np.float32)

    def _of_system(self, name: str, hits: Hits, row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        first = Hits(hits.ids[:, :DEPTH], hits.scores[:, :DEPTH])
        score = self._scores(first, row, product, np.nan)
        best = np.where(np.isfinite(first.scores[:, 0]), first.scores[:, 0], np.nan)
        return {
            f"{name}, score": score,
            f"{name}, behind the best": score - best[row],
            f"{name}, 1 / rank": 1 / self._scores(first, row, product, np.nan, rank=True),
        }

    def _of_categories(
        self, wanted: list[str], hits: Hits, row: np.ndarray, product: np.ndarray
    ) -> dict[str, np.ndarray]:
        theirs = self.categories.product_probs
        asked = self.categories.of_queries(wanted)
        led = np.zeros_like(asked)
        rows, products, _ = self._flat(Hits(hits.ids[:, :FEEDBACK], hits.scores[:, :FEEDBACK]))
        np.add.at(led, rows, theirs[products])
        led /= np.maximum(led.sum(axis=1, keepdims=True), 1e-12)
        return {
            "categories, agreement": _dot(asked, theirs, row, product),
            "categories, agreement of the query's top 3": _dot(first_mass(asked), theirs, row, product),
            "categories, agreement with the first hits": _dot(led, theirs, row, product),
            "categories, the query's top probability": asked.max(axis=1)[row],
            "categories, the query's entropy": entropy(asked)[row],
        }

    def _of_pictures(self, queries: list[str], row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        has = np.isfinite(self.clip.vectors[:, 0])
        return {
            "CLIP, standardised": standardised(self.clip, queries, row, product),
            "has a picture": has[product].astype(np.float32),
        }

    def _of_reading(self, read: Sequence[Understood], row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        wanted, unwanted = [asked.wanted for asked in read], [asked.unwanted for asked in read]
        found, best = self._bm25(wanted, row, product)
        columns = {"read, BM25 of what is wanted": found, "read, the same behind the best": found - best[row]}
        for name, encoded in (("MiniLM", self.minilm), ("CLIP", self.clip)):
            columns[f"read, {name} of what is wanted"] = standardised(encoded, wanted, row, product)
            columns[f"read, {name} of what is not"] = standardised(encoded, unwanted, row, product)
        columns["read, words wanted"] = np.array([len(tokenize(words)) for words in wanted], dtype=np.float32)[row]
        columns["read, something is not wanted"] = np.array([bool(w) for w in unwanted], dtype=np.float32)[row]
        return columns | self._word_by_word(wanted, row, product)

    def _bm25(self, texts: list[str], row: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """BM25 of each pair [M], and the best of each query among all products [Q]."""
        found, best = np.zeros(len(row), dtype=np.float32), np.zeros(len(texts), dtype=np.float32)
        scores = np.zeros(len(self.product_ids), dtype=np.float32)
        for query, (start, stop) in enumerate(_ranges(row, len(texts))):
            scores[self._keyword_rows] = self.keyword.term_scores(Counter(tokenize(texts[query])))
            found[start:stop], best[query] = scores[product[start:stop]], scores.max(initial=0.0)
        return found, best

    def _word_by_word(self, wanted: list[str], row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        """What the picture says to each wanted word on its own: the worst, the mean, the best of them, and the mean of
        those words that are values of the catalogue's colours and materials."""
        said = [words_of(text) for text in wanted]
        vocabulary = sorted({word for words in said for word in words})
        place = {word: at for at, word in enumerate(vocabulary)}
        words_at = np.array([place[word] for words in said for word in words], dtype=np.int64)
        starts = np.cumsum([0, *(len(words) for words in said)])
        values = {field: has_tokens(vocabulary, known) for field, known in self._values.items()}
        names = ("worst word", "mean of the words", "best word", *values)
        columns = {name: np.full(len(row), np.nan, dtype=np.float32) for name in names}
        scaled = Standardised(self.clip, vocabulary)
        for query, (start, stop) in enumerate(_ranges(row, len(wanted))):
            mine = words_at[starts[query] : starts[query + 1]]
            if not len(mine) or start == stop:
                continue
            fits = scaled.of(mine, product[start:stop])
            chosen = {names[0]: fits.min(axis=0), names[1]: fits.mean(axis=0), names[2]: fits.max(axis=0)}
            chosen |= {field: fits[among[mine]].mean(axis=0) for field, among in values.items() if among[mine].any()}
            for name, value in chosen.items():
                columns[name][start:stop] = value
        return {f"read, CLIP word by word: {name}": column for name, column in columns.items()}


class Standardised:
    """Cosines of texts [T] with products, less their mean over all products that have a vector, divided by their
    standard deviation there: how far a product stands out for this text. From the products' mean m and covariance S:
    mean q.m, variance q'Sq."""

    def __init__(self, encoded: Encoded, texts: Sequence[str]) -> None:
        width = encoded.vectors.shape[1]
        asked = encoded.encoder.encode(list(texts)).vectors if len(texts) else np.empty((0, width), dtype=np.float32)
        mean, spread = encoded.mean_and_spread
        self.asked, self.products = asked, encoded.vectors
        self.mean = (asked @ mean).astype(np.float32)
        variance = np.einsum("td,de,te->t", asked, spread, asked, optimize=True)
        self.deviation = np.sqrt(np.maximum(variance, 1e-12)).astype(np.float32)

    def of(self, texts: np.ndarray, products: np.ndarray) -> np.ndarray:
        """[len(texts), len(products)], NaN for a product without a vector."""
        cosines = self.asked[texts] @ self.products[products].T
        return (cosines - self.mean[texts, None]) / self.deviation[texts, None]


def standardised(encoded: Encoded, texts: Sequence[str], row: np.ndarray, product: np.ndarray) -> np.ndarray:
    """`Standardised` of each pair [M]; NaN where the text is empty."""
    scaled, column = Standardised(encoded, texts), np.full(len(row), np.nan, dtype=np.float32)
    for query, (start, stop) in enumerate(_ranges(row, len(texts))):
        if texts[query].strip():
            column[start:stop] = scaled.of(np.array([query]), product[start:stop])[0]
    return column


def _ranges(row: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Where the pairs of each query start and stop."""
    ends = np.searchsorted(row, np.arange(count + 1))
    return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


def _dot(queries: np.ndarray, products: np.ndarray, row: np.ndarray, product: np.ndarray) -> np.ndarray:
    column = np.empty(len(row), dtype=np.float32)
    for query, (start, stop) in enumerate(_ranges(row, len(queries))):
        column[start:stop] = products[product[start:stop]] @ queries[query]
    return column
