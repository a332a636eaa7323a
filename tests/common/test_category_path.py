from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.category_path import join_path, leaf_of, parent_of, prefixes_of, split_path


def test_levels_of_a_path():
    path = "Home > Lighting > Lamps"
    assert split_path(path) == ["Home", "Lighting", "Lamps"] and leaf_of(path) == "Lamps"
    assert parent_of(path) == "Home > Lighting" and parent_of("Home") == "Home"
    assert prefixes_of(path) == ["Home", "Home > Lighting", path]


@given(st.lists(st.text("ab &/", min_size=1), min_size=1))
def test_joining_is_the_inverse_of_splitting(levels):
    path = join_path(levels)
    assert split_path(path) == levels and prefixes_of(path)[-1] == path
