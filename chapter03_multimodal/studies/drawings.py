"""Draw generic pictures with generic captions, the training data of pocket_clip before it meets any shop.

A drawing shows one thing in a random colour, material and pattern; a caption names the thing in everyday words and some
of the rest. No product, title, query or photo of the pocket shop takes part: the facts are not the shop's, and no
drawing has the seed of one of its photos. Both share the drawing code and the everyday words for things, colours,
materials and patterns. So a model trained on these drawings knows the *style* of the shop's pictures, as the public
CLIPs know that of photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
from PIL import Image

from common.category_path import leaf_of
from common.pocket_shop.photos import PATTERNS, PhotoFacts, draw_photo
from common.pocket_shop.vocabulary import COLOURS, MATERIALS, leaves
from common.pocket_shop.vocabulary import PATTERNS as PATTERN_WORDS
from common.progress import progress

ASPECTS = ("thing", "colour", "material", "pattern", "accent")
PLAIN_SHARE = 0.6
TEMPLATES = (
    "a photo of {}",
    "a picture of {}",
    "a drawing of {}",
    "{}",
    "this is {}",
    "here you see {}",
    "a product photo of {}",
    "{} in front of a wall",
    "one photo, showing {}",
)
_OVERSAMPLING = 2  # drawn large and made small, as a shop's photo is


def draw_things(count: int, *, seed: int) -> pd.DataFrame:
    """Draw the facts of `count` drawings at random: every thing is equally likely, and every colour of it.

    Columns: `thing` (a key of leaves.csv), `colour`, `material`, `pattern`, `accent` (the pattern's colour, "" for a
    plain thing) and `seed`, below 2**31, for the drawing.
    """
    rng = np.random.default_rng(seed)
    kinds, colours, patterns = leaves(), list(COLOURS), [name for name in PATTERNS if name != "plain"]
    rows = []
    for _ in range(count):
        leaf = kinds[rng.integers(len(kinds))]
        colour, accent = rng.choice(colours, 2, replace=False)
        pattern = "plain" if rng.random() < PLAIN_SHARE else str(rng.choice(patterns))
        material = str(rng.choice(leaf.materials))
        rows.append((leaf.key, str(colour), material, pattern, "" if pattern == "plain" else str(accent)))
    return pd.DataFrame(rows, columns=list(ASPECTS)).assign(seed=rng.integers(2**31, size=count))


def draw_pictures(things: pd.DataFrame, size: int, *, workers: int = 2) -> np.ndarray:
    """Draw the things: uint8 [N, size, size, 3], in `workers` processes, with a progress bar."""
    jobs = [(*row, size) for row in things.itertuples(index=False)]
    pictures = np.empty((len(jobs), size, size, 3), dtype=np.uint8)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        drawn = pool.map(_draw, jobs, chunksize=64)
        for at, picture in enumerate(progress(drawn, total=len(jobs), desc="drawing", unit="picture")):
            pictures[at] = picture
    return pictures


def _draw(job: tuple) -> np.ndarray:
    thing, colour, material, pattern, accent, seed, size = job
    facts = PhotoFacts(thing, colour, accent or "white", material, pattern)
    large = Image.fromarray(draw_photo(facts, seed=seed, size=_OVERSAMPLING * size))
    return np.asarray(large.resize((size, size), Image.Resampling.BICUBIC))


def write_captions(things: pd.DataFrame, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Write a caption for each of N things: its name, and sometimes colour, material and pattern.

    Returns the captions and the aspects that they mention, bool [N, 5] in the order of `ASPECTS`: a caption is also
    true of every other picture that agrees in those (`agreement`).
    """
    captions, mentioned = [], np.zeros((len(things), len(ASPECTS)), dtype=bool)
    mentioned[:, 0] = True
    mentioned[:, 1:4] = rng.random((len(things), 3)) < (0.8, 0.5, 0.7)
    mentioned[:, 4] = rng.random(len(things)) < 0.5
    patterned = (things["pattern"] != "plain").to_numpy()
    mentioned[:, 3] &= patterned | (rng.random(len(things)) < 0.1)
    mentioned[:, 4] &= patterned
    for thing, aspects in zip(things.itertuples(index=False), mentioned, strict=True):
        text = _phrase(thing, aspects, rng)
        if rng.random() < 0.35:  # long ones too, so that every position of the text tower is trained
            text = f"{text}. {_phrase(thing, aspects, rng)}"
        if rng.random() < 0.15:
            text = f"{text}. {_phrase(thing, aspects, rng)}"
        captions.append(TEMPLATES[rng.integers(len(TEMPLATES))].format(text))
    return captions, mentioned


def _phrase(thing: tuple, mentioned: Sequence[bool], rng: np.random.Generator) -> str:
    """Describe a thing by the aspects mentioned, in one of two orders: "a blue oak table", "a table, oak, blue"."""
    leaf = _LEAVES[thing.thing]
    noun = str(rng.choice([*leaf.nouns, *leaf.shopper, leaf_of(leaf.path).lower()]))
    words = (COLOURS[thing.colour], PATTERN_WORDS[thing.pattern], MATERIALS[thing.material])
    colour, pattern, material = (
        str(rng.choice(term.shopper)) if spoken else ""
        for term, spoken in zip(words, (mentioned[1], mentioned[3], mentioned[2]), strict=True)
    )
    accent = f" with {thing.accent}" if mentioned[4] else ""
    if rng.random() < 0.7:
        return " ".join(word for word in ("a", colour, pattern, material, noun) if word) + accent
    return ", ".join(word for word in (noun, material, pattern, colour) if word) + accent


def agreement(codes: np.ndarray, mentioned: np.ndarray) -> np.ndarray:
    """Mark the pictures that each caption is true of: bool [N, N], caption by picture, True on the diagonal.

    codes: int [N, 5], the things as numbers (`as_codes`). mentioned: bool [N, 5], the aspects of each caption.
    """
    agrees = codes[:, None, :] == codes[None, :, :]
    return (agrees | ~mentioned[:, None, :]).all(axis=2)


def as_codes(things: pd.DataFrame) -> np.ndarray:
    """Number the values of every aspect: int [N, 5]."""
    return np.stack([pd.factorize(things[name])[0] for name in ASPECTS], axis=1)


_LEAVES = {leaf.key: leaf for leaf in leaves()}
