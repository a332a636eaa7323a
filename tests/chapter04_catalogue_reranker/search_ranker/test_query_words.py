"""Check the parsing of queries, and their spelling."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter02_two_tower.typos import misspell
from chapter04_catalogue_reranker.search_ranker.query_words import (
    Speller,
    encoder_words,
    named_values,
    one_error_away,
    understand,
)

TEXTS = ["Glass lamp shade, timeless", "lamp in linen", "leather chair", "Lamp post", "camp bed"]


@pytest.mark.parametrize(
    ("query", "wanted", "unwanted", "limit"),
    [
        ("red lamp", "red lamp", "", None),
        ("lamp under 20 euros", "lamp", "", 20.0),
        ("lamp, up to 1.5 euro", "lamp", "", 1.5),
        ("rug no green", "rug", "green", None),
        ("rug, but not dark green", "rug", "dark green", None),
        ("tuner, anything but plastic", "tuner", "plastic", None),
        ("glass rug not red under 40 euros", "glass rug", "red", 40.0),
        ("sandal that does not slide", "sandal that does not slide", "", None),
        ("a drink that must not spill over books", "a drink that must not spill over books", "", None),
        ("no time to iron", "no time to iron", "", None),
        ("camera without wires", "camera without wires", "", None),
        ("cake mould non-stick", "cake mould non-stick", "", None),
        ("", "", "", None),
    ],
)
def test_what_is_wanted_refused_and_affordable(query, wanted, unwanted, limit):
    read = understand(query)
    assert (read.wanted, read.unwanted) == (wanted, unwanted)
    assert read.limit == limit if limit else math.isnan(read.limit)


def test_an_unknown_word_becomes_the_most_frequent_neighbour():
    speller = Speller(TEXTS)
    assert speller.correct("lampp Shdae") == "lamp shade"
    assert speller.correct("xamp") == "lamp", "lamp is more frequent than camp"
    assert speller.correct("timrelss") == "timeless", "two errors in a long word"
    assert speller.correct("lethr") == "lethr", "two errors in a short one"
    assert speller.correct("xyz lmp 42 lmap2") == "xyz lmp 42 lamp2"


def test_words_that_two_training_queries_share_are_spelt_right():
    assert Speller(TEXTS, ["stroller"]).correct("gamp") != "gamp"
    assert Speller(TEXTS, ["gamp red", "gamp blue"]).correct("gamp") == "gamp"


def test_a_word_that_the_encoder_knows_is_right_but_replaces_nothing():
    assert Speller(TEXTS).correct("ramp") == "lamp"
    assert Speller(TEXTS, words=["ramp"]).correct("ramp ramq") == "ramp ramq"
    assert {"ramp", "tank", "infant"} <= encoder_words() and "shdae" not in encoder_words()


@given(st.sampled_from(["timeless", "leather", "linen", "chair"]), st.integers(0, 10_000))
def test_one_typing_error_is_undone(word, seed):
    wrong = misspell(word, seed)
    assert word in one_error_away(wrong) or wrong == word
    assert Speller(TEXTS).correct(wrong) == word


def test_a_word_is_not_its_own_neighbour():
    assert "book" not in one_error_away("book") and {"bok", "obok", "cook", "books"} <= one_error_away("book")


def test_values_of_several_words_stand_word_by_word_and_first():
    values = ["oak", "oak and anvil", "tidy home", "home"]
    tokens = [["an", "oak", "and", "anvil", "desk"], ["home", "tidy"], []]
    assert named_values(values, tokens) == [["oak and anvil", "oak"], ["home"], []]


def test_values_may_have_any_number_of_words():
    values = ["house of oak and anvil", "oak and anvil works", "oak", "a b c d e f"]
    tokens = [text.split() for text in ("desk by house of oak and anvil", "house of oak and", "a b c d e f")]
    assert named_values(values, tokens) == [["house of oak and anvil", "oak"], ["oak"], ["a b c d e f"]]
    assert named_values([], tokens) == [[], [], []] and named_values(values, []) == []


@settings(max_examples=10, deadline=None)
@given(st.text("abc", min_size=7, max_size=7), st.lists(st.text("abc", min_size=5, max_size=9), max_size=20))
def test_two_errors_are_what_two_steps_of_one_error_reach(word, known):
    speller, near = Speller(known), one_error_away(word)
    slow = speller.known.keys() & set().union(*map(one_error_away, near))
    assert speller._two_errors_away(word, near) == slow
