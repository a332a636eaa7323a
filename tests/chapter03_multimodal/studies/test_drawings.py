"""Drawings and captions: what is drawn can be drawn, what is said is true, and none of it is the shop's."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chapter03_multimodal.studies import drawings
from chapter03_multimodal.studies.drawings import (
    ASPECTS,
    PLAIN_SHARE,
    TEMPLATES,
    agreement,
    as_codes,
    draw_pictures,
    draw_things,
    write_captions,
)
from chapter03_multimodal.studies.pretrain import PretrainConfig
from common.pocket_shop.photos import PhotoFacts, draw_photo
from common.pocket_shop.vocabulary import BRANDS, COLOURS, MATERIALS, PATTERNS, leaves

LEAVES = {leaf.key: leaf for leaf in leaves()}


@pytest.fixture(scope="module")
def things() -> pd.DataFrame:
    return draw_things(3_000, seed=5)


@pytest.fixture(scope="module")
def told(things) -> tuple[list[str], np.ndarray]:
    return write_captions(things, np.random.default_rng(1))


def test_the_same_seed_draws_the_same(things):
    pd.testing.assert_frame_equal(draw_things(3_000, seed=5), things)
    assert not draw_things(3_000, seed=6).equals(things)
    assert list(things) == [*ASPECTS, "seed"]


def test_a_thing_has_what_it_can_have(things):
    assert all(row.material in LEAVES[row.thing].materials for row in things.itertuples())
    assert {*things["colour"]} == {*COLOURS} and {*things["pattern"]} == {*PATTERNS}
    plain = things["pattern"] == "plain"
    assert (things.loc[plain, "accent"] == "").all() and things.loc[~plain, "accent"].isin(COLOURS).all()
    assert (things["accent"] != things["colour"]).all()


def test_things_and_colours_are_equally_likely(things):
    """Not as in a shop, where they have a long tail: a count is within four deviations of its mean."""
    assert {*things["thing"]} == {*LEAVES}
    for column, kinds in (("thing", len(LEAVES)), ("colour", len(COLOURS))):
        mean = len(things) / kinds
        assert (things[column].value_counts() - mean).abs().max() < 4 * mean**0.5
    assert (things["pattern"] == "plain").mean() == pytest.approx(PLAIN_SHARE, abs=0.04)


def test_no_drawing_of_pocket_clip_has_the_seed_of_a_photo_of_the_shop():
    """The shop's photos have the seeds 2026 * 1,000,003 + row."""
    config = PretrainConfig()
    seeds = draw_things(config.drawings + config.held_out, seed=config.seed)["seed"]
    assert seeds.between(0, 2**31 - 1).all() and seeds.nunique() > 0.99 * len(seeds)
    assert not (seeds - 2026 * 1_000_003).between(0, 4_500).any()


def test_a_picture_is_the_painter_s_made_small(things):
    row = things[things["pattern"] != "plain"].iloc[0]
    facts = PhotoFacts(row.thing, row.colour, row.accent, row.material, row.pattern)
    large = Image.fromarray(draw_photo(facts, seed=int(row.seed), size=64))
    expected = np.asarray(large.resize((32, 32), Image.Resampling.BICUBIC))
    found = drawings._draw((*row, 32))
    assert found.shape == (32, 32, 3) and np.array_equal(found, expected)
    plain = things[things["pattern"] == "plain"].iloc[0]
    assert drawings._draw((*plain, 32)).std() > 0, "nothing is drawn of a thing without an accent"


@pytest.mark.slow
def test_pictures_come_in_the_order_of_the_things(things):
    few = things.iloc[:70]  # more than one chunk
    pictures = draw_pictures(few, 16)
    assert pictures.shape == (70, 16, 16, 3) and pictures.dtype == np.uint8
    for row, picture in zip(few.itertuples(index=False), pictures, strict=True):
        assert np.array_equal(picture, drawings._draw((*row, 16)))


def any_of(words) -> str:
    return "(?:" + "|".join(map(re.escape, sorted(words, key=len, reverse=True))) + ")"


def grammar(thing, said) -> re.Pattern:
    """All captions that say exactly this of a thing."""
    leaf = LEAVES[thing.thing]
    noun = any_of([*leaf.nouns, *leaf.shopper, leaf.path.split(" > ")[-1].lower()])
    colour, material, pattern = (
        any_of(words[value].shopper) if spoken else ""
        for words, value, spoken in zip((COLOURS, MATERIALS, PATTERNS), thing[1:4], said[1:4], strict=True)
    )
    accent = f" with {thing.accent}" if said[4] else ""
    orders = (
        " ".join(filter(None, ("a", colour, pattern, material, noun))),
        ", ".join(filter(None, (noun, material, pattern, colour))),
    )
    phrase = f"(?:{orders[0]}|{orders[1]}){accent}"
    frame = "|".join(re.escape(template).replace(r"\{\}", f"{phrase}(?:\\. {phrase}){{0,2}}") for template in TEMPLATES)
    return re.compile(frame)


def test_a_caption_says_what_it_is_said_to_say_and_nothing_else(things, told):
    captions, said = told
    assert said.shape == (len(things), len(ASPECTS)) and said[:, 0].all()
    for thing, caption, aspects in list(zip(things.itertuples(index=False), captions, said, strict=True))[:120]:
        assert grammar(thing, aspects).fullmatch(caption), (caption, aspects)
        for aspect in range(1, 5):
            other = aspects.copy()
            other[aspect] = ~other[aspect]
            assert (aspect == 4 and not thing.accent) or not grammar(thing, other).fullmatch(caption), caption


def test_captions_differ_in_what_they_say_and_only_patterns_have_a_second_colour(things, told):
    said, plain = told[1], (things["pattern"] == "plain").to_numpy()
    shares = said.mean(axis=0)
    assert 0.7 < shares[1] < 0.9 and 0.4 < shares[2] < 0.6
    assert not said[plain, 4].any() and 0.4 < said[~plain, 4].mean() < 0.6
    assert 0.02 < said[plain, 3].mean() < 0.2 and 0.6 < said[~plain, 3].mean() < 0.8


def test_the_same_generator_writes_the_same_captions(things, told):
    captions, said = write_captions(things, np.random.default_rng(1))
    assert captions == told[0] and np.array_equal(said, told[1])
    assert write_captions(things, np.random.default_rng(2))[0] != captions


def test_nothing_of_the_shop_s_writing_stands_in_a_caption(things, told, photo_shop):
    """No brand, no title that is more than a noun, none of the catalogue's names for colours."""
    captions = " | ".join(told[0]).casefold()
    for brand in BRANDS:
        assert not re.search(rf"\b{re.escape(brand.name.casefold())}\b", captions), brand.name
    titles = {*photo_shop.products["title"].dropna().str.casefold()}
    titles -= {noun.casefold() for leaf in leaves() for noun in (*leaf.nouns, *leaf.shopper)}
    assert len(titles) > 300 and not [title for title in titles if title in captions]
    everyday = {word.casefold() for words in (COLOURS, PATTERNS) for term in words.values() for word in term.shopper}
    nouns = " ".join(noun for leaf in leaves() for noun in (*leaf.nouns, *leaf.shopper, leaf.path)).casefold()
    shades = {word.casefold() for colour in COLOURS.values() for word in colour.catalogue} - everyday
    assert "alabaster" in shades
    for shade in shades:
        assert shade in nouns or not re.search(rf"\b{shade}\b", captions), shade


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
def test_agreement_is_what_two_loops_say(rows, values, seed):
    rng = np.random.default_rng(seed)
    codes, said = rng.integers(0, values, (rows, 5)), rng.random((rows, 5)) < 0.5
    found = agreement(codes, said)
    assert found.shape == (rows, rows) and found.dtype == bool and found.diagonal().all()
    for caption in range(rows):
        for picture in range(rows):
            spoken = [aspect for aspect in range(5) if said[caption, aspect]]
            expected = all(codes[caption, aspect] == codes[picture, aspect] for aspect in spoken)
            assert found[caption, picture] == expected


def test_a_caption_that_says_more_is_true_of_less():
    things = pd.DataFrame(
        [("mug", "red", "steel", "plain", ""), ("mug", "blue", "steel", "plain", ""), ("vase", "red", "glass", *"xy")],
        columns=ASPECTS,
    )
    codes = as_codes(things)
    only_thing = np.array([[True, False, False, False, False]] * 3)
    assert agreement(codes, only_thing).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert agreement(codes, np.ones((3, 5), dtype=bool)).tolist() == np.eye(3, dtype=bool).tolist()
    assert agreement(codes, np.zeros((3, 5), dtype=bool)).all()


def test_codes_number_the_values_of_each_aspect(things):
    codes = as_codes(things)
    assert codes.shape == (len(things), len(ASPECTS))
    for column, name in enumerate(ASPECTS):
        pairs = {*zip(codes[:, column].tolist(), things[name], strict=True)}
        assert len(pairs) == things[name].nunique() == codes[:, column].max() + 1
    # What training relies on: those first drawn are numbered as they are among all.
    assert np.array_equal(as_codes(things.iloc[:500]), codes[:500])
