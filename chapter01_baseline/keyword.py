"""Search product text by BM25: a tokenizer that suits a shop, an index by bm25s, and a Searcher on top.

BM25 rewards a product for every query word it contains: more for a rare word, less for each repetition, less in a
long text. It needs no training and no GPU, it finds part numbers that no encoder has seen, and it is blind to synonyms.

Source: Robertson et al., "Okapi at TREC-3" (1994); the variant is Lucene's, as in Kamphuis et al.,
"Which BM25 Do You Mean?" (ECIR 2020); Lù, "BM25S" (2024), for the index that stores finished scores.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import bm25s
import numpy as np
import pandas as pd

from common.atomic import atomic_folder, read_json, write_json
from common.catalogue.text import TEXT_FIELDS, product_text
from common.errors import CourseError
from common.progress import progress
from common.search import Hits, check_k, check_request, empty_hits, hits_from_scores, rank_ids

# bm25s logs every index and every empty query at DEBUG into the root handlers of a notebook.
logging.getLogger("bm25s").setLevel(logging.WARNING)

TOKENIZER_VERSION = 1  # a saved index is refused by a tokenizer of another version: its words would not match
TITLE_WEIGHT = 3

# Written with or without a space before them ("5V", "5 V"): the number and the unit become two tokens either way.
_UNITS = "v w kw wh kwh a ma ah mah hz khz mhz ghz kb mb gb tb mm cm m km in inch ft ml cl l oz g kg lb mp px dpi rpm"
UNITS = frozenset(_UNITS.split())

_TRADE_MARKS = re.compile("[®™©℠]")
_ACCENTS = re.compile("[\u0300-\u036f\u064b-\u065f]")  # Latin, Greek, Cyrillic diacritics; Arabic short vowels
_POSSESSIVE = re.compile(r"['’]s\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"\d+(?:\.\d+)+|[{_CJK}]+|(?:(?![{_CJK}])[^\W_])+(?:-(?:(?![{_CJK}])[^\W_])+)*")
_NUMBER_UNIT = re.compile(r"(\d+)([a-z]+)")


def singular(word: str) -> str:
    """Strip an English plural: "phones" -> "phone", "batteries" -> "battery", "watches" -> "watch".

    The S-stemmer of Harman, "How effective is suffixing?" (1991), with two repairs that shop words need: "-ches",
    "-shes", "-sses" and "-xes" lose "es", and "-ie" becomes "-y", so that "hoodies" (-> "hoody") still finds "hoodie".
    Words of up to three letters and words with a digit stay as they are ("gps", "tn2110s").
    """
    if len(word) <= 3 or not word.isalpha():
        return word
    if word.endswith("ie") and len(word) > 4:
        return word[:-2] + "y"
    if not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    if word.endswith("ies") and len(word) > 4 and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1]


def normalise(text: str) -> str:
    """Lower the case, drop accents ("Süß" -> "suss"), commas ("1,000"), "'s" ("men's" -> "men") and full width."""
    text = unicodedata.normalize("NFKD", _TRADE_MARKS.sub(" ", text)).casefold()
    text = unicodedata.normalize("NFC", _ACCENTS.sub("", text))
    return _THOUSANDS.sub("", _POSSESSIVE.sub("", text))


@lru_cache(maxsize=1 << 18)
def _analyse(word: str) -> tuple[str, ...]:
    """Return the tokens of a raw word; a hyphenated one gives its joined form and its parts ("USB-C": usbc, usb, c)."""
    if "\u3040" <= word[0] <= "\u9fff":  # no spaces between words: single characters and neighbouring pairs
        return (*word, *(word[i : i + 2] for i in range(len(word) - 1)))
    parts = word.split("-")
    tokens = [] if len(parts) == 1 else [singular("".join(parts))]
    for part in parts:
        measure = _NUMBER_UNIT.fullmatch(part)
        tokens += measure.groups() if measure and measure[2] in UNITS else [singular(part)]
    return tuple(tokens)


def tokenize(text: str) -> list[str]:
    """Split a text into the words that BM25 counts, in order; queries and products go through the same function.

    Keeps one-character tokens (the default of bm25s drops the "5" of "5 V"), decimals ("5.5") and part numbers
    ("006R90321"); numbers part from their unit ("128GB" -> "128", "gb"); plurals are stripped (`singular`); Chinese
    and Japanese become characters and pairs of characters.
    """
    return [token for word in _WORD.findall(normalise(text)) for token in _analyse(word)]


def keyword_text(products: pd.DataFrame) -> list[str]:
    """Return what BM25 reads of each product [N]: `product_text`, the title `TITLE_WEIGHT` times, no attribute names.

    A word in the title says what a product is; one in the description, what goes with it. Repeating the title is the
    simplest form of BM25F (Robertson et al., "Simple BM25 extension to multiple weighted fields", 2004). Attribute
    names ("bluetooth: no") are in every product of a category, whatever the value, and would be false hits; the name of
    a true flag stays, because its value has no other word.
    """
    fields = ["title"] * TITLE_WEIGHT + [field for field in TEXT_FIELDS if field not in ("title", "attributes")]
    values = [
        _attribute_values(json.loads(cell)) if isinstance(cell, str) and cell else "" for cell in products["attributes"]
    ]
    return [f"{text} {value}".strip() for text, value in zip(product_text(products, fields), values, strict=True)]


def _attribute_values(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(name if item is True else _attribute_values(item) for name, item in value.items())
    if isinstance(value, list):
        return " ".join(map(_attribute_values, value))
    return "" if value is None or value is False else f"{value:g}" if isinstance(value, float) else str(value)


class KeywordSearcher:
    """Rank products by BM25 over their texts; a `common.search.Searcher`. Hits share a word with the query.

    product_ids, texts: N of each, in the same order; ids distinct. An empty text is never found.
    k1: how fast repetitions of a word stop counting (0: at once). b: how much long texts are penalised (0 to 1).
    tokenize: turns a text, and a query, into tokens. A saved index can only be loaded with the same function.
    Raises CourseError for ids that are not distinct, lengths that differ, no products, or k1 and b out of range.
    """

    def __init__(
        self,
        product_ids: Sequence[str],
        texts: Sequence[str],
        *,
        k1: float = 0.9,
        b: float = 0.4,
        tokenize: Callable[[str], list[str]] = tokenize,
    ) -> None:
        if not (k1 >= 0 and 0 <= b <= 1):
            raise CourseError(f"keyword: k1 must be at least 0 and b between 0 and 1, not k1={k1!r}, b={b!r}.")
        if len(product_ids) != len(texts) or not len(texts):
            raise CourseError(
                f"keyword: {len(product_ids)} product ids for {len(texts)} texts; give one of each, at least one."
            )
        bm25 = bm25s.BM25(k1=k1, b=b, method="lucene")
        with np.errstate(invalid="ignore"):  # texts without a single word have an average length of 0
            bm25.index(_token_ids(texts, tokenize), create_empty_token=False, show_progress=False)
        self._set(bm25, product_ids, tokenize)

    def _set(self, bm25: bm25s.BM25, product_ids: Sequence[str], tokenize: Callable[[str], list[str]]) -> None:
        self.bm25 = bm25
        self.tokenize = tokenize
        self.product_ids = np.asarray(product_ids, dtype=object)
        self._positions = {product_id: at for at, product_id in enumerate(self.product_ids)}
        if len(self._positions) != len(self.product_ids):
            raise CourseError("keyword: product_id has duplicates; every product may be indexed once.")
        self._ranks = rank_ids(self.product_ids)

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Return the k best products of each query; see `common.search.Searcher`."""
        request = check_request(queries, k, allowed, exclude)
        weights = [Counter(self.tokenize(query)) for query in request.queries]
        return self.search_terms(weights, request.k, allowed=request.allowed, exclude=request.exclude)

    def search_terms(
        self,
        weights: Sequence[Mapping[str, float]],
        k: int,
        *,
        allowed: Collection[str] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Hits:
        """Search with weighted tokens: the score of a product is the sum over tokens of weight times BM25 score.

        weights: for each query, token -> weight above 0 (in a plain query, how often it contains the token).
        """
        hits = empty_hits(len(weights), check_k(k))
        excluded = self._not_allowed(allowed)
        for row, query in enumerate(weights):
            scores = self.term_scores(query)
            scores[scores <= 0] = -np.inf
            scores[excluded] = -np.inf
            if exclude is not None:
                scores[[self._positions[i] for i in exclude[row] if i in self._positions]] = -np.inf
            best = hits_from_scores(scores[None], self.product_ids, k, id_ranks=self._ranks)
            hits.ids[row], hits.scores[row] = best.ids[0], best.scores[0]
        return hits

    def term_scores(self, weights: Mapping[str, float]) -> np.ndarray:
        """Return the scores [N] float32 of all products for weighted tokens; 0 for a product without any of them.

        bm25s stores the finished BM25 score of every (token, product) as a sparse matrix, one column a token, so a
        query is a weighted sum of columns. A product is in a column at most once, so `+=` with an index is right.
        """
        data, rows, starts = (self.bm25.scores[part] for part in ("data", "indices", "indptr"))
        scores = np.zeros(len(self.product_ids), dtype=np.float32)
        for token, weight in weights.items():
            column = self.bm25.vocab_dict.get(token)
            if column is not None:
                postings = slice(starts[column], starts[column + 1])
                scores[rows[postings]] += np.float32(weight) * data[postings]
        return scores

    def document_frequency(self, token: str) -> int:
        """Return the number of products that contain a token."""
        column = self.bm25.vocab_dict.get(token)
        starts = self.bm25.scores["indptr"]
        return 0 if column is None else int(starts[column + 1] - starts[column])

    def _not_allowed(self, allowed: Collection[str] | None) -> np.ndarray:
        """Return the positions of the products that may not be returned."""
        if allowed is None:
            return np.empty(0, dtype=np.int64)
        is_allowed = np.zeros(len(self.product_ids), dtype=bool)
        is_allowed[[self._positions[i] for i in allowed if i in self._positions]] = True
        return np.flatnonzero(~is_allowed)

    def save(self, folder: Path) -> None:
        """Write the index into a new folder, whole or not at all: .npy and JSON files, no pickle."""
        with atomic_folder(Path(folder)) as temporary:
            self.bm25.save(temporary, allow_pickle=False, show_progress=False)
            description = {"tokenizer": _tokenizer_name(self.tokenize), "product_ids": self.product_ids.tolist()}
            write_json(temporary / "keyword.json", description)

    @classmethod
    def load(cls, folder: Path, *, tokenize: Callable[[str], list[str]] = tokenize) -> KeywordSearcher:
        """Read what `save` wrote. Raises CourseError if it is missing, damaged, or made with another tokenizer."""
        folder = Path(folder)
        try:
            description = read_json(folder / "keyword.json")
            bm25 = bm25s.BM25.load(folder, allow_pickle=False, show_progress=False)
        except (CourseError, OSError, ValueError, KeyError) as error:
            raise CourseError(
                f"keyword: {folder} holds no complete keyword index ({error}); build it again."
            ) from error
        if description["tokenizer"] != _tokenizer_name(tokenize):
            raise CourseError(
                f"keyword: {folder} was built with tokenizer {description['tokenizer']}, this is "
                f"{_tokenizer_name(tokenize)}; build the index again."
            )
        if bm25.scores["num_docs"] != len(description["product_ids"]):
            raise CourseError(
                f"keyword: {folder}/keyword.json does not fit the index beside it; build the index again."
            )
        searcher = cls.__new__(cls)
        searcher._set(bm25, description["product_ids"], tokenize)
        return searcher


def _tokenizer_name(function: Callable[[str], list[str]]) -> str:
    if function is tokenize:
        return f"chapter01_baseline.keyword.tokenize@{TOKENIZER_VERSION}"
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


def _token_ids(texts: Sequence[str], tokenize: Callable[[str], list[str]]) -> tuple[list[list[int]], dict[str, int]]:
    """Return the tokens as numbers, and the vocabulary. Numbers take a tenth of the memory of strings."""
    vocabulary: dict[str, int] = {}
    ids = []
    for text in progress(texts, desc="BM25", unit="product", leave=False):
        ids.append([vocabulary.setdefault(token, len(vocabulary)) for token in tokenize(text)])
    vocabulary.setdefault("", len(vocabulary))  # bm25s needs at least one token; none of ours is ever empty
    return ids, vocabulary
