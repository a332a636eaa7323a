"""Make queries from a catalogue's own words, for a shop that has no judged queries to train on.

A made-up query is short and mostly names the *kind of thing*: "toner cartridge", "hp toner cartridge", "usb cable 2 m",
"black photo paper". The whole catalogue shows which phrases of a title name a kind of thing. The titles of several
brands share such a phrase; it ends with a word at which runs of words in titles often end ("… label printer Thermal",
"… photo paper, A4"); and it is not mostly the value of an attribute ("Original", "Black").

Training a retriever on pieces of documents is the inverse cloze task (Lee et al. 2019, "Latent Retrieval for Weakly
Supervised Open Domain Question Answering"); here the pieces look like queries.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from chapter02_two_tower.query_shapes import ProductWords, make_query
from chapter02_two_tower.query_words import WORD, measures_of, query_key, words_of
from common.errors import CourseError

LONGEST_TYPE = 3  # words of a phrase that names a kind of thing, at most
FEWEST_BRANDS = 3  # brands that must share a phrase before it counts as the name of a kind
HEAD_SHARE = 0.2  # share of a word's places at which a run must end, for the word to end a phrase
VALUE_SHARE = 0.5  # a phrase that is an attribute's value in so large a share of its titles names no kind,
SMALL_SHARE = 0.2  # unless this share of the titles writes it without capitals
LONGEST_VALUE = 2  # words of an attribute's value that a shopper would type, at most
TRIES_A_PAIR = 12  # draws for each pair before the catalogue counts as used up

_UNITS = frozenset(
    ["cm", "mm", "m", "ft", "gb", "tb", "mb", "kg", "g", "ml", "l", "w", "v", "mah", "mp", "hz", "ghz", "dpi", "pixels"]
)
_STOPWORDS = frozenset([
    "a", "an", "the", "and", "or", "of", "in", "on", "to", "at", "by", "as", "is", "it", "for", "from", "with", "de",
    "without", "per", "your", "our", "this", "that", "these", "also", "not", "no", "into", "all", "any", "up", "x",
    "pc", "pcs", "new", "kit", "set", "pack", "series", "type", "model",
])  # fmt: skip
_NO_KIND = _STOPWORDS | _UNITS


def catalogue_pairs(products: pd.DataFrame, *, count: int, seed: int, forbidden: Collection[str] = ()) -> pd.DataFrame:
    """Make up to `count` distinct pairs `query, product_id` from the products' own words; equal seeds, equal pairs.

    products: as in the catalogue contract, any of title, brand, colour, material, category_path, attributes,
        description. The chance of a product falls with the root of how many share its brand and kind, so that no
        family of near-equal products makes most of the pairs.
    forbidden: queries that must not come out, in any order or number of their words (see `query_key`): those that the
        catalogue is judged by.

    Fewer pairs come back where the catalogue has no more to say. Raises CourseError if `count` is below 1 or no product
    has words to make a query from.
    """
    if count < 1:
        raise CourseError(f"catalogue_pairs: count is {count}; ask for at least one pair.")
    offers = _read(products)
    if not offers:
        raise CourseError("no product has a title, description or category to make queries from; add titles.")
    excluded = {query_key(query) for query in forbidden}
    rng = np.random.default_rng(seed)
    weights = _family_weights(offers)
    found: dict[tuple[str, str], None] = {}
    for at in rng.choice(len(offers), size=count * TRIES_A_PAIR, p=weights):
        query = make_query(offers[at], rng)
        if query and query_key(query) not in excluded:
            found[query, offers[at].product_id] = None
            if len(found) == count:
                break
    return pd.DataFrame(list(found), columns=["query", "product_id"], dtype="str")


def _read(products: pd.DataFrame) -> list[ProductWords]:
    """Read the words of every product that has any, with the phrases that name its kind."""
    rows = [_raw(row) for row in products.to_dict("records")]
    shared, heads = _shared_phrases(rows)
    known_words = {word for phrase in shared for word in phrase}
    offers = []
    for row in rows:
        types = _types(row, shared, heads) or _last_words(row["runs"]) or _last_words([row["leaf"]])
        types = types or _last_words(row["described"])
        if not types:
            continue
        values = [value for value in row["values"] if known_words.issuperset(value) or value in row["certain"]]
        kept = {name: row[name] for name in ProductWords.__dataclass_fields__ if name not in ("types", "values")}
        offers.append(ProductWords(types=types, values=[v for v in values if v not in types], **kept))
    return offers


def _raw(row: Mapping[str, object]) -> dict:
    text = {name: value if isinstance(value, str) else "" for name, value in row.items()}
    title, brand = text.get("title", ""), words_of(text.get("brand", ""))
    certain = [words_of(part) for name in ("colour", "material") for part in text.get(name, "").split(",")]
    certain = [value for value in certain if 0 < len(value) <= LONGEST_VALUE]
    breaking = {*brand, *(word for value in certain for word in value)}
    values, uses = _attribute_words(text.get("attributes", ""))
    description = text.get("description", "")[:400]
    leaf = text.get("category_path", "").split(">")[-1]
    return {
        "product_id": row["product_id"],
        "brand": brand,
        "runs": list(_runs(title, breaking)),
        "small": _small_runs(title, breaking),
        "certain": certain,
        "values": certain + values,
        "measures": measures_of(title),
        "uses": [*uses, *_purposes(description)],
        "codes": [(w.lower(),) for w in WORD.findall(title) if re.search(r"\d", w) and re.search(r"[A-Za-z]", w)],
        "leaf": next(_runs(leaf.lower(), ()), ()),
        "described": [run for run in _runs(description, breaking) if len(run) <= 6],
    }


def _is_content(word: str) -> bool:
    return len(word) > 1 and word not in _NO_KIND and not any(c.isdigit() for c in word)


def _runs(text: str, breaking: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield the stretches of words of a text.

    Anything but a space ends a stretch, and so do numbers, small words, the brand, and a capital after a word without
    one ("label printer | Thermal transfer").
    """
    run: list[str] = []
    end, small = 0, False
    for match in WORD.finditer(text):
        word = match.group().casefold()
        broken = bool(text[end : match.start()].strip()) or (small and match.group()[0].isupper())
        end, small = match.end(), match.group()[0].islower()
        fits = _is_content(word) and word not in breaking
        if run and (broken or not fits):
            yield tuple(run)
            run = []
        if fits:
            run.append(word)
    if run:
        yield tuple(run)


def _small_runs(title: str, breaking: Collection[str]) -> set[tuple[str, ...]]:
    """Return the runs without a capital of a title that has some elsewhere: these name the kind of thing."""
    return set() if title == title.lower() else {run for run in _runs(title, breaking) if " ".join(run) in title}


def _phrases(run: Sequence[str]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield every phrase of up to LONGEST_TYPE words of a run, and whether the run ends with it."""
    for size in range(1, min(LONGEST_TYPE, len(run)) + 1):
        for start in range(len(run) - size + 1):
            yield tuple(run[start : start + size]), start + size == len(run)


def _shared_phrases(rows: Sequence[Mapping]) -> tuple[dict[tuple[str, ...], int], frozenset[str]]:
    """Return the phrases that may name a kind, with the number of brands that share each, and the words that end runs.

    A phrase needs FEWEST_BRANDS and must not be mostly a value. A product without brand counts as one of its own.
    """
    brands: defaultdict[tuple[str, ...], set] = defaultdict(set)
    places, ends, titles, small, valued = Counter(), Counter(), Counter(), Counter(), Counter()
    for number, row in enumerate(rows):
        brand = row["brand"] or number
        valued.update(set(row["values"]))
        titles.update({phrase for run in row["runs"] for phrase, _ in _phrases(run)})
        small.update({phrase for run in row["small"] for phrase, _ in _phrases(run)})
        for run in row["runs"]:
            places.update(run)
            ends[run[-1]] += 1
            for phrase, _ in _phrases(run):
                brands[phrase].add(brand)

    def is_kind(phrase: tuple[str, ...]) -> bool:
        return valued[phrase] < VALUE_SHARE * titles[phrase] or small[phrase] > SMALL_SHARE * titles[phrase]

    shared = {
        phrase: len(owners) for phrase, owners in brands.items() if len(owners) >= FEWEST_BRANDS and is_kind(phrase)
    }
    return shared, frozenset(word for word, count in ends.items() if count >= HEAD_SHARE * places[word])


def _types(row: Mapping, shared: Mapping[tuple[str, ...], int], heads: Collection[str]) -> dict[tuple[str, ...], float]:
    """Return the phrases of a title that name a kind of thing, with weights.

    A phrase weighs more if more brands share it, if it ends a run, has no capitals, or has two words.
    """
    types: dict[tuple[str, ...], float] = {}
    for run in row["runs"]:
        for phrase, at_end in _phrases(run):
            if phrase[-1] in heads and phrase in shared:
                weight = shared[phrase] ** 0.5 * (3 if at_end else 1) * (4 if run in row["small"] else 1)
                weight *= (1, 2, 1.5)[len(phrase) - 1]
                types[phrase] = max(weight, types.get(phrase, 0))
    return types


def _last_words(runs: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Return the end of the longest run, for a product whose title shares nothing with others."""
    longest = max(runs, key=len, default=())
    return {longest[-2:]: 1.0} if longest else {}


def _attribute_words(attributes: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return short values and names of true flags, and what the product is compatible with."""
    values, uses = [], []
    for name, value in (json.loads(attributes) if attributes else {}).items():
        parts = [name] if value is True else value.split(",") if isinstance(value, str) else []
        for part in map(words_of, parts[:6]):
            if "compatib" in name and 0 < len(part) <= LONGEST_VALUE:
                uses.append(part)
            elif 0 < len(part) <= LONGEST_VALUE and any(c.isalpha() for word in part for c in word):
                values.append(part)
    return values, uses


def _purposes(description: str) -> list[tuple[str, ...]]:
    """Return up to two words after each "for": "for iPhone", "for laser printers"."""
    found = (words_of(part)[:2] for part in re.findall(r"\bfor\s+(?:your |the |an? )?([^.,;()\d]{3,40})", description))
    return [tuple(word for word in words if _is_content(word)) for words in found if words and _is_content(words[0])]


def _family_weights(offers: Sequence[ProductWords]) -> np.ndarray:
    """Return probabilities [N] in proportion to 1 / sqrt(products of the same brand and kind)."""
    families = [(offer.brand, max(offer.types, key=offer.types.__getitem__)) for offer in offers]
    sizes = Counter(families)
    weights = np.array([sizes[family] ** -0.5 for family in families])
    return weights / weights.sum()
