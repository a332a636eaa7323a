"""Load every encoder once and remember recent texts, in a process that answers queries for hours.

    with shared_encoders(remember=10_000) as shared:
        searchers = systems(artifacts, catalogue)   # however many of them ask for the same encoder, it is loaded once
    shared.hits, shared.misses                      # texts whose vectors were remembered, and those that were encoded

Outside such a block every load is a new one, with its cache on disk. Inside, nothing is written: what visitors ask for
stays in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, Self

import numpy as np


class TextMemory:
    """Keep the vectors of the `capacity` most recently used texts of one encoder, in memory. An encoder uses it like an
    `EmbeddingCache`."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.hits, self.misses = capacity, 0, 0
        self._vectors: OrderedDict[str, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def fill(self, texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """Write the vectors of known texts into their rows of `vectors` [N, D]; return the positions [M] of unknown
        ones."""
        missing = []
        for position, text in enumerate(texts):
            known = self._vectors.get(text)
            if known is None:
                missing.append(position)
            else:
                vectors[position] = known
                self._vectors.move_to_end(text)
        self.hits += len(texts) - len(missing)
        self.misses += len(missing)
        return np.array(missing, dtype=np.int64)

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Remember the vectors [N, D] of texts, dropping the least recently used."""
        for text, vector in zip(texts[-self.capacity :], vectors[-self.capacity :], strict=True):
            self._vectors[text] = vector.copy()  # a view of a row would keep the whole batch in memory
        while len(self._vectors) > self.capacity:
            self._vectors.popitem(last=False)


class CachedEncoder(Protocol):
    """Encode with a replaceable cache."""

    def with_memory(self, memory: TextMemory | None) -> Self:
        """Return this encoder with a memory in place of its cache; None for neither."""


class SharedEncoders:
    """Hold the encoders that were loaded in a `shared_encoders` block, and count how often their memories helped."""

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self._loaded: dict[Hashable, CachedEncoder] = {}
        self._memories: list[TextMemory] = []

    def __len__(self) -> int:
        return len(self._loaded)

    @property
    def hits(self) -> int:
        """Return the number of texts whose vectors were remembered."""
        return sum(memory.hits for memory in self._memories)

    @property
    def misses(self) -> int:
        """Return the number of texts that had to be encoded."""
        return sum(memory.misses for memory in self._memories)

    def get(self, key: Hashable, load: Callable[[], CachedEncoder]) -> CachedEncoder:
        """Return the encoder of this key, loading it at the first call."""
        if key not in self._loaded:
            memory = None
            if self._remember:
                memory = TextMemory(self._remember)
                self._memories.append(memory)
            self._loaded[key] = load().with_memory(memory)
        return self._loaded[key]


_active: ContextVar[SharedEncoders | None] = ContextVar("shared encoders", default=None)


@contextmanager
def shared_encoders(remember: int) -> Iterator[SharedEncoders]:
    """Load each encoder only once inside the block. remember: texts per encoder; 0 for none."""
    shared = SharedEncoders(remember)
    token = _active.set(shared)
    try:
        yield shared
    finally:
        _active.reset(token)


def load_shared(key: Hashable, load: Callable[[], CachedEncoder]) -> CachedEncoder:
    """Return what `load` returns, or in a `shared_encoders` block what it returned for this key before."""
    shared = _active.get()
    return load() if shared is None else shared.get(key, load)
