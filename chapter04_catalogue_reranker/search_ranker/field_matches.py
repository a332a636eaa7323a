"""Which words of a query stand in which field of a product, whether it is of the brand that was named, and its price.

The words for colours, materials and brands are the values that stand in the catalogue's own fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

import numpy as np
import pandas as pd
from scipy import sparse

from chapter01_baseline.keyword import tokenize
from chapter04_catalogue_reranker.search_ranker.query_words import Understood, named_values
from common.catalogue import product_text

FIELDS = ("title", "brand", "colour", "material", "category_path", "attributes", "description")
NO_BRAND = -1


class FieldMatches:
    """Compares queries with the fields of `products`, a catalogue's table."""

    def __init__(self, products: pd.DataFrame) -> None:
        self.vocabulary: dict[str, int] = {}
        texts = {field: product_text(products, [field]) for field in FIELDS} | {"any field": product_text(products)}
        token_sets = {name: [{*tokenize(text)} for text in column] for name, column in texts.items()}
        for tokens in token_sets["any field"]:
            for token in sorted(tokens):
                self.vocabulary.setdefault(token, len(self.vocabulary))
        self.fields = {name: self._rows(sets) for name, sets in token_sets.items()}
        frequency = np.asarray(self.fields["any field"].sum(axis=0)).ravel()
        self._idf = np.log(1 + (len(products) - frequency + 0.5) / (frequency + 0.5))
        self.brands = {" ".join(tokenize(brand)): 0 for brand in sorted(products["brand"].dropna().unique())}
        self.brands = {brand: number for number, brand in enumerate(brand for brand in self.brands if brand)}
        self.brand = self._brands_of(products)
        self.price = products["price"].to_numpy(dtype=np.float64, na_value=np.nan)
        groups = products["category_path"].astype(object).where(products["category_path"].notna(), "")
        self.price_rank = pd.Series(self.price).groupby(groups.to_numpy()).rank(pct=True).to_numpy()

    def of(self, read: Sequence[Understood], row: np.ndarray, product: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of M pairs: shares of the wanted words (each counts by its inverse document frequency) and of the
        unwanted ones that a field has; brand named and product's (1 the same, 0 another, NaN none named); log of price
        / limit; the price's rank among the products of the category, from 0 to 1."""
        wanted = self._weights([asked.wanted for asked in read], by_rarity=True)
        unwanted = self._weights([asked.unwanted for asked in read], by_rarity=False)
        refused = np.array([bool(asked.unwanted) for asked in read], dtype=bool)
        columns = {}
        for name, field in self.fields.items():
            columns[f"read, wanted words in {name}"] = _overlap(wanted, field, row, product)
            missing = _overlap(unwanted, field, row, product)
            columns[f"read, unwanted words in {name}"] = np.where(refused[row], missing, np.nan)
        tokens = [tokenize(asked.wanted) for asked in read]
        named = [found[0] if found else None for found in named_values(self.brands, tokens)]
        brand = np.array([NO_BRAND if name is None else self.brands[name] for name in named], dtype=np.int64)[row]
        same = (brand == self.brand[product]).astype(np.float32)
        limit = np.array([asked.limit for asked in read], dtype=np.float64)[row]
        with np.errstate(divide="ignore"):
            dearness = np.log(self.price[product] / limit)
        return columns | {
            "read, the brand that is named": np.where(brand == NO_BRAND, np.nan, same),
            "read, price against the limit": np.clip(dearness, -10, 10),
            "price within its category": self.price_rank[product],
        }

    def _rows(self, token_sets: Sequence[set[str]]) -> sparse.csr_matrix:
        """bool [N, V] as float32: which words of the vocabulary each text has."""
        # Sorted: a sum in the order of a set's hashes would differ in its last digits from one process to the next.
        places = [
            sorted(self.vocabulary[token] for token in tokens if token in self.vocabulary) for tokens in token_sets
        ]
        ends = np.cumsum([0, *map(len, places)])
        columns = np.array([place for row in places for place in row], dtype=np.int64)
        shape = (len(places), max(1, len(self.vocabulary)))
        return sparse.csr_matrix((np.ones(len(columns), dtype=np.float32), columns, ends), shape=shape)

    def _weights(self, texts: Sequence[str], *, by_rarity: bool) -> sparse.csr_matrix:
        """[Q, V], rows of the known words' shares; an unknown word counts for the whole by being missing."""
        token_sets = [{*tokenize(text)} for text in texts]
        weights = self._rows(token_sets)
        unknown = np.array([sum(token not in self.vocabulary for token in tokens) for tokens in token_sets])
        rarest = self._idf.max(initial=0.0) if by_rarity else 1.0
        if by_rarity:
            weights = weights @ sparse.diags_array(self._idf)
        total = np.asarray(weights.sum(axis=1)).ravel() + unknown * rarest
        return sparse.csr_matrix(sparse.diags_array(1 / np.maximum(total, 1e-12)) @ weights)

    def _brands_of(self, products: pd.DataFrame) -> np.ndarray:
        """The number of each product's brand [N], read off the title where the field is empty; `NO_BRAND` for none."""
        told = [" ".join(tokenize(brand)) if isinstance(brand, str) else "" for brand in products["brand"]]
        titles = named_values(self.brands, [tokenize(text) for text in product_text(products, ["title"])])
        names = [own or (found[0] if found else "") for own, found in zip(told, titles, strict=True)]
        return np.array([self.brands.get(name, NO_BRAND) for name in names], dtype=np.int64)


def words_of(text: str) -> list[str]:
    """The words of a query, as they are spelt, each once."""
    return list(dict.fromkeys(word.strip(".,;:!?'\"") for word in text.split() if word.strip(".,;:!?'\"")))


def tokens_of(values: Iterable[str]) -> frozenset[str]:
    """The tokens of a field's values; missing values are skipped."""
    return frozenset(token for value in values if isinstance(value, str) for token in tokenize(value))


def has_tokens(words: Sequence[str], known: Set[str]) -> np.ndarray:
    """Which words [W] have a token that is `known`."""
    return np.array([not known.isdisjoint(tokenize(word)) for word in words], dtype=bool)


def _overlap(weights: sparse.csr_matrix, field: sparse.csr_matrix, row: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Sum of the weights of the query's words that the product's field has, for each pair [M]."""
    return np.asarray(weights[row].multiply(field[product]).sum(axis=1), dtype=np.float32).ravel()
