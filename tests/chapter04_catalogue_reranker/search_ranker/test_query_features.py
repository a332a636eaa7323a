"""Check every column against the same figure computed for one pair at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from chapter01_baseline.keyword import tokenize
from chapter03_multimodal.systems import BEST
from chapter04_catalogue_reranker.search_ranker.query_features import (
    BEST_OF_CHAPTER,
    CANDIDATES_FROM,
    DEPTH,
    FEEDBACK,
    GROUPS,
    QUERY,
    START_DEPTH,
    SYSTEMS,
    WORDS,
)
from chapter04_catalogue_reranker.search_ranker.query_words import understand
from common.catalogue import product_text
from tests.chapter04_catalogue_reranker.ranker_world import toy_features, toy_shop

QUERIES = ["red lamp", "chair, but not blue", "tidy home rug under 13 euros", "", "nothing of the kind", "lamp lamp"]


@pytest.fixture(scope="module")
def shop():
    return toy_shop()


@pytest.fixture(scope="module")
def features(shop):
    return toy_features(shop)


@pytest.fixture(scope="module")
def table(features):
    return features.of(QUERIES)


def test_candidates_are_the_first_hits_of_several_systems_each_once(features, table):
    for row, query in enumerate(QUERIES):
        found = set()
        for name in CANDIDATES_FROM:
            found |= {product_id for product_id, _ in features.searchers[name].search([query], features.depth).row(0)}
        mine = features.product_ids[table.product[table.row == row]].tolist()
        assert len(mine) == len({*mine}) and {*mine} == found
    assert (np.diff(table.row) >= 0).all() and not (table.row == 3).any()


def test_every_column_has_a_group_and_is_float32(table):
    assert [*table.groups] == [*table.values] and {*table.groups.values()} == {*GROUPS}
    assert (table.values.dtypes == np.float32).all() and not np.isinf(table.values).any().any()
    assert table.columns_of([QUERY]) == [name for name in table.values if table.groups[name] == QUERY]


def test_scores_and_ranks_are_those_of_the_hits(features, table):
    for name in (name for systems in SYSTEMS.values() for name in systems):
        hits = features.searchers[name].search(QUERIES, DEPTH)
        for at, (row, product) in enumerate(zip(table.row, table.product, strict=True)):
            listed = [product_id for product_id, _ in hits.row(row)]
            got = [table.values[f"{name}, {what}"][at] for what in ("score", "behind the best", "1 / rank")]
            if features.product_ids[product] in listed:
                rank = listed.index(features.product_ids[product])
                score = hits.scores[row, rank]
                np.testing.assert_allclose(got, [score, score - hits.scores[row, 0], 1 / (rank + 1)], rtol=1e-6)
            else:
                assert np.isnan(got).all()


def test_starts_are_the_scores_of_each_chapters_best_and_0_elsewhere(features, table):
    for group, name in BEST_OF_CHAPTER.items():
        hits = features.searchers[name].search(QUERIES, START_DEPTH if name == BEST else DEPTH)
        known = [dict(hits.row(row)) for row in range(len(QUERIES))]
        expected = [known[r].get(features.product_ids[p], 0.0) for r, p in zip(table.row, table.product, strict=True)]
        np.testing.assert_allclose(table.starts[group], expected)


def test_categories_agree_as_their_distributions_do(features, table):
    asked = features.categories.of_queries([understand(query).wanted for query in QUERIES])
    theirs = features.categories.product_probs
    place = {product_id: at for at, product_id in enumerate(features.product_ids)}
    hits = features.searchers[BEST_OF_CHAPTER[WORDS]].search(QUERIES, FEEDBACK)
    for at, (row, product) in enumerate(zip(table.row, table.product, strict=True)):
        value = {name: table.values[f"categories, {name}"][at] for name in (
            "agreement", "agreement of the query's top 3", "agreement with the first hits",
            "the query's top probability", "the query's entropy",
        )}  # fmt: skip
        top = sorted(range(len(theirs[0])), key=lambda c: -asked[row, c])[:3]
        led = np.mean([theirs[place[product_id]] for product_id, _ in hits.row(row)], axis=0)
        expected = [
            sum(asked[row, c] * theirs[product, c] for c in range(len(theirs[0]))),
            sum(asked[row, c] * theirs[product, c] for c in top),
            led @ theirs[product],
            asked[row].max(),
            -sum(p * np.log(p) for p in asked[row].tolist()),
        ]
        np.testing.assert_allclose([*value.values()], expected, rtol=1e-4)


def _standard(encoded, text, product):
    """Return the standardised cosine of one pair."""
    asked = encoded.encoder.vector(text)
    every = encoded.vectors[np.isfinite(encoded.vectors[:, 0])] @ asked
    return (encoded.vectors[product] @ asked - every.mean()) / every.std()


def test_what_stands_out_does_so_among_all_products(features, table):
    for at, (row, product) in enumerate(zip(table.row, table.product, strict=True)):
        read = understand(QUERIES[row])
        for name, encoded, text in (
            ("CLIP, standardised", features.clip, QUERIES[row]),
            ("read, MiniLM of what is wanted", features.minilm, read.wanted),
            ("read, CLIP of what is wanted", features.clip, read.wanted),
            ("read, MiniLM of what is not", features.minilm, read.unwanted),
            ("read, CLIP of what is not", features.clip, read.unwanted),
        ):
            expected = _standard(encoded, text, product) if text else np.nan
            np.testing.assert_allclose(table.values[name][at], expected, rtol=2e-3, atol=1e-4)
        assert table.values["has a picture"][at] == np.isfinite(features.clip.vectors[product, 0])


def test_word_by_word_says_what_single_words_say(features, shop, table):
    colours = {token for value in shop.products["colour"].dropna() for token in tokenize(value)}
    for at, (row, product) in enumerate(zip(table.row, table.product, strict=True)):
        words = list(dict.fromkeys(understand(QUERIES[row]).wanted.split()))
        fits = [_standard(features.clip, word, product) for word in words]
        shades = [fit for fit, word in zip(fits, words, strict=True) if word in colours]
        expected = [min(fits), np.mean(fits), max(fits), np.mean(shades) if shades else np.nan, np.nan]
        names = ("worst word", "mean of the words", "best word", "colour", "material")
        got = [table.values[f"read, CLIP word by word: {name}"][at] for name in names]
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-4)


def test_bm25_is_of_what_is_wanted_and_of_all_products(features, table):
    order = {product_id: at for at, product_id in enumerate(features.keyword.product_ids)}
    for at, (row, product) in enumerate(zip(table.row, table.product, strict=True)):
        scores = features.keyword.term_scores(Counter(tokenize(understand(QUERIES[row]).wanted)))
        mine = scores[order[features.product_ids[product]]]
        got = [table.values[f"read, {name}"][at] for name in ("BM25 of what is wanted", "the same behind the best")]
        np.testing.assert_allclose(got, [mine, mine - scores.max()], rtol=1e-5)


def test_field_columns_against_one_pair_at_a_time(features, shop, table):
    texts = [{*tokenize(text)} for text in product_text(shop.products)]
    for at, (row, product) in enumerate(zip(table.row, table.product, strict=True)):
        read, own = understand(QUERIES[row]), shop.products.iloc[product]
        wanted, refused = {*tokenize(read.wanted)}, {*tokenize(read.unwanted)}
        counts = {word: sum(word in text for text in texts) for word in wanted}
        weight = {word: np.log(1 + (48 - n + 0.5) / (n + 0.5)) for word, n in counts.items()}
        rarest = max(np.log(1 + (48 - n + 0.5) / (n + 0.5)) for n in Counter(w for t in texts for w in t).values())
        weight |= {word: rarest for word, n in counts.items() if not n}
        title = {*tokenize(own["title"])}
        share = sum(weight[word] for word in wanted & title) / sum(weight.values())
        assert table.values["read, wanted words in title"][at] == pytest.approx(share, rel=1e-5)
        lacking = len(refused & title) / len(refused) if refused else np.nan
        assert table.values["read, unwanted words in title"][at] == pytest.approx(lacking, nan_ok=True)
        limit = np.log(own["price"] / read.limit)
        assert table.values["read, price against the limit"][at] == pytest.approx(limit, nan_ok=True, rel=1e-5)
        same = float(own["brand"] == "Tidy Home") if "tidy home" in read.wanted else np.nan
        assert table.values["read, the brand that is named"][at] == pytest.approx(same, nan_ok=True)
        alike = shop.products[
            shop.products["category_path"].fillna("") == shop.products["category_path"].fillna("").iloc[product]
        ]["price"]
        rank = ((alike < own["price"]).sum() + ((alike == own["price"]).sum() + 1) / 2) / len(alike)
        assert table.values["price within its category"][at] == pytest.approx(rank, rel=1e-5)


def test_words_are_summed_in_one_order_whatever_the_hashes_of_a_process(features):
    weights = features.fields._weights(["lumora home tidy white red rug shelf", "red mirror"], by_idf=True)
    places = [weights[row].indices.tolist() for row in range(2)]
    assert places == [sorted(row) for row in places] and [len(row) for row in places] == [7, 2]
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


def test_allowed_and_excluded_products(features):
    ids = features.product_ids.tolist()
    table = features.of(["red lamp", "blue rug"], allowed=ids[:30], exclude=[ids[:10], []])
    for row, excluded in ((0, 10), (1, 0)):
        assert {*features.product_ids[table.product[table.row == row]]} <= {*ids[excluded:30]}
    assert len(table.row) and features.of([]).values.shape == (0, table.values.shape[1])


def test_a_pair_s_features_do_not_depend_on_the_queries_beside_it(features, table):
    alone = features.of([QUERIES[2]])
    np.testing.assert_allclose(alone.values, table.values[table.row == 2], rtol=1e-4, atol=1e-5)
