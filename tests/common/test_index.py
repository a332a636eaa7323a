"""The dense index against brute force in numpy, filters against their naive twins, saving against a kill."""

from __future__ import annotations

import json

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chapter01_baseline.index_frontier import measure_frontier
from common.encoders import Embeddings
from common.errors import CourseError, MissingArtifact
from common.index import FEW_ALLOWED, DenseIndex, DenseSearcher
from common.quantised_index import decode, ivf_pq_parameters
from common.search import Searcher, empty_hits
from tests.common.index_toys import DIMENSION, LengthEncoder, assert_same, names, recall, unit


def clustered(rows, seed=0, clusters=30, dimension=DIMENSION):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, dimension))
    vectors = centres[random.integers(0, clusters, rows)] + 0.3 * random.normal(size=(rows, dimension))
    return Embeddings((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), "encoder")


def brute_force(products, ids, queries, k, allowed=None, exclude=None):
    """Score everything, strike out what is not wanted, sort in Python."""
    hits = empty_hits(len(queries), k)
    for row, query in enumerate(queries.vectors):
        scores = np.einsum("d,nd->n", query, products.vectors)
        out = exclude[row] if exclude is not None else ()
        pairs = [
            (-score, product_id)
            for score, product_id in zip(scores, ids, strict=True)
            if product_id not in out and (allowed is None or product_id in allowed)
        ]
        for column, (score, product_id) in enumerate(sorted(pairs)[:k]):
            hits.ids[row, column], hits.scores[row, column] = product_id, -score
    return hits


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    n=st.integers(0, 120),
    distinct=st.integers(1, 120),
    k=st.integers(1, 130),
    seed=st.integers(0, 1000),
    share=st.one_of(st.none(), st.floats(0, 1)),
    excluded=st.one_of(st.none(), st.integers(0, 120)),
)
def test_flat_equals_brute_force_with_ties_and_filters(n, distinct, k, seed, share, excluded):
    pool, random = unit(distinct, seed), np.random.default_rng(seed)
    products = Embeddings(pool.vectors[random.integers(0, distinct, n)].reshape(n, DIMENSION), "encoder")
    ids, queries = names(n, seed), unit(3, seed + 1)
    allowed = None if share is None else {i for i in ids if random.random() < share} | {"unknown"}
    exclude = None if excluded is None else [set(ids[:excluded]), {"unknown"}, set(ids[excluded:])]
    index = DenseIndex.build(products, ids)
    found = index.search_vectors(queries, k, allowed=allowed, exclude=exclude)
    assert_same(found, brute_force(products, ids, queries, k, allowed, exclude))


@pytest.mark.parametrize("k", [1, 10, 150, 250])
def test_ties_across_the_cut_go_to_the_smallest_ids(k):
    groups = unit(3).vectors[np.random.default_rng(2).integers(0, 3, 2000)]
    ids, queries = names(2000), unit(40, 3)
    products = Embeddings(groups, "encoder")
    exact = brute_force(products, ids, queries, k)
    assert DenseIndex.build(products, ids).search_vectors(queries, k).ids.tolist() == exact.ids.tolist()
    found = DenseIndex.build(products, ids, "hnsw", M=4).search_vectors(queries, k)
    assert all(i is not None for i in found.ids.ravel())


@pytest.mark.parametrize("distinct", [3, 60, 1000])
def test_candidates_that_tie_the_wrong_way_round_are_put_right(monkeypatch, distinct):
    """Another BLAS may score equal vectors unequally by their place, and then cut where it should not."""
    products = Embeddings(unit(distinct).vectors[np.random.default_rng(2).integers(0, distinct, 1000)], "encoder")
    ids, queries = names(1000), unit(8, 3)
    index = DenseIndex.build(products, ids)

    def scan(queries, fetch, permitted):
        scores = queries @ index.vectors.T + 1e-6 * np.arange(len(index)) / len(index)
        positions = np.argsort(-scores, axis=1)[:, :fetch]
        return np.take_along_axis(scores, positions, axis=1), positions

    monkeypatch.setattr(index, "_scan", scan)
    expected = brute_force(products, ids, queries, 10)
    assert index.search_vectors(queries, 10).ids.tolist() == expected.ids.tolist()


def test_the_result_does_not_depend_on_the_order_of_the_products():
    products, ids, queries = clustered(500), names(500), unit(20, 1)
    order = np.random.default_rng(5).permutation(500)
    shuffled = Embeddings(products.vectors[order], "encoder")
    for kind in ("flat", "hnsw", "ivf_pq"):
        one = DenseIndex.build(products, ids, kind).search_vectors(queries, 10)
        other = DenseIndex.build(shuffled, [ids[at] for at in order], kind).search_vectors(queries, 10)
        assert one.ids.tolist() == other.ids.tolist()
        assert (one.scores == other.scores).all()


@pytest.fixture(scope="module")
def pair():
    products, ids = clustered(3000), names(3000)
    flat, hnsw = (DenseIndex.build(products, ids, kind, **kw) for kind, kw in (("flat", {}), ("hnsw", {"M": 8})))
    return products, ids, flat, hnsw, clustered(60, seed=9)


@pytest.mark.parametrize("share", [0.01, FEW_ALLOWED / 2, 0.3, 0.9])
def test_hnsw_filters_return_only_what_is_allowed_and_full_rows(pair, share):
    _, ids, flat, hnsw, queries = pair
    random = np.random.default_rng(1)
    allowed = {i for i in ids if random.random() < share}
    exact = flat.search_vectors(queries, 10, allowed=allowed)
    exclude = [set(row[:3]) for row in exact.ids]
    found = hnsw.search_vectors(queries, 10, allowed=allowed)
    assert set(found.ids.ravel()) <= allowed
    assert recall(found, exact) > 0.95
    exact = flat.search_vectors(queries, 10, allowed=allowed, exclude=exclude)
    found = hnsw.search_vectors(queries, 10, allowed=allowed, exclude=exclude)
    assert not any(set(row) & out for row, out in zip(found.ids, exclude, strict=True))
    assert recall(found, exact) > 0.95


def test_a_walk_that_meets_nothing_allowed_still_fills_the_row(pair):
    products, ids, _, hnsw, _ = pair
    query = Embeddings(products.vectors[:1], "encoder")
    far = np.argsort(products.vectors @ query.vectors[0])[: int(len(ids) * (FEW_ALLOWED + 0.05))]
    allowed = {ids[at] for at in far}
    hnsw.ef_search = 10
    found = hnsw.search_vectors(query, 10, allowed=allowed)
    hnsw.ef_search = 100
    assert len(found.row(0)) == 10
    assert set(found.ids[0]) <= allowed


def test_hnsw_finds_nearly_what_flat_finds_and_more_hits_than_ef_search(pair):
    _, _, flat, hnsw, queries = pair
    assert recall(hnsw.search_vectors(queries, 10), flat.search_vectors(queries, 10)) > 0.97
    hnsw.ef_search = 10
    found = hnsw.search_vectors(queries, 200)
    hnsw.ef_search = 100
    assert all(i is not None for i in found.ids.ravel())
    assert recall(found, flat.search_vectors(queries, 200)) > 0.95


def test_equal_input_and_seed_give_an_equal_index(tmp_path):
    products, ids, digests = clustered(500), names(500), []
    for kind, chosen in [("hnsw", {})] * 2 + [("ivf_pq", {"seed": seed}) for seed in (0, 0, 1)]:
        DenseIndex.build(products, ids, kind, **chosen).save(tmp_path)
        digests.append(json.loads((tmp_path / "index.json").read_text())["index_sha256"])
    assert digests[0] == digests[1] and digests[2] == digests[3] != digests[4]


def test_frontier_rises_to_the_exact_result(pair):
    _, _, flat, hnsw, queries = pair
    table = measure_frontier(flat, hnsw, queries, ef_search=(10, 200), k=10)
    assert table.columns.tolist() == ["kind", "ef_search", "recall_at_k", "milliseconds_per_query", "memory_mb"]
    assert table.kind.tolist() == ["flat", "hnsw", "hnsw"]
    assert table.recall_at_k[0] == 1.0
    assert 0.5 < table.recall_at_k[1] <= table.recall_at_k[2] <= 1.0
    assert table.memory_mb[1] > table.memory_mb[0] == pytest.approx(3000 * DIMENSION * 4 / 1e6)
    assert (table.milliseconds_per_query > 0).all()
    assert hnsw.ef_search == 100
    with pytest.raises(CourseError, match="flat index and an HNSW"):
        measure_frontier(hnsw, hnsw, queries)


@pytest.fixture(scope="module")
def quantised():
    """An IVF-PQ index of 2,000 products, many of them alike, that looks into every cell; and its decoded vectors."""
    pool, random = clustered(600).vectors, np.random.default_rng(4)
    products, ids = Embeddings(pool[random.integers(0, 600, 2000)], "encoder"), names(2000)
    index = DenseIndex.build(products, ids, "ivf_pq")
    index.nprobe = index.parameters["nlist"]
    return index, Embeddings(index._faiss.reconstruct_n(0, 2000), "encoder"), clustered(3, seed=9)


def cell_of(index, query):
    """The ids in the cell whose centre is nearest to a query [D]."""
    inside = index._faiss
    nearest = int((inside.quantizer.reconstruct_n(0, inside.nlist) @ query).argmax())
    positions = faiss.rev_swig_ptr(inside.invlists.get_ids(nearest), inside.invlists.list_size(nearest))
    return set(index.ids[positions])


@settings(deadline=None, max_examples=25)
@given(
    k=st.integers(1, 60),
    seed=st.integers(0, 1000),
    share=st.one_of(st.none(), st.floats(0, 1)),
    excluded=st.one_of(st.none(), st.integers(0, 30)),
)
def test_ivf_pq_equals_brute_force_over_the_decoded_vectors(quantised, k, seed, share, excluded):
    index, decoded, queries = quantised
    random, ids = np.random.default_rng(seed), index.ids.tolist()
    allowed = None if share is None else {i for i in ids if random.random() < share} | {"unknown"}
    best = index.search_vectors(queries, 60).ids.tolist()
    exclude = None if excluded is None else [best[0][:excluded], ["unknown"], best[2][excluded:]]
    found = index.search_vectors(queries, k, allowed=allowed, exclude=exclude)
    assert_same(found, brute_force(decoded, ids, queries, k, allowed, exclude))


@pytest.mark.parametrize("share", [None, 0.01, FEW_ALLOWED / 2, 0.5])
def test_ivf_pq_looks_into_one_cell_and_pads_the_row_unless_few_are_allowed(quantised, monkeypatch, share):
    index, decoded, queries = quantised
    monkeypatch.setattr(index, "nprobe", 1)
    random, ids = np.random.default_rng(6), index.ids.tolist()
    allowed = set(ids) if share is None else {i for i in ids if random.random() < share}
    found = index.search_vectors(queries, 2100, allowed=None if share is None else allowed)
    for row, query in enumerate(queries.vectors):
        reached = allowed & cell_of(index, query) if len(allowed) >= FEW_ALLOWED * len(ids) else allowed
        expected = brute_force(decoded, ids, Embeddings(query[None], "encoder"), 2100, reached)
        assert found.ids[row].tolist() == expected.ids[0].tolist()
        np.testing.assert_allclose(found.scores[row], expected.scores[0], atol=1e-6)
        assert 0 < len(found.row(row)) == len(reached) < len(ids)


def test_a_decoded_vector_is_its_centre_and_a_code_word_for_each_piece():
    index = DenseIndex.build(unit(600), names(600), "ivf_pq", m=4, nbits=8, nlist=5)._faiss
    words = faiss.vector_to_array(index.pq.centroids).reshape(4, 256, DIMENSION // 4)
    centres = index.quantizer.reconstruct_n(0, 5)
    for cell in range(5):
        size = index.invlists.list_size(cell)
        codes = faiss.rev_swig_ptr(index.invlists.get_codes(cell), size * 4).reshape(size, 4)
        positions = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)
        by_hand = centres[cell] + words[np.arange(4), codes].reshape(size, DIMENSION)
        np.testing.assert_allclose(decode(index, positions.reshape(1, size))[0], by_hand, atol=1e-6)


def test_ivf_pq_finds_more_in_more_cells_and_with_finer_codes(pair):
    products, ids, flat, _, queries = pair
    exact = flat.search_vectors(queries, 10)
    index, fine = (DenseIndex.build(products, ids, "ivf_pq", m=m, nbits=6) for m in (4, 16))
    recalls = []
    for nprobe in (1, 4, index.parameters["nlist"]):
        index.nprobe = nprobe
        recalls.append(recall(index.search_vectors(queries, 10), exact))
    assert 0.3 < recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] > 0.6
    assert recall(fine.search_vectors(queries, 10), exact) > 0.9


def test_ivf_pq_takes_a_fraction_of_the_memory_and_says_so_truly(tmp_path):
    products, ids = unit(2000, dimension=64), names(2000)
    flat, small = (DenseIndex.build(products, ids, kind) for kind in ("flat", "ivf_pq"))
    assert small.memory_mb < flat.memory_mb / 5
    parameters = small.parameters
    code = parameters["m"] * parameters["nbits"] / 8
    centres_and_words = (parameters["nlist"] + 2 ** parameters["nbits"]) * 64 * 4
    assert small.memory_mb == pytest.approx((2000 * (code + 16) + centres_and_words) / 1e6)
    small.save(tmp_path)
    assert next(tmp_path.glob("*.faiss")).stat().st_size == pytest.approx(small.memory_mb * 1e6, rel=0.02)
    with pytest.raises(CourseError, match="keeps codes, not the vectors"):
        _ = small.vectors


@pytest.mark.parametrize(("count", "chosen"), [(256, {}), (4100, {}), (300, {"nbits": 8, "nlist": 200})])
def test_faiss_has_nothing_to_warn_of_while_it_trains(capfd, count, chosen):
    DenseIndex.build(unit(count, dimension=4), names(count), "ivf_pq", **chosen)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("count", "dimension", "chosen", "nlist", "m", "nbits", "nprobe"),
    [
        (4400, 192, {}, 112, 48, 8, 22),
        (100_000, 192, {}, 1264, 48, 8, 72),
        (4095, 384, {}, 105, 96, 7, 21),
        (256, 7, {}, 6, 1, 4, 5),
        (256, 3, {"nlist": 2}, 2, 1, 4, 2),
        (4400, 192, {"nlist": 16, "m": 24, "nbits": 4}, 16, 24, 4, 8),
    ],
)
def test_what_is_not_chosen_is_derived(count, dimension, chosen, nlist, m, nbits, nprobe):
    expected = {"nlist": nlist, "m": m, "nbits": nbits, "nprobe": nprobe, "seed": 1234}
    assert ivf_pq_parameters(count, dimension, chosen) == expected


@pytest.mark.parametrize(
    ("count", "chosen", "message"),
    [
        (255, {}, "at least 256 vectors, not 255; use kind 'flat'.* 0.02 MB"),
        (300, {"m": 5}, "m must divide the dimension 16; choose one of 1, 2, 4, 8, 16"),
        (300, {"nbits": 9}, "nbits must be at most 8, not 9"),
        (300, {"nlist": 301}, "nlist must be at most the number of vectors, 300"),
        (300, {"nprobe": 0}, "nprobe must be a whole number of at least 1"),
        (300, {"seed": -1}, "seed must be a whole number of at least 0"),
        (300, {"ef_search": 5}, "'ivf_pq' has no parameter 'ef_search'; it has nlist, m, nbits, nprobe, seed"),
    ],
)
def test_ivf_pq_refuses_what_does_not_fit(count, chosen, message):
    with pytest.raises(CourseError, match=message):
        DenseIndex.build(unit(count), names(count), "ivf_pq", **chosen)


def test_a_saved_ivf_pq_index_is_the_same_and_keeps_its_guard(tmp_path, quantised):
    index, _, queries = quantised
    index.save(tmp_path)
    loaded = DenseIndex.load(tmp_path)
    before, after = index.search_vectors(queries, 50), loaded.search_vectors(queries, 50)
    assert before.ids.tolist() == after.ids.tolist()
    assert (before.scores == after.scores).all()
    assert (loaded.kind, loaded.memory_mb) == ("ivf_pq", index.memory_mb)
    assert loaded.parameters == index.parameters | {"nprobe": 51}
    with pytest.raises(CourseError, match="not of 'other'"):
        loaded.search_vectors(unit(1, encoder_id="other"), 1)
    file = next(tmp_path.glob("*.faiss"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(CourseError, match="missing or changed"):
        DenseIndex.load(tmp_path)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 60),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["flat", "hnsw"]),
    prefix=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)
def test_what_is_saved_is_what_is_loaded(tmp_path, n, seed, kind, prefix):
    products, queries = unit(n, seed), unit(4, seed + 1)
    index = DenseIndex.build(products, [f"{prefix}{at}" for at in range(n)], kind)
    index.save(tmp_path / "index")  # over the one of the example before
    loaded = DenseIndex.load(tmp_path / "index")
    before, after = index.search_vectors(queries, 7), loaded.search_vectors(queries, 7)
    assert before.ids.tolist() == after.ids.tolist()
    assert (before.scores == after.scores).all()
    assert (loaded.kind, loaded.encoder_id, len(loaded)) == (kind, "encoder", n)
    assert len(list((tmp_path / "index").iterdir())) == 3


@pytest.mark.parametrize(("kind", "effort"), [("hnsw", "ef_search"), ("ivf_pq", "nprobe")])
def test_the_chosen_effort_is_saved(tmp_path, kind, effort):
    index = DenseIndex.build(unit(300), names(300), kind, **{effort: 3})
    assert getattr(index, effort) == 3
    setattr(index, effort, 5)
    index.save(tmp_path)
    assert getattr(DenseIndex.load(tmp_path), effort) == 5


def test_a_damaged_index_is_refused(tmp_path):
    with pytest.raises(MissingArtifact, match="no index here"):
        DenseIndex.load(tmp_path)
    DenseIndex.build(unit(20), names(20)).save(tmp_path)
    for suffix in (".faiss", ".ids.json"):
        file = next(tmp_path.glob(f"*{suffix}"))
        content = file.read_bytes()
        file.write_bytes(content[:-3] + bytes(3))
        with pytest.raises(CourseError, match="missing or changed"):
            DenseIndex.load(tmp_path)
        file.unlink()
        with pytest.raises(CourseError, match="missing or changed"):
            DenseIndex.load(tmp_path)
        file.write_bytes(content)
    assert len(DenseIndex.load(tmp_path)) == 20
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(CourseError, match="not an index of format"):
        DenseIndex.load(tmp_path)


def test_embeddings_of_another_encoder_are_refused():
    index = DenseIndex.build(unit(5), names(5))
    with pytest.raises(CourseError, match=r"'encoder'.*'other'"):
        index.search_vectors(unit(1, encoder_id="other"), 1)
    with pytest.raises(CourseError, match="do not fit an index of dimension 16"):
        index.search_vectors(unit(1, dimension=8), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tree"}, "unknown; choose one of flat, hnsw, ivf_pq"),
        ({"M": 8}, "'flat' has no parameter 'M'"),
        ({"kind": "hnsw", "ef_search": 0}, "at least 1"),
        ({"kind": "hnsw", "M": 1}, "at least 2"),
        ({"kind": "hnsw", "M": True}, "whole number"),
        ({"ids": ["a", "b"]}, "2 product ids for embeddings"),
        ({"ids": ["a", "b", "a"]}, "1 product ids are repeated"),
        ({"ids": ["a", "b", 3]}, "must be str"),
        ({"embeddings": Embeddings(np.full((3, 2), np.nan, np.float32), "e")}, "not finite"),
    ],
)
def test_bad_products_are_refused(change, message):
    arguments = {"embeddings": unit(3), "ids": ["a", "b", "c"], **change}
    with pytest.raises(CourseError, match=message):
        DenseIndex.build(arguments.pop("embeddings"), arguments.pop("ids"), **arguments)


def test_the_searcher_is_one_and_leaves_rows_of_empty_queries_empty():
    products = unit(60)
    ids = names(60)
    searcher = DenseSearcher(LengthEncoder(unit(60)), DenseIndex.build(products, ids))
    assert isinstance(searcher, Searcher)
    hits = searcher.search(["abc", "  ", "", "abcde"], 2, exclude=[(), (), (), [ids[5]]])
    assert [len(hits.row(at)) for at in range(4)] == [2, 0, 0, 2]
    assert hits.ids[0, 0] == ids[3]
    assert hits.scores[0, 0] == pytest.approx(1)
    assert ids[5] not in hits.ids[3]
    assert searcher.search(["abcd"], 1, allowed=["p1", "p2"]).ids[0, 0] in {"p1", "p2"}
    assert searcher.search(["abcd"], 1, allowed=[]).row(0) == []
    assert searcher.search([], 3).ids.shape == (0, 3)
    with pytest.raises(CourseError, match="k must be"):
        searcher.search(["a"], 0)
    with pytest.raises(CourseError, match="build the index again"):
        DenseSearcher(LengthEncoder(unit(60)), DenseIndex.build(unit(3, encoder_id="other"), names(3)))


SAVES_AND_PAUSES = """
import numpy as np
from common import index as module
from common.encoders import Embeddings

new = module.DenseIndex.build(Embeddings(np.full((50, 4), 2, np.float32), "new"), [f"new{{at}}" for at in range(50)])
{when}
new.save(folder)
"""
HALF_A_FILE = """
import faiss
content = faiss.serialize_index(new._faiss).tobytes()
def write_half(index, path):
    open(path, "wb").write(content[: len(content) // 2])
    pause()
faiss.write_index = write_half
"""
ALL_BUT_THE_SWITCH = "module.write_json = lambda path, manifest: pause()"


@pytest.mark.parametrize("when", [HALF_A_FILE, ALL_BUT_THE_SWITCH], ids=["half a file", "all but the switch"])
@pytest.mark.parametrize("had_one", [True, False])
def test_killed_while_saving_leaves_the_old_index_or_none(tmp_path, kill_at_pause, when, had_one):
    folder, products = tmp_path / "index", unit(30)
    if had_one:
        DenseIndex.build(products, names(30)).save(folder)
    kill_at_pause(SAVES_AND_PAUSES.format(when=when), folder)
    if had_one:
        index = DenseIndex.load(folder)
        assert index.ids.tolist() == sorted(names(30))
        assert index.encoder_id == "encoder"
    else:
        with pytest.raises(MissingArtifact):
            DenseIndex.load(folder)
    DenseIndex.build(products, names(30)).save(folder)
    assert len(DenseIndex.load(folder)) == 30
    assert len(list(folder.iterdir())) == 3, "what the killed writer left was not swept"
