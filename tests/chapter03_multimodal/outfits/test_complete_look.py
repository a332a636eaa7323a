"""Completing a look by hand, MMR against its definition, and what is never returned."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chapter03_multimodal.outfits.complete_look import LookFinder, complete_look, mean_scores, mmr
from chapter03_multimodal.outfits.embeddings import ItemEmbeddings
from chapter03_multimodal.outfits.head import CompatibilityHead
from chapter03_multimodal.outfits.pairs import ItemFacts
from common.errors import CourseError


def naive_mmr(relevance, similarity, k, weight):
    chosen, left = [], list(range(len(relevance)))
    while left and len(chosen) < k:

        def value(at):
            redundancy = max((similarity[at][other] for other in chosen), default=0.0)
            return weight * relevance[at] - (1 - weight) * redundancy

        best = max(left, key=value)
        chosen.append(best)
        left.remove(best)
    return chosen


def unit(count, size, seed):
    vectors = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(1, 14), st.floats(0, 1), st.integers(0, 1000))
def test_mmr_is_its_definition(count, k, weight, seed):
    vectors = unit(count, 3, seed).astype(np.float64)
    relevance = np.sort(np.random.default_rng(seed).random(count))[::-1]
    similarity = vectors @ vectors.T
    assert mmr(relevance, similarity, k, weight) == naive_mmr(relevance, similarity, k, weight)


def test_lambda_weighs_relevance():
    """Three twins that fit best, one stranger that fits worst."""
    relevance = np.array([0.9, 0.8, 0.7, 0.1])
    similarity = np.array([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=float)
    assert mmr(relevance, similarity, 4, 1.0) == [0, 1, 2, 3]
    assert mmr(relevance, similarity, 4, 0.0)[:2] == [0, 3]
    assert mmr(relevance, similarity, 2, 0.5) == [0, 3]
    assert mmr(relevance, similarity, 2, 0.95) == [0, 1]


COUNT = 60


def finder(scorer="pair", groups=None, seed=0, categories=None):
    torch.manual_seed(seed)
    items = [f"i{n:02d}" for n in range(COUNT)]
    embeddings = ItemEmbeddings(unit(COUNT, 8, seed), items, "toy", pd.DataFrame())
    head = CompatibilityHead(8, 6, hidden=16, scorer=scorer)
    kinds = ("Clothing > Shirts", "Clothing > Shoes", "Clothing > Shoes > Boots", "Bags")
    given_categories = {item: kinds[n % 4] for n, item in enumerate(items) if n != 40}
    return LookFinder.build(head, embeddings, ItemFacts(categories or given_categories, groups or {}))


@pytest.mark.parametrize("scorer", ["pair", "cosine"])
@pytest.mark.parametrize("use_mmr", [True, False])
def test_a_look_is_completed_as_by_hand(scorer, use_mmr):
    toy = finder(scorer, groups={"i00": "g", "i05": "g"})
    context = ["i00", "i03", "i10"]
    with torch.inference_mode():
        head = toy.scorer.head.eval()
        projected = head(torch.from_numpy(toy.embeddings.vectors.copy()))
        mean = projected[[0, 3, 10]].mean(dim=0)
        near = (projected @ mean).numpy()
        wanted = [n for n in range(COUNT) if n % 4 in (1, 2) and n not in (5, 10, 40)]  # i05 is a variant of i00
        pool = sorted(wanted, key=lambda n: -near[n])[:12]
        score = {n: np.mean([float(head.score(projected[n], projected[m])) for m in (0, 3, 10)]) for n in pool}
    ranked = sorted(pool, key=lambda n: -score[n])
    if use_mmr:
        vectors = toy.embeddings.vectors[ranked].astype(np.float64)
        ranked = [ranked[at] for at in naive_mmr([score[n] for n in ranked], vectors @ vectors.T, 4, 0.6)]
    options = {"gap_category": "Clothing > Shoes", "k": 4, "pool": 12, "use_mmr": use_mmr, "mmr_lambda": 0.6}
    look = complete_look(toy, context, **options)
    assert look.items["product_id"].tolist() == [f"i{n:02d}" for n in ranked[:4]] and look.note == ""
    np.testing.assert_allclose(look.items["score"], [score[n] for n in ranked[:4]], atol=1e-5)
    again = complete_look(toy, ["i10", "i00", "i03", "i00"], **options)  # order and repetition tell nothing
    assert again.items["product_id"].tolist() == look.items["product_id"].tolist()


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=6), st.booleans(), st.floats(0, 1))
def test_the_context_and_its_variants_are_never_returned(context, use_mmr, weight):
    toy = finder(groups={f"i{n:02d}": f"g{n // 3}" for n in range(30)})
    ids = [f"i{n:02d}" for n in sorted(context)]
    look = complete_look(toy, ids, k=COUNT, pool=COUNT, use_mmr=use_mmr, mmr_lambda=weight)
    excluded = toy.facts.variants(*ids)
    assert set(look.items["product_id"]) == set(toy.embeddings.ids) - excluded
    assert look.note == f"only {COUNT - len(excluded)} items to choose from, {COUNT} were asked for"


def test_lambda_one_is_the_order_of_the_scores():
    toy = finder()
    with_mmr = complete_look(toy, ["i01"], k=8, mmr_lambda=1.0)
    plain = complete_look(toy, ["i01"], k=8, use_mmr=False)
    assert with_mmr.items.equals(plain.items)
    assert plain.items["score"].is_monotonic_decreasing
    varied = complete_look(toy, ["i01"], k=8, mmr_lambda=0.0)
    assert varied.items["product_id"][0] == plain.items["product_id"][0]

    def likeness(look):
        vectors = toy.embeddings.vectors[toy.embeddings.rows(look.items["product_id"])]
        return (vectors @ vectors.T)[np.triu_indices(8, 1)].mean()

    assert likeness(varied) < likeness(plain)


def test_the_pool_bounds_what_is_scored():
    toy = finder()
    small = complete_look(toy, ["i01", "i02"], k=3, pool=3, use_mmr=False)
    near = toy.scorer.projected @ toy.scorer.projected[[1, 2]].mean(axis=0)
    nearest = [toy.embeddings.ids[at] for at in np.argsort(-near) if at not in (1, 2)][:3]
    assert set(small.items["product_id"]) == set(nearest)


def test_a_category_covers_what_is_below_it_and_nothing_beside():
    toy = finder()
    of = toy.facts.categories
    shoes = complete_look(toy, ["i00"], gap_category="Clothing > Shoes", k=50, pool=50).items["product_id"]
    assert {of[item] for item in shoes} == {"Clothing > Shoes", "Clothing > Shoes > Boots"}
    boots = complete_look(toy, ["i00"], gap_category="Clothing > Shoes > Boots", k=50, pool=50).items["product_id"]
    assert {of[item] for item in boots} == {"Clothing > Shoes > Boots"}
    assert {of.get(item) for item in complete_look(toy, ["i00"], k=59, pool=59).items["product_id"]} >= {None, "Bags"}


def test_nothing_left_is_said():
    hats = {"i00": "Hats", "i01": "Hats", "none": "Gloves"}
    toy = finder(categories=hats)
    look = complete_look(toy, ["i00", "i01"], gap_category="Hats")
    assert len(look) == 0 and list(look.items.columns) == ["product_id", "score"]
    assert look.note == "nothing to choose from: all 2 items of category 'Hats' are in the look, or variants of it"
    assert (
        "no item of category 'Gloves' has a usable picture" in complete_look(toy, ["i00"], gap_category="Gloves").note
    )
    everything = complete_look(toy, toy.embeddings.ids)
    assert len(everything) == 0 and "every item is in the look" in everything.note


def test_what_cannot_be_asked_is_an_error():
    toy = finder()
    for options, message in (
        ({"context_ids": ["i00", "nope"]}, "no embedding of item 'nope'"),
        ({"context_ids": []}, "The context is empty"),
        ({"gap_category": "Clothing > Shoe"}, "no category 'Clothing > Shoe'; did you mean 'Clothing > Shoes'"),
        ({"gap_category": "Cloth"}, "no category 'Cloth'"),
        ({"gap_category": "Xyz"}, r"^There is no category 'Xyz'\. Give a path or the start of one\.$"),
        ({"k": 0}, "k=0"),
        ({"k": 5, "pool": 4}, "pool of 4"),
        ({"mmr_lambda": 1.5}, "mmr_lambda=1.5"),
    ):
        with pytest.raises(CourseError, match=message):
            complete_look(toy, **{"context_ids": ["i00"], **options})


def test_mean_scores_are_means_over_the_context():
    toy = finder()
    found = mean_scores(toy.scorer, ["i04", "i05"], ["i00", "i01", "i02"])
    by_hand = [np.mean([toy.scorer([one], [two])[0] for one in ("i00", "i01", "i02")]) for two in ("i04", "i05")]
    np.testing.assert_allclose(found, by_hand)
