"""What stands in a batch: every picture once an epoch, neighbours together, and no right text taken for wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter03_multimodal.batches import SHORTER, BatchMaker, text_variants
from common.errors import CourseError


def maker(rows=30, seed=0, pool=4, **changes):
    """A toy: groups of two, files that are shared now and then, texts of three variants out of few words."""
    rng = np.random.default_rng(seed)
    pairs = pd.DataFrame({"group_id": np.arange(rows) // 2, "content": rng.integers(0, rows, rows)}).astype(str)
    texts = rng.integers(0, 2 * rows, (rows, 3)).astype(str).astype(object)
    neighbours = np.stack([rng.permutation(np.setdiff1d(np.arange(-1, rows), row))[:pool] for row in range(rows)])
    settings = {"batch_size": 8, "hard_share": 0.5, "shorten": 0.5, "seed": seed}
    return BatchMaker(pairs, texts, neighbours, **(settings | changes))


def naive_known(made, batch, ways):
    """For every text of a batch and every picture, the three questions in words."""
    table = []
    said = [(row, made.texts[row][way]) for row, way in zip(batch["said"], ways, strict=True)]
    for row, text in said:
        line = []
        for picture in batch["rows"]:
            same_group = made.pairs["group_id"][row] == made.pairs["group_id"][picture]
            same_file = made.pairs["content"][row] == made.pairs["content"][picture]
            line.append(bool(same_group or same_file or text in made.texts[picture]))
        table.append(line)
    return table


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 20), st.integers(0, 1000))
def test_what_is_known_equals_the_questions_in_words(rows, seed):
    made, rng = maker(rows, seed), np.random.default_rng(seed)
    shown, said = rng.integers(0, rows, 6), rng.integers(0, rows, 9)
    ways = rng.integers(0, 3, 9)
    expected = naive_known(made, {"rows": shown, "said": said}, ways)
    assert made.known(said, ways, shown).tolist() == expected


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(2, 40),
    size=st.integers(2, 12),
    share=st.floats(0, 1),
    pool=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_every_picture_comes_once_an_epoch(rows, size, share, pool, seed):
    made = maker(rows, seed, pool, batch_size=size, hard_share=share)
    batches = made.epoch(3)
    assert len(batches) == made.steps and max(map(len, batches)) <= size
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(rows))
    for batch in batches:
        assert batch.known.shape == (len(batch), len(batch)) and batch.known.diagonal().all()
        assert all(text in made.texts[row] for row, text in zip(batch.rows, batch.texts, strict=True))


def test_the_same_epoch_is_the_same_again_and_another_is_not():
    one, again, other = maker().epoch(2), maker().epoch(2), maker().epoch(1)

    def content(batches):
        return [(batch.rows.tolist(), batch.texts, batch.known.tolist(), batch.seed) for batch in batches]

    assert content(one) == content(again) != content(other)
    assert content(maker(seed=0).epoch(0)) != content(maker(seed=0, shorten=0.0).epoch(0))


def share_of_neighbours(made):
    """Of all pictures those that are a neighbour of another one in their batch."""
    found = total = 0
    for batch in made.epoch(0):
        near = made.neighbours[batch.rows].ravel()
        found, total = found + np.isin(batch.rows, near).sum(), total + len(batch)
    return found / total


def test_the_asked_share_of_a_batch_are_neighbours_of_others_in_it():
    def made(share):
        rng = np.random.default_rng(0)
        pairs = pd.DataFrame({"group_id": np.arange(600).astype(str), "content": np.arange(600).astype(str)})
        texts = np.arange(600).astype(str).astype(object)[:, None]
        neighbours = np.stack([rng.permutation(600)[:8] for _ in range(600)])
        return BatchMaker(pairs, texts, neighbours, batch_size=20, hard_share=share)

    assert share_of_neighbours(made(0.0)) < 0.35  # by chance: 20 * 8 of 600
    assert share_of_neighbours(made(0.5)) > 0.55
    assert share_of_neighbours(made(0.8)) > 0.75


def test_a_short_text_is_right_for_whatever_it_could_be_said_of():
    """ "lamp" is what is left of both titles; the full texts differ."""
    pairs = pd.DataFrame({"group_id": ["a", "b"], "content": ["x", "y"]})
    texts = np.array([["lamp by A", "lamp"], ["lamp by B", "lamp"]], dtype=object)
    made = BatchMaker(pairs, texts, np.full((2, 1), -1), batch_size=2)
    both = np.array([0, 1])
    assert made.known(both, np.array([0, 0]), both).tolist() == [[True, False], [False, True]]
    assert made.known(both, np.array([1, 0]), both).tolist() == [[True, True], [False, True]]


def test_the_share_of_shortened_texts():
    made = maker(2000, batch_size=500, shorten=0.3)
    cut = [
        text != made.texts[row, 0] for batch in made.epoch(0) for row, text in zip(batch.rows, batch.texts, strict=True)
    ]
    assert np.mean(cut) == pytest.approx(0.3, abs=0.05)


def test_without_its_bad_pictures_a_batch_keeps_the_rest():
    batch = maker().epoch(0)[0]
    usable = np.array([True, False] * (len(batch) // 2))
    kept = batch.only(usable)
    assert kept.rows.tolist() == batch.rows[usable].tolist() and kept.seed == batch.seed
    assert kept.texts == batch.texts[::2] and torch.equal(kept.known, batch.known[::2, ::2])
    assert len(batch.only(~usable & usable)) == 0


def test_texts_are_cut_in_the_named_ways():
    products = pd.DataFrame(
        {
            "product_id": ["p1", "p2"],
            "title": ["Oak chair", None],
            "brand": ["Ulmo", "Ulmo"],
            "attributes": [None, None],
            "category_path": ["Home > Seats", None],
            "colour": ["brown", None],
            "material": [None, None],
        }
    )
    whole = "Oak chair. Ulmo. Home, Seats. brown"
    pairs = pd.DataFrame({"product_id": ["p2", "p1", "p1"], "text": ["Ulmo", whole, whole]})
    found = text_variants(pairs, products)
    full, title, no_brand, no_category = found[1]
    assert found.shape == (3, 1 + len(SHORTER)) and found[1].tolist() == found[2].tolist()
    assert (full, title) == (whole, "Oak chair")
    assert "Ulmo" not in no_brand and "Seats" in no_brand and "brown" in no_brand
    assert "Ulmo" in no_category and "Seats" not in no_category
    assert found[0].tolist() == ["Ulmo"] * 4, "what would be left without a word is left whole"
    assert text_variants(pairs.assign(text="Oak chair"), products)[1].tolist() == ["Oak chair"] * 4, "nothing is added"


@pytest.mark.parametrize(("rows", "changes"), [(2, {"batch_size": 1}), (1, {})])
def test_a_batch_of_one_is_refused(rows, changes):
    with pytest.raises(CourseError, match="two pictures or more"):
        maker(rows, **changes)
