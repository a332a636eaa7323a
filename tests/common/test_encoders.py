"""Text encoders against the naive way (one text at a time, torch, float32), on the packaged model and on tiny
towers."""

from __future__ import annotations

import builtins
import shutil
import time

import numpy as np
import pytest

from common import devices, encoders, engines, progress
from common.devices import Placement, choose_placement
from common.embedding_cache import MIN_SHARD, EmbeddingCache
from common.encoders import load_text_encoder, packaged_minilm
from common.engines import batches_by_length, load_sentence_transformer, pad
from common.errors import CourseError

TEXT = "usb cable black leather chair garden 5 V adapter noise cancelling headphones größe 電池 🔋 שלום"
WORDS = TEXT.split()


def some_texts(count, seed=0):
    random = np.random.default_rng(seed)
    return [f"{at} " + " ".join(random.choice(WORDS, random.integers(0, 60))) for at in range(count)]


def cosines(a, b):
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def naive(folder, texts, max_length=256):
    """One text at a time: no padding, no batches, float32."""
    model = load_sentence_transformer(folder, Placement("cpu", "torch", "float32", "naive"), max_length)
    return np.stack([model.encode(text, normalize_embeddings=True, show_progress_bar=False) for text in texts])


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder()


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A tower as a later chapter saves it: CLS pooling, a projection, a short limit; tiny and random."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tower")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(**sizes)).save_pretrained(folder / "body")
    AutoTokenizer.from_pretrained(packaged_minilm()).save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"), max_seq_length=24)
    model = SentenceTransformer(modules=[body, Pooling(32, pooling_mode="cls"), Dense(32, 8)], device="cpu")
    model.save_pretrained(str(folder / "tower"))
    return folder / "tower"


def test_minilm_agrees_with_the_naive_loop_in_any_order(minilm):
    texts = ["", *some_texts(24)]
    order = np.random.default_rng(1).permutation(len(texts))
    vectors = minilm.encode(texts).vectors
    shuffled = minilm.encode([texts[at] for at in order]).vectors
    assert vectors.shape == (25, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    expected = naive(packaged_minilm(), texts)
    assert cosines(vectors, expected).mean() > 0.999
    assert cosines(vectors, expected).min() > 0.998
    assert cosines(vectors[order], shuffled).min() > 0.9999
    np.testing.assert_allclose(vectors[order], shuffled, atol=1e-2)
    # The comparison would see a wrong order: different texts are far less alike.
    assert cosines(vectors[1:], np.roll(vectors[1:], 1, axis=0)).mean() < 0.95


def test_equal_texts_have_equal_vectors_and_are_encoded_once(minilm, monkeypatch):
    sent = []
    embed = minilm._engine.embed
    monkeypatch.setattr(minilm._engine, "embed", lambda texts, advance: sent.extend(texts) or embed(texts, advance))
    vectors = minilm.encode(["b", "a", "b", "a long other text", "b"], desc="texts").vectors
    assert sent == ["b", "a", "a long other text"]
    assert (vectors[0] == vectors[2]).all()
    assert (vectors[0] == vectors[4]).all()
    assert not np.allclose(vectors[0], vectors[1])


def test_many_chunks_are_put_together(minilm, monkeypatch):
    texts = some_texts(9)
    monkeypatch.setattr(encoders, "TEXTS_PER_CHUNK", 4)
    assert cosines(minilm.encode(texts).vectors, naive(packaged_minilm(), texts)).min() > 0.998


def test_ten_megabytes_are_cut_before_the_tokeniser_sees_them(minilm):
    long = "noise cancelling headphones " * 400_000
    started = time.perf_counter()
    vector = minilm.encode([long]).vectors
    assert time.perf_counter() - started < 2  # tokenising it all takes many times as long
    assert cosines(vector, minilm.encode([long[:20_000]]).vectors).min() > 0.9999


def test_no_texts_give_no_vectors_and_half_a_surrogate_pair_is_encoded(minilm):
    assert minilm.encode([]).vectors.shape == (0, 384) and minilm.encode([]).encoder_id == minilm.encoder_id
    assert np.isfinite(minilm.encode(["half \ud83d pair"]).vectors).all()


@pytest.mark.parametrize(
    ("texts", "message"),
    [("one text", "a list"), (None, "a list"), (["a", None], "text 1 is NoneType"), ([1.5], "text 0 is float")],
)
def test_what_is_no_text_is_refused(minilm, texts, message):
    with pytest.raises(CourseError, match=message):
        minilm.encode(texts)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_a_tower_keeps_its_pooling_projection_and_length(tower, tmp_path, engine):
    encoder = load_text_encoder(str(tower), engine=engine, cache=tmp_path)
    assert (encoder.dimension, encoder.max_length) == (8, 24)
    texts = some_texts(12)
    assert cosines(encoder.encode(texts).vectors, naive(tower, texts, max_length=24)).mean() > 0.999
    words = [" ".join(["usb"] * 22 + [word]) for word in ("cable", "chair")]  # [CLS] + 22 words + [SEP] is all it reads
    beyond = encoder.encode(words).vectors
    np.testing.assert_allclose(beyond[0], beyond[1], atol=1e-2)
    shorter = load_text_encoder(str(tower), max_length=8, engine=engine, cache=tmp_path)
    assert shorter.max_length == 8
    assert shorter.encoder_id != encoder.encoder_id


def test_both_engines_agree_on_minilm(minilm):
    texts = some_texts(12)
    plain = load_text_encoder(engine="torch")
    assert plain.engine == "torch"
    assert minilm.engine == choose_placement().engine
    assert (plain.encoder_id != minilm.encoder_id) == (plain.engine != minilm.engine)
    assert cosines(plain.encode(texts).vectors, minilm.encode(texts).vectors).mean() > 0.999


def test_the_id_tells_weights_length_engine_and_precision_apart(tower, tmp_path, monkeypatch):
    from safetensors.numpy import load_file, save_file

    other = tmp_path / "tower"
    shutil.copytree(tower, other)
    weights = load_file(other / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    ids = []
    for native in ("avx512_bf16", None):
        monkeypatch.setattr(devices, "native_bfloat16", lambda native=native: native)
        ids += [load_text_encoder(str(folder), engine="torch").encoder_id for folder in (tower, other)]
    ids.append(load_text_encoder(str(tower), engine="torch", max_length=9).encoder_id)
    assert len(set(ids)) == 5
    assert load_text_encoder(str(tower), engine="torch").encoder_id == ids[2]


def test_a_model_that_cannot_be_converted_runs_in_torch_and_says_why(tower, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(engines, "_convert", refuse)

    def place(engine):
        return Placement("cpu", engine.replace("auto", "openvino"), "float32", "a test")

    monkeypatch.setattr(encoders, "choose_placement", place)
    encoder = load_text_encoder(str(tower), cache=tmp_path)
    assert encoder.engine == "torch"
    assert "cannot convert" in encoder.reason
    with pytest.raises(CourseError, match="cannot convert"):
        load_text_encoder(str(tower), engine="openvino", cache=tmp_path)


def test_a_conversion_that_disagrees_is_refused(tower, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    model = load_sentence_transformer(tower, Placement("cpu", "torch", "float32", "a test"), 24)

    class Stub:
        def create_infer_request(self):
            return self

    def one_component_wrong(_, input_ids, attention_mask):
        import torch

        features = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        vectors = model(features)["sentence_embedding"].detach().numpy()
        vectors[-1, 0] += 0.2 * np.linalg.norm(vectors[-1])
        return vectors

    monkeypatch.setattr(engines, "_convert", lambda model: None)
    monkeypatch.setattr(engines, "_compile", lambda *_: Stub())
    monkeypatch.setattr(engines, "_infer", one_component_wrong)
    with pytest.raises(CourseError, match="disagrees with torch"):
        load_text_encoder(str(tower), engine="openvino", cache=tmp_path)
    assert not list(tmp_path.rglob("model.xml"))


def test_the_choice_is_announced_once(tower, capsys, monkeypatch):
    monkeypatch.setattr(progress, "is_interactive", lambda: True)
    progress.announce.cache_clear()
    for _ in range(2):
        encoder = load_text_encoder(str(tower), engine="torch")
    assert capsys.readouterr().err.count(encoder.reason) == 1


@pytest.mark.parametrize(("native", "precision"), [("avx512_bf16", "bfloat16"), (None, "float32")])
def test_half_precision_only_where_the_cpu_has_it(monkeypatch, native, precision):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {native: True} if native else {"avx2": True})
    for engine in ("auto", "torch"):
        placement = choose_placement(engine)
        assert (placement.device, placement.precision) == ("cpu", precision)
        assert ("natively" in placement.reason) == (native is not None)


def test_on_other_processors_torch_is_chosen(monkeypatch):
    monkeypatch.setattr(devices, "_is_x86", lambda: False)
    assert choose_placement().engine == "torch"
    with pytest.raises(CourseError, match="unknown; choose one of auto, openvino, torch"):
        choose_placement("onnx")


def test_profile_smoke_converts_nothing(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices, "_is_x86", lambda: True)
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    assert choose_placement().engine == "torch" and choose_placement("openvino").engine == "openvino"
    monkeypatch.setenv("COURSE_PROFILE", "pocket")
    assert choose_placement().engine == "openvino"


def test_other_weights_in_the_package_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(CourseError, match="not the published 53aa51172d"):
        encoders._check_weights(tmp_path / "model.safetensors", encoders.MINILM_SHA256)
    with pytest.raises(CourseError, match="missing from the package"):
        encoders._check_weights(tmp_path / "absent", encoders.MINILM_SHA256)


def test_what_is_no_model_is_refused(tmp_path, tower):
    with pytest.raises(CourseError, match=r"no \*\.safetensors"):
        load_text_encoder(str(tmp_path))
    with pytest.raises(CourseError, match="neither a model folder nor a hub name"):
        load_text_encoder("no-such-model")
    with pytest.raises(CourseError, match="cannot be fetched from the hub"):
        load_text_encoder("owner/model")
    with pytest.raises(CourseError, match="at least 3 tokens"):
        load_text_encoder(str(tower), max_length=0)
    broken = tmp_path / "broken"
    shutil.copytree(tower, broken)
    (broken / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(CourseError, match="cannot load this model"):
        load_text_encoder(str(broken), cache=tmp_path / "cache")


@pytest.mark.parametrize("budget", [1, 7, 50, 10_000])
def test_batches_hold_every_text_once_within_the_budget(budget):
    lengths = np.random.default_rng(0).integers(1, 30, 200).tolist()
    batches = list(batches_by_length(lengths, budget))
    assert sorted(at for batch in batches for at in batch) == list(range(200))
    assert all(len(batch) == 1 or len(batch) * max(lengths[at] for at in batch) <= budget for batch in batches)
    assert list(batches_by_length([], budget)) == []


def test_padding_is_masked():
    input_ids, attention_mask = pad([[5, 6, 7], [8]], pad_id=9)
    assert input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_cached_texts_are_not_encoded_again(tower, tmp_path, monkeypatch):
    texts = some_texts(2 * MIN_SHARD)
    first = load_text_encoder(str(tower), engine="torch", cache=tmp_path).encode(texts[:MIN_SHARD]).vectors
    again = load_text_encoder(str(tower), engine="torch", cache=tmp_path)
    sent = []
    embed = again._engine.embed
    monkeypatch.setattr(again._engine, "embed", lambda texts, advance: sent.extend(texts) or embed(texts, advance))
    mixed = again.encode([texts[at] for at in range(len(texts) - 1, -1, -1)]).vectors[::-1]
    assert sorted(sent) == sorted(texts[MIN_SHARD:])
    assert (mixed[:MIN_SHARD] == first).all()
    uncached = load_text_encoder(str(tower), engine="torch").encode(texts).vectors
    assert cosines(mixed, uncached).min() > 0.9999
    sent.clear()
    again.encode(texts)
    assert sent == []


def test_a_damaged_shard_is_encoded_again_and_a_few_texts_are_not_kept(tmp_path):
    texts = [f"text {at}" for at in range(MIN_SHARD)]
    vectors = np.random.default_rng(0).normal(size=(MIN_SHARD, 4)).astype(np.float32)
    cache = EmbeddingCache(tmp_path, 4)
    cache.add(texts[:-1], vectors[:-1])
    assert len(cache) == 0
    cache.add(texts, vectors)
    found = np.zeros((2, 4), np.float32)
    assert EmbeddingCache(tmp_path, 4).fill(["other", texts[7]], found).tolist() == [0]
    assert (found[1] == vectors[7]).all()
    file = next(tmp_path.rglob("vectors.npy"))
    file.write_bytes(file.read_bytes()[:-50])
    assert len(EmbeddingCache(tmp_path, 4)) == 0
    repaired = EmbeddingCache(tmp_path, 4)
    repaired.add(texts, vectors)
    assert len(EmbeddingCache(tmp_path, 4)) == MIN_SHARD
    assert len(EmbeddingCache(tmp_path, 5)) == 0, "vectors of another dimension were taken"


WRITES_AND_PAUSES = """
import numpy as np
from common.embedding_cache import EmbeddingCache

cache = EmbeddingCache(folder, 4)
cache.add([f"whole {at}" for at in range(100)], np.ones((100, 4)))
save = np.save
def save_half(path, array):
    save(path, array)
    if path.name == "vectors.npy":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        pause()
np.save = save_half
cache.add([f"half {at}" for at in range(100)], np.zeros((100, 4)))
"""


def test_killed_while_writing_leaves_whole_shards(tmp_path, kill_at_pause):
    kill_at_pause(WRITES_AND_PAUSES, tmp_path / "cache")
    cache = EmbeddingCache(tmp_path / "cache", 4)
    vectors = np.full((200, 4), 7, dtype=np.float32)
    texts = [f"{kind} {at}" for kind in ("whole", "half") for at in range(100)]
    assert cache.fill(texts, vectors).tolist() == list(range(100, 200))
    assert (vectors[:100] == 1).all()
    cache.add(texts[100:], vectors[100:])
    assert len(EmbeddingCache(tmp_path / "cache", 4)) == 200
    assert all(entry.name.startswith("shard-") for entry in (tmp_path / "cache").iterdir())


def test_a_loaded_conversion_needs_no_torch_model(minilm, monkeypatch):
    if minilm.engine != "openvino":
        pytest.skip("this machine runs MiniLM in torch")
    imported = builtins.__import__

    def refuse(name, *arguments, **keywords):
        assert not name.startswith("sentence_transformers"), "the converted model should have been read from the cache"
        return imported(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert load_text_encoder().encoder_id == minilm.encoder_id
