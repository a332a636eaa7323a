"""Towers against the naive forward (one text at a time, no padding), and saved folders against the towers they are
of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from chapter02_two_tower.model import Architecture, ProductTower, QueryTower, TwoTowerModel, truncate
from common import devices
from common.devices import Placement
from common.encoders import load_text_encoder
from common.errors import CourseError

TEXTS = [
    "usb cable",
    "",
    "black leather chair for the garden, weatherproof, stackable, 2 pieces, with cushions",
    "größe 電池 🔋",
    "hp toner",
    "usb cable",
    "noise cancelling headphones over ear bluetooth",
    "27 inch monitor",
]


@pytest.fixture
def architecture(tiny_encoder):
    return Architecture(encoder=str(tiny_encoder), query_length=12, product_length=20)


def one_by_one(tower, texts):
    """The naive way: each text alone, tokenised by the library, no padding; mean or first token, head, unit length."""
    vectors = []
    for text in texts:
        features = tower.transformer.tokenizer(
            text, truncation=True, max_length=tower.max_length, return_tensors="pt", return_token_type_ids=False
        )
        hidden = tower.transformer.auto_model(**features).last_hidden_state[0]
        pooled = hidden[0] if tower.head[0].pooling_mode == "cls" else hidden.mean(dim=0)
        pooled = tower.head[1].linear(pooled) if len(tower.head) > 1 else pooled
        vectors.append(pooled / pooled.norm())
    return torch.stack(vectors)


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize(("pooling", "projection"), [("mean", None), ("cls", 48)])
def test_the_chunked_forward_equals_the_naive_one_gradient_included(architecture, rows, pooling, projection):
    model = TwoTowerModel.build(replace(architecture, pooling=pooling, projection=projection), seed=1)
    with torch.no_grad():  # wide enough for the vectors to differ
        for weight in model.query.transformer.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    direction = torch.randn(len(TEXTS), model.query.dimension, generator=torch.Generator().manual_seed(2))
    vectors = model.query(model.query.tokenise(TEXTS), rows_a_chunk=rows)
    (vectors * direction).sum().backward()
    fast, found = gradients(model), vectors.detach()
    model.zero_grad()
    expected = one_by_one(model.query, TEXTS)
    (expected * direction).sum().backward()
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-5)
    slow = gradients(model)
    assert fast.keys() == slow.keys()
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-4, atol=1e-5)
    assert found.shape == (len(TEXTS), projection or 32)
    # The comparison would see a wrong order.
    assert (found - found.roll(1, dims=0)).abs().max() > 0.05


def test_vectors_are_float32_of_length_one_under_autocast_too(architecture):
    model = TwoTowerModel.build(replace(architecture, projection=16), seed=0)
    tokens = model.product.tokenise(TEXTS)
    exact = model.product(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = model.product(tokens)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)), rtol=0, atol=1e-6)
    assert (vectors * exact).sum(dim=1).min() > 0.999
    assert not torch.equal(vectors, exact)  # the transformer itself did run in bfloat16


def test_towers_differ_in_length_and_no_texts_give_no_vectors(architecture):
    model = TwoTowerModel.build(architecture, seed=0)
    long = ["chair " * 500]
    assert [len(ids) for ids in model.query.tokenise(long) + model.product.tokenise(long)] == [12, 20]
    assert (model.query.tokenise(long)[0][0], model.query.tokenise(long)[0][-1]) == (101, 102)
    assert isinstance(model.query, QueryTower)
    assert isinstance(model.product, ProductTower)
    assert model.query([]).shape == (0, 32)
    assert model.query.tokenise([]) == []
    assert model.query.embed([]).shape == (0, 32)
    assert model.query.tokenise(["half \ud83d pair"])
    for wrong in ("one text", ["a", None]):
        with pytest.raises(CourseError, match="list of str"):
            model.query.tokenise(wrong)


@pytest.mark.parametrize(("precision", "likeness"), [("float32", 0.999999), ("bfloat16", 0.999)])
def test_embed_agrees_with_forward_and_leaves_the_model_alone(architecture, monkeypatch, precision, likeness):
    placement = Placement("cpu", "torch", precision, "a test")
    monkeypatch.setattr("chapter02_two_tower.model.choose_placement", lambda engine: placement)
    model = TwoTowerModel.build(replace(architecture, dropout=0.3, projection=8), seed=0)
    trained = [weight.requires_grad for weight in model.parameters()]
    vectors = model.product.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert (vectors[0] == vectors[5]).all()
    assert model.training
    weights = [*model.parameters()]
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert [weight.requires_grad for weight in weights] == trained
    expected = model.eval().product(model.product.tokenise(TEXTS)).detach().numpy()
    assert (vectors * expected).sum(axis=1).min() > likeness


def test_embed_refuses_vectors_that_are_not_numbers(architecture):
    model = TwoTowerModel.build(architecture, seed=0)
    with torch.no_grad():
        model.query.transformer.auto_model.embeddings.LayerNorm.weight[0] = float("nan")
    with pytest.raises(CourseError, match="not numbers"):
        model.query.embed(TEXTS)


def test_dropout_is_what_the_architecture_says(architecture):
    for dropout, equal in ((0.0, True), (0.3, False)):
        model = TwoTowerModel.build(replace(architecture, dropout=dropout), seed=0)
        tokens = model.query.tokenise(TEXTS)
        assert torch.equal(model.query(tokens), model.query(tokens)) is equal


def test_gradient_checkpointing_changes_no_gradient(architecture):
    found = []
    for checkpointing in (False, True):
        model = TwoTowerModel.build(replace(architecture, gradient_checkpointing=checkpointing), seed=0)
        assert model.query.transformer.auto_model.is_activation_checkpointing is checkpointing
        model.query(model.query.tokenise(TEXTS))[:, 0].sum().backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_frozen_token_embeddings_get_no_gradient_and_the_rest_does(architecture):
    model = TwoTowerModel.build(replace(architecture, train_token_embeddings=False), seed=0)
    model.query(model.query.tokenise(TEXTS))[:, 0].sum().backward()
    words, positions = (
        model.query.transformer.auto_model.get_input_embeddings().weight,
        model.query.transformer.auto_model.embeddings.position_embeddings.weight,
    )
    assert words.grad is None
    assert positions.grad.abs().sum() > 0


def test_shared_towers_hold_one_network_and_separate_ones_two_equal_ones(architecture):
    shared = TwoTowerModel.build(replace(architecture, projection=16), seed=0)
    apart = TwoTowerModel.build(replace(architecture, projection=16, shared=False), seed=0)
    count = len(list(shared.query.parameters()))
    assert len(list(shared.parameters())) == len(shared.state_dict()) == count
    assert len(list(apart.parameters())) == len(apart.state_dict()) == 2 * count
    short = ["usb cable"]
    for model in (shared, apart):  # they start in the same space
        torch.testing.assert_close(
            model.query(model.query.tokenise(short)), model.product(model.product.tokenise(short))
        )
    (1 - apart.query(apart.query.tokenise(short))[0, 0]).backward()
    assert all(weight.grad is None for weight in apart.product.parameters())


@pytest.mark.parametrize("shared", [True, False])
def test_a_state_goes_through_safetensors_into_another_model(architecture, tmp_path, shared):
    architecture = replace(architecture, projection=16, shared=shared, learn_temperature=True)
    model, other = TwoTowerModel.build(architecture, seed=0), TwoTowerModel.build(architecture, seed=1)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.add_(0.01 * (number + 1))
    save_file(model.state_dict(), tmp_path / "state.safetensors")  # refuses weights that are there twice
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for tower in ("query", "product"):
        tokens = getattr(model, tower).tokenise(TEXTS)
        assert torch.equal(getattr(model, tower)(tokens), getattr(other, tower)(tokens))
    assert torch.equal(model.temperature, other.temperature)


def test_the_projection_is_drawn_by_its_seed_and_keeps_the_cosines(architecture):
    wide = replace(architecture, projection=48)
    state = torch.random.get_rng_state()
    first, again, other = (TwoTowerModel.build(wide, seed=seed).query.head[1].linear.weight for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    plain, projected = TwoTowerModel.build(architecture, seed=0).query, TwoTowerModel.build(wide, seed=3).query
    before, after = plain(plain.tokenise(TEXTS)), projected(projected.tokenise(TEXTS))
    torch.testing.assert_close(before @ before.T, after @ after.T, rtol=0, atol=1e-5)


def test_a_fixed_temperature_is_no_parameter_and_a_learned_one_is_bounded(architecture):
    fixed = TwoTowerModel.build(replace(architecture, temperature=0.07), seed=0)
    assert float(fixed.temperature) == pytest.approx(0.07)
    assert not fixed.temperature.requires_grad
    learned = TwoTowerModel.build(replace(architecture, temperature=0.07, learn_temperature=True), seed=0)
    assert len(list(learned.parameters())) == len(list(fixed.parameters())) + 1
    for inside, expected in ((0.07, 0.07), (0.0001, 0.01), (50.0, 1.0)):
        with torch.no_grad():
            learned.log_temperature.fill_(np.log(inside))
        assert float(learned.temperature.detach()) == pytest.approx(expected)
        learned.log_temperature.grad = None
        learned.temperature.backward()
        assert float(learned.log_temperature.grad) == pytest.approx(expected)  # it can come back from the bound


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("pooling", "projection"), [("mean", None), ("cls", 48)])
def test_saved_towers_load_as_sentence_transformers_with_the_same_vectors(
    architecture, tmp_path, capfd, recwarn, shared, pooling, projection
):
    from sentence_transformers import SentenceTransformer

    architecture = replace(architecture, shared=shared, pooling=pooling, projection=projection)
    model = TwoTowerModel.build(architecture, seed=0)
    with torch.no_grad():
        for weight in model.product.parameters():
            weight.mul_(1.01)
    capfd.readouterr()
    model.save(tmp_path / "best")
    again = TwoTowerModel.load(tmp_path / "best")
    assert capfd.readouterr() == ("", "")
    assert not [str(warning.message) for warning in recwarn]
    assert again.architecture == architecture
    for name, length in (("query", 12), ("product", 20)):
        tower, loaded = getattr(model, name), getattr(again, name)
        expected = tower(tower.tokenise(TEXTS)).detach().numpy()
        library = SentenceTransformer(str(tmp_path / "best" / name), device="cpu", local_files_only=True)
        assert library.max_seq_length == loaded.max_length == length
        np.testing.assert_allclose(library.encode(TEXTS, show_progress_bar=False), expected, atol=1e-5)
        np.testing.assert_allclose(loaded(loaded.tokenise(TEXTS)).detach().numpy(), expected, atol=1e-6)
        encoder = load_text_encoder(str(tmp_path / "best" / name), engine="torch")
        assert encoder.max_length == length
        assert (encoder.encode(TEXTS).vectors * expected).sum(axis=1).min() > 0.999
    assert not [path for path in (tmp_path / "best").rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_equal_towers_take_the_room_of_one_and_saving_twice_gives_equal_bytes(architecture, tmp_path):
    model = TwoTowerModel.build(architecture, seed=0)
    limit = model.query.transformer.max_seq_length
    model.save(tmp_path / "a")
    model.product.tokenise(TEXTS)
    model.save(tmp_path / "b")
    assert model.query.transformer.max_seq_length == limit
    weights = [tmp_path / "a" / name / "model.safetensors" for name in ("query", "product")]
    assert weights[0].samefile(weights[1])
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    with pytest.raises(CourseError, match="something in this folder"):
        model.save(tmp_path / "a")


def test_a_learned_temperature_is_saved(architecture, tmp_path):
    model = TwoTowerModel.build(replace(architecture, learn_temperature=True), seed=0)
    with torch.no_grad():
        model.log_temperature.fill_(np.log(0.03))
    model.save(tmp_path / "model")
    again = TwoTowerModel.load(tmp_path / "model")
    assert float(again.temperature.detach()) == pytest.approx(0.03)
    assert again.architecture.temperature == 0.05


@pytest.fixture
def saved(architecture, tmp_path):
    TwoTowerModel.build(replace(architecture, shared=False, projection=16), seed=0).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["query/model.safetensors", "product/2_Dense/model.safetensors", "query/config.json"])
def test_a_file_cut_short_or_missing_is_named(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CourseError, match=f"{name}.* cut short"):
        TwoTowerModel.load(saved)
    (saved / name).unlink()
    with pytest.raises(CourseError, match=f"{name}.* missing"):
        TwoTowerModel.load(saved)


def test_towers_of_different_models_are_refused(saved, architecture, tmp_path):
    TwoTowerModel.build(replace(architecture, shared=False, projection=8), seed=0).save(tmp_path / "other")
    shutil.rmtree(saved / "product")
    shutil.copytree(tmp_path / "other" / "product", saved / "product")
    with pytest.raises(CourseError, match="was changed"):
        TwoTowerModel.load(saved)


@pytest.mark.parametrize("change", [{"projection": 8}, {"projection": None}, {"pooling": "cls"}])
def test_a_description_of_another_architecture_is_refused(saved, change):
    description = json.loads((saved / "two_tower.json").read_text())
    description["architecture"] |= change
    (saved / "two_tower.json").write_text(json.dumps(description))
    with pytest.raises(CourseError, match="another architecture"):
        TwoTowerModel.load(saved)


@pytest.mark.parametrize("content", ["[]", "{", '{"architecture": {"shared": true}, "temperature": 1, "sha256": {}}'])
def test_a_description_that_is_none_is_refused(saved, content):
    (saved / "two_tower.json").write_text(content)
    with pytest.raises(CourseError, match=r"two_tower\.json"):
        TwoTowerModel.load(saved)
    (saved / "two_tower.json").unlink()
    with pytest.raises(CourseError, match=r"two_tower\.json"):
        TwoTowerModel.load(saved)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pooling": "max"},
        {"projection": 0},
        {"query_length": 2},
        {"product_length": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"dropout": 1.0},
    ],
)
def test_values_that_make_no_model_are_refused(wrong):
    with pytest.raises(CourseError, match=next(iter(wrong))):
        Architecture(**wrong)


def test_encoders_that_cannot_become_towers_are_refused(saved, architecture):
    with pytest.raises(CourseError, match="head of its own"):
        TwoTowerModel.build(replace(architecture, encoder=str(saved / "query")), seed=0)
    with pytest.raises(CourseError, match="at most 512 tokens, not 600"):
        TwoTowerModel.build(replace(architecture, product_length=600), seed=0)


def test_the_packaged_encoder_keeps_its_vectors(tmp_path):
    """The real MiniLM, untrained, is chapter 1's encoder; its weights come out as they went in."""
    model = TwoTowerModel.build(Architecture(), seed=0)
    expected = load_text_encoder(engine="torch", max_length=32).encode(TEXTS).vectors
    assert (model.query(model.query.tokenise(TEXTS)).detach().numpy() * expected).sum(axis=1).min() > 0.999
    model.query.save(tmp_path / "query")
    with safe_open(tmp_path / "query" / "model.safetensors", "pt") as file:
        words = file.get_tensor("embeddings.word_embeddings.weight")
    assert torch.equal(words, model.query.transformer.auto_model.get_input_embeddings().weight)


def test_vectors_are_cut_and_of_length_one_again():
    vectors = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    short = truncate(vectors, 3)
    torch.testing.assert_close(short, torch.stack([row[:3] / row[:3].norm() for row in vectors]))
    np.testing.assert_allclose(truncate(vectors.numpy(), 3), short.numpy(), atol=1e-6)
    torch.testing.assert_close(truncate(vectors, 8), vectors)
    for wrong in (0, 9):
        with pytest.raises(CourseError, match="cannot be cut"):
            truncate(vectors, wrong)


def test_the_placement_of_the_machine_is_asked_for_torch(monkeypatch, architecture):
    asked = []
    monkeypatch.setattr(
        "chapter02_two_tower.model.choose_placement",
        lambda engine: asked.append(engine) or devices.choose_placement(engine),
    )
    TwoTowerModel.build(architecture, seed=0).query.embed(["usb cable"])
    assert asked == ["torch"]
