"""Items come with what was loaded for them, in order, and no more are begun than was asked for."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.prefetch import prefetch


@settings(max_examples=25, deadline=None)
@given(items=st.lists(st.integers(), max_size=30), depth=st.integers(1, 8), threads=st.integers(1, 4))
def test_the_order_and_the_distance_are_kept(items, depth, threads):
    begun, taken = [], []
    with ThreadPoolExecutor(threads) as pool:
        for item, loaded in prefetch(items, lambda item: begun.append(item) or item * 2, pool=pool, depth=depth):
            taken.append((item, loaded))
            assert len(begun) < len(taken) + depth
    assert taken == [(item, item * 2) for item in items] and sorted(begun) == sorted(items)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_it_changes_nothing_but_the_time(count):
    assert list(prefetch(range(count), lambda item: item * item)) == [(item, item * item) for item in range(count)]


def test_the_second_does_not_overtake_the_first():
    release = threading.Event()

    def work(item):
        if item == 0:
            release.wait(10)
        else:
            release.set()
        return item

    with ThreadPoolExecutor(2) as pool:
        assert [loaded for _, loaded in prefetch(range(3), work, pool=pool)] == [0, 1, 2]
    assert release.is_set()


def test_an_error_is_raised_when_its_item_s_turn_comes():
    loaded = prefetch([1, 0, 2], lambda item: 1 // item)
    assert next(loaded) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(loaded)
