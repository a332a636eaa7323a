"""The costs and the map: what people look at."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest

from chapter02_two_tower import choose, reindex
from chapter02_two_tower.costs import costs, products_per_second, seconds_per_query
from chapter02_two_tower.embedding_map import draw_map, embedding_map, sample_for_map
from common.catalogue import product_text
from common.errors import CourseError

pytestmark = pytest.mark.slow

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def both(shop):
    catalogue, artifacts = shop
    reindex.main(reindex.ReindexConfig(catalogue=str(catalogue.folder)))
    choose.main(choose.ChooseConfig(catalogue=str(catalogue.folder)))
    return reindex.load_both(artifacts, catalogue)


def test_costs_are_of_every_index_and_positive(both):
    indices, towers = both
    table = costs(indices, towers, ["rug", "desk lamp"], products=70, k=10).set_index(["system", "index"])
    assert list(table.index) == [(s, i) for s in ("MiniLM", "two towers") for i in ("flat", "hnsw")]
    assert (table.drop(columns="dimension") > 0).all(axis=None)
    assert table["dimension"].tolist() == [32, 32, 12, 12]
    assert table.loc[("two towers", "hnsw"), "memory_mb"] > table.loc[("two towers", "flat"), "memory_mb"]
    assert (table["p95_ms"] >= table["total_ms"]).all()


def test_no_cache_is_timed_in_place_of_the_encoder(both, monkeypatch):
    indices, towers = both
    texts = product_text(indices.catalogue.products.head(70))
    encoder = towers.product_encoder
    encoder.encode(texts)
    sent, embed = [], encoder._engine.embed
    monkeypatch.setattr(encoder._engine, "embed", lambda texts, advance: sent.extend(texts) or embed(texts, advance))
    encoder.encode(texts)
    assert not sent, "the cache does not know these texts; nothing is tested here"
    products_per_second(encoder, texts)
    assert set(sent) == set(texts)
    sent.clear()
    assert seconds_per_query(encoder, towers.dense.index, texts[:5], 10).shape == (5, 2)
    assert sent[-5:] == texts[:5]


@pytest.fixture(scope="module")
def sample(shop):
    queries = shop[0].split_queries("test")
    return sample_for_map(shop[0], queries, shop[0].truth, n_queries=4, n_products=90, links_per_query=3, seed=1)


def test_the_sample_links_queries_to_relevant_products_that_are_in_it(shop, sample):
    assert len(sample.queries) == 4 and len(sample.products) == 90 and sample.products["product_id"].is_unique
    assert set(sample.links["query_id"]) == set(sample.queries["query_id"])
    assert set(sample.links["product_id"]) <= set(sample.products["product_id"])
    assert sample.links.groupby("query_id").size().max() <= 3
    grades = sample.links.merge(shop[0].truth, on=["query_id", "product_id"])["grade"]
    assert len(grades) == len(sample.links) and (grades >= 2).all()
    with pytest.raises(CourseError, match="relevant"):
        sample_for_map(shop[0], shop[0].queries, shop[0].truth.assign(grade=1))


def test_the_map_is_seeded_and_draws_a_line_a_link(both, sample):
    import matplotlib.pyplot as plt

    once, again = (embedding_map(both[1].dense, sample, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(once.products, again.products)
    assert np.isfinite(once.products[["x", "y"]]).all(axis=None) and len(once.queries) == 4
    figure, axes = plt.subplots()
    draw_map(axes, once, title="after")
    assert len(axes.lines) == len(sample.links)
    words = {text.get_text() for text in axes.texts}
    assert words == set(sample.queries["query"])
    drawn = sum(len(points.get_offsets()) for points in axes.collections)
    assert drawn == len(sample.products) + len(sample.queries)
    plt.close(figure)


def test_products_lie_near_what_they_are_like(both, sample):
    laid_out = embedding_map(both[1].dense, sample, seed=0).products
    index = both[1].dense.index
    rows = [int(np.flatnonzero(index.ids == product_id)[0]) for product_id in laid_out["product_id"]]
    likeness = index.vectors[rows] @ index.vectors[rows].T
    places = laid_out[["x", "y"]].to_numpy()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    neighbours = likeness[np.arange(len(rows)), distance.argmin(axis=1)].mean()
    assert neighbours > likeness.mean() + 0.5 * likeness.std()
