"""Indices at scale: recall by score, the choice of a setting, what is kept of a run that was cut off, and the sums."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from chapter01_baseline.studies import index_at_scale, index_growth, stand_in
from chapter01_baseline.studies.index_at_scale import IndexAtScaleConfig, choose, measure, resolved
from chapter01_baseline.studies.index_growth import (
    Assumptions,
    frontier,
    growth,
    headline,
    on_paper,
    read_points,
    summary,
)
from chapter01_baseline.studies.index_kinds import FLAT, HNSW, HNSW_SQ8, KINDS, filled_index, search_parameters
from chapter01_baseline.studies.recall import TOLERANCE, kth_scores, recall_by_score
from chapter01_baseline.studies.stand_in import ShopVectors, TokenMean, other_products, shop_queries, shop_vectors
from common.errors import CourseError

pytestmark = pytest.mark.slow

DIMENSION = 32


def clustered(rows, seed=0, distinct=None):
    """Unit vectors in clusters; only `distinct` different ones, the others equal to one of them."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(20, DIMENSION))
    vectors = centres[random.integers(0, 20, distinct or rows)] + 0.7 * random.normal(
        size=(distinct or rows, DIMENSION)
    )
    vectors = vectors[random.integers(0, len(vectors), rows)] if distinct else vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def flat_index(products):
    import faiss

    index = faiss.IndexFlatIP(products.shape[1])
    index.add(products)
    return index


def naive_recall(products, query, found, k):
    """Score everything, sort, and count what was found once and scores no worse than the k-th."""
    scores = [float(np.dot(product.astype(np.float64), query.astype(np.float64))) for product in products]
    worst = sorted(scores, reverse=True)[: min(k, len(scores))][-1]
    return sum(scores[at] >= worst - TOLERANCE for at in {int(at) for at in found if at >= 0}) / min(k, len(scores))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 60),
    distinct=st.integers(1, 60),
    k=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_recall_equals_its_naive_twin_with_equal_vectors_gaps_and_repeats(rows, distinct, k, seed):
    products, queries = clustered(rows, seed, distinct), clustered(4, seed + 1)
    flat, random = flat_index(products), np.random.default_rng(seed)
    found = random.integers(-1, rows, size=(4, k))
    recalls = recall_by_score(flat, queries, found, kth_scores(flat, queries, k))
    assert recalls.tolist() == pytest.approx(
        [naive_recall(products, *pair, k) for pair in zip(queries, found, strict=True)]
    )


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 80), distinct=st.integers(1, 80), k=st.integers(1, 12), seed=st.integers(0, 1000))
def test_a_perfect_run_has_recall_one_whichever_of_equal_products_it_returns(rows, distinct, k, seed):
    products, queries = clustered(rows, seed, distinct), clustered(3, seed + 1)
    flat = flat_index(products)
    kth = kth_scores(flat, queries, k)
    assert (recall_by_score(flat, queries, flat.search(queries, k)[1], kth) == 1).all()
    # The same search over the products in another order returns others of those that are equal.
    order = np.random.default_rng(seed).permutation(rows)
    found = flat_index(products[order]).search(queries, k)[1]
    found[found >= 0] = order[found[found >= 0]]
    assert (recall_by_score(flat, queries, found, kth) == 1).all()


def test_recall_counts_a_product_once_and_a_near_miss_not_at_all():
    products = np.eye(4, DIMENSION, dtype=np.float32)
    query = np.array([[1.0, 0.9, 0.5, 0.4999]], dtype=np.float32)
    query = np.pad(query, ((0, 0), (0, DIMENSION - 4)))
    flat = flat_index(products)
    kth = kth_scores(flat, query, 3)
    recalls = {
        str(row): recall_by_score(flat, query, np.array([row]), kth)[0] for row in ([0, 1, 2], [0, 0, 0], [0, 1, 3])
    }
    assert list(recalls.values()) == pytest.approx([1, 1 / 3, 2 / 3])


@pytest.fixture(scope="module")
def toy():
    """3,000 products and 128 queries, and an index of every kind over them."""
    products, queries = clustered(3_000, 1, distinct=2_500), clustered(128, 2)
    return queries, {kind: filled_index(kind, products, 100) for kind in KINDS}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != FLAT])
def test_every_knob_reaches_its_index(toy, kind):
    """The most effort finds more than the least, and each knob alone does, too."""
    queries, indices = toy
    kth = kth_scores(indices[FLAT], queries, 10)

    def recall(effort):
        found = indices[kind].search(queries, 10, params=search_parameters(kind, effort))[1]
        return recall_by_score(indices[FLAT], queries, found, kth).mean()

    least = {"nprobe": 2, "refine": 1} if "nprobe" in KINDS[kind].efforts[0] else {"efSearch": 10}
    most = {"nprobe": 76, "refine": 64} if "nprobe" in least else {"efSearch": 512}
    assert recall(most) > 0.97
    for knob in least:
        assert recall(most | {knob: least[knob]}) < recall(most) - 0.005


def test_measuring_asks_every_setting_and_finds_flat_perfect(toy):
    queries, indices = toy
    config = IndexAtScaleConfig(batch=64, batches=2, rounds=3)
    table = measure(indices, queries, config)
    assert not table.duplicated(["kind", "effort"]).any() and set(table["kind"]) == set(KINDS)
    assert "nprobe 128, refine 8" not in set(table["effort"]), "3,000 products have 76 cells"
    flat = table[table["kind"] == FLAT].iloc[0]
    assert (flat["recall"], flat["recall_error"], flat["times_flat"], flat["effort"]) == (1, 0, 1, "")
    assert (table["queries_per_second"] > 0).all() and table["recall"].between(0.2, 1).all()
    row = table[(table["kind"] == HNSW) & (table["effort"] == "efSearch 24")].iloc[0]
    found = indices[HNSW].search(queries, 10, params=search_parameters(HNSW, {"efSearch": 24}))[1]
    recalls = recall_by_score(indices[FLAT], queries, found, kth_scores(indices[FLAT], queries, 10))
    assert row["recall"] == pytest.approx(recalls.mean())
    assert row["recall_error"] == pytest.approx(recalls.std() / np.sqrt(128))


def test_kinds_take_turns():
    indices = {kind: SimpleNamespace(ntotal=1_000_000, d=384) for kind in KINDS}
    kinds = [kind for kind, _ in index_at_scale._turns(indices)]
    assert kinds[: len(KINDS)] == list(KINDS) and len(kinds) == sum(len(kind.efforts) for kind in KINDS.values())
    assert kinds[len(KINDS) : 2 * len(KINDS) - 1] == [kind for kind in KINDS if kind != FLAT]


def points_of(rows):
    columns = ["kind", "effort", "tuning_recall", "tuning_recall_error", "tuning_queries_per_second", "recall"]
    return pd.DataFrame(rows, columns=columns)


def test_the_setting_is_the_fastest_that_surely_reaches_the_target_on_the_tuning_queries():
    points = points_of(
        [
            (FLAT, "", 1.0, 0.0, 10, 1.0),
            (HNSW, "efSearch 16", 0.90, 0.002, 900, 0.99),
            (HNSW, "efSearch 32", 0.972, 0.002, 800, 0.99),  # reaches it, but not surely
            (HNSW, "efSearch 64", 0.98, 0.002, 500, 0.50),
            (HNSW, "efSearch 128", 0.99, 0.002, 600, 0.10),
            (HNSW_SQ8, "efSearch 16", 0.80, 0.002, 999, 1.0),
            (HNSW_SQ8, "efSearch 32", 0.96, 0.002, 500, 0.9),
        ]
    )
    chosen = choose(points, 0.97)
    assert chosen[chosen["chosen"]]["effort"].tolist() == ["", "efSearch 128", "efSearch 32"]
    assert chosen.groupby("kind")["reached"].first().to_dict() == {FLAT: True, HNSW: True, HNSW_SQ8: False}


@pytest.fixture
def small(artifacts_root, monkeypatch):
    """A config of seconds: toy vectors in place of the shop's, and few efforts."""
    products, queries = clustered(1_200, 3, distinct=1_000), clustered(64, 4)

    def toy_vectors(size, count, encoder, seed, asked="shoppers"):
        assert (size, count, encoder, seed) == (1_200, 64, "stand-in", 0)
        return ShopVectors(products, queries, "toy", artifacts_root / "index_at_scale" / "toy")

    kinds = {name: replace(kind, efforts=kind.efforts[:3]) for name, kind in KINDS.items()}
    monkeypatch.setattr(index_at_scale, "shop_vectors", toy_vectors)
    monkeypatch.setattr(index_at_scale, "KINDS", kinds)
    monkeypatch.setattr(index_at_scale, "resident_bytes", lambda file: file.stat().st_size)
    return IndexAtScaleConfig(size=1_200, batch=16, rounds=2, ef_construction=40, target=0.5)


def test_an_index_that_was_finished_is_not_built_again_after_an_interruption(small, artifacts_root, monkeypatch):
    built, real = [], index_at_scale.filled_index

    def interrupted(kind, *rest):
        built.append(kind)
        if kind == HNSW_SQ8 and built.count(kind) == 1:
            raise KeyboardInterrupt
        return real(kind, *rest)

    monkeypatch.setattr(index_at_scale, "filled_index", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index_at_scale.main(small)
    kept = {path.name.rsplit("-", 1)[0] for path in (artifacts_root / "index_at_scale" / "toy").iterdir()}
    assert kept == {FLAT, HNSW}
    points = index_at_scale.main(small)
    assert built == [FLAT, HNSW, HNSW_SQ8, HNSW_SQ8, "IVF-PQ fast-scan", "IVF-RaBitQ"]
    again = index_at_scale.main(small)
    pd.testing.assert_frame_equal(again, points)  # timings, too: read, not measured anew
    other = index_at_scale.main(replace(small, target=0.999))
    assert len(built) == 6 and set(other["target"]) == {0.999}
    assert not other["queries_per_second"].equals(points["queries_per_second"])
    index_at_scale.main(replace(small, ef_construction=50, kinds=(HNSW,)))
    assert built[6:] == [HNSW], "the others do not depend on efConstruction"


def test_the_command_names_the_size_and_what_is_not_as_in_profile_pocket():
    pocket, smoke = (index_at_scale.resolved(IndexAtScaleConfig(profile=name)) for name in ("pocket", "smoke"))
    assert index_at_scale.command(pocket).endswith(".index_at_scale --size 100000")
    assert index_at_scale.command(smoke).endswith(".index_at_scale --size 2000 --batch 128")


def test_points_say_what_was_chosen_and_what_it_took(small, tmp_path):
    csv = tmp_path / "points.csv"
    points = index_at_scale.main(replace(small, csv=csv))
    assert points.groupby("kind")["chosen"].sum().to_dict() == dict.fromkeys(KINDS, 1)
    files = points.groupby("kind")["file_mb"].first()
    assert files[FLAT] == pytest.approx(1_200 * DIMENSION * 4 / 1e6, rel=0.01)
    assert files[HNSW] - files[HNSW_SQ8] == pytest.approx(1_200 * DIMENSION * 3 / 1e6, rel=0.02), "a byte for a float"
    table = summary(points)
    assert table["index"].tolist() == list(KINDS) and set(table["products"]) == {1_200}
    found, chosen = headline(points), points[points["chosen"]].set_index("kind")
    assert found["file_share"] == files[HNSW_SQ8] / files[HNSW] and found["recall"] == chosen["recall"][HNSW_SQ8]
    # The file holds every size and encoder once: measuring again replaces.
    made = read_points(csv)
    assert set(made["command"]) == {
        "python -m chapter01_baseline.studies.index_at_scale --size 1200 --batch 16 --target 0.5 --ef-construction 40"
    }
    index_at_scale.save_points(made.assign(size=500), csv)
    index_at_scale.save_points(made.assign(queries="products"), csv)
    index_at_scale.save_points(made.assign(recall=0.25), csv)
    kept = read_points(csv)
    parts = [("shoppers", 500), ("shoppers", 1_200), ("products", 1_200)]
    assert list(zip(kept["queries"], kept["size"], strict=True)) == [part for part in parts for _ in range(len(points))]
    replaced = (kept["queries"] == "shoppers") & (kept["size"] == 1_200)
    assert (kept.loc[replaced, "recall"] == 0.25).all() and (kept.loc[~replaced, "recall"] > 0.25).any()
    table = summary(kept)
    assert table["setting"].iloc[0] == "" and table["products"].tolist() == [500] * 5 + [1_200] * 10
    with pytest.raises(CourseError, match=r"python -m chapter01_baseline\.studies\.index_at_scale"):
        read_points(tmp_path / "absent.csv")
    kept.drop(columns="threads").to_csv(csv, index=False)
    with pytest.raises(CourseError, match="'threads'"):
        read_points(csv)


def test_flat_is_read_once_with_hnsw_and_answers_the_same(small):
    vectors = index_at_scale.shop_vectors(1_200, 64, "stand-in", 0)
    config = resolved(small)
    for kind in config.kinds:
        index_at_scale.build(kind, config, vectors)
    shared = index_at_scale.load(config, vectors)
    alone = index_at_scale.load(replace(config, kinds=(FLAT,)), vectors)
    assert list(shared) == list(KINDS)
    for answer, expected in zip(
        *(indices[FLAT].search(vectors.queries, 10) for indices in (shared, alone)), strict=True
    ):
        np.testing.assert_array_equal(answer, expected)


def test_the_benchmark_has_the_fields_of_a_row(small):
    from course.bench import FIELDS
    from course.benchmarks import index_at_scale as benchmark

    rows = benchmark.main(size=1_200, batch=16, rounds=2, ef_construction=40, target=0.5)
    assert [row["name"].rsplit(" ", 1)[1] for row in rows] == ["shoppers", "products"]
    for row in rows:
        assert row["name"].startswith("index-at-scale, ") and set(FIELDS) < set(row)
        assert row["peer"] == "faiss.IndexFlatIP" and row["memory_share"] < 1 and json.dumps(row)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(CourseError, match="HNSW64"):
        resolved(IndexAtScaleConfig(kinds=("HNSW64",)))
    with pytest.raises(CourseError, match="at least 1,000"):
        resolved(IndexAtScaleConfig(size=999))
    with pytest.raises(CourseError, match="rounds"):
        resolved(IndexAtScaleConfig(rounds=1, batches=2))
    assert resolved(IndexAtScaleConfig(kinds=(HNSW,))).kinds == (FLAT, HNSW)
    assert resolved(IndexAtScaleConfig(profile="full")).size == 1_000_000


@pytest.mark.parametrize("rows", [5_000, 40_000])
def test_resident_memory_is_that_of_the_index(tmp_path, rows):
    import faiss

    file = tmp_path / "index.faiss"
    faiss.write_index(flat_index(np.zeros((rows, 256), dtype=np.float32)), str(file))
    assert index_at_scale.resident_bytes(file) == pytest.approx(rows * 256 * 4, rel=0.2)


def test_the_stand_in_equals_its_naive_twin():
    sample = ["red leather sofa", "red wool rug", "oak table", "table lamp"]
    encode, (matrix, tokenizer) = TokenMean(sample).encode, stand_in.pretrained_tokens()
    texts = ["red sofa", "table table oak", "", "xylophone"]
    read = [set(tokenizer.encode(text, add_special_tokens=False).tokens) for text in sample]
    for text, vector in zip(texts, encode(texts), strict=True):
        tokens = tokenizer.encode(text, add_special_tokens=False).tokens or ["[UNK]"]
        weights = [np.log(5 / (1 + sum(token in one for one in read))) for token in tokens]
        total = sum(
            w * matrix[tokenizer.token_to_id(t)].astype(np.float64) for w, t in zip(weights, tokens, strict=True)
        )
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-6)


def test_queries_are_different_shoppers_queries_of_every_kind():
    queries = shop_queries(40)
    assert len(set(queries)) == len(queries) == 40 and queries == shop_queries(40) != shop_queries(40, seed=1)
    assert all(2 <= len(query) <= 80 for query in queries)


def test_products_of_other_shops_are_different_and_of_no_indexed_product():
    texts = other_products(40)
    assert len(set(texts)) == len(texts) == 40 and texts == other_products(40) != other_products(40, seed=1)
    shop = stand_in.load_catalogue("pocket_shop", size=400, photos=False, queries_per_kind=0).products
    assert set(texts).isdisjoint(stand_in.product_text(shop))


def test_vectors_are_made_once_chunk_by_chunk_and_know_their_recipe(artifacts_root, monkeypatch):
    encoded = []

    class Encoder:
        encoder_id = "toy"

        def encode(self, texts, desc):
            encoded.append(len(texts))
            numbers = np.array([[len(text), text.count(" "), 1.0] for text in texts], dtype=np.float32)
            return SimpleNamespace(vectors=numbers)

    monkeypatch.setattr(stand_in, "load_text_encoder", lambda name, cache: Encoder())
    monkeypatch.setattr(stand_in, "CHUNK", 150)
    made = shop_vectors(400, 16, "toy")
    assert encoded == [150, 150, 100, 16, 16] and made.products.shape == (400, 3) and made.queries.shape == (16, 3)
    texts = stand_in.product_text(
        stand_in.load_catalogue("pocket_shop", size=400, photos=False, queries_per_kind=0).products
    )
    assert made.products[:, 0].tolist() == [len(text) for text in texts]
    assert made.queries[:, 0].tolist() == [len(query) for query in shop_queries(16)]
    similar = shop_vectors(400, 16, "toy", queries="products")
    assert similar.queries[:, 0].tolist() == [len(text) for text in other_products(16)]
    assert similar.folder == made.folder, "both are asked of the same indices"
    monkeypatch.setattr(stand_in, "load_catalogue", None)
    again = shop_vectors(400, 16, "toy")
    np.testing.assert_array_equal(again.products, made.products)
    Encoder.encoder_id = "another"
    with pytest.raises(TypeError):
        shop_vectors(400, 16, "toy")


def test_the_frontier_is_what_no_other_point_beats():
    random = np.random.default_rng(0)
    points = pd.DataFrame({"recall": random.integers(0, 30, 80) / 30, "queries_per_second": random.integers(1, 40, 80)})
    edge = frontier(points)

    def beaten(one):
        no_worse = (points["recall"] >= one.recall) & (points["queries_per_second"] >= one.queries_per_second)
        better = (points["recall"] > one.recall) | (points["queries_per_second"] > one.queries_per_second)
        return (no_worse & better).any()

    expected = {(one.recall, one.queries_per_second) for one in points.itertuples() if not beaten(one)}
    assert set(edge.itertuples(index=False, name=None)) == expected and edge["recall"].is_monotonic_increasing
    assert len(edge) == len(expected)


def grown(kind=FLAT, power=1.0):
    """Points of three sizes, in which a query takes size^power / 10^6 seconds on each of two threads."""
    sizes = np.array([10_000, 100_000, 1_000_000])
    return pd.DataFrame(
        {
            "size": sizes,
            "kind": kind,
            "effort": "",
            "chosen": True,
            "reached": True,
            "recall": 1.0,
            "queries_per_second": 2e6 / sizes**power,
            "times_flat": 1.0,
            "resident_mb": sizes * 1_000 / 1e6,
            "file_mb": sizes * 1_000 / 1e6,
            "build_seconds": sizes / 1_000,
            "threads": 2,
            "batch": 1_024,
            "target": 0.97,
            "k": 10,
        }
    )


def test_each_target_has_the_setting_of_the_tuning_queries_or_none():
    rows = [(FLAT, "", 1.0, 0.0, 10.0, 1.0), (HNSW, "a", 0.92, 0.0, 90.0, 0.85), (HNSW, "b", 0.97, 0.0, 30.0, 0.96)]
    points = points_of(rows).assign(times_flat=[1.0, 9.0, 3.0])
    table = index_growth.by_target(points, (0.9, 0.95, 0.99))
    assert table.loc[FLAT].tolist() == [1.0, 1.0, 1.0]
    # At 0.9 the reporting queries would have chosen the slower setting; at 0.99 there is none.
    assert table.loc[HNSW].tolist()[:2] == [9.0, 3.0] and np.isnan(table.loc[HNSW].iloc[2])


def test_growth_is_a_power_and_is_carried_on_as_one():
    points = pd.concat([grown(FLAT), grown(HNSW, power=0.25)])
    table = growth(points)
    assert index_growth.exponent(table[table["kind"] == HNSW], "seconds_per_query") == pytest.approx(0.25)
    given_ = Assumptions(machine_gb=100, usable=0.5, threads=10, thread_yield=0.5, queries_per_second=100)
    paper = on_paper(points, (10**8,), replace(given_, shard_at_most=25_000_000)).set_index("index")
    # 10^8 products of 1,000 bytes are 100 GB: two machines of 50 GB, but four shards of 25 million.
    assert paper["memory_gb"].tolist() == pytest.approx([100, 100]) and paper["shards"].tolist() == [4, 4]
    # Flat: 25 s a query and shard; 100 queries a second of 4 shards are 10,000 thread-seconds for machines of 5.
    assert paper["latency_ms"][FLAT] == pytest.approx(25_000) and paper["machines"][FLAT] in (2_000, 2_001)
    assert paper["latency_ms"][HNSW] == pytest.approx(1e-3 * 25e6**0.25) and paper["machines"][HNSW] == 2
    # 25,000 seconds of two threads a shard, four of them, on two machines of 5: 20,000 seconds.
    assert paper["build_hours"][HNSW] == pytest.approx(20_000 / 3_600)
    # Flat's 2,000 machines are there for the queries: four of them build a shard each.
    assert paper["build_hours"][FLAT] == pytest.approx(10_000 / 3_600)
    assert paper["vectors_tb"][FLAT] == pytest.approx(0.1536) and paper["embed_days"][FLAT] == pytest.approx(
        5.787, abs=1e-3
    )


def test_more_memory_needs_fewer_machines_and_one_size_is_too_few():
    points = grown(HNSW, power=0.1)
    assert list(on_paper(points)["products"]) == [10**8, 10**9]
    machines = [
        on_paper(points, (10**9,), Assumptions(machine_gb=size))["machines"].item() for size in (64, 256, 2_048)
    ]
    assert machines[0] > machines[1] > machines[2] >= 1
    with pytest.raises(CourseError, match="one size only"):
        on_paper(points[:1])


def test_the_pictures_show_every_kind(small):
    points = index_at_scale.main(small)
    figure = Figure(figsize=(12, 4))
    left, *growing = figure.subplots(1, 4)
    index_growth.draw_frontier(left, points)
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(KINDS)
    index_growth.draw_growth(growing, pd.concat([grown(FLAT), grown(HNSW, power=0.25)]))
    labels = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in growing]
    assert labels[0] == ["Flat (1.00)", "HNSW32 (0.25)"] and labels[1] == labels[2] == ["Flat (1.00)", "HNSW32 (1.00)"]
    figure.canvas.draw()
