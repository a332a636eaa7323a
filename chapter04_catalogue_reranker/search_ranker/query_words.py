"""Correct and parse queries: what is wanted, what is refused, and how much it may cost.

"lamp shdae, but not green under 40 euros" asks for a lamp shade, refuses green, and names a price limit. A keyword
search counts "green" in a product's favour. The queries of the training split show the few forms that this takes.
The speller takes its words from the catalogue's own texts; words that the text encoder knows also count as correct.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_lowercase

from common.encoders import packaged_minilm

MIN_LENGTH = 4
"""Letters of the shortest word that is corrected: most shorter ones are one letter from several others."""
MAX_LENGTH = 30
"""Nobody types a longer word, and the spellings near a word grow with the square of its length."""
MIN_LENGTH_FOR_TWO_ERRORS = 7
MIN_QUERIES = 2
"""Training queries that must share a word before it counts as correct: an error is seldom made twice."""

_LETTERS = re.compile(r"[^\W\d_]+")
_LIMIT = re.compile(r",?\s+(?:under|below|up to)\s+(\d+(?:\.\d+)?)\s+euros?$")
# "that does not slide" is wanted; so are more than two words after "no".
_REFUSAL = re.compile(r"^(.*?\w),?\s+(?:but\s+)?(?<!does )(?<!do )(?<!must )(?:not|no|anything but)\s+(\S+(?:\s\S+)?)$")


@dataclass(frozen=True)
class ParsedQuery:
    """Say what a query asks for.

    wanted: the words that the product should match. unwanted: the words that it should not match, "" for none. limit:
    the highest price, NaN if none is named.
    """

    wanted: str
    unwanted: str
    limit: float


class Speller:
    """Replace each unknown word by the most frequent known word that is one typing error away (a letter left out,
    added, wrong, or two swapped), or two for long words.

    texts: product texts; their words are known. queries: training queries; words that two of them share are known too.
    words: words that are correct although the shop does not use them, such as the whole words of a text encoder's
    vocabulary; they replace nothing. A word without a known neighbour stays as it is. Source: Norvig, "How to write a
    spelling corrector" (2007).
    """

    def __init__(self, texts: Iterable[str], queries: Iterable[str] = (), words: Collection[str] = ()) -> None:
        self.words = frozenset(words)
        self.known = Counter(word for text in texts for word in _LETTERS.findall(text.lower()))
        asked = Counter(word for query in queries for word in {*_LETTERS.findall(query.lower())})
        self.known.update({word: count for word, count in asked.items() if count >= MIN_QUERIES})
        self._corrected: dict[str, str] = {}
        self._by_deletion: defaultdict[str, set[str]] = defaultdict(set)
        for word in self.known:
            for rest in deletions(word) if len(word) > MIN_LENGTH else ():
                self._by_deletion[rest].add(word)

    def correct(self, text: str) -> str:
        """Return the text in lower case, its words corrected."""
        return _LETTERS.sub(lambda match: self._word(match[0]), text.lower())

    def _word(self, word: str) -> str:
        if not MIN_LENGTH <= len(word) <= MAX_LENGTH or word in self.known or word in self.words:
            return word
        if word not in self._corrected:
            near = one_error_away(word)
            found = near & self.known.keys()
            if not found and len(word) >= MIN_LENGTH_FOR_TWO_ERRORS:
                found = self._two_errors_away(word, near)
            self._corrected[word] = max(found, key=lambda other: (self.known[other], other), default=word)
        return self._corrected[word]

    def _two_errors_away(self, word: str, near: set[str]) -> set[str]:
        """Return the known words that share a neighbour with `word`. Only words that share a deletion with it can:
        listing all neighbours of neighbours would take a hundred times as long."""
        maybe = {other for rest in deletions(word) for other in self._by_deletion.get(rest, ())}
        return {other for other in maybe if not near.isdisjoint(one_error_away(other))}


@cache
def encoder_words() -> frozenset[str]:
    """Return the whole words in the vocabulary of the packaged text encoder: about 22,000 frequent English words."""
    pieces = (packaged_minilm() / "vocab.txt").read_text(encoding="utf-8").split()
    return frozenset(piece for piece in pieces if piece.isalpha())


def deletions(word: str) -> set[str]:
    """Return the word, and all that remains of it without one letter or two. Source: Garbe, "SymSpell" (2012)."""
    once = {word[:at] + word[at + 1 :] for at in range(len(word))}
    return {word} | once | {rest[:at] + rest[at + 1 :] for rest in once for at in range(len(rest))}


def one_error_away(word: str) -> set[str]:
    """Return every spelling that differs from a word by one typing error."""
    parts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    left_out = {before + after[1:] for before, after in parts if after}
    swapped = {before + after[1] + after[0] + after[2:] for before, after in parts if len(after) > 1}
    wrong = {before + letter + after[1:] for before, after in parts if after for letter in ascii_lowercase}
    added = {before + letter + after for before, after in parts for letter in ascii_lowercase}
    return (left_out | swapped | wrong | added) - {word}


def understand(query: str) -> ParsedQuery:
    """Parse a corrected query. Everything is wanted unless the query says otherwise."""
    limit = _LIMIT.search(query)
    words = query[: limit.start()] if limit else query
    refusal = _REFUSAL.match(words)
    wanted, unwanted = (refusal[1].rstrip(", "), refusal[2]) if refusal else (words, "")
    return ParsedQuery(wanted, unwanted, float(limit[1]) if limit else float("nan"))


def named_values(values: Iterable[str], tokenised: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return, for each tokenised text, the `values` (lower case, of one or more words) that it contains word by word,
    the one with most words first."""
    split = {value: tuple(value.split()) for value in sorted(set(values))}
    longest = max(map(len, split.values()), default=0)
    found = []
    for tokens in tokenised:
        lengths = range(1, min(longest, len(tokens)) + 1)
        runs = {tuple(tokens[at : at + length]) for length in lengths for at in range(len(tokens) - length + 1)}
        found.append(sorted((value for value, words in split.items() if words in runs), key=lambda v: -len(split[v])))
    return found
