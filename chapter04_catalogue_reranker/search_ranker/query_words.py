"""What a query says beside its words: spelling put right, what is wanted and what is not, and how much it may cost.

"lamp shdae, but not green under 40 euros" asks for a lamp shade, refuses green, and names a limit. A keyword search
counts "green" for a product; whoever looks at the queries of the training split sees the few forms that this takes.
Words are put right by what the catalogue's own texts say; a word that the text encoder knows counts as right.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from string import ascii_lowercase

from common.encoders import packaged_minilm

SHORTEST = 4
"""Letters of a word that is put right: most shorter ones are one letter from several others."""
LONGEST = 30
"""Nobody types a longer one, and the spellings near a word grow with the square of its length."""
SHORTEST_WITH_TWO_ERRORS = 7
FEWEST_QUERIES = 2
"""Training queries that must share a word before it counts as spelt that way: an error is seldom made twice."""

_LETTERS = re.compile(r"[^\W\d_]+")
_LIMIT = re.compile(r",?\s+(?:under|below|up to)\s+(\d+(?:\.\d+)?)\s+euros?$")
# "that does not slide" is wanted; so is what stands alone behind "no".
_REFUSAL = re.compile(r"^(.*?\w),?\s+(?:but\s+)?(?<!does )(?<!do )(?<!must )(?:not|no|anything but)\s+(\S+(?:\s\S+)?)$")


@dataclass(frozen=True)
class Understood:
    """wanted: the words that the product should fit. unwanted: the words that it should not, "" if there are none.
    limit: the highest price, NaN if none is named."""

    wanted: str
    unwanted: str
    limit: float


class Speller:
    """Replaces words that neither the catalogue nor two training queries know by the most frequent known one that is
    one typing error away (a letter left out, added, wrong, or two swapped), or two for long words.

    texts: product texts. queries: training queries. words: spelt right too, though the shop does not use them, such as
    the whole words of a text encoder's vocabulary; nothing is replaced by one of these. A word without a known
    neighbour stays as it is. Source: Norvig, "How to write a spelling corrector" (2007).
    """

    def __init__(self, texts: Iterable[str], queries: Iterable[str] = (), words: Collection[str] = ()) -> None:
        self.words = frozenset(words)
        self.known = Counter(word for text in texts for word in _LETTERS.findall(text.lower()))
        asked = Counter(word for query in queries for word in {*_LETTERS.findall(query.lower())})
        self.known.update({word: count for word, count in asked.items() if count >= FEWEST_QUERIES})
        self._corrected: dict[str, str] = {}
        self._shortened: defaultdict[str, set[str]] = defaultdict(set)
        for word in self.known:
            for rest in shortened(word) if len(word) > SHORTEST else ():
                self._shortened[rest].add(word)

    def correct(self, text: str) -> str:
        """The text in lower case, its words put right."""
        return _LETTERS.sub(lambda match: self._word(match[0]), text.lower())

    def _word(self, word: str) -> str:
        if not SHORTEST <= len(word) <= LONGEST or word in self.known or word in self.words:
            return word
        if word not in self._corrected:
            near = one_error_away(word)
            found = near & self.known.keys()
            if not found and len(word) >= SHORTEST_WITH_TWO_ERRORS:
                found = self._two_errors_away(word, near)
            self._corrected[word] = max(found, key=lambda other: (self.known[other], other), default=word)
        return self._corrected[word]

    def _two_errors_away(self, word: str, near: set[str]) -> set[str]:
        """Known words that share a neighbour with `word`. Only those that share a remainder (`shortened`) can: all
        neighbours of neighbours would be a hundred times as many."""
        maybe = {other for rest in shortened(word) for other in self._shortened.get(rest, ())}
        return {other for other in maybe if not near.isdisjoint(one_error_away(other))}


@cache
def encoder_words() -> frozenset[str]:
    """The whole words in the vocabulary of the packaged text encoder: some 22,000 that English uses most."""
    pieces = (packaged_minilm() / "vocab.txt").read_text(encoding="utf-8").split()
    return frozenset(piece for piece in pieces if piece.isalpha())


def shortened(word: str) -> set[str]:
    """The word, and what remains of it without any one letter, or two. Source: Garbe, "SymSpell" (2012)."""
    once = {word[:at] + word[at + 1 :] for at in range(len(word))}
    return {word} | once | {rest[:at] + rest[at + 1 :] for rest in once for at in range(len(rest))}


def one_error_away(word: str) -> set[str]:
    """Every spelling that one error makes of a word, or that one error made the word of."""
    parts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    left_out = {before + after[1:] for before, after in parts if after}
    swapped = {before + after[1] + after[0] + after[2:] for before, after in parts if len(after) > 1}
    wrong = {before + letter + after[1:] for before, after in parts if after for letter in ascii_lowercase}
    added = {before + letter + after for before, after in parts for letter in ascii_lowercase}
    return (left_out | swapped | wrong | added) - {word}


def understand(query: str) -> Understood:
    """Take a query, spelt right, apart. Everything is wanted unless it says otherwise."""
    limit = _LIMIT.search(query)
    words = query[: limit.start()] if limit else query
    refusal = _REFUSAL.match(words)
    wanted, unwanted = (refusal[1].rstrip(", "), refusal[2]) if refusal else (words, "")
    return Understood(wanted, unwanted, float(limit[1]) if limit else float("nan"))


def named_values(values: Iterable[str], tokenised: Sequence[Sequence[str]]) -> list[list[str]]:
    """For each tokenised text the `values` (lower case, of one or more words) that stand in it word by word, the one
    with most words first."""
    split = {value: tuple(value.split()) for value in sorted(set(values))}
    longest = max(map(len, split.values()), default=0)
    found = []
    for tokens in tokenised:
        lengths = range(1, min(longest, len(tokens)) + 1)
        runs = {tuple(tokens[at : at + length]) for length in lengths for at in range(len(tokens) - length + 1)}
        found.append(sorted((value for value, words in split.items() if words in runs), key=lambda v: -len(split[v])))
    return found
