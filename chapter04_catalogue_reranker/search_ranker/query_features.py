"""Build the features of query-product pairs that the learned ranker reads, from every chapter.

The candidates of a query are the union of the first hits of several systems (`CANDIDATES_FROM`). Each (query, product)
pair among them becomes a row; a missing value (no picture, no price limit, not among a system's hits) is NaN.

**A trap.** The towers of chapter 2 were trained on the very judgements that the ranker learns from. On training queries
they rank better than they ever will again (nDCG@10 0.68, but 0.57 on validation queries; MiniLM has 0.39 and 0.44). A
ranker that reads their scores learns to trust them too much (0.71 on validation queries, not 0.75). The same holds for
every system that uses the towers. Their columns (`SEEN_THE_JUDGEMENTS`) are made to show what they cost, but the ranker
does not read them: the towers take part through the `start` alone, the score of chapter 3's best system, whose weights
were chosen on validation queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from chapter01_baseline.choose import load_choices
from chapter01_baseline.keyword import KeywordSearcher, tokenize
from chapter01_baseline.reindex import load_indices
from chapter01_baseline.systems import BM25, BM25_RM3, FUSION_FEEDBACK, MINILM, MINILM_ROCCHIO, first_stages
from chapter02_two_tower import systems as text
from chapter03_multimodal import systems as pictures
from chapter03_multimodal.reindex import load_pictures
from chapter04_catalogue_reranker.search_ranker.category_agreement import (
    Categories,
    catalogue_rows,
    entropy,
    load_categories,
    top_mass,
)
from chapter04_catalogue_reranker.search_ranker.field_matches import FieldMatches, has_tokens, tokens_of, words_of
from chapter04_catalogue_reranker.search_ranker.pair_similarity import (
    Encoded,
    StandardisedCosines,
    dot_products,
    query_ranges,
    standardised_cosines,
)
from chapter04_catalogue_reranker.search_ranker.query_words import ParsedQuery, Speller, encoder_words, understand
from common.artifacts import Artifacts
from common.catalogue import Catalogue, product_text
from common.search import Hits, Searcher

WORDS, TOWERS, PICTURES, CATEGORIES, QUERY = (
    "chapter 1: words and MiniLM",
    "chapter 2: towers",
    "chapter 3: pictures",
    "chapter 4: categories",
    "chapter 4: the query read",
)
GROUPS = (WORDS, TOWERS, PICTURES, CATEGORIES, QUERY)
BEST_OF_CHAPTER = {WORDS: FUSION_FEEDBACK, TOWERS: text.TWO_TOWERS_BM25_FEEDBACK, PICTURES: pictures.BEST}
"""The best system of each earlier chapter, from which a ranker with that chapter's features starts."""

SYSTEMS = {
    WORDS: (BM25, BM25_RM3, MINILM, MINILM_ROCCHIO, FUSION_FEEDBACK),
    TOWERS: (text.TWO_TOWERS, text.TWO_TOWERS_BM25_FEEDBACK, pictures.TEXT_IMAGE, pictures.BEST),
    PICTURES: (pictures.CLIP,),
}
"""The systems whose scores and ranks are columns, by group. A system that uses the towers belongs to their group."""

SEEN_THE_JUDGEMENTS = TOWERS
CANDIDATES_FROM = (pictures.BEST, text.TWO_TOWERS_BM25_FEEDBACK, pictures.TEXT_IMAGE, FUSION_FEEDBACK, pictures.CLIP)
DEPTH = 200
"""Hits of each system whose ranks and scores are read."""
START_DEPTH = 1_000
"""The same for chapter 3's best system, whose score the ranker starts from."""
FEEDBACK = 10
"""First hits whose categories are averaged."""


@dataclass(frozen=True)
class PairTable:
    """Hold M pairs of queries and products with their features.

    row: position of the query [M], ascending. product: the product's row in the catalogue [M]. values: a float32 column
    for each feature. groups: of `GROUPS`, by column. starts: by group of `BEST_OF_CHAPTER`, that system's score [M], 0
    where the product is no hit. best: the hits [Q, START_DEPTH] of chapter 3's best system.
    """

    row: np.ndarray
    product: np.ndarray
    values: pd.DataFrame
    groups: dict[str, str]
    starts: dict[str, np.ndarray]
    best: Hits

    def columns_of(self, groups: Collection[str]) -> list[str]:
        """Return the columns of some groups, in the order of the table."""
        return [name for name in self.values if self.groups[name] in groups]


class QueryFeatures:
    """Find the candidates of queries and compute their features.

    searchers: by name, all those of `SYSTEMS` and `CANDIDATES_FROM`. keyword: chapter 1's BM25. minilm, clip: text
    encoders with the vectors of the products' texts and of their pictures. categories: of the chapter's model. depth:
    hits of each system that become candidates.
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
        self.searchers, self.keyword, self.depth = searchers, keyword, depth
        self.minilm, self.clip, self.categories = minilm, clip, categories
        self.product_ids = catalogue.products["product_id"].to_numpy(dtype=object)
        self._product_rows = {product_id: row for row, product_id in enumerate(self.product_ids)}
        self._keyword_rows = catalogue_rows(catalogue, keyword.product_ids)
        train = catalogue.split_queries("train")["query"]
        self.speller = Speller(product_text(catalogue.products), train, encoder_words())
        self.fields = FieldMatches(catalogue.products)
        self._values = {field: tokens_of(catalogue.products[field]) for field in ("colour", "material")}

    @classmethod
    def load(cls, artifacts: Artifacts, catalogue: Catalogue) -> QueryFeatures:
        """Read what the chapters made; raises `MissingArtifact` with the command for what is missing."""
        indices, shown = load_indices(artifacts, catalogue), load_pictures(artifacts)
        searchers = first_stages(indices, load_choices(artifacts)) | text.systems(artifacts, catalogue)
        searchers |= pictures.systems(artifacts, catalogue)
        vectors = np.full((len(catalogue.products), shown.encoder.dimension), np.nan, dtype=np.float32)
        vectors[catalogue_rows(catalogue, shown.product_ids)] = shown.embeddings.vectors
        minilm = Encoded(indices.encoder, indices.embeddings.vectors)
        categories = load_categories(artifacts, catalogue)
        return cls(catalogue, searchers, indices.keyword, minilm, Encoded(shown.encoder, vectors), categories)

    def of(
        self,
        queries: Sequence[str],
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> PairTable:
        """Return the candidates of each query, with features. `allowed`, `exclude`: see `common.search.Searcher`."""
        queries = list(queries)
        hits = self._search(queries, allowed, exclude)
        row, product = self._candidates(hits)
        parsed = [understand(self.speller.correct(query)) for query in queries]
        columns: dict[str, dict[str, np.ndarray]] = {group: {} for group in GROUPS}
        for group, systems in SYSTEMS.items():
            for name in systems:
                columns[group] |= self._system_columns(name, hits[name], row, product)
        columns[PICTURES] |= self._picture_columns(queries, row, product)
        wanted = [query.wanted for query in parsed]
        columns[CATEGORIES] |= self._category_columns(wanted, hits[BEST_OF_CHAPTER[WORDS]], row, product)
        columns[QUERY] |= self._query_columns(parsed, row, product) | self.fields.of(parsed, row, product)
        found = {name: column for part in columns.values() for name, column in part.items()}
        return PairTable(
            row,
            product,
            values=pd.DataFrame({name: column.astype(np.float32) for name, column in found.items()}),
            groups={name: group for group, part in columns.items() for name in part},
            starts={
                group: np.nan_to_num(self._scores_and_ranks(hits[name], row, product)[0])
                for group, name in BEST_OF_CHAPTER.items()
            },
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

    def _candidates(self, hits: Mapping[str, Hits]) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of queries and of products: the first `depth` hits of each system of `CANDIDATES_FROM`, once."""
        pairs = [np.empty(0, dtype=np.int64)]
        for name in CANDIDATES_FROM:
            rows, products, _ = self._flat(_first(hits[name], self.depth))
            pairs.append(rows * len(self.product_ids) + products)
        return np.divmod(np.unique(np.concatenate(pairs)), max(1, len(self.product_ids)))

    def _flat(self, hits: Hits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the query's row, the product's row and the rank (from 1) of every hit."""
        rows, columns = np.nonzero(np.not_equal(hits.ids, None))
        products = np.array([self._product_rows[product_id] for product_id in hits.ids[rows, columns]], dtype=np.int64)
        return rows, products, columns + 1

    def _scores_and_ranks(self, hits: Hits, row: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the score and the rank of each pair among the hits, float32 [M]; NaN for a pair that is no hit."""
        rows, products, ranks = self._flat(hits)
        keys, wanted = rows * len(self.product_ids) + products, row * len(self.product_ids) + product
        at = pd.Index(keys).get_indexer(wanted)  # -1 for a pair that is no hit: the NaN at the end
        scores, ranks = (np.append(values, np.nan)[at] for values in (hits.scores[rows, ranks - 1], ranks))
        return scores.astype(np.float32), ranks.astype(np.float32)

    def _system_columns(self, name: str, hits: Hits, row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        first = _first(hits, DEPTH)
        score, rank = self._scores_and_ranks(first, row, product)
        best = np.where(np.isfinite(first.scores[:, 0]), first.scores[:, 0], np.nan)
        return {f"{name}, score": score, f"{name}, behind the best": score - best[row], f"{name}, 1 / rank": 1 / rank}

    def _category_columns(
        self, wanted: list[str], hits: Hits, row: np.ndarray, product: np.ndarray
    ) -> dict[str, np.ndarray]:
        of_products = self.categories.product_probs
        of_queries = self.categories.of_queries(wanted)
        of_hits = np.zeros_like(of_queries)
        rows, products, _ = self._flat(_first(hits, FEEDBACK))
        np.add.at(of_hits, rows, of_products[products])
        of_hits /= np.maximum(of_hits.sum(axis=1, keepdims=True), 1e-12)
        return {
            "categories, agreement": dot_products(of_queries, of_products, row, product),
            "categories, agreement of the query's top 3": dot_products(top_mass(of_queries), of_products, row, product),
            "categories, agreement with the first hits": dot_products(of_hits, of_products, row, product),
            "categories, the query's top probability": of_queries.max(axis=1)[row],
            "categories, the query's entropy": entropy(of_queries)[row],
        }

    def _picture_columns(self, queries: list[str], row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        has_picture = np.isfinite(self.clip.vectors[:, 0])
        return {
            "CLIP, standardised": standardised_cosines(self.clip, queries, row, product),
            "has a picture": has_picture[product].astype(np.float32),
        }

    def _query_columns(
        self, parsed: Sequence[ParsedQuery], row: np.ndarray, product: np.ndarray
    ) -> dict[str, np.ndarray]:
        wanted, unwanted = [query.wanted for query in parsed], [query.unwanted for query in parsed]
        found, best = self._bm25(wanted, row, product)
        columns = {"read, BM25 of what is wanted": found, "read, the same behind the best": found - best[row]}
        for name, encoded in (("MiniLM", self.minilm), ("CLIP", self.clip)):
            columns[f"read, {name} of what is wanted"] = standardised_cosines(encoded, wanted, row, product)
            columns[f"read, {name} of what is not"] = standardised_cosines(encoded, unwanted, row, product)
        columns["read, words wanted"] = np.array([len(tokenize(words)) for words in wanted], dtype=np.float32)[row]
        columns["read, something is not wanted"] = np.array([bool(w) for w in unwanted], dtype=np.float32)[row]
        return columns | self._word_columns(wanted, row, product)

    def _bm25(self, texts: list[str], row: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return BM25 of each pair [M], and the best of each query among all products [Q]."""
        found, best = np.zeros(len(row), dtype=np.float32), np.zeros(len(texts), dtype=np.float32)
        scores = np.zeros(len(self.product_ids), dtype=np.float32)
        for query, (start, stop) in enumerate(query_ranges(row, len(texts))):
            scores[self._keyword_rows] = self.keyword.term_scores(Counter(tokenize(texts[query])))
            found[start:stop], best[query] = scores[product[start:stop]], scores.max(initial=0.0)
        return found, best

    def _word_columns(self, wanted: list[str], row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        """Compare each wanted word with the picture: the worst, the mean, the best of them, and the mean of the words
        that are values of the catalogue's colours and materials."""
        words_by_query = [words_of(text) for text in wanted]
        vocabulary = sorted({word for words in words_by_query for word in words})
        numbers = {word: number for number, word in enumerate(vocabulary)}
        is_value = {field: has_tokens(vocabulary, known) for field, known in self._values.items()}
        names = ("worst word", "mean of the words", "best word", *is_value)
        columns = {name: np.full(len(row), np.nan, dtype=np.float32) for name in names}
        scaled = StandardisedCosines(self.clip, vocabulary)
        for words, (start, stop) in zip(words_by_query, query_ranges(row, len(wanted)), strict=True):
            if not words or start == stop:
                continue
            mine = np.array([numbers[word] for word in words], dtype=np.int64)
            scores = scaled.of(mine, product[start:stop])
            found = {names[0]: scores.min(axis=0), names[1]: scores.mean(axis=0), names[2]: scores.max(axis=0)}
            found |= {name: scores[among[mine]].mean(axis=0) for name, among in is_value.items() if among[mine].any()}
            for name, value in found.items():
                columns[name][start:stop] = value
        return {f"read, CLIP word by word: {name}": column for name, column in columns.items()}


def _first(hits: Hits, count: int) -> Hits:
    return Hits(hits.ids[:, :count], hits.scores[:, :count])
