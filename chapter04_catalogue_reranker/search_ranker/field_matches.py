"""Match the words of a query with the fields of products, and compare brands and prices.

The words for colours, materials and brands are the values of the catalogue's own fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import numpy as np
import pandas as pd
from scipy import sparse

from chapter01_baseline.keyword import tokenize
from chapter04_catalogue_reranker.search_ranker.query_words import ParsedQuery, named_values
from common.catalogue import product_text

FIELDS = ("title", "brand", "colour", "material", "category_path", "attributes", "description")
NO_BRAND = -1


class FieldMatches:
    """Compare queries with the fields of `products`, a catalogue's table."""

    def __init__(self, products: pd.DataFrame) -> None:
        self.vocabulary: dict[str, int] = {}
        texts = {field: product_text(products, [field]) for field in FIELDS} | {"any field": product_text(products)}
        token_sets = {name: [{*tokenize(text)} for text in column] for name, column in texts.items()}
        for tokens in token_sets["any field"]:
            for token in sorted(tokens):
                self.vocabulary.setdefault(token, len(self.vocabulary))
        self.fields = {name: self._incidence(sets) for name, sets in token_sets.items()}
        frequency = np.asarray(self.fields["any field"].sum(axis=0)).ravel()
        self._idf = np.log(1 + (len(products) - frequency + 0.5) / (frequency + 0.5))
        brands = dict.fromkeys(" ".join(tokenize(brand)) for brand in sorted(products["brand"].dropna().unique()))
        self.brands = {brand: number for number, brand in enumerate(filter(None, brands))}
        self.brand = self._brands_of(products)
        self.price = products["price"].to_numpy(dtype=np.float64, na_value=np.nan)
        groups = products["category_path"].astype(object).where(products["category_path"].notna(), "")
        self.price_rank = pd.Series(self.price).groupby(groups.to_numpy()).rank(pct=True).to_numpy()

    def of(self, parsed: Sequence[ParsedQuery], row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        """Return the columns of M pairs.

        For each field: the shares of the wanted words (weighted by inverse document frequency) and of the unwanted
        words that it contains. Further: brand named and product's (1 the same, 0 another, NaN none named); log of price
        / limit; the price's rank among the products of its category, from 0 to 1.
        """
        wanted = self._weights([query.wanted for query in parsed], by_idf=True)
        unwanted = self._weights([query.unwanted for query in parsed], by_idf=False)
        refuses = np.array([bool(query.unwanted) for query in parsed], dtype=bool)
        columns = {}
        for name, field in self.fields.items():
            columns[f"read, wanted words in {name}"] = _overlap(wanted, field, row, product)
            refused = _overlap(unwanted, field, row, product)
            columns[f"read, unwanted words in {name}"] = np.where(refuses[row], refused, np.nan)
        named = named_values(self.brands, [tokenize(query.wanted) for query in parsed])
        brand = np.array([self.brands[found[0]] if found else NO_BRAND for found in named], dtype=np.int64)[row]
        same = (brand == self.brand[product]).astype(np.float32)
        limit = np.array([query.limit for query in parsed], dtype=np.float64)[row]
        with np.errstate(divide="ignore"):
            price_ratio = np.log(self.price[product] / limit)
        return columns | {
            "read, the brand that is named": np.where(brand == NO_BRAND, np.nan, same),
            "read, price against the limit": np.clip(price_ratio, -10, 10),
            "price within its category": self.price_rank[product],
        }

    def _incidence(self, token_sets: Sequence[set[str]]) -> sparse.csr_matrix:
        """Return which words of the vocabulary each text has, [N, V], ones as float32."""
        # Sorted: a sum in the order of a set's hashes would differ in its last digits from one process to the next.
        places = [
            sorted(self.vocabulary[token] for token in tokens if token in self.vocabulary) for tokens in token_sets
        ]
        ends = np.cumsum([0, *map(len, places)])
        columns = np.array([place for row in places for place in row], dtype=np.int64)
        shape = (len(places), max(1, len(self.vocabulary)))
        return sparse.csr_matrix((np.ones(len(columns), dtype=np.float32), columns, ends), shape=shape)

    def _weights(self, texts: Sequence[str], *, by_idf: bool) -> sparse.csr_matrix:
        """Return each known word's share of the weight of its text's words, [Q, V]. A row with unknown words sums to
        less than 1."""
        token_sets = [{*tokenize(text)} for text in texts]
        weights = self._incidence(token_sets)
        unknown = np.array([sum(token not in self.vocabulary for token in tokens) for tokens in token_sets])
        rarest = self._idf.max(initial=0.0) if by_idf else 1.0
        if by_idf:
            weights = weights @ sparse.diags_array(self._idf)
        total = np.asarray(weights.sum(axis=1)).ravel() + unknown * rarest
        return sparse.csr_matrix(sparse.diags_array(1 / np.maximum(total, 1e-12)) @ weights)

    def _brands_of(self, products: pd.DataFrame) -> np.ndarray:
        """Return the number of each product's brand [N], read from the title if the field is empty; or `NO_BRAND`."""
        brands = [" ".join(tokenize(brand)) if isinstance(brand, str) else "" for brand in products["brand"]]
        titles = named_values(self.brands, [tokenize(text) for text in product_text(products, ["title"])])
        names = [own or (found[0] if found else "") for own, found in zip(brands, titles, strict=True)]
        return np.array([self.brands.get(name, NO_BRAND) for name in names], dtype=np.int64)


def words_of(text: str) -> list[str]:
    """Return the words of a query as they are spelt, each once."""
    return list(dict.fromkeys(word.strip(".,;:!?'\"") for word in text.split() if word.strip(".,;:!?'\"")))


def tokens_of(values: Iterable[str]) -> frozenset[str]:
    """Return the tokens of a field's values; missing values are skipped."""
    return frozenset(token for value in values if isinstance(value, str) for token in tokenize(value))


def has_tokens(words: Sequence[str], known: Set[str]) -> np.ndarray:
    """Return which words have a `known` token, bool [W]."""
    return np.array([not known.isdisjoint(tokenize(word)) for word in words], dtype=bool)


def _overlap(weights: sparse.csr_matrix, field: sparse.csr_matrix, row: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Return, for each pair [M], the sum of the weights of the query's words that the product's field contains."""
    return np.asarray(weights[row].multiply(field[product]).sum(axis=1), dtype=np.float32).ravel()
