"""For a process that answers questions for hours: every encoder loaded once, and the texts asked last remembered.

    with shared_encoders(remember=10_000) as shared:
        searchers = systems(artifacts, catalogue)   # however many of them ask for the same encoder, it is loaded once
    shared.hits, shared.misses                      # texts whose vectors were remembered, and those that were encoded

Outside of such a block every load is a fresh one, with its cache on disk. Here nothing is written: what visitors ask
for stays in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, Self

import numpy as np


class TextMemory:
    """The vectors of the `most` texts that one encoder was asked for last; to an encoder, an `EmbeddingCache`."""

    def __init__(self, most: int) -> None:
        self.most, self.hits, self.misses = most, 0, 0
        self._vectors: OrderedDict[str, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self._vectors)

    def fill(self, texts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
        """Write the vectors of known texts into their rows of `vectors` [N, D]; the positions [M] of the unknown
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
        """Remember the vectors [N, D] of texts, and forget those asked for longest ago."""
        for text, vector in zip(texts[-self.most :], vectors[-self.most :], strict=True):
            self._vectors[text] = vector.copy()  # a row of a batch would keep the whole batch alive
        while len(self._vectors) > self.most:
            self._vectors.popitem(last=False)


class Remembers(Protocol):
    """An encoder that can be given a memory in place of its cache; None for neither."""

    def with_memory(self, memory: TextMemory | None) -> Self: ...


class SharedEncoders:
    """The encoders that were loaded in a `shared_encoders` block, and how often their memories helped."""

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self._loaded: dict[Hashable, Remembers] = {}
        self._memories: list[TextMemory] = []

    def __len__(self) -> int:
        return len(self._loaded)

    @property
    def hits(self) -> int:
        """Texts whose vectors were remembered."""
        return sum(memory.hits for memory in self._memories)

    @property
    def misses(self) -> int:
        """Texts that had to be encoded."""
        return sum(memory.misses for memory in self._memories)

    def get(self, key: Hashable, load: Callable[[], Remembers]) -> Remembers:
        """The encoder of this key, loaded when first asked for."""
        if key not in self._loaded:
            memory = None
            if self._remember:
                memory = TextMemory(self._remember)
                self._memories.append(memory)
            self._loaded[key] = load().with_memory(memory)
        return self._loaded[key]


_in_force: ContextVar[SharedEncoders | None] = ContextVar("shared encoders", default=None)


@contextmanager
def shared_encoders(remember: int) -> Iterator[SharedEncoders]:
    """While the block runs, encoders are loaded once each. remember: so many texts an encoder; 0 for none."""
    shared = SharedEncoders(remember)
    token = _in_force.set(shared)
    try:
        yield shared
    finally:
        _in_force.reset(token)


def load_shared(key: Hashable, load: Callable[[], Remembers]) -> Remembers:
    """What `load` gives, or in a `shared_encoders` block what it gave for this key before."""
    shared = _in_force.get()
    return load() if shared is None else shared.get(key, load)
