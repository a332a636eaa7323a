"""Shards hold what one call would give, in order; a kill loses no finished one, and what does not fit is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import embedding_shards
from common.catalogue import Catalogue, product_text
from common.embedding_shards import iterate_shards, load_embeddings
from common.errors import CourseError, MissingArtifact
from common.index import DenseIndex
from tests.common.stand_in import ROUNDING, embed, stand_in, write_products

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def products(tmp_path):
    return write_products(tmp_path / "products.parquet", 53)


def content(folder):
    """Every file below a folder with its bytes, hidden leftovers of the killed apart."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in named.items() if not name.startswith((".", "vectors/."))}


def made_at(folder):
    """When each finished shard was made, and as which file."""
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("vectors/0*/v*")}


def test_the_folder_holds_what_one_call_gives(products, tmp_path):
    shards = embed(products, tmp_path / "out", 10)
    ids, embeddings = load_embeddings(tmp_path / "out")
    table = pq.read_table(products)
    expected = stand_in().encode(table["text"].to_pylist())
    assert ids == table["product_id"].to_pylist()
    assert embeddings.encoder_id == expected.encoder_id == shards.plan.encoder_id
    assert embeddings.vectors.dtype == np.float32
    np.testing.assert_allclose(embeddings.vectors, expected.vectors, atol=3 * ROUNDING)
    assert (embeddings.vectors != expected.vectors).any(), "the stand-in should notice who is encoded together"
    assert shards.plan.rows == [10, 10, 10, 10, 10, 3]
    assert all(np.load(file).shape[1] == 8 for file in tmp_path.glob("out/vectors/*/vectors.npy"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3).filter(any),
    shard_size=st.integers(1, 40),
    of=st.integers(1, 4),
)
def test_any_files_cut_into_any_shards_and_parts(counts, shard_size, of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    (folder / "in").mkdir()
    for number, count in enumerate(counts):
        write_products(folder / "in" / f"{number}.parquet", count, first=sum(counts[:number]))
    for part in range(of, 0, -1):
        embed(folder / "in", folder / "out", shard_size, part=part, of=of)
    total = sum(counts)
    whole = write_products(folder / "whole.parquet", total)
    expected = [f"p{n}" for n in range(total)]
    sizes = [len(ids) for ids, _ in iterate_shards(folder / "out")]
    assert sizes == [shard_size] * (total // shard_size) + [total % shard_size] * (total % shard_size > 0)
    ids, embeddings = load_embeddings(folder / "out")
    assert ids == expected
    in_one_piece = load_embeddings(embed(whole, folder / "one", shard_size).folder)[1]
    assert embeddings.vectors.tobytes() == in_one_piece.vectors.tobytes()


def test_a_catalogue_is_read_as_every_encoder_reads_it(tmp_path, capsys):
    rows = [
        {"product_id": f"p{n}", "title": f"lamp {n}", "brand": "Lumo", "attributes": '{"colour": "\\ud83d red"}'}
        for n in range(7)
    ]
    catalogue = Catalogue.from_tables("toy", products=pd.DataFrame(rows)).save(tmp_path / "catalogue")
    shards = embed(catalogue.folder, tmp_path / "out", 3)
    texts = [text for n in range(3) for text in shards.read({"shard": np.array([n])})["text"]]
    assert texts == [text.replace("\ud83d", "?") for text in product_text(catalogue.products)]
    assert load_embeddings(tmp_path / "out")[0] == catalogue.products["product_id"].tolist()


def test_ids_and_texts_of_other_kinds_become_text(tmp_path):
    texts = pa.array(["a", None, "b"]).dictionary_encode()
    pq.write_table(pa.table({"text": texts, "product_id": [7, 8, 9]}), tmp_path / "in.parquet")
    shards = embed(tmp_path / "in.parquet", tmp_path / "out", 3)
    assert load_embeddings(tmp_path / "out")[0] == ["7", "8", "9"]
    assert shards.read({"shard": np.array([0])})["text"].tolist() == ["a", "", "b"]


def test_an_index_is_built_from_one_shard_at_a_time(products, tmp_path):
    import faiss

    embed(products, tmp_path / "out", 10)
    index, ids = faiss.IndexFlatIP(8), []
    for shard_ids, embeddings in iterate_shards(tmp_path / "out"):
        assert isinstance(embeddings.vectors, np.memmap)
        index.add(embeddings.vectors)
        ids += shard_ids
    ids_at_once, at_once = load_embeddings(tmp_path / "out")
    assert ids == ids_at_once
    assert (index.reconstruct_n(0, len(ids)) == at_once.vectors).all()
    hits = DenseIndex.build(at_once, ids).search_vectors(stand_in().encode(["product 5 of many words "]), 1)
    assert hits.ids[0, 0] == "p5"


PAUSES_AT = """
import runpy, sys
toy = runpy.run_path({stand_in!r})
seen = 0
def count(event, arguments):
    global seen
    seen += any(isinstance(argument, str) and str(folder / "out") in argument for argument in arguments)
    if seen == {event}:
        seen += 1
        pause()
sys.addaudithook(count)
toy["embed"](folder / "products.parquet", folder / "out", 10)
"""
AT_RANDOM = tuple(np.random.default_rng(7).integers(5, 70, 6).tolist())


@pytest.mark.parametrize("events", [(14,), (60,), (190,), pytest.param(AT_RANDOM, marks=pytest.mark.slow)])
def test_killed_anywhere_and_restarted_it_ends_with_the_same_bytes(products, tmp_path, kill_at_pause, events):
    """Killed at its n-th deed on the disk (a whole run has about 250), restarted, killed again at the next: no finished
    shard is made twice or lost."""
    expected = content(embed(products, tmp_path / "undisturbed", 10).folder)
    before = {}
    for event in events:
        kill_at_pause(PAUSES_AT.format(stand_in=str(STAND_IN), event=event), tmp_path)
        found = made_at(tmp_path / "out")
        assert found.items() >= before.items()
        before = found
    embed(products, tmp_path / "out", 10)
    assert made_at(tmp_path / "out").items() >= before.items()
    assert content(tmp_path / "out") == expected


def test_a_finished_folder_is_left_alone(products, tmp_path):
    embed(products, tmp_path / "out", 10)
    before = made_at(tmp_path / "out")
    embed(products, tmp_path / "out", 10)
    assert made_at(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("vectors.npy", lambda file: file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")),
        ("vectors.npy", lambda file: file.write_bytes(file.read_bytes()[:100])),
        ("vectors.npy", Path.unlink),
        ("product_ids.json", lambda file: file.write_text("[]")),
        ("manifest.json", lambda file: file.write_text('{"half')),
        ("manifest.json", lambda file: file.write_text(file.read_text().replace("stand-in-8", "stand-in-9"))),
    ],
)
def test_a_damaged_shard_is_refused_and_only_that_one_made_again(products, tmp_path, file, damage):
    out = embed(products, tmp_path / "out", 10).folder
    expected, before = content(out), made_at(out)
    damage(out / "vectors" / "00002" / file)
    with pytest.raises(CourseError, match="00002: this shard was damaged; run the command"):
        load_embeddings(out)
    embed(products, out, 10)
    after = made_at(out)
    assert content(out) == expected
    assert {number for number in after if after[number] != before[number]} == {"00002"}


def test_a_shard_that_is_missing_is_counted(products, tmp_path):
    out = embed(products, tmp_path / "out", 10, part=1, of=3).folder
    with pytest.raises(CourseError, match="4 of 6 shards are missing; run the command"):
        iterate_shards(out)
    with pytest.raises(MissingArtifact, match=r"python -m common\.sharded_embedding"):
        load_embeddings(tmp_path)


def test_damaged_texts_are_split_anew_and_finished_shards_stay(products, tmp_path):
    out = embed(products, tmp_path / "out", 10, part=1, of=2).folder
    before = made_at(out)
    (out / "texts" / "00001.parquet").write_bytes(b"")
    with pytest.raises(CourseError, match=r"00001\.parquet: missing or changed .* Remove .*texts and run"):
        embed(products, out, 10)
    shutil.rmtree(out / "texts")
    embed(products, out, 10)
    assert made_at(out).items() >= before.items()
    assert content(out) == content(embed(products, tmp_path / "undisturbed", 10).folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dimension": 9}, "made with encoder id 'stand-in-8', and this would be 'stand-in-9'"),
        ({"shard_size": 11}, "made with shard size 10, and this would be 11"),
        ({"source": 54}, "made with input digest"),
    ],
)
def test_a_folder_of_something_else_is_refused(products, tmp_path, change, message):
    arguments = {"source": products, "output": tmp_path / "out", "shard_size": 10}
    embed(**arguments)
    before = content(tmp_path / "out")
    if "source" in change:
        change = {"source": write_products(tmp_path / "other.parquet", change["source"])}
    with pytest.raises(CourseError, match=message):
        embed(**arguments | change)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"product_id": ["a"], "title": ["t"]}, r"in\.parquet: column 'text' is missing"),
        ({"product_id": ["a", None], "text": ["t", "u"]}, "1 products have no product_id"),
        ({"product_id": pa.array([], pa.string()), "text": pa.array([], pa.string())}, "holds no products"),
        ({"product_id": ["a"], "text": [["t"]]}, "cannot be read as parquet with text"),
        (b"not parquet", "cannot be read as parquet"),
        (None, "is neither a catalogue nor parquet; give one of pocket_shop"),
    ],
)
def test_an_input_that_cannot_be_read_leaves_nothing(tmp_path, columns, message):
    file = tmp_path / "in.parquet"
    if isinstance(columns, bytes):
        file.write_bytes(columns)
    elif columns is not None:
        pq.write_table(pa.table(columns), file)
    with pytest.raises(CourseError, match=message):
        embed(file, tmp_path / "out", 10)
    assert not list((tmp_path / "out").glob("*"))


def test_half_a_shard_is_not_written(products, tmp_path):
    shards = embed(products, tmp_path / "out", 10, part=2, of=2)
    half = {"shard": np.array([0] * 5), "product_id": np.array(["x"] * 5), "vector": np.ones((5, 8))}
    with pytest.raises(ValueError, match="shard 0: 5 of its 10 rows"):
        shards.write(half)
    assert not shards.exists(0)


def test_a_process_that_was_faster_is_not_overruled(products, tmp_path, monkeypatch):
    """Two split at once, in shards of another size: the slower one finds the other's work, and says so."""
    split = embedding_shards._split

    def overtaken(*arguments):
        monkeypatch.setattr(embedding_shards, "_split", split)
        embed(products, tmp_path / "out", 5)
        return split(*arguments)

    monkeypatch.setattr(embedding_shards, "_split", overtaken)
    with pytest.raises(CourseError, match="made with shard size 5, and this would be 10"):
        embed(products, tmp_path / "out", 10)
    assert len(load_embeddings(tmp_path / "out")[0]) == 53


@pytest.mark.slow
def test_peak_memory_is_that_of_a_shard(tmp_path):
    """In a process of its own: four times the products take hardly more memory; one shard of them all does."""

    def taken(count, shard_size):
        source, output = tmp_path / f"{count}.parquet", tmp_path / f"{count}-{shard_size}"
        write_products(source, count, words=150)
        command = [sys.executable, str(STAND_IN), str(source), str(output), str(shard_size)]
        before, peak = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        return peak - before

    small, large, in_one = taken(40_000, 5_000), taken(160_000, 5_000), taken(160_000, 160_000)
    added_vectors = 120_000 * 384 * 4
    assert large - small < 0.15 * added_vectors
    assert in_one - large > added_vectors
