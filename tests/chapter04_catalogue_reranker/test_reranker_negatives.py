"""Wrong paths: siblings, look-alikes against a search product by product, and the turns that the kinds take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chapter04_catalogue_reranker.mine_hard_negatives import nearest_paths, siblings, take_turns
from common.category_path import parent_of

DEEP = " > ".join("abcdefghijkl")  # 12 levels


def test_siblings_share_the_parent_and_are_all_there():
    paths = ["A > x", "A > y", "A > z", "A > z > deep", "B > x", "A", "B", DEEP, parent_of(DEEP) + " > m"]
    found = siblings(["A > x", "B", "B > x", DEEP], paths, seed=0)
    assert sorted(found[0]) == ["A > y", "A > z"]
    assert found[1:] == [["A"], [], [parent_of(DEEP) + " > m"]]


def test_the_order_of_siblings_is_the_seeds_and_not_that_of_the_paths():
    paths = [f"A > {number}" for number in range(20)]
    assert siblings(["A > 3"], paths, seed=1) == siblings(["A > 3"], paths[::-1], seed=1)
    assert siblings(["A > 3"], paths, seed=1) != siblings(["A > 3"], paths, seed=2)


def product_by_product(queries, own, products, paths, top):
    """`nearest_paths`, said plainly: rank the products, and take the path of each that is new and not one's own."""
    answers = []
    for query, path in zip(queries, own, strict=True):
        ranked = sorted(range(len(products)), key=lambda at: (-float(products[at] @ query), paths[at]))
        answers.append(list(dict.fromkeys(paths[at] for at in ranked if paths[at] != path))[:top])
    return answers


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6), st.integers(1, 8))
def test_nearest_paths_are_those_of_a_search_product_by_product(seed, count, categories, top):
    rng = np.random.default_rng(seed)
    queries, products = rng.integers(-2, 3, (7, 3)).astype(np.float32), rng.integers(-2, 3, (count, 3))  # many ties
    products = products.astype(np.float32)
    paths = [f"P{number}" for number in rng.integers(0, categories, count)]
    own = [f"P{number}" for number in rng.integers(0, categories + 2, len(queries))]  # some of no product
    assert nearest_paths(queries, own, products, paths, top) == product_by_product(queries, own, products, paths, top)


def test_nearest_paths_in_more_than_one_block():
    rng = np.random.default_rng(0)
    queries, products = rng.normal(size=(300, 4)), rng.normal(size=(50, 4))
    paths, own = [f"P{number % 9}" for number in range(50)], [f"P{number % 11}" for number in range(300)]
    assert nearest_paths(queries, own, products, paths, 3) == product_by_product(queries, own, products, paths, 3)


def test_where_there_is_no_other_category_there_is_no_look_alike():
    vectors = np.eye(2, dtype=np.float32)
    assert nearest_paths(vectors, ["A", "B"], vectors, ["A", "A"], 3) == [[], ["A"]]
    assert nearest_paths(vectors, ["A", "B"], vectors[:0], [], 3) == [[], []]


def test_kinds_take_turns_and_leave_them_when_they_run_out():
    mined = {"sibling": ["a", "b", "listed"], "lookalike": ["a", "c", "d", "e"], "confusion": []}
    chosen = take_turns(mined, {"listed"}, 4)
    assert chosen == [("a", "sibling"), ("c", "lookalike"), ("b", "sibling"), ("d", "lookalike")]
    assert take_turns(mined, {"listed"}, 9)[4:] == [("e", "lookalike")]
    assert take_turns(mined, {"listed"}, 1) == [("a", "sibling")]
    assert take_turns(mined, set(), 0) == take_turns({}, set(), 3) == []


@given(
    st.dictionaries(st.sampled_from(["sibling", "lookalike", "confusion"]), st.lists(st.sampled_from("abcdefgh"))),
    st.sets(st.sampled_from("abcdefgh")),
    st.integers(0, 10),
)
def test_what_is_chosen_is_new_and_as_many_as_there_are(mined, taken, count):
    chosen = take_turns(mined, taken, count)
    paths = [path for path, _ in chosen]
    free = set().union(*mined.values()) - taken
    assert len(set(paths)) == len(paths) == min(count, len(free)) and set(paths) <= free
    assert all(path in mined[kind] for path, kind in chosen)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_first_turns_go_to_the_kinds_in_their_order(count):
    mined = {"confusion": ["x", "y"], "sibling": ["y", "z"]}
    assert take_turns(mined, set(), 3)[:count] == [("x", "confusion"), ("y", "sibling")][:count] + (
        [("z", "sibling")] if count == 3 else []
    )
