"""Check training on features, neighbours and votes against plain loops."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chapter04_catalogue_reranker.architecture import Architecture
from chapter04_catalogue_reranker.model import CatalogueReranker
from chapter04_catalogue_reranker.studies import text_ranker
from common.errors import CourseError

TITLES = ["oak chair", "oak table", "red oak chair", "steel lamp", "lamp of steel", "garden chair"]
SIMILAR = arrays(np.float32, (3, 5), elements=st.floats(0, 1, width=16))
LABELS = arrays(np.int64, 5, elements=st.integers(0, 3))


def naive_cosine(known: list[str], one: str, other: str) -> float:
    """TF-IDF by hand: words and pairs of words, smoothed idf, L2."""

    def terms(text: str) -> list[str]:
        words = text.split()
        return words + [" ".join(pair) for pair in pairwise(words)]

    def vector(text: str) -> dict[str, float]:
        there = {term: sum(term in terms(title) for title in known) for term in terms(text)}
        idf = {term: np.log((1 + len(known)) / (1 + count)) + 1 for term, count in there.items() if count}
        weights = {term: terms(text).count(term) * value for term, value in idf.items()}
        norm = np.sqrt(sum(value**2 for value in weights.values())) or 1.0
        return {term: value / norm for term, value in weights.items()}

    first, second = vector(one), vector(other)
    return sum(value * second.get(term, 0.0) for term, value in first.items())


def test_similarities_are_those_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr(text_ranker, "TEXTS_PER_CHUNK", 2)
    asked = ["oak chair", "lamp of oak", "something else"]
    found = text_ranker.similarities(TITLES, asked)
    naive = [[naive_cosine(TITLES, title, one) for title in TITLES] for one in asked]
    np.testing.assert_allclose(found, naive, atol=1e-6)
    assert found[0, 0] == pytest.approx(1) and not found[2].any()


@given(SIMILAR, LABELS)
def test_the_nearest_paths_are_those_of_brute_force(similar, labels):
    for row, ranked in zip(similar, text_ranker.nearest_paths(similar, labels), strict=True):
        best = {label: max((row[at], -at) for at in np.flatnonzero(labels == label)) for label in set(labels.tolist())}
        assert ranked == sorted(best, key=best.get, reverse=True)


@given(SIMILAR, LABELS, st.integers(1, 7), st.sampled_from([0.05, 0.5]))
def test_votes_are_those_of_a_loop(similar, labels, k, temperature):
    votes = text_ranker.neighbours_vote(similar, labels, 6, k=k, temperature=temperature)
    naive = np.zeros((3, 6))
    for at, row in enumerate(similar.astype(np.float64)):
        near = sorted(range(5), key=lambda column: (-row[column], column))[:k]
        total = sum(np.exp((row[column] - row[near[0]]) / temperature) for column in near)
        for column in near:
            naive[at, labels[column]] += np.exp((row[column] - row[near[0]]) / temperature) / total
    np.testing.assert_allclose(votes, naive, atol=1e-5)
    np.testing.assert_allclose(votes.sum(axis=1), 1, atol=1e-5)


def test_a_rule_has_one_vote_or_none():
    np.testing.assert_array_equal(text_ranker.rule_votes([[2, 0], [], [1]], 3), [[0, 0, 1], [0, 0, 0], [0, 1, 0]])


def test_a_vote_of_no_weight_changes_no_place_and_one_of_much_weight_decides():
    learned = np.random.default_rng(0).dirichlet(np.ones(8), 20).astype(np.float32)
    labels = np.arange(20) % 8
    vote = {"rule": text_ranker.rule_votes([[label] for label in labels.tolist()], 8)}
    np.testing.assert_array_equal(
        text_ranker.true_ranks(text_ranker.mix(learned, vote, {"rule": 0.0}), labels),
        text_ranker.true_ranks(np.log(learned), labels),
    )
    assert (text_ranker.true_ranks(text_ranker.mix(learned, vote, {"rule": 2.0}), labels) == 1).all()


def test_paths_of_hardly_any_probability_keep_their_order():
    learned = np.array([[1 - 1.1e-8, 1e-8, 1e-9]], dtype=np.float64)
    assert text_ranker.true_ranks(text_ranker.mix(learned, {}, {}), np.array([1])).tolist() == [2]


def test_the_best_weights_are_chosen_and_of_equals_the_least():
    learned = np.tile(np.float32([0.6, 0.4, 0.0]), (4, 1))
    right, wrong = text_ranker.rule_votes([[1]] * 4, 3), text_ranker.rule_votes([[2]] * 4, 3)
    assert text_ranker.choose_weights(learned, {"right": right, "wrong": wrong}, np.ones(4, int)) == {
        "right": 0.3,
        "wrong": 0.0,
    }
    assert text_ranker.choose_weights(learned, {"right": right}, np.zeros(4, int)) == {"right": 0.0}


def test_a_vote_for_the_frequent_path_must_not_cost_the_rare_ones():
    learned = np.float32([[0.9, 0.1, 0.0]] * 4 + [[0.1, 0.9, 0.0]] * 5 + [[0.1, 0.0, 0.9]])
    labels, frequent = np.array([0] * 8 + [1, 2]), {"frequent": text_ranker.rule_votes([[0]] * 10, 3)}
    hits = {
        weight: (text_ranker.true_ranks(text_ranker.mix(learned, frequent, {"frequent": weight}), labels) == 1).sum()
        for weight in (0, 1)
    }
    assert hits == {0: 6, 1: 8}
    assert text_ranker.choose_weights(learned, frequent, labels, (0.0, 1.0)) == {"frequent": 0.0}


@pytest.fixture(scope="module")
def features():
    """24 texts of 4 paths, that lie together but not where their paths lie."""
    rng = np.random.default_rng(0)
    paths, centres = rng.normal(size=(2, 4, 32)).astype(np.float32)
    labels = np.arange(24) % 4
    texts = centres[labels] + 0.1 * rng.normal(size=(24, 32)).astype(np.float32)
    return texts, paths, labels


def new_model(tiny_text_encoder) -> CatalogueReranker:
    return CatalogueReranker.build(
        Architecture(text=str(tiny_text_encoder), inputs="text", product_length=32, category_length=32), seed=0
    )


def test_training_learns_the_paths_and_leaves_the_towers(tiny_text_encoder, features):
    texts, paths, labels = features
    model = new_model(tiny_text_encoder)
    before = {name: weight.clone() for name, weight in model.text_tower.named_parameters()}
    start = text_ranker.true_ranks(np.log(text_ranker.probabilities(model.eval(), texts, paths)), labels)
    text_ranker.fit_text_ranker(model, texts, paths, labels, text_ranker.Fitting(epochs=15, batch_size=8))
    found = text_ranker.probabilities(model, texts, paths)
    assert (text_ranker.true_ranks(np.log(found), labels) == 1).all() and not (start == 1).all()
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.text_tower.named_parameters())
    assert not model.training


def test_the_same_seed_gives_the_same_model(tiny_text_encoder, features):
    texts, paths, _ = features
    made = [
        text_ranker.probabilities(
            text_ranker.fit_text_ranker(new_model(tiny_text_encoder), *features, text_ranker.Fitting(2, 8, seed=seed)),
            texts,
            paths,
        )
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()


def test_a_loss_that_is_no_number_is_an_error(tiny_text_encoder, features):
    texts, paths, labels = features
    with pytest.raises(CourseError, match="learning-rate"):
        text_ranker.fit_text_ranker(
            new_model(tiny_text_encoder), texts * np.float32("nan"), paths, labels, text_ranker.Fitting(2, 8)
        )
