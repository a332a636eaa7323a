"""The index on Milvus against the one in FAISS: same hits in the same order, filters against a twin in pandas, and what
only a server has: files that are shared and closed, an address, products that change."""

from __future__ import annotations

import ast
import fcntl
import inspect
import socket
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import milvus_connection, milvus_index
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.index import DenseIndex, DenseSearcher
from common.milvus_filter import product_filter, quoted
from common.milvus_index import MilvusIndex
from common.search import Searcher
from tests.common import index_toys
from tests.common.index_toys import DIMENSION, LengthEncoder, names, recall, unit

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

assert_same = partial(index_toys.assert_same, atol=1e-5)


def with_ties(rows, distinct, seed=0):
    drawn = np.random.default_rng(seed).integers(0, distinct, rows)
    return Embeddings(unit(distinct, seed).vectors[drawn], "encoder")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return tmp_path_factory.mktemp("milvus") / "new folder" / "shop.db"


@pytest.fixture(scope="module")
def pair(uri):
    """300 products of 40 vectors, so nearly all tie, in Milvus and in FAISS."""
    products, ids = with_ties(300, 40), names(300)
    with MilvusIndex.build(products, ids, uri=uri, collection="ties") as index:
        yield index, DenseIndex.build(products, ids)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    k=st.integers(1, 320),
    seed=st.integers(0, 1000),
    share=st.one_of(st.none(), st.floats(0, 1)),
    excluded=st.one_of(st.none(), st.integers(0, 60)),
)
def test_flat_equals_faiss_with_ties_and_filters(pair, k, seed, share, excluded):
    index, faiss_index = pair
    random, ids, queries = np.random.default_rng(seed), faiss_index.ids.tolist(), unit(3, seed)
    allowed = None if share is None else {i for i in ids if random.random() < share} | {"unknown", 'a"b'}
    best = faiss_index.search_vectors(queries, 60).ids
    exclude = None if excluded is None else [set(best[0][:excluded]), {"unknown"}, set(ids[excluded:])]
    found = index.search_vectors(queries, k, allowed=allowed, exclude=exclude)
    assert_same(found, faiss_index.search_vectors(queries, k, allowed=allowed, exclude=exclude))


def test_calls_are_bounded_and_change_nothing(pair, monkeypatch):
    index, faiss_index = pair
    calls = []
    call = milvus_connection.MilvusConnection.call

    def record(self, method, *arguments, **options):
        calls.append((method, options))
        return call(self, method, *arguments, **options)

    monkeypatch.setattr(milvus_connection.MilvusConnection, "call", record)
    monkeypatch.setattr(milvus_index, "VECTORS_PER_CALL", 500)
    monkeypatch.setattr(milvus_index, "IDS_PER_FILTER", 90)
    queries, allowed = unit(40, 5), faiss_index.ids[:200].tolist()
    found = index.search_vectors(queries, 10, allowed=allowed)
    assert_same(found, faiss_index.search_vectors(queries, 10, allowed=allowed))
    assert all(len(options["data"]) * options["limit"] <= 500 for _, options in calls)
    assert {options["filter"].count('"p') for _, options in calls} == {90, 20}
    calls.clear()
    monkeypatch.setattr(milvus_index, "ROWS_PER_CALL", 64)
    assert index.ids.tolist() == faiss_index.ids.tolist()
    assert calls[0][1]["batch_size"] == 64


def test_more_ties_than_milvus_gives_are_cut_and_too_many_hits_refused(pair, monkeypatch):
    index, faiss_index = pair
    monkeypatch.setattr(milvus_index, "MAX_CANDIDATES", 50)
    queries = Embeddings(faiss_index.vectors[:2], "encoder")
    found, exact = index.search_vectors(queries, 20), faiss_index.search_vectors(queries, 20)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-5)
    with pytest.raises(CourseError, match="51 together; Milvus gives 50"):
        index.search_vectors(queries, 49, exclude=[["a"], ["a", "b"]])


@pytest.fixture(scope="module")
def graph(uri):
    """2,000 random products, hard for a graph of few edges, and the exact answers to 60 queries."""
    products, ids, queries = unit(2000, dimension=48), names(2000), unit(60, 9, dimension=48)
    with MilvusIndex.build(products, ids, "hnsw", uri=uri, collection="graph", M=8, ef_construction=80) as index:
        yield index, DenseIndex.build(products, ids), queries


def test_hnsw_finds_nearly_what_flat_finds_and_more_with_a_larger_ef(graph, monkeypatch):
    index, faiss_index, queries = graph
    exact, recalls = faiss_index.search_vectors(queries, 5), {}
    for ef in (8, 64, 256):
        monkeypatch.setattr(index, "ef_search", ef)
        found = index.search_vectors(queries, 5)
        recalls[ef] = recall(found, exact)
    assert recalls[8] + 0.2 < recalls[64] <= recalls[256], recalls
    assert recalls[256] > 0.97
    common = found.ids == exact.ids
    np.testing.assert_allclose(found.scores[common], exact.scores[common], atol=1e-5)


def test_the_parameters_of_the_graph_are_those_that_were_asked_for(uri):
    products, ids, queries = unit(700, dimension=48), names(700), unit(60, 9, dimension=48)
    exact, recalls = DenseIndex.build(products, ids).search_vectors(queries, 5), []
    for parameters in ({"M": 2, "ef_construction": 200}, {"M": 24, "ef_construction": 4}, {"M": 24}):
        with MilvusIndex.build(products, ids, "hnsw", uri=uri, collection="edges", ef_search=16, **parameters) as index:
            recalls.append(recall(index.search_vectors(queries, 5), exact))
    assert recalls[0] + 0.2 < recalls[1] < recalls[2] - 0.02, recalls


@pytest.mark.parametrize("share", [0.004, 0.1, 0.9])
def test_hnsw_fills_the_rows_whatever_is_allowed(graph, monkeypatch, share):
    index, faiss_index, queries = graph
    monkeypatch.setattr(index, "ef_search", 400)
    random = np.random.default_rng(1)
    allowed = {i for i in faiss_index.ids if random.random() < share}
    exact = faiss_index.search_vectors(queries, 10, allowed=allowed)
    exclude = [set(row[:2]) - {None} for row in exact.ids]
    exact = faiss_index.search_vectors(queries, 10, allowed=allowed, exclude=exclude)
    found = index.search_vectors(queries, 10, allowed=allowed, exclude=exclude)
    assert recall(found, exact) > 0.95
    assert [len(found.row(at)) for at in range(60)] == [min(10, len(allowed) - 2)] * 60
    assert set(found.ids.ravel()) - {None} <= allowed


def test_more_hits_than_ef_are_all_found(graph, monkeypatch):
    index, faiss_index, queries = graph
    monkeypatch.setattr(index, "ef_search", 8)
    assert recall(index.search_vectors(queries, 150), faiss_index.search_vectors(queries, 150)) > 0.85


PATHS = [
    None,
    "Garden",
    "Garden > Tools",
    "Garden > Tools > Spades",
    "Garden >!",
    "Gardening",
    "Garden > Tool_",
    "100% Cotton > T_Shirts",
    '5" Screens > "Quoted"',
    "It's > Käse und Öl > 日本",
    "Back\\slash > \\",
    "New\nLine > Tab\tbed\r",
    '") or ("" == "',
]


@pytest.fixture(scope="module")
def shop(uri):
    """Products of hostile names and categories, some without a price, in both indices and as a table."""
    random, products = np.random.default_rng(7), unit(130, 7)
    table = pd.DataFrame(
        {
            "product_id": [f"p{number}\"\\' or 1 == 1 [%_]" for number in range(130)],
            "category": [PATHS[number % len(PATHS)] for number in range(130)],
            "price": np.where(random.random(130) < 0.2, np.nan, random.integers(0, 9, 130) / 2),
        }
    )
    with MilvusIndex.build(
        products, table.product_id, uri=uri, collection="shop", categories=table.category, prices=table.price
    ) as index:
        yield index, DenseIndex.build(products, table.product_id), table


def twin(table, category, price_min, price_max):
    """The ids that a filter lets through, by pandas."""
    keep = pd.Series(True, index=table.index)
    if category is not None:
        keep &= (table.category == category) | table.category.str.startswith(category + " > ").eq(True)
    if price_min is not None:
        keep &= table.price >= price_min
    if price_max is not None:
        keep &= table.price <= price_max
    return table.product_id[keep].tolist()


steps = [" > ".join(path.split(" > ")[:depth]) for path in PATHS if path for depth in (1, 2, 3)]
categories = st.one_of(
    st.none(),
    st.sampled_from(steps),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.text("\"\\'\n) or", max_size=9),
)
bounds = st.one_of(st.none(), st.integers(-2, 9), st.floats(-1, 5), st.sampled_from([1e-9, 1e300, -0.0]))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(category=categories, price_min=bounds, price_max=bounds, few=st.booleans())
def test_filters_equal_their_twin_in_pandas(shop, category, price_min, price_max, few):
    index, faiss_index, table = shop
    permitted = twin(table, category, price_min, price_max)
    allowed = table.product_id[:70].tolist() if few else None
    view = index.only(category=category, price_min=price_min, price_max=price_max)
    found = view.search_vectors(unit(2, 3), 130, allowed=allowed)
    permitted = permitted if allowed is None else set(permitted) & set(allowed)
    assert_same(found, faiss_index.search_vectors(unit(2, 3), 130, allowed=permitted))


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_text_is_read_back_by_milvus_as_it_was(text):
    from milvus_lite.search.filter.tokens import tokenize

    tokens = tokenize(quoted(text))
    assert [token.value for token in tokens] == [text, None]


def test_filters_narrow_one_another_and_leave_the_index_whole(shop):
    index, _, table = shop
    view = index.only(category="Garden").only(price_max=2).only()
    found = view.search_vectors(unit(1), 130)
    assert set(found.ids[0]) - {None} == set(twin(table, "Garden", None, 2))
    assert len(index.search_vectors(unit(1), 130).row(0)) == len(view) == 130
    assert product_filter() == ""
    assert product_filter(price_min=1, price_max=np.float64(2.5)) == "price >= 1.0 and price <= 2.5"


@pytest.mark.parametrize("price", [float("nan"), float("inf"), "1 or 1 == 1", True])
def test_a_price_that_is_no_number_is_refused(shop, price):
    with pytest.raises(CourseError, match="no finite number"):
        shop[0].only(price_min=price)
    with pytest.raises(CourseError, match="no finite number"):
        shop[0].set_prices({"p1": price})
    with pytest.raises(CourseError, match="half a surrogate"):
        shop[0].only(category="\ud800")


def test_products_come_go_and_change(uri):
    products, ids = with_ties(90, 30), [f"p{number:02}" for number in range(90)]
    where = [f"A > {number % 3}" for number in range(80)]
    for kind in ("flat", "hnsw"):
        index = MilvusIndex.build(
            Embeddings(products.vectors[:80], "encoder"), ids[:80], kind, uri=uri, categories=where, prices=[5.0] * 80
        )
        index.upsert(Embeddings(products.vectors[40:], "encoder"), ids[40:], prices=[7] * 50)
        index.set_prices({"p00": 7, "p01": None, "p89": 1.5})
        index.delete([*ids[10:20], "unknown"])
        left = ids[:10] + ids[20:]
        table = pd.DataFrame({"product_id": left, "category": [where[int(i[1:])] if i < "p40" else None for i in left]})
        table["price"] = [{"p00": 7, "p01": np.nan, "p89": 1.5}.get(i, 5 if i < "p40" else 7) for i in left]
        index.close()
        with MilvusIndex.load(uri) as index:
            assert len(index) == 80
            assert index.ids.tolist() == left
            exact = DenseIndex.build(Embeddings(products.vectors[[int(i[1:]) for i in left]], "encoder"), left)
            for asked in ((None, None, None), ("A", 5, None), ("A > 1", None, 6), (None, 1, 6.5)):
                permitted = twin(table, *asked)
                view = index.only(category=asked[0], price_min=asked[1], price_max=asked[2])
                found = view.search_vectors(unit(4, 8), 80)
                assert_same(found, exact.search_vectors(unit(4, 8), 80, allowed=permitted))
            with pytest.raises(CourseError, match="'p10' is not in the index; add it with upsert"):
                index.set_prices({"p00": 1, "p10": 2})


def test_reopened_it_answers_as_before_and_nothing_is_printed(uri, capfd):
    products, ids, queries = unit(200), names(200), unit(9, 2)
    built = MilvusIndex.build(products, ids, "hnsw", uri=uri, collection="again", M=6, ef_search=33)
    before = built.search_vectors(queries, 7)
    built.close()
    built.close()
    with pytest.raises(CourseError, match="this index was closed; load it again"):
        built.search_vectors(queries, 7)
    with MilvusIndex.load(str(uri), "again") as index:
        assert (index.kind, index.encoder_id, index.dimension, len(index)) == ("hnsw", "encoder", DIMENSION, 200)
        assert index.parameters == {"M": 6, "ef_construction": 200, "ef_search": 33}
        assert index.ef_search == 33
        assert index.ids.tolist() == sorted(ids)
        assert_same(index.search_vectors(queries, 7), before)
    assert capfd.readouterr() == ("", "")


def test_an_index_without_products_finds_nothing(uri):
    with MilvusIndex.build(unit(0), [], "hnsw", uri=uri, collection="empty") as index:
        assert len(index) == len(index.ids) == 0
        assert index.search_vectors(unit(2), 3).ids.tolist() == [[None] * 3] * 2
        assert index.search_vectors(unit(0), 3).ids.shape == (0, 3)


def test_a_dense_searcher_takes_it_whole_or_narrowed(shop):
    index, faiss_index, table = shop
    searcher, faiss_searcher = (DenseSearcher(LengthEncoder(unit(130, 7)), one) for one in (index, faiss_index))
    assert isinstance(searcher, Searcher)
    queries, exclude = ["four", " ", "seven77"], [table.product_id[4:5], (), ()]
    found = searcher.search(queries, 4, exclude=exclude)
    assert_same(found, faiss_searcher.search(queries, 4, exclude=exclude))
    found = DenseSearcher(LengthEncoder(unit(130, 7)), index.only(category="Garden")).search(queries, 40)
    assert_same(found, faiss_searcher.search(queries, 40, allowed=twin(table, "Garden", None, None)))


def test_another_encoder_is_refused(shop, pair):
    other = unit(1, encoder_id="other")
    for call in (lambda: shop[0].search_vectors(other, 3), lambda: shop[0].upsert(other, ["new"])):
        with pytest.raises(CourseError, match="holds embeddings of 'encoder', not of 'other'"):
            call()
    with pytest.raises(CourseError, match="dimension 16"):
        shop[0].search_vectors(unit(1, dimension=8), 3)
    with pytest.raises(CourseError, match="k must be"):
        shop[0].search_vectors(unit(1), 0)
    assert shop[0].search_vectors(unit(1), 3, allowed=[]).row(0) == []


def test_a_new_build_takes_over_whole_and_the_old_index_says_so(uri, monkeypatch):
    old = MilvusIndex.build(unit(20), names(20), uri=uri, collection="switch")
    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "_switch_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            MilvusIndex.build(unit(30, encoder_id="new"), names(30), uri=uri, collection="switch")
    with MilvusIndex.load(uri, "switch") as index:
        assert (len(index), index.encoder_id) == (20, "encoder")
    with MilvusIndex.build(unit(30, encoder_id="new"), names(30), uri=uri, collection="switch") as new:
        assert len(new) == 30
        assert sum(name.startswith("switch_") for name in new._connection.call("list_collections")) == 1
        with pytest.raises(CourseError, match=r"built again since it was loaded, or dropped\. Load it again"):
            old.search_vectors(unit(1), 3)
    old.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ivf_pq"}, "'ivf_pq' is unknown on Milvus; choose one of flat, hnsw"),
        ({"ef": 3}, "kind 'flat' has no parameter 'ef'"),
        ({"kind": "hnsw", "M": 1}, "M must be a whole number of at least 2"),
        ({"ids": ["a", "a", "b"]}, "1 product ids are repeated"),
        ({"prices": [1.0]}, "1 values of price for 3 products"),
        ({"categories": [None] * 4}, "4 values of category_path for 3 products"),
        ({"prices": [1, "2", None]}, "'2' is no finite number"),
        ({"collection": 'x" or 1'}, "letters, digits"),
        ({"uri": "shop"}, 'a local file, "shop.db", or the address'),
        ({"uri": "http://"}, 'a local file, "shop.db", or the address'),
        ({"embeddings": Embeddings(np.full((3, 4), np.nan, np.float32), "e")}, "not finite"),
    ],
)
def test_bad_builds_are_refused(uri, change, message):
    arguments = {"embeddings": unit(3), "ids": ["a", "b", "c"], "uri": uri, "collection": "bad", **change}
    with pytest.raises(CourseError, match=message):
        MilvusIndex.build(arguments.pop("embeddings"), arguments.pop("ids"), **arguments)


def test_what_is_not_there_is_missing(tmp_path, shop, uri):
    with pytest.raises(MissingArtifact, match="no index 'products' here"):
        MilvusIndex.load(tmp_path / "none.db")
    assert not list(tmp_path.iterdir())
    with pytest.raises(MissingArtifact, match="no index 'none' here"):
        MilvusIndex.load(uri, "none")
    shop[0]._connection.call("create_collection", "foreign_1", dimension=4)
    shop[0]._connection.call("create_alias", "foreign_1", "foreign")
    with pytest.raises(CourseError, match="'foreign' is not an index of format 1"):
        MilvusIndex.load(uri, "foreign")


def test_a_file_that_another_process_holds_or_that_is_none_is_refused(tmp_path):
    (tmp_path / "old.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(CourseError, match="another process has it open, or it was not written by"):
        MilvusIndex.load(tmp_path / "old.db")
    held = tmp_path / "held.db"
    first = MilvusIndex.build(unit(5), names(5), uri=held)
    second = MilvusIndex.load(held)
    first.close()
    assert len(second) == 5, "the file is shared until the last index of it is closed"
    second.close()
    with (held / "LOCK").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # refused unless closing gave the file back
        with pytest.raises(CourseError, match="another process has it open"):
            MilvusIndex.load(held)
    with MilvusIndex.load(held) as again:
        assert len(again) == 5


@pytest.fixture
def server(tmp_path):
    """A Milvus server on a port of this machine: the path that a cluster's address takes."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(str(tmp_path / "data"))
    yield server, f"http://user:secret@127.0.0.1:{port}"
    server.stop(grace=0).wait()
    database.close()


def test_an_address_takes_the_same_calls_and_a_lost_server_is_an_error(server, pair):
    (process, address), faiss_index = server, pair[1]
    products, ids, queries = Embeddings(faiss_index.vectors, "encoder"), faiss_index.ids.tolist(), unit(4, 4)
    with pytest.raises(MissingArtifact, match=r"^http://127\.0\.0\.1:\d+: no index"):
        MilvusIndex.load(address)
    MilvusIndex.build(products, ids, uri=address, prices=range(300)).close()
    index = MilvusIndex.load(address)
    assert_same(index.search_vectors(queries, 9), faiss_index.search_vectors(queries, 9))
    found = index.only(price_max=99).search_vectors(queries, 9)
    assert_same(found, faiss_index.search_vectors(queries, 9, allowed=ids[:100]))
    process.stop(grace=0).wait()
    with pytest.raises(CourseError, match=r"no Milvus server answers at http://127\.0\.0\.1") as raised:
        index._connection.call("list_collections", timeout=0.3)
    assert "secret" not in str(raised.value)
    index.close()


def test_no_server_at_the_address_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(CourseError, match=r"no Milvus server answers at http://127.*MILVUS_TOKEN.*needs no server"):
        MilvusIndex.load(f"http://127.0.0.1:{port}")


def test_the_token_goes_to_a_server_and_to_no_file(monkeypatch, tmp_path):
    import pymilvus

    asked = {}
    monkeypatch.setenv(milvus_connection.TOKEN, "root:secret")
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda uri, **options: asked.update({uri: options.get("token")}))
    for uri in ("https://cluster:19530", str(tmp_path / "shop.db")):
        milvus_connection.MilvusConnection(uri).close()
    assert list(asked.values()) == ["root:secret", None]


@pytest.mark.parametrize("package", ["pymilvus", "milvus_lite"])
def test_without_the_packages_the_error_says_how_to_get_them(monkeypatch, tmp_path, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CourseError, match=rf'pip install "product-search-course\[scale\]" \({package}.* is missing'):
        MilvusIndex.build(unit(1), ["a"], uri=tmp_path / "shop.db")


def test_the_client_is_imported_only_when_it_is_used():
    for module in (milvus_connection, milvus_index):
        body = ast.parse(inspect.getsource(module)).body
        imported = {name.name for node in body if isinstance(node, ast.Import) for name in node.names}
        imported |= {node.module for node in body if isinstance(node, ast.ImportFrom)}
        assert "numpy" in imported or "logging" in imported
        assert not {name.split(".")[0] for name in imported} & {"pymilvus", "milvus_lite", "grpc"}


@pytest.mark.slow
def test_a_small_shop_by_minilm_is_found_as_by_faiss(uri):
    from common.encoders import load_text_encoder

    things = {"spade": "Garden > Tools", "hose": "Garden > Watering", "lamp": "Home", "mug": "Home > Kitchen"}
    colours = ["red", "dark green", "sky blue", "black", "off-white", "copper"]
    kinds = ["small", "children's", "heavy-duty", "folding", "antique"]
    rows = [(f"{a} {b} {thing}", path) for a in kinds for b in colours for thing, path in things.items()]
    table = pd.DataFrame([*rows, *rows[:20]], columns=["title", "category"])  # twenty stand in the shop twice
    table["product_id"], table["price"] = names(140), np.arange(140) / 2
    encoder = load_text_encoder(engine="torch", max_length=32)
    embeddings = encoder.encode(table.title.tolist())
    queries = ["a spade for my daughter", "green hose", "cup for coffee", "old lamp made of copper", "navy"]
    queries.append("antique red mug")
    with MilvusIndex.build(
        embeddings, table.product_id, uri=uri, collection="minilm", categories=table.category, prices=table.price
    ) as index:
        exact = DenseSearcher(encoder, DenseIndex.build(embeddings, table.product_id))
        for k in (1, 10, 140):
            assert_same(DenseSearcher(encoder, index).search(queries, k), exact.search(queries, k))
        narrowed = DenseSearcher(encoder, index.only(category="Garden", price_min=10)).search(queries, 10)
        assert_same(narrowed, exact.search(queries, 10, allowed=twin(table, "Garden", 10, None)))
