"""Encoders that are loaded once, and their memory."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.encoders import load_text_encoder
from common.shared_encoders import TextMemory, load_shared, shared_encoders

WORDS = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8, unique=True), max_size=12)


def vector_of(text: str) -> np.ndarray:
    return np.array([ord(text), 1.0], dtype=np.float32)


@given(WORDS, st.integers(1, 7))
def test_the_memory_holds_the_texts_that_were_asked_for_last(calls, most):
    memory, twin, asked, hits = TextMemory(most), OrderedDict(), 0, 0
    for texts in calls:
        vectors = np.full((len(texts), 2), np.nan, dtype=np.float32)
        missing = memory.fill(texts, vectors).tolist()
        assert missing == [at for at, text in enumerate(texts) if text not in twin]
        hits, asked = hits + len(texts) - len(missing), asked + len(texts)
        for text in (text for text in texts if text in twin):
            twin.move_to_end(text)
        new = [texts[at] for at in missing]
        for at in range(len(texts)):
            if at not in missing:
                np.testing.assert_array_equal(vectors[at], vector_of(texts[at]))
        memory.add(new, np.stack([vector_of(text) for text in new]) if new else np.empty((0, 2), dtype=np.float32))
        twin.update(dict.fromkeys(new))
        while len(twin) > most:
            twin.popitem(last=False)
        assert len(memory) == len(twin) <= most
    assert (memory.hits, memory.misses) == (hits, asked - hits)


def test_the_memory_does_not_keep_the_batch_alive():
    batch, memory = np.ones((1000, 2), dtype=np.float32), TextMemory(10)
    memory.add(["a"], batch[:1])
    batch[:] = 0
    found = np.zeros((1, 2), dtype=np.float32)
    assert memory.fill(["a"], found).size == 0
    np.testing.assert_array_equal(found, [[1, 1]])


class Loaded:
    memory = "untouched"

    def with_memory(self, memory):
        self.memory = memory
        return self


def test_in_a_block_what_has_one_key_is_loaded_once_and_outside_every_time():
    with shared_encoders(remember=3) as shared:
        first, again, other = load_shared("a", Loaded), load_shared("a", Loaded), load_shared("b", Loaded)
    assert first is again and first is not other and len(shared) == 2
    assert first.memory.capacity == 3 and first.memory is not other.memory
    alone = load_shared("a", Loaded)
    assert alone is not first and alone.memory == "untouched"


def test_without_a_memory_nothing_is_remembered():
    with shared_encoders(remember=0) as shared:
        assert load_shared("a", Loaded).memory is None
    assert (shared.hits, shared.misses) == (0, 0)


def test_the_block_ends_with_an_error_too():
    with pytest.raises(RuntimeError), shared_encoders(remember=1):
        raise RuntimeError
    assert load_shared("a", Loaded).memory == "untouched"


def test_a_shared_encoder_gives_the_same_vectors_and_writes_nothing(tmp_path):
    """The twin is the encoder that is loaded outside, without a cache."""
    texts = [f"text number {number}" for number in range(70)]  # more than the cache on disk takes for a shard
    plain = load_text_encoder(engine="torch").encode(texts)
    with shared_encoders(remember=100) as shared:
        encoder = load_text_encoder(engine="torch", cache=tmp_path)
        assert load_text_encoder(engine="torch", cache=tmp_path) is encoder
        assert load_text_encoder(engine="torch", max_length=8) is not encoder
    first, again = encoder.encode(texts), encoder.encode(texts[::-1])
    assert first.encoder_id == plain.encoder_id
    np.testing.assert_array_equal(again.vectors, first.vectors[::-1])
    assert np.sum(first.vectors * plain.vectors, axis=1).min() > 0.9999
    assert (shared.hits, shared.misses) == (70, 70)
    assert not list(tmp_path.rglob("*.npy"))
