"""Class retrieval against sorting one by one, its limits and ties; classification against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chapter03_multimodal.categories.metrics import bootstrap_macro_f1, macro_f1
from chapter03_multimodal.retrieval_metrics import TIED, first_right_place
from chapter03_multimodal.studies.class_retrieval import class_retrieval, classification, ranks_of_relevant
from common.errors import CourseError

SMALL_NUMBERS = st.integers(-2, 2)


def one_by_one(query, label, answers, answer_labels, cutoffs):
    """The metrics of one query from a sorted list, wrong answers before right ones of the same score."""
    scored = [(-float(query @ answer), other == label) for answer, other in zip(answers, answer_labels, strict=True)]
    ranking = [right for _, right in sorted(scored)]
    places = [place for place, right in enumerate(ranking, start=1) if right]
    precisions = [sum(ranking[:place]) / place for place in places]
    found = {f"R@{k}": float(any(ranking[:k])) for k in cutoffs}
    return found | {"MRR": 1 / places[0], "MAP": sum(precisions) / len(precisions)}


@settings(deadline=None)
@given(
    queries=arrays(np.float32, (4, 3), elements=SMALL_NUMBERS),
    answers=arrays(np.float32, (7, 3), elements=SMALL_NUMBERS),
    query_labels=st.lists(st.sampled_from("abcd"), min_size=4, max_size=4),
    answer_labels=st.lists(st.sampled_from("abc"), min_size=7, max_size=7),
)
def test_metrics_equal_sorting_one_by_one(queries, answers, query_labels, answer_labels):
    answered = [row for row, label in enumerate(query_labels) if label in answer_labels]
    if not answered:
        with pytest.raises(CourseError, match="no answer is of the class"):
            class_retrieval(queries, query_labels, answers, answer_labels)
        return
    found = class_retrieval(queries, query_labels, answers, answer_labels)
    assert found.index.tolist() == answered
    for row in answered:
        expected = one_by_one(queries[row], query_labels[row], answers, answer_labels, (1, 5, 10))
        assert found.loc[row].to_dict() == pytest.approx(expected)


def directions(*angles):
    return np.stack([[np.cos(angle), np.sin(angle)] for angle in angles]).astype(np.float32)


def test_answers_where_they_belong_are_a_perfect_system():
    found = class_retrieval(directions(0, 1, 2), list("abc"), directions(0, 0.1, 1, 0.9, 2), list("aabbc"))
    assert (found == 1).all(axis=None) and list(found.columns) == ["R@1", "R@5", "R@10", "MRR", "MAP"]


def test_a_model_that_says_one_thing_of_everything_scores_the_least():
    same = np.ones((6, 2), dtype=np.float32) / np.sqrt(2)
    found = class_retrieval(same[:1], ["a"], same, list("aabbbb")).iloc[0]
    assert found.tolist() == pytest.approx([0, 1, 1, 1 / 5, (1 / 5 + 2 / 6) / 2])


def test_a_class_without_answers_is_no_query_but_an_answer_nobody_asks_for_distracts():
    queries, answers = directions(0, 1), directions(0.2, 1)
    alone = class_retrieval(queries, ["a", "absent"], answers, ["a", "b"])
    assert alone.index.tolist() == [0] and alone.loc[0, "MRR"] == 1
    distracted = class_retrieval(queries, ["a", "absent"], directions(0.2, 0.1), ["a", "nobody's"])
    assert distracted.loc[0, "MRR"] == 0.5


def test_a_query_with_one_right_answer_is_scored_as_among_pairs():
    rng = np.random.default_rng(0)
    queries, answers = (rng.normal(size=(20, 4)).astype(np.float32) for _ in range(2))
    labels = np.arange(20)
    found = class_retrieval(queries, labels, answers, labels)
    np.testing.assert_allclose(1 / found["MRR"], first_right_place(queries, answers, labels))
    np.testing.assert_array_equal(found["MAP"], found["MRR"])


def test_scores_nearer_than_rounding_are_ties():
    right = np.array([True, False])
    nearly = np.array([0.5, 0.5 - TIED / 2], dtype=np.float32)
    assert ranks_of_relevant(nearly, right).tolist() == [2]
    assert ranks_of_relevant(np.array([0.5, 0.5 - 4 * TIED], dtype=np.float32), right).tolist() == [1]


def test_what_does_not_fit_is_refused():
    queries, answers = directions(0, 1), directions(0, 1, 2)
    with pytest.raises(CourseError, match="1 labels; give one label a row"):
        class_retrieval(queries, ["a"], answers, list("abc"))
    with pytest.raises(CourseError, match="2 dimensions, answers 3"):
        class_retrieval(queries, list("ab"), np.eye(3, dtype=np.float32), list("abc"))
    with pytest.raises(CourseError, match="not all answers are finite"):
        class_retrieval(queries, list("ab"), answers * np.float32("nan"), list("abc"))


def test_classification_counts_what_stands_first():
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=(60, 9)), rng.integers(0, 7, 60)
    table = classification(scores, labels).set_index("metric")
    for k in (1, 5):
        inside = [label in np.argsort(-row)[:k] for row, label in zip(scores, labels, strict=True)]
        assert table.loc[f"top-{k}", "value"] == pytest.approx(np.mean(inside))
    assert table.loc["macro-F1", "value"] == pytest.approx(macro_f1(labels, scores.argmax(axis=1)))
    assert (table["ci_low"] < table["value"]).all() and (table["value"] < table["ci_high"]).all()
    assert table["n_queries"].eq(60).all()


def test_a_perfect_classifier_has_ones_though_classes_are_absent():
    labels = np.repeat([0, 2, 5], 8)
    table = classification(np.eye(8)[labels], labels)
    assert (table[["value", "ci_low", "ci_high"]] == 1).all(axis=None)


def test_the_interval_of_macro_f1_narrows_with_more_pictures_and_is_the_same_again():
    labels, predicted = np.tile([0, 1, 2, 0], 6), np.tile([0, 1, 0, 2], 6)
    few = bootstrap_macro_f1(labels, predicted, seed=3, rounds=400)
    many = bootstrap_macro_f1(np.tile(labels, 16), np.tile(predicted, 16), seed=3, rounds=400)
    assert few == bootstrap_macro_f1(labels, predicted, seed=3, rounds=400)
    assert few[0] < many[0] < macro_f1(labels, predicted) < many[1] < few[1]
    # The width falls with the square root of the number.
    assert 2.5 < (few[1] - few[0]) / (many[1] - many[0]) < 6
