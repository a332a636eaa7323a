"""Queries made from a catalogue itself: what a shopper might have typed to find a product, guessed from its own words.

For a shop that has products and no judged queries to train on. A made-up query is short and mostly says *what kind of
thing* is meant: "toner cartridge", "hp toner cartridge", "usb cable 2 m", "black photo paper". Which words of a title
name the kind of thing is read off the whole catalogue: a phrase that the titles of several brands share, that ends
with a word at which the runs of words in titles often end ("… label printer Thermal", "… photo paper, A4"), and that is
not mostly the value of an attribute ("Original", "Black").

The idea of training a retriever on such pieces of a document is that of the inverse cloze task (Lee et al. 2019,
"Latent Retrieval for Weakly Supervised Open Domain Question Answering"), here with pieces that look like queries.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import pandas as pd

from common.catalogue import normalise_query, product_text
from common.errors import CourseError

LONGEST_TYPE = 3  # words of a phrase that names a kind of thing
FEWEST_BRANDS = 3  # that share a phrase before it counts as the name of a kind
HEAD_SHARE = 0.2  # of a word's places at which a run of words must end for it to end a phrase
VALUE_SHARE = 0.5  # of the titles with a phrase, so many products having it as a value make it no kind of thing
SMALL_SHARE = 0.2  # of the titles with such a phrase, if so many write it without capitals it is one after all
LONGEST_VALUE = 2  # words of an attribute's value that a shopper would type
TRIES_A_PAIR = 12  # before the catalogue counts as used up

_WORD = re.compile(r"[^\W_]+(?:[-'.+&][^\W_]+)*")
_MEASURE = re.compile(
    r"(?<![\w.])(\d{1,4}(?:\.\d{1,2})?)\s?"
    r"(\"|''|inch(?:es)?\b|cm\b|mm\b|m\b|ft\b|gb\b|tb\b|mb\b|kg\b|g\b|ml\b|l\b|w\b|v\b|mah\b|mp\b|hz\b|ghz\b|dpi\b|ports?\b|pin\b)",
    re.IGNORECASE,
)
_UNITS = frozenset(
    ["cm", "mm", "m", "ft", "gb", "tb", "mb", "kg", "g", "ml", "l", "w", "v", "mah", "mp", "hz", "ghz", "dpi", "pixels"]
)
_STOPWORDS = frozenset([
    "a", "an", "the", "and", "or", "of", "in", "on", "to", "at", "by", "as", "is", "it", "for", "from", "with", "de",
    "without", "per", "your", "our", "this", "that", "these", "also", "not", "no", "into", "all", "any", "up", "x",
    "pc", "pcs", "new", "kit", "set", "pack", "series", "type", "model",
])  # fmt: skip
_NO_KIND = _STOPWORDS | _UNITS
_CONNECTORS = frozenset(["for", "with", "and", "of", "in", "to", "on", "a", "the"])


@dataclass(frozen=True)
class _Words:
    """What one product offers to make queries from. Everything is lower case; phrases are tuples of words.

    types: phrases that name the kind of thing, with weights. runs: stretches of words of the title. values: colour,
    material and short attribute values. measures: "27 inch". uses: what it is for. codes: model numbers.
    """

    product_id: str
    brand: tuple[str, ...]
    types: dict[tuple[str, ...], float]
    runs: list[tuple[str, ...]]
    values: list[tuple[str, ...]]
    measures: list[tuple[str, ...]]
    uses: list[tuple[str, ...]]
    codes: list[tuple[str, ...]]
    leaf: tuple[str, ...]
    described: list[tuple[str, ...]]


def catalogue_pairs(products: pd.DataFrame, *, count: int, seed: int, forbidden: Collection[str] = ()) -> pd.DataFrame:
    """Make up to `count` distinct pairs `query, product_id` from the products' own words; equal seeds, equal pairs.

    products: as in the catalogue contract, any of title, brand, colour, material, category_path, attributes,
        description. Products are drawn in inverse proportion to the root of how many share their brand and kind, so
        that no family of near-equal products makes most of the pairs.
    forbidden: queries that must not come out, nor their words in another order or number (see `query_key`): those the
        catalogue is judged by.

    Fewer pairs come back where the catalogue has no more to say. Raises CourseError if `count` is below 1 or no product
    has words to make a query from.
    """
    if count < 1:
        raise CourseError(f"catalogue_pairs: count is {count}; ask for at least one pair.")
    offers = _read(products)
    if not offers:
        raise CourseError("no product has a title, description or category to make queries from; add titles.")
    shut = {query_key(query) for query in forbidden}
    rng = np.random.default_rng(seed)
    weights = _family_weights(offers)
    found: dict[tuple[str, str], None] = {}
    for at in rng.choice(len(offers), size=count * TRIES_A_PAIR, p=weights):
        query = _make_query(offers[at], rng)
        if query and query_key(query) not in shut:
            found[query, offers[at].product_id] = None
            if len(found) == count:
                break
    return pd.DataFrame(list(found), columns=["query", "product_id"], dtype="str")


def query_key(query: str) -> tuple[str, ...]:
    """What two wordings of one query share: its words, each without its plural ending, in alphabetical order."""
    return tuple(sorted(_singular(word) for word in _WORD.findall(normalise_query(query))))


def products_with_words(products: pd.DataFrame, queries: Iterable[str]) -> dict[str, frozenset[str]]:
    """For each query the ids of the products whose text has all of its words: nobody judged them, but to call them
    wrong answers to that query would be a false negative more often than not.

    Plural endings do not count, words like "for" neither. A query none of whose words are known has an empty set.
    """
    ids = products["product_id"].to_numpy(dtype=object)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for at, text in enumerate(product_text(products)):
        measures = " ".join(word for measure in _measures(text) for word in measure)
        for word in set(query_key(f"{text} {measures}")):
            places[word].append(at)
    arrays = {word: np.array(found) for word, found in places.items()}
    nothing = np.zeros(0, dtype=np.int64)
    answer: dict[str, frozenset[str]] = {}
    for query in queries:
        words = [word for word in query_key(query) if word not in _CONNECTORS]
        found = sorted((arrays.get(word, nothing) for word in words), key=len)
        both = reduce(lambda a, b: np.intersect1d(a, b, assume_unique=True), found) if found else nothing
        answer[query] = frozenset(ids[both])
    return answer


def _read(products: pd.DataFrame) -> list[_Words]:
    """The products that have words at all, with the phrases that name their kind."""
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
        kept = {name: row[name] for name in _Words.__dataclass_fields__ if name not in ("types", "values")}
        offers.append(_Words(types=types, values=[v for v in values if v not in types], **kept))
    return offers


def _raw(row: Mapping[str, object]) -> dict:
    text = {name: value if isinstance(value, str) else "" for name, value in row.items()}
    title, brand = text.get("title", ""), _words(text.get("brand", ""))
    certain = [_words(part) for name in ("colour", "material") for part in text.get(name, "").split(",")]
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
        "measures": _measures(title),
        "uses": [*uses, *_purposes(description)],
        "codes": [(w.lower(),) for w in _WORD.findall(title) if re.search(r"\d", w) and re.search(r"[A-Za-z]", w)],
        "leaf": next(_runs(leaf.lower(), ()), ()),
        "described": [run for run in _runs(description, breaking) if len(run) <= 6],
    }


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(normalise_query(text)))


def _is_content(word: str) -> bool:
    return len(word) > 1 and word not in _NO_KIND and not any(c.isdigit() for c in word)


def _runs(text: str, breaking: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Stretches of words of a text. Anything but a space ends one, so do numbers, small words, the brand, and a capital
    after a word without one ("label printer | Thermal transfer")."""
    run: list[str] = []
    end, small = 0, False
    for match in _WORD.finditer(text):
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
    """The runs without a capital, in a title that has some elsewhere: there they name the kind of thing."""
    return set() if title == title.lower() else {run for run in _runs(title, breaking) if " ".join(run) in title}


def _phrases(run: Sequence[str]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every phrase of up to LONGEST_TYPE words of a run, and whether the run ends with it."""
    for size in range(1, min(LONGEST_TYPE, len(run)) + 1):
        for start in range(len(run) - size + 1):
            yield tuple(run[start : start + size]), start + size == len(run)


def _shared_phrases(rows: Sequence[Mapping]) -> tuple[dict[tuple[str, ...], int], frozenset[str]]:
    """By phrase how many brands have it in a title (a product without brand stands for one of its own), for those
    that FEWEST_BRANDS share and that are not mostly values; and the words that runs end with."""
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
    """Phrases of a title that name a kind of thing. Shared by more brands, ending a run, without capitals, of two
    words: all weigh more."""
    types: dict[tuple[str, ...], float] = {}
    for run in row["runs"]:
        for phrase, at_end in _phrases(run):
            if phrase[-1] in heads and phrase in shared:
                weight = shared[phrase] ** 0.5 * (3 if at_end else 1) * (4 if run in row["small"] else 1)
                weight *= (1, 2, 1.5)[len(phrase) - 1]
                types[phrase] = max(weight, types.get(phrase, 0))
    return types


def _last_words(runs: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """For a product whose title shares nothing with others: the end of its longest run."""
    longest = max(runs, key=len, default=())
    return {longest[-2:]: 1.0} if longest else {}


def _attribute_words(attributes: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Short values and the names of true flags; and what the product is compatible with."""
    values, uses = [], []
    for name, value in (json.loads(attributes) if attributes else {}).items():
        parts = [name] if value is True else value.split(",") if isinstance(value, str) else []
        for part in map(_words, parts[:6]):
            if "compatib" in name and 0 < len(part) <= LONGEST_VALUE:
                uses.append(part)
            elif 0 < len(part) <= LONGEST_VALUE and any(c.isalpha() for word in part for c in word):
                values.append(part)
    return values, uses


def _measures(text: str) -> list[tuple[str, ...]]:
    inch = {'"': "inch", "''": "inch", "inches": "inch"}
    return [
        (n.removesuffix(".0"), inch.get(unit.lower(), unit.lower())) for n, unit in _MEASURE.findall(text.casefold())
    ]


def _purposes(description: str) -> list[tuple[str, ...]]:
    """Up to two words after "for": "for iPhone", "for laser printers"."""
    found = (_words(part)[:2] for part in re.findall(r"\bfor\s+(?:your |the |an? )?([^.,;()\d]{3,40})", description))
    return [tuple(word for word in words if _is_content(word)) for words in found if words and _is_content(words[0])]


def _family_weights(offers: Sequence[_Words]) -> np.ndarray:
    """Probabilities [N] in proportion to 1 / sqrt(products of the same brand and kind)."""
    families = [(offer.brand, max(offer.types, key=offer.types.__getitem__)) for offer in offers]
    sizes = Counter(families)
    weights = np.array([sizes[family] ** -0.5 for family in families])
    return weights / weights.sum()


def _make_query(offer: _Words, rng: np.random.Generator) -> str:
    """One query for a product: a shape drawn by its weight, again where the product lacks what the shape needs."""
    while True:
        words = _SHAPES[rng.choice(len(_SHAPES), p=_SHAPE_WEIGHTS)](offer, rng)
        if words:
            return " ".join(_vary([*words], {kind[-1] for kind in offer.types}, rng))


def _type(offer: _Words, rng: np.random.Generator) -> tuple[str, ...]:
    weights = np.array([*offer.types.values()])
    return [*offer.types][rng.choice(len(weights), p=weights / weights.sum())]


def _one(choices: Sequence[tuple[str, ...]], rng: np.random.Generator) -> tuple[str, ...]:
    return choices[rng.integers(len(choices))] if choices else ()


def _brand_and_type(offer: _Words, rng: np.random.Generator) -> tuple[str, ...]:
    return offer.brand + _type(offer, rng) if offer.brand else ()


def _beside_type(extra: Callable[[_Words], Sequence[tuple[str, ...]]], before: float) -> Callable:
    """A shape: the kind of thing and one of `extra`, which stands before it with probability `before`."""

    def shape(offer: _Words, rng: np.random.Generator) -> tuple[str, ...]:
        kind, other = _type(offer, rng), _one(extra(offer), rng)
        if not other or set(other) & set(kind):
            return ()
        return other + kind if rng.random() < before else kind + other

    return shape


def _type_for(offer: _Words, rng: np.random.Generator) -> tuple[str, ...]:
    use, kind = _one(offer.uses, rng), _type(offer, rng)
    return (*kind, "for", *use) if use and not set(use) & set(kind) else ()


def _title_span(offer: _Words, rng: np.random.Generator) -> tuple[str, ...]:
    """One to four consecutive words of the title, mostly of its longer runs: a lone word is often a detail."""
    if not offer.runs:
        return ()
    lengths = np.array([len(run) for run in offer.runs]) ** 2
    run = offer.runs[rng.choice(len(offer.runs), p=lengths / lengths.sum())]
    size = min(len(run), int(rng.integers(1, 5)))
    start = rng.integers(len(run) - size + 1)
    return run[start : start + size]


def _description_span(offer: _Words, rng: np.random.Generator) -> tuple[str, ...]:
    run = _one(offer.described, rng)
    size = min(len(run), int(rng.integers(2, 4)))
    return run[:size] if size > 1 else ()


_SHAPES_AND_WEIGHTS: tuple[tuple[Callable, float], ...] = (
    (_type, 0.34),
    (_brand_and_type, 0.17),
    (_beside_type(lambda offer: offer.values, 0.6), 0.15),
    (_beside_type(lambda offer: offer.measures, 0.5), 0.08),
    (_title_span, 0.08),
    (_description_span, 0.06),
    (lambda offer, rng: offer.leaf, 0.05),
    (_type_for, 0.04),
    (_beside_type(lambda offer: offer.codes, 0.5), 0.03),
)
_SHAPES = [shape for shape, _ in _SHAPES_AND_WEIGHTS]
_SHAPE_WEIGHTS = [weight for _, weight in _SHAPES_AND_WEIGHTS]


def _vary(words: list[str], kinds: Collection[str], rng: np.random.Generator) -> list[str]:
    """The liberties shoppers take: a word left out, another order, another number (of `kinds` only, never of a colour).
    Words said twice are said once."""
    words = [word for at, word in enumerate(words) if word not in words[:at]]
    if len(words) > 2 and "for" not in words and rng.random() < 0.1:
        del words[rng.integers(len(words) - 1)]  # never the last one, mostly the kind of thing
    if len(words) > 1 and "for" not in words and rng.random() < 0.05:
        words = words[1:] + words[:1]
    if words[-1] in kinds and rng.random() < 0.2:
        words[-1] = _other_number(words[-1])
    return words


def _singular(word: str) -> str:
    if len(word) < 4 or not word.isascii() or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("xes", "ches", "shes", "sses")) else word[:-1]


def _other_number(word: str) -> str:
    if not (word.isascii() and word.isalpha() and len(word) > 2):
        return word
    if _singular(word) != word and len(word) > 4:  # a lens is no plural, nor is CMOS
        return _singular(word)
    if word.endswith("s"):
        return word
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("x", "ch", "sh")) else "s")
