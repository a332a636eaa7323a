"""Recall and MRR of both directions against sorting by hand, and at their limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter03_multimodal import retrieval_metrics as module
from chapter03_multimodal.retrieval_metrics import mean_of_directions, retrieval_metrics
from common.errors import CourseError
from common.statistics import compare, summarise


def unit(rows, seed, dimension=6):
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def naive(queries, answers, texts, cutoff):
    """Sort the answers of each query, wrong ones first among equals, and look for the first right one."""
    recalls, reciprocals = [], []
    for row, query in enumerate(queries):
        right = [texts[at] == texts[row] for at in range(len(answers))]
        scores = [float(np.dot(query, answer)) for answer in answers]
        order = sorted(range(len(answers)), key=lambda at: (-round(scores[at], 5), right[at]))
        place = 1 + next(place for place, at in enumerate(order) if right[at])
        recalls.append(float(place <= cutoff))
        reciprocals.append(1 / place)
    return recalls, reciprocals


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 1000))
def test_it_equals_sorting_by_hand(rows, words, cutoff, seed):
    rng = np.random.default_rng(seed)
    texts = [f"text {at}" for at in rng.integers(0, words, rows)]
    # Vectors with three values a component, so that many scores are equal and the others far apart.
    images, spoken = (rng.integers(-1, 2, (rows, 4)).astype(np.float32) for _ in range(2))
    table = retrieval_metrics(images, spoken, texts, cutoffs=(cutoff,))
    for direction, queries, answers in (("text_to_image", spoken, images), ("image_to_text", images, spoken)):
        recalls, reciprocals = naive(queries, answers, texts, cutoff)
        assert table[f"{direction}_R@{cutoff}"].tolist() == recalls
        assert table[f"{direction}_MRR"].tolist() == pytest.approx(reciprocals)


def test_perfect_is_one_and_backwards_is_the_worst():
    vectors, texts = unit(30, 0), [str(at) for at in range(30)]
    assert (retrieval_metrics(vectors, vectors, texts).to_numpy() == 1).all()
    worst = retrieval_metrics(vectors, -vectors, texts)
    assert worst["text_to_image_R@10"].sum() == 0 and np.allclose(worst["image_to_text_MRR"], 1 / 30)


def test_chance_is_k_of_n():
    means = retrieval_metrics(unit(2000, 0), unit(2000, 1), [str(at) for at in range(2000)], cutoffs=(20, 200)).mean()
    for direction in module.DIRECTIONS:
        assert means[f"{direction}_R@20"] == pytest.approx(0.01, abs=0.006)
        assert means[f"{direction}_R@200"] == pytest.approx(0.1, abs=0.02)


def test_a_model_that_says_the_same_of_everything_earns_nothing():
    same = np.repeat(unit(1, 0), 25, axis=0)
    noise = np.random.default_rng(0).normal(scale=1e-9, size=same.shape).astype(np.float32)
    table = retrieval_metrics(same, same + noise, [str(at) for at in range(25)])
    assert (table["text_to_image_R@10"] == 0).all() and np.allclose(table["image_to_text_MRR"], 1 / 25)


def test_of_equal_texts_any_picture_is_right():
    """Pictures 0 and 1 share a text, and each text vector lies on the other one's picture."""
    images = np.eye(3, dtype=np.float32)
    spoken = images[[1, 0, 2]]
    assert (retrieval_metrics(images, spoken, ["lamp", "lamp", "rug"]).to_numpy() == 1).all()
    strict = retrieval_metrics(images, spoken, ["lamp", "light", "rug"], cutoffs=(1,))
    assert strict["text_to_image_R@1"].tolist() == [0, 0, 1]


def test_a_large_pool_is_searched_in_blocks(monkeypatch):
    images, spoken, texts = unit(50, 0), unit(50, 1), [str(at // 2) for at in range(50)]
    whole = retrieval_metrics(images, spoken, texts)
    monkeypatch.setattr(module, "_SCORES_AT_ONCE", 130)
    assert retrieval_metrics(images, spoken, texts).equals(whole)


def test_the_table_is_what_the_statistics_take():
    texts = [str(at) for at in range(40)]
    good, bad = (retrieval_metrics(unit(40, 0), vectors, texts) for vectors in (unit(40, 0), unit(40, 1)))
    board = summarise(good, rounds=50)
    assert board["metric"].tolist() == list(good.columns) and (board["value"] == 1).all()
    assert compare(good, bad, "text_to_image_MRR", rounds=200).p < 0.05
    means = bad.mean()
    both = (means["text_to_image_MRR"] + means["image_to_text_MRR"]) / 2
    assert mean_of_directions(means) == pytest.approx(both)


@pytest.mark.parametrize(
    ("images", "spoken", "texts", "message"),
    [
        (unit(3, 0), unit(3, 1), ["a", "b"], "3, 6.* for 2 texts"),
        (unit(3, 0)[0], unit(3, 1), ["a", "b", "c"], "image vectors"),
        (unit(0, 0), unit(0, 1), [], "for 0 texts"),
        (unit(3, 0), unit(3, 1, dimension=5), ["a", "b", "c"], "6 dimensions, texts 5"),
        (unit(3, 0), unit(3, 1) * np.nan, ["a", "b", "c"], "not all text vectors are finite"),
    ],
)
def test_what_does_not_fit_is_refused(images, spoken, texts, message):
    with pytest.raises(CourseError, match=message):
        retrieval_metrics(images, spoken, texts)
