"""Load the next items in threads while the current one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from typing import TypeVar

Item, Loaded = TypeVar("Item"), TypeVar("Loaded")


def prefetch(
    items: Iterable[Item], load: Callable[[Item], Loaded], *, pool: Executor | None = None, depth: int = 2
) -> Iterator[tuple[Item, Loaded]]:
    """Yield each item with `load(item)`, in order.

    pool: threads that load; None starts one. depth: how many items are begun at most when one is yielded, that one
    included. `items` is read in the caller's thread. An error of `load` is raised when its item's turn comes.
    """
    with nullcontext(pool) if pool is not None else ThreadPoolExecutor(1) as threads:
        items = iter(items)
        waiting = deque((item, threads.submit(load, item)) for item in islice(items, depth))
        while waiting:
            item, loading = waiting.popleft()
            yield item, loading.result()
            waiting.extend((item, threads.submit(load, item)) for item in islice(items, 1))
