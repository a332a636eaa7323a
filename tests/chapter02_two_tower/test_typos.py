"""Typing errors: one, in one word, the same for the same seed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chapter02_two_tower.typos import misspell


@given(st.integers(1, 10_000))
def test_one_word_is_changed_and_its_ends_stay(seed):
    before, after = ["blue", "leather", "rucksack"], misspell("blue leather rucksack", seed).split()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) <= 1  # a letter may be hit by itself
    for a, b in changed:
        assert (a[0], a[-1]) == (b[0], b[-1]) and abs(len(a) - len(b)) <= 1
    assert misspell("blue leather rucksack", seed).split() == after


def test_most_errors_change_something_and_short_words_are_left_alone():
    wrong = [misspell("leather", seed) for seed in range(200)]
    assert sum(word != "leather" for word in wrong) > 180 and len(set(wrong)) > 30
    assert misspell("red tee 2 m", 7) == "red tee 2 m"
