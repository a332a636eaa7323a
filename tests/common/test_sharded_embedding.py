"""The step with a real, tiny model: bytes do not depend on parts, restarts or Ray, and rounding is all that shards
change."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.embedding_shards import load_embeddings
from common.encoders import load_text_encoder
from common.errors import CourseError
from common.sharded_embedding import Embedder, ShardedEmbeddingConfig, main
from course.bench import FIELDS
from course.benchmarks import sharded_embedding as benchmark
from tests.chapter02_two_tower.toy import tiny_encoder as build_tiny_encoder

COUNT = 46
WORDS = ["usb", "cable", "black", "leather", "chair", "garden", "5", "V", "adapter", "headphones", "größe", "電池"]


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory):
    return build_tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    random = np.random.default_rng(0)
    texts = [f"{n} " + " ".join(random.choice(WORDS, random.integers(0, 20))) for n in range(COUNT)]
    file = tmp_path_factory.mktemp("products") / "products.parquet"
    pq.write_table(pa.table({"product_id": [f"p{n}" for n in range(COUNT)], "text": texts}), file)
    return file


@pytest.fixture
def config(tiny_encoder, products):
    """`config(output, …)`: five shards, the tiny encoder in torch: to convert it would take longest."""

    def make(output, **changes):
        settings = {"input": str(products), "model": tiny_encoder, "runtime": "torch", "shard_size": 10}
        return ShardedEmbeddingConfig(output=output, **(settings | changes))

    return make


@pytest.fixture(autouse=True)
def _one_thread():
    """As a worker of Ray with one CPU has it: another number of threads may round otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def vectors(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("vectors/*/vectors.npy")}


def check_against_one_call(folder, tiny_encoder, products):
    table = pq.read_table(products)
    expected = load_text_encoder(tiny_encoder, engine="torch").encode(table["text"].to_pylist())
    ids, embeddings = load_embeddings(folder)
    assert ids == table["product_id"].to_pylist()
    assert embeddings.encoder_id == expected.encoder_id
    np.testing.assert_allclose(embeddings.vectors, expected.vectors, atol=1e-2)  # bfloat16, where the machine has it
    assert (embeddings.vectors @ expected.vectors.T).argmax(axis=1).tolist() == list(range(COUNT))


def test_shards_and_parts_give_the_vectors_of_one_call(config, tiny_encoder, products, tmp_path):
    main(config(tmp_path / "whole"))
    check_against_one_call(tmp_path / "whole", tiny_encoder, products)
    for part in (2, 1):
        main(config(tmp_path / "parts", part=part, of=2))
    assert vectors(tmp_path / "parts") == vectors(tmp_path / "whole")
    with pytest.raises(CourseError, match="made with encoder id"):
        main(config(tmp_path / "whole", max_length=8))


def test_a_batch_keeps_its_other_columns(tiny_encoder):
    embedder = Embedder(tiny_encoder, runtime="torch")
    batch = {"product_id": np.array(["a", "b"]), "text": np.array(["usb", "chair"], dtype=object), "shard": np.ones(2)}
    made = embedder(batch)
    assert list(made) == ["product_id", "shard", "vector"]
    assert made["vector"].shape == (2, 32)
    assert (made["vector"] == embedder.embed_batch(batch)["vector"]).all(), "what it embedded before changes nothing"
    np.testing.assert_allclose(np.linalg.norm(made["vector"], axis=1), 1, atol=1e-5)


def test_another_encoder_than_the_others_is_refused(tiny_encoder):
    with pytest.raises(CourseError, match=r"this machine's encoder is 'encoder-24-torch.*the others' is 'theirs'"):
        Embedder(tiny_encoder, runtime="torch", encoder_id="theirs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_size": 0}, "shard_size must be at least 1, not 0"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"part": 3, "of": 2}, r"part must be between 1 and 2 \(of\), not 3"),
        ({"part": 0}, "part must be between 1 and 1"),
    ],
)
def test_numbers_out_of_range_are_refused(config, tmp_path, change, message):
    with pytest.raises(CourseError, match=message):
        main(config(tmp_path / "out", **change))


def test_the_benchmark_compares_the_same_vectors(tiny_encoder):
    (row,) = benchmark.main(size=400, shard_size=50, rounds=2, embedder=Embedder(tiny_encoder, runtime="torch"))
    assert set(FIELDS) <= set(row)
    assert row["our_value"] > 0 < row["peer_value"]
    assert 0.999 < row["cosine"] <= 1.00001
    assert "400 products" in row["note"]
    with pytest.raises(CourseError, match="too few; give 200"):
        benchmark.main(size=199, shard_size=50, rounds=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own settings, which it reads itself
def test_two_workers_of_ray_make_the_same_bytes(config, tmp_path):
    """What is finished they leave alone; and an error of theirs is ours to read."""
    pytest.importorskip("ray")
    main(config(tmp_path / "here"))
    main(config(tmp_path / "ray", part=2, of=2))
    before = vectors(tmp_path / "ray")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("ray/vectors/*/*")}
    shards = main(config(tmp_path / "ray", engine="ray", workers=2))
    assert shards.unfinished() == []
    assert len(before) == 2 < len(vectors(tmp_path / "ray")) == 5
    assert vectors(tmp_path / "ray") == vectors(tmp_path / "here")
    assert times.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("ray/vectors/*/*")}.items()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own settings, which it reads itself
def test_ray_takes_the_embedder_into_a_pipeline_of_its_own(config, tiny_encoder, products, tmp_path):
    pytest.importorskip("ray")
    import ray.data

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        made = ray.data.read_parquet(str(products)).map_batches(
            Embedder,
            compute=ray.data.ActorPoolStrategy(size=1),
            fn_constructor_kwargs={"model": tiny_encoder, "runtime": "torch"},
        )
        rows = {row["product_id"]: row["vector"] for row in made.take_all()}
        with pytest.raises(CourseError, match=r"ray: .*CourseError: .*neither a model folder nor a hub name"):
            main(config(tmp_path / "out", engine="ray", model="nowhere"))
    finally:
        ray.shutdown()
    ids, embeddings = load_embeddings(main(config(tmp_path / "here")).folder)
    np.testing.assert_allclose(np.stack([rows[product_id] for product_id in ids]), embeddings.vectors, atol=1e-2)
