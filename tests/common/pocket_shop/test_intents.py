"""Grades, their naive twin, and the oracle that ranks by them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from common.evaluation import evaluate
from common.pocket_shop.facts import COLOUR_NAMES, MATERIAL_NAMES, PATTERN_NAMES, STYLE_NAMES
from common.pocket_shop.intents import Constraint, Intent, expected_gain, grade, grade_from_misses
from common.pocket_shop.oracle import knows, oracle_hits, oracle_scores
from common.pocket_shop.queries import misspell
from common.pocket_shop.shop import load_facts, load_intents
from common.pocket_shop.text import leaf_features, leaves_by_key
from common.pocket_shop.vocabulary import BRANDS, COLOURS, MATERIALS, PATTERNS, leaves

pytestmark = pytest.mark.slow


def naive_grade(intent: Intent, product: pd.Series) -> int:
    """The rules of the table in `intents.py`, one product at a time."""
    target, leaf = leaves_by_key()[intent.leaf], leaves()[product["leaf"]]
    sibling = leaf.path.rsplit(" > ", 1)[0] == target.path.rsplit(" > ", 1)[0]
    if leaf.key != target.key and not sibling and leaf.key not in target.complements:
        return 0
    total = 0.0
    for wish in intent.constraints:
        near: tuple[str, ...] = ()
        if wish.kind == "price_below":
            total += 0 if product["price"] < wish.value else 0.5 if product["price"] < 1.2 * wish.value else 1
            continue
        if wish.kind == "feature":
            met = wish.value in leaf_features(leaf, int(product["features"]))
        else:
            names = {"colour": COLOUR_NAMES, "material": MATERIAL_NAMES, "pattern": PATTERN_NAMES, "style": STYLE_NAMES}
            names["brand"] = tuple(brand.name for brand in BRANDS)
            value = names[wish.kind][product[wish.kind]]
            terms = {"colour": COLOURS, "material": MATERIALS, "pattern": PATTERNS}.get(wish.kind)
            near = terms[wish.value].near if terms else ()
            met = value == wish.value
        if not wish.wanted:
            total += 2 if met else 0
        elif not met:
            total += 0.5 if near and value in near else 1
    if leaf.key != target.key:
        return 1 if total == 0 else 0
    return 3 if total == 0 else 2 if total <= 0.5 else 1 if total <= 1 else 0


def test_grades_equal_their_naive_twin(shop):
    facts, intents = load_facts(shop), load_intents(shop)
    for query_id in shop.queries["query_id"][::97]:
        fast = grade(intents[query_id], facts)
        rows = np.r_[np.flatnonzero(fast), np.arange(0, len(facts), 61)]
        assert [naive_grade(intents[query_id], facts.iloc[row]) for row in rows] == fast[rows].tolist()


def test_the_truth_holds_exactly_the_grades_above_zero(shop):
    facts, intents = load_facts(shop), load_intents(shop)
    for query_id, rows in list(shop.truth.groupby("query_id"))[::151]:
        fast = grade(intents[query_id], facts)
        assert dict(zip(rows["product_id"], rows["grade"], strict=True)) == {
            facts["product_id"][row]: fast[row] for row in np.flatnonzero(fast)
        }


@pytest.mark.parametrize(
    ("total", "relation", "expected"),
    [(0, 2, 3), (0.5, 2, 2), (1, 2, 1), (1.5, 2, 0), (2, 2, 0), (0, 1, 1), (0.5, 1, 0), (0, 0, 0)],
)
def test_the_table_of_grades(total, relation, expected):
    assert grade_from_misses(np.array([total]), np.array([relation])).tolist() == [expected]


def test_what_is_ruled_out_is_irrelevant_not_a_complement(shop):
    facts = load_facts(shop)
    unwanted = Intent("mug", (Constraint("colour", "black", wanted=False),))
    mugs = facts["leaf"].to_numpy() == [leaf.key for leaf in leaves()].index("mug")
    black = facts["colour"].to_numpy() == COLOUR_NAMES.index("black")
    grades = grade(unwanted, facts)
    assert (grades[mugs & black] == 0).all() and (grades[mugs & ~black] == 3).all()


def test_an_intent_survives_json():
    intent = Intent("sofa", (Constraint("colour", "red"), Constraint("price_below", 300.0)))
    assert Intent.from_json(intent.to_json()) == intent


def test_expected_gain_is_the_gain_when_all_is_known_and_the_mean_when_not():
    gains = (0.0, 1.0, 2.0, 3.0)
    assert expected_gain([[(0.0, 1.0)]], 2, gains) == 3 and expected_gain([[(1.0, 1.0)]], 2, gains) == 1
    assert expected_gain([[(0.0, 0.25), (1.0, 0.75)]], 2, gains) == pytest.approx(0.25 * 3 + 0.75 * 1)
    assert expected_gain([], 0, gains) == 0


def test_an_oracle_that_knows_every_fact_is_perfect(shop):
    facts = load_facts(shop)
    everything = facts.assign(has_photo=True)
    for column in [name for name in facts if name.startswith("tells_")]:
        everything[column] = True
    for query_id, intent in list(load_intents(shop).items())[::111]:
        rows, scores = oracle_scores(intent, everything, picture=True)
        truth = grade(intent, facts)
        assert np.array_equal(scores, truth[rows]) and (np.diff(truth[rows]) <= 0).all(), query_id


def test_the_oracles_stand_in_the_right_order(shop):
    queries = shop.split_queries("val")
    value = {}
    for picture in (False, True):
        hits = oracle_hits(shop, queries["query_id"], k=50, picture=picture)
        value[picture] = evaluate(hits, queries, shop.truth, metrics=["nDCG@10"])["nDCG@10"].mean()
    # This shop has no photos, so eyes do not help here.
    assert 0.85 < value[False] < 0.97 and value[True] == value[False]


def test_a_photo_tells_what_can_be_seen_and_nothing_else(small_shop):
    facts = load_facts(small_shop)
    pictured = facts["has_photo"].to_numpy()
    for kind in ("colour", "material", "pattern"):
        assert knows(facts, kind, picture=True)[pictured].all() and not knows(facts, kind, picture=False).all()
    for kind in ("brand", "style", "feature"):
        assert np.array_equal(knows(facts, kind, picture=True), knows(facts, kind, picture=False))


def test_misspelling_changes_long_words_only():
    rng = np.random.default_rng(0)
    for words in ("leather sofa", "red mug", "a b c", "garden umbrella"):
        wrong = misspell(words, rng)
        assert (wrong != words) == any(len(word) >= 4 for word in words.split())
        assert len(wrong.split()) == len(words.split())
