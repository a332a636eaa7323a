"""AUC and fill-in-the-blank against counting by hand, and what a perfect, a random and a wrong scorer get."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter03_multimodal.outfits.metrics import (
    FROZEN,
    auc,
    auc_table,
    draw_questions,
    fill_in_the_blank,
    fitb_table,
    shop_rule,
    weighted_auc,
)
from chapter03_multimodal.outfits.pairs import ItemFacts
from common.errors import CourseError

scored = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1), st.integers(0, 3), st.integers(0, 1)), min_size=1)


@settings(max_examples=100, deadline=None)
@given(scored)
def test_auc_is_the_share_of_pairs_in_order(rows):
    """Weighted, within strata, with ties: each comparison by hand."""
    won = compared = 0.0
    for score, label, weight, stratum in rows:
        for other, other_label, other_weight, other_stratum in rows:
            if (label, other_label) == (1, 0) and stratum == other_stratum:
                won += weight * other_weight * (1.0 if score > other else 0.5 if score == other else 0.0)
                compared += weight * other_weight
    scores, labels, weights, strata = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    twice = np.stack([weights, 2 * weights])
    found = weighted_auc(scores, labels, twice, strata=strata)
    if compared:
        np.testing.assert_allclose(found, won / compared)
    else:
        assert np.isnan(found).all()


def test_auc_at_its_limits():
    labels = np.array([1, 1, 0, 0])
    assert auc(np.array([4.0, 3, 2, 1]), labels) == 1
    assert auc(np.array([1.0, 2, 3, 4]), labels) == 0
    assert auc(np.full(4, 7.0), labels) == 0.5
    # Beyond the resolution of float32: chances that differ in the tenth digit are still in order.
    assert auc(np.array([1 - 1e-12, 1 - 2e-12, 1 - 3e-12, 0]), labels) == 1


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [([1.0, 2], [1, 1], "one of them is missing"), ([], [], "one of them"), ([1.0], [0, 1], "must be"),
     ([1.0, 2], [1, 2], "labels 0 or 1"), ([1.0, np.nan], [1, 0], "not a finite")],
)  # fmt: skip
def test_auc_refuses_what_it_cannot_count(scores, labels, message):
    with pytest.raises(CourseError, match=message):
        auc(np.array(scores), np.array(labels))


def table(rows):
    return pd.DataFrame(rows, columns=["a_id", "b_id", "label", "outfit_id"])


def test_the_interval_draws_outfits_whole():
    """Two kinds of outfits of 20 pairs each, all right or all wrong: with pairs drawn one by one, or outfits counted as
    one, the spread would be another."""
    rng = np.random.default_rng(0)
    rows, scores = [], []
    for outfit in range(30):
        good = outfit % 2
        for pair in range(20):
            label = pair % 2
            rows.append((f"a{outfit}", f"b{pair}", label, f"o{outfit}"))
            scores.append((label if good else 1 - label) + rng.random() / 10)
    pairs, scores = table(rows), np.array(scores)
    found = auc_table({FROZEN: scores}, pairs, rounds=400).iloc[0]
    assert found["ci_low"] < found["value"] < found["ci_high"] and found["n"] == 600
    singly = auc_table({FROZEN: scores}, pairs.assign(outfit_id=[f"p{at}" for at in range(600)]), rounds=400).iloc[0]
    assert found["ci_high"] - found["ci_low"] > 2 * (singly["ci_high"] - singly["ci_low"])
    # Without outfits, the pairs of one a_id go together: here the same clusters.
    anchored = auc_table({FROZEN: scores}, pairs.assign(outfit_id=None), rounds=400).iloc[0]
    assert (anchored["ci_low"], anchored["ci_high"]) == (found["ci_low"], found["ci_high"])


def test_the_difference_is_paired():
    """Both systems are right and wrong in the same outfits, and one is a little better: its interval is clear of zero
    although the two intervals overlap."""
    rng = np.random.default_rng(1)
    rows = [(f"a{n}", f"b{n}", n % 2, f"o{n // 4}") for n in range(400)]
    base = np.array([row[2] for row in rows]) + 2 * rng.standard_normal(400)
    scores = {FROZEN: base, "head": base + 0.3 * np.array([row[2] for row in rows])}
    found = auc_table(scores, table(rows)).set_index("system")
    head = found.loc["head"]
    assert (
        head["difference"] == pytest.approx(head["value"] - found.loc[FROZEN, "value"]) and head["difference_low"] > 0
    )
    assert head["ci_low"] < found.loc[FROZEN, "ci_high"]
    assert np.isnan(found.loc[FROZEN, "difference"])


# Items are "<harmony><number>"; two go together if the harmony is the same. Twenty of each in one category.
ITEMS = [f"{harmony}{number}" for harmony in "xyz" for number in range(20)]
SHELF = ItemFacts({item: "A > B" if int(item[1:]) < 10 else "A > C" for item in ITEMS}, {})


def rule(a, b):
    return a[0] == b[0]


def by_rule(a_ids, b_ids):
    return np.array([float(rule(a, b)) for a, b in zip(a_ids, b_ids, strict=True)])


OUTFITS = table(
    [(f"{harmony}{n}", f"{harmony}{n + 10}", 1, f"{harmony}{n}") for harmony in "xyz" for n in range(9)]
    + [("x0", "x19", 1, "x0"), ("x10", "x19", 1, "x0"), ("x0", "y11", 0, "x0")]
)


def test_distractors_are_of_the_category_and_clash():
    asked = draw_questions(OUTFITS, ITEMS, SHELF, go_together=rule)
    assert len(asked.table) == 55 and asked.left_out == 0  # 27 outfits of two, one of them of three
    for outfit, context, choices in asked.table.itertuples(index=False):
        assert len(set(choices)) == 4 and not set(context) & set(choices)
        assert len({SHELF.categories[item] for item in choices}) == 1
        assert choices[0][0] == outfit[0] and all(item[0] != outfit[0] for item in choices[1:])
    three = asked.table[asked.table["outfit_id"] == "x0"]
    assert sorted(len(context) for context in three["context"]) == [2, 2, 2]
    # y11 was judged not to go with x0: wherever x0 is in the context of a blank of its category, it is a distractor.
    judged = three[[("x0" in context and choices[0] in ("x10", "x19")) for context, choices in
                    zip(three["context"], three["choices"], strict=True)]]  # fmt: skip
    assert len(judged) == 2 and all(choices[1] == "y11" for choices in judged["choices"])
    assert (fill_in_the_blank(by_rule, asked) == 1).all()


def test_without_the_rule_a_distractor_may_fit_but_is_never_known_to_nor_a_variant_of_what_is():
    facts = ItemFacts(SHELF.categories, {"x10": "g", "y10": "g"})
    asked = draw_questions(OUTFITS, ITEMS, facts)
    chosen = {item for context, choices in asked.table[["context", "choices"]].to_numpy() if "x0" in context
              for item in choices[1:]}  # fmt: skip
    assert not chosen & {"x0", "x10", "x19", "y10"}
    assert 0.25 < fill_in_the_blank(by_rule, asked).mean() < 1


def test_a_scorer_that_knows_nothing_gets_a_quarter():
    asked = draw_questions(OUTFITS, ITEMS, SHELF, go_together=rule)
    assert fill_in_the_blank(lambda a, b: np.zeros(len(a)), asked).tolist() == [0.25] * 55
    rng = np.random.default_rng(0)
    random = [fill_in_the_blank(lambda a, b: rng.random(len(a)), asked).mean() for _ in range(100)]
    assert np.mean(random) == pytest.approx(0.25, abs=0.02)
    assert fill_in_the_blank(lambda a, b: -by_rule(a, b), asked).sum() == 0


def test_the_blank_is_filled_by_mean_score_as_by_hand():
    asked = draw_questions(OUTFITS, ITEMS, SHELF)

    def score(a_ids, b_ids):
        return np.array([sum(map(ord, a + b + a)) % 5 / 4 for a, b in zip(a_ids, b_ids, strict=True)])

    expected = []
    for _, context, choices in asked.table.itertuples(index=False):
        means = [sum(score([item], [choice])[0] for item in context) / len(context) for choice in choices]
        expected.append(1 / means.count(max(means)) if means[0] == max(means) else 0)
    np.testing.assert_allclose(fill_in_the_blank(score, asked), expected)


def test_small_categories_leave_blanks_out_unless_widened():
    few = ["x0", "x10", "x11", "y12", "y13", "z0", "z1"]
    pairs = table([("x0", "x10", 1, None)])  # an outfit of two, without a name
    asked = draw_questions(pairs, few, SHELF, go_together=rule)
    assert asked.left_out == 2 and asked.table.empty
    with pytest.raises(CourseError, match="there are no questions"):
        fill_in_the_blank(by_rule, asked)
    wider = draw_questions(pairs, few, SHELF, go_together=rule, widen=True)
    assert wider.left_out == 0 and wider.table["outfit_id"].tolist() == ["x0 + x10"] * 2
    assert {SHELF.categories[item] for item in wider.table["choices"][0]} == {"A > B", "A > C"}


def test_a_blank_of_unknown_category_is_left_out():
    partly = ItemFacts({item: path for item, path in SHELF.categories.items() if item != "x0"}, {})
    asked = draw_questions(OUTFITS, ITEMS, partly, widen=True)
    assert asked.left_out == 1 and "x0" not in {choices[0] for choices in asked.table["choices"]}
    assert draw_questions(OUTFITS, ITEMS, ItemFacts({}, {}), widen=True).left_out == 0  # nobody knows categories here


def test_of_a_list_of_recommendations_the_context_is_what_they_are_recommended_for():
    star = table([("x0", "x10", 1, "related/x0"), ("x0", "x11", 1, "related/x0")])
    asked = draw_questions(star, ITEMS, SHELF).table
    context = {choices[0]: context for context, choices in asked[["context", "choices"]].to_numpy()}
    assert context == {"x0": ("x10", "x11"), "x10": ("x0",), "x11": ("x0",)}


def test_questions_repeat_with_their_seed():
    one, two, other = (draw_questions(OUTFITS, ITEMS, SHELF, seed=seed).table for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(other)


def test_an_outfit_counts_once():
    asked = draw_questions(OUTFITS, ITEMS, SHELF, go_together=rule)
    right = {"x0"}  # only questions whose outfit is x0 are answered well, three of 55 of them

    def score(a_ids, b_ids):
        return np.array([rule(a, b) * (a in ("x0", "x10", "x19")) for a, b in zip(a_ids, b_ids, strict=True)], float)

    credit = pd.Series(fill_in_the_blank(score, asked)).groupby(asked.table["outfit_id"]).mean()
    assert credit[[*right]].tolist() == [1.0] and len(credit) == 27
    found = fitb_table({FROZEN: lambda a, b: np.zeros(len(a)), "rule": by_rule, "some": score}, asked)
    assert found["n"].tolist() == [27] * 3 and found["metric"].tolist() == ["FITB"] * 3
    by_system = found.set_index("system")
    assert by_system.loc["rule", "value"] == 1 and by_system.loc[FROZEN, "value"] == 0.25
    assert by_system.loc["some", "value"] == pytest.approx(credit.mean())
    assert by_system.loc["rule", "difference"] == 0.75 and by_system.loc["rule", "p"] < 0.001


def test_the_pocket_shop_knows_its_rule(photo_shop):
    goes = shop_rule(photo_shop)
    pairs = photo_shop.pairs.head(200)
    assert [goes(a, b) for a, b in zip(pairs["a_id"], pairs["b_id"], strict=True)] == (pairs["label"] == 1).tolist()
    assert {*pairs["label"]} == {0, 1}
