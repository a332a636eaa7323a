"""Put typing errors into training queries, so that the query tower learns to understand those of shoppers.

A misspelt word falls into other word pieces than the right one. If some training queries are misspelt, the tower learns
that both mean the same (Zhuang and Zuccon, "Dealing with Typos for BERT-based Passage Retrieval and Ranking", 2021).
"""

from __future__ import annotations

import random

SHORTEST = 4  # letters of a word that may be misspelt: "tee" with an error is another word
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def misspell(text: str, seed: int) -> str:
    """Return `text` with one typing error, drawn with `seed`.

    In one word, not at its ends, a letter is left out, doubled, replaced, or swapped with the next. A text without a
    word of four letters comes back unchanged.
    """
    draw = random.Random(seed)
    words = text.split()
    long = [at for at, word in enumerate(words) if len(word) >= SHORTEST and word.isalpha()]
    if not long:
        return text
    at = draw.choice(long)
    word, place = words[at], draw.randrange(1, len(words[at]) - 2)
    before, letter, following, rest = word[:place], word[place], word[place + 1], word[place + 2 :]
    other = draw.choice(_LETTERS.replace(letter.lower(), ""))
    errors = [following, letter * 2 + following, other + following, following + letter]
    words[at] = before + draw.choice([error for error in errors if error != letter + following]) + rest
    return " ".join(words)
