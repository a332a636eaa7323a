"""Pairs: which are left out, which split they are in, and whose negatives are whose."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter03_multimodal.outfits.negatives import TripletSampler, add_negatives
from chapter03_multimodal.outfits.pairs import (
    ItemFacts,
    Partners,
    Substitutes,
    clean_pairs,
    hashed_splits,
    product_folds,
    read_pairs,
)
from common.errors import CourseError

NOTHING = ItemFacts({}, {})


def pairs(*rows, outfit=None):
    table = pd.DataFrame([row[:3] for row in rows], columns=["a_id", "b_id", "label"])
    return table.assign(outfit_id=[row[3] if len(row) > 3 else outfit for row in rows], split="train")


def test_pairs_that_break_a_rule_are_left_out_and_counted():
    given_pairs = pairs(
        ("a", "b", 1, "o1"),
        ("b", "a", 1, "o1"),  # the same pair in the same outfit
        ("b", "a", 1, "o2"),  # in another one: it counts there too
        ("a", "a", 1),
        ("a", "x", 1),  # no embedding
        ("c", "d", 1),
        ("d", "c", 0),  # so (c, d) is no positive
        ("a", "d", 0),
    )
    found = clean_pairs(given_pairs, list("abcd"), dict.fromkeys("abc", "train") | {"d": "test"})
    rows = list(found.pairs[["a_id", "b_id", "label"]].itertuples(index=False, name=None))
    assert rows == [("a", "b", 1), ("b", "a", 1), ("d", "c", 0), ("a", "d", 0)]
    assert found.left_out == {
        "an item with itself": 1,
        "an item without embedding": 1,
        "labelled 1 and 0": 1,
        "repeated": 1,
    }
    # A pair is in a split if both its items are.
    assert (
        found.pairs["split"].tolist()[:2] == ["train", "train"]
        and found.pairs["split"].isna().tolist()[2:] == [True] * 2
    )
    assert len(found.of_split("train")) == 2 and found.of_split("test").empty


def test_without_labels_all_pairs_go_together():
    found = clean_pairs(pd.DataFrame({"a_id": ["a"], "b_id": ["b"]}), ["a", "b"], {})
    assert found.pairs["label"].tolist() == [1] and found.pairs["split"].isna().all()


def test_a_file_of_pairs_is_read_and_a_wrong_label_named(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("a_id,b_id,label,note\n01,b,1,x\n01,c,0,y\n")
    found = read_pairs(file)
    assert found.to_dict("list") == {"a_id": ["01", "01"], "b_id": ["b", "c"], "label": [1, 0]}
    file.write_text("a_id,b_id\n01,b\n")
    assert read_pairs(file).to_dict("list") == {"a_id": ["01"], "b_id": ["b"]}
    for text, message in (
        ("a_id,b_id,label\na,b,2\n", "label '2' in row 2"),
        ("a_id,b_id,label\na,b,yes\n", "label 'yes'"),
        ("a_id,b_id,label\na,,1\n", "row 2 has no b_id"),
        ("a_id,label\na,1\n", "b_id"),
    ):
        file.write_text(text)
        with pytest.raises(CourseError, match=message):
            read_pairs(file)


def test_splits_and_folds_keep_variants_together():
    items = [f"i{number}" for number in range(60)]
    facts = ItemFacts({}, {item: f"g{number // 3}" for number, item in enumerate(items[:30])})
    for places in (hashed_splits(items, facts), product_folds(items, facts, 5)):
        assert all(len({places[item] for item in facts.variants(item)}) == 1 for item in items)
    folds = product_folds(items, facts, 5)
    groups = Counter({facts.group(item): folds[item] for item in items}.values())
    assert set(groups) == {0, 1, 2, 3, 4} and max(groups.values()) - min(groups.values()) <= 1
    assert set(hashed_splits(items, facts).values()) == {"train", "val", "test"}
    assert product_folds(items, facts, 5, seed=1) != folds == product_folds(items, facts, 5)
    for wrong in (1, 41):
        with pytest.raises(CourseError, match="folds="):
            product_folds(items, facts, wrong)


def test_stand_ins_are_of_the_own_category_and_wider_only_if_asked():
    categories = {"a": "X > Y > Z", "b": "X > Y > Z", "c": "X > Y", "d": "X > YY", "e": "Q", "f": "X > Y > Z > W"}
    substitutes = Substitutes(list("abcdefg"), categories)
    everything = {"usable": lambda item: True}
    assert substitutes.of("a", **everything) == ["b", "f"]
    assert substitutes.of("a", lambda item: item != "b") == ["f"]
    assert substitutes.of("a", least=3, **everything) == []
    assert substitutes.of("a", least=3, widen=True, **everything) == ["b", "c", "f"]
    assert substitutes.of("a", least=4, widen=True, **everything) == ["b", "c", "d", "f"]
    assert substitutes.of("a", least=5, widen=True, **everything) == list("bcdefg")
    assert substitutes.of("d", **everything) == [] and substitutes.of("g", **everything) == []
    assert substitutes.of("g", widen=True, **everything) == list("abcdef")


labelled = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 1)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(labelled, st.floats(0, 1), st.integers(0, 100))
def test_a_negative_belongs_to_its_own_anchor(rows, ratio, seed):
    items = [f"i{number}" for number in range(10)]
    facts = ItemFacts({item: f"c{at % 3}" for at, item in enumerate(items)}, {"i0": "g", "i1": "g"})
    table = clean_pairs(pairs(*((f"i{a}", f"i{b}", y) for a, b, y in rows)), items, dict.fromkeys(items, "train")).pairs
    positives = {(a, b) for a, b, y in table[["a_id", "b_id", "label"]].to_numpy() if y for a, b in ((a, b), (b, a))}
    refused = {(a, b) for a, b, y in table[["a_id", "b_id", "label"]].to_numpy() if not y for a, b in ((a, b), (b, a))}
    if not positives:
        with pytest.raises(CourseError, match="no training pair labelled 1"):
            TripletSampler(table, facts, neg_pool_ratio=ratio)
        return
    sampler = TripletSampler(table, facts, neg_pool_ratio=ratio)
    try:
        triplets = sampler.epoch(seed, 1)
    except CourseError as error:
        assert "no anchor has a negative" in str(error)
        return
    for anchor, positive, negative, judged in zip(
        triplets.anchors, triplets.positives, triplets.negatives, triplets.judged, strict=True
    ):
        assert (anchor, positive) in positives and (anchor, positive) not in refused
        assert (anchor, negative) not in positives and anchor != negative
        if judged:
            assert (anchor, negative) in refused
        else:
            assert negative not in facts.variants(anchor)
            assert not any((anchor, other) in positives for other in facts.variants(negative))


def test_the_ratio_is_the_share_of_judged_negatives():
    """Anchors that have judged partners get them at the ratio; others always get random ones."""
    rows = [("a", f"p{n}", 1) for n in range(200)] + [("a", f"n{n}", 0) for n in range(5)] + [("x", "y", 1)]
    for ratio, low, high in ((0.0, 0, 0), (0.3, 0.2, 0.4), (1.0, 1, 1)):
        triplets = TripletSampler(pairs(*rows), NOTHING, neg_pool_ratio=ratio).epoch(0, 1)
        of_a = triplets.anchors == "a"
        assert low <= triplets.judged[of_a].mean() <= high
        assert not triplets.judged[(triplets.anchors == "x") | (triplets.anchors == "y")].any()
    for wrong in (-0.1, 1.1):
        with pytest.raises(CourseError, match="neg_pool_ratio"):
            TripletSampler(pairs(*rows), NOTHING, neg_pool_ratio=wrong)


def test_random_negatives_are_of_the_positive_s_category():
    categories = {"shoe1": "Shoes", "shoe2": "Shoes", "shirt1": "Shirts", "shirt2": "Shirts"}
    rows = pairs(("shirt1", "shoe1", 1), ("shirt2", "shoe2", 1))
    triplets = TripletSampler(rows, ItemFacts(categories, {}), neg_pool_ratio=1.0).epoch(0, 1)
    found = dict(zip(zip(triplets.anchors, triplets.positives, strict=True), triplets.negatives, strict=True))
    assert found["shirt1", "shoe1"] == "shoe2" and found["shoe2", "shirt2"] == "shirt1"


def test_an_epoch_is_drawn_again_with_its_seed_and_covers_both_directions():
    rows = [(f"a{n}", f"b{n}", 1) for n in range(20)]
    sampler = TripletSampler(pairs(*rows), NOTHING, neg_pool_ratio=1.0)
    first, again, later = sampler.epoch(3, 1), sampler.epoch(3, 1), sampler.epoch(3, 2)
    assert first.negatives.tolist() == again.negatives.tolist() != later.negatives.tolist()
    seen = set(zip(first.anchors, first.positives, strict=True))
    assert seen == {(a, b) for a, b, _ in rows} | {(b, a) for a, b, _ in rows} and len(first) == 40


def test_sampled_negatives_stay_in_their_place_and_are_not_known_to_fit():
    items = [f"i{n}" for n in range(12)]
    categories = {item: "A" if n % 2 else "B" for n, item in enumerate(items)}
    facts = ItemFacts(categories, {"i1": "g", "i3": "g"})
    given_pairs = pairs(("i0", "i1", 1), ("i2", "i5", 1), ("i4", "i7", 1), ("i6", "i9", 1), ("i8", "i11", 1))
    place = {item: n >= 4 for n, item in enumerate(items)}
    partners = Partners.of(given_pairs)
    for seed in range(10):
        found = add_negatives(given_pairs, partners, facts, place, seed=seed)
        negatives = found[found["label"] == 0]
        assert len(found[found["label"] == 1]) == 5
        for a, c in zip(negatives["a_id"], negatives["b_id"], strict=True):
            (b,) = partners.compatible[a] - {"none"}
            assert place[c] == place[b] and c not in facts.variants(a, b) and c in partners.compatible
        # i5, i7, i9 and i11 have each other; i1's only like is its own variant, so the level above is asked.
        in_place = negatives[negatives["a_id"].isin(["i2", "i4", "i6", "i8"])]
        assert in_place["b_id"].map(categories).tolist() == ["A"] * 4
        assert negatives[negatives["a_id"] == "i0"]["b_id"].tolist() == ["i2"]


def test_partners_are_symmetric():
    found = Partners.of(pairs(("a", "b", 1), ("a", "c", 0)))
    assert found.compatible == {"a": {"b"}, "b": {"a"}} and found.incompatible == {"a": {"c"}, "c": {"a"}}


def test_epochs_use_every_judged_partner():
    rows = [("a", "p", 1)] + [("a", f"n{n}", 0) for n in range(4)]
    sampler = TripletSampler(pairs(*rows), NOTHING, neg_pool_ratio=1.0)
    drawn = {
        negative
        for epoch in range(60)
        for anchor, negative in zip(sampler.epoch(0, epoch).anchors, sampler.epoch(0, epoch).negatives, strict=True)
        if anchor == "a"
    }
    assert drawn == {f"n{n}" for n in range(4)}
    assert np.unique(sampler.epoch(0, 1).judged).size <= 2
