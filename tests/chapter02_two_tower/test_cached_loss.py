"""The cached way against the plain one: one forward through everything, one loss, one backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chapter02_two_tower.cached_loss import cached_backward
from chapter02_two_tower.losses import in_batch_negatives_loss, nested_loss
from chapter02_two_tower.model import Architecture, Tower, TwoTowerModel

TEXT = "usb cable black leather chair garden adapter noise cancelling headphones monitor toner"
WORDS = TEXT.split()


def some_texts(count, seed):
    random = np.random.default_rng(seed)
    return [f"{at} " + " ".join(random.choice(WORDS, random.integers(0, 9))) for at in range(count)]


@pytest.fixture
def build(tiny_encoder):
    def build(**changes):
        model = TwoTowerModel.build(Architecture(encoder=str(tiny_encoder), **({"projection": 16} | changes)), seed=0)
        with torch.no_grad():  # wide enough for the vectors to differ
            for weight in model.query.transformer.parameters():
                weight.mul_(4 if weight.ndim > 1 else 1)
        return model

    return build


def batch(model, queries=21, products=34):
    """Parts of a batch and its loss: extra negatives, known products, weights, two dimensions, a temperature."""
    parts = [
        (model.query, model.query.tokenise(some_texts(queries, 1))),
        (model.product, model.product.tokenise(some_texts(products, 2))),
    ]
    generator = torch.Generator().manual_seed(3)
    positives = torch.randperm(products, generator=generator)[:queries]
    known = torch.rand(queries, products, generator=generator) < 0.1
    weights = torch.rand(queries, generator=generator)

    def loss_of(vectors):
        def at_one_dimension(q, p):
            return in_batch_negatives_loss(q, p, positives, known=known, weights=weights, temperature=model.temperature)

        return nested_loss(at_one_dimension, *vectors, {8: 0.5, 16: 1.0})

    return parts, loss_of


def plain_backward(parts, loss_of, rows_a_chunk, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = loss_of([tower(tokens, rows_a_chunk=rows_a_chunk) for tower, tokens in parts])
    loss.backward()
    return loss.detach()


def gradients(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def assert_equal_gradients(found, expected, rtol=1e-4, atol=1e-5):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=rtol, atol=atol * max(scale, 1e-3), msg=name)


@pytest.mark.parametrize("rows", [1, 5, 16, 64])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_value_and_gradient_are_those_of_the_plain_way(build, rows, shared, dropout):
    model = build(shared=shared, learn_temperature=True, dropout=dropout)
    parts, steady_loss_of = batch(model)

    def loss_of(vectors):  # one that draws at random itself
        return steady_loss_of(vectors) * (1 + torch.rand(()))

    torch.manual_seed(7)
    expected_loss = plain_backward(parts, loss_of, rows)
    expected, state = gradients(model), torch.get_rng_state()
    torch.manual_seed(7)
    loss = cached_backward(parts, loss_of, rows_a_chunk=rows)
    found = gradients(model)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected_loss)
    assert_equal_gradients(found, expected)
    assert torch.equal(torch.get_rng_state(), state)  # and what is drawn next is the same as well
    assert float(found["log_temperature"].abs()) > 1e-3
    # The comparison would see a wrong gradient: every weight matrix has one.
    assert all(float(gradient.abs().max()) > 0 for gradient in found.values())


def test_another_dropout_would_be_seen(build):
    """Without the same random state in both passes, the gradient of another network would be added."""
    model = build(dropout=0.3)
    parts, loss_of = batch(model)
    found = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        cached_backward(parts, loss_of)
        found.append(gradients(model))
    with pytest.raises(AssertionError):
        assert_equal_gradients(*found)


def test_gradients_add_up_over_calls_as_they_do_without(build):
    model = build(learn_temperature=True)
    parts, loss_of = batch(model)
    cached_backward(parts, loss_of)
    once = gradients(model)
    for _ in range(2):
        cached_backward(parts, loss_of)
    assert_equal_gradients(gradients(model), {name: 2 * gradient for name, gradient in once.items()})


def test_what_the_loss_itself_does_to_the_weights_is_kept(build):
    """A penalty on a weight, inside the loss."""
    model = build()
    parts, loss_of = batch(model)
    weight = model.query.head[1].linear.weight

    def with_penalty(vectors):
        return loss_of(vectors) + 0.1 * weight.square().sum()

    plain_backward(parts, with_penalty, 16)
    expected = gradients(model)
    cached_backward(parts, with_penalty)
    assert_equal_gradients(gradients(model), expected)


def test_under_autocast_every_weight_still_gets_its_gradient(build):
    model = build()
    parts, loss_of = batch(model)
    expected_loss = plain_backward(parts, loss_of, 16, autocast=True)
    expected = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cached_backward(parts, loss_of)
    torch.testing.assert_close(loss, expected_loss)
    found = gradients(model)
    assert_equal_gradients(found, expected, rtol=0.02, atol=0.02)
    plain_backward(parts, loss_of, 16)
    exact = gradients(model)
    name = "query.transformer.model.encoder.layer.0.output.dense.weight"
    assert not torch.equal(found[name], exact[name])  # autocast was indeed in force


def test_gradient_checkpointing_goes_along(build):
    model = build(gradient_checkpointing=True, dropout=0.3)
    parts, loss_of = batch(model)
    torch.manual_seed(7)
    plain_backward(parts, loss_of, 16)
    expected = gradients(model)
    torch.manual_seed(7)
    cached_backward(parts, loss_of)
    assert_equal_gradients(gradients(model), expected)


def test_frozen_weights_and_unused_parts_are_left_alone(build):
    model = build(shared=False, train_token_embeddings=False)
    model.product.requires_grad_(False)
    parts, loss_of = batch(model)
    unused = (model.query, model.query.tokenise(["nobody asks"]))
    loss = cached_backward([*parts, unused], lambda vectors: loss_of(vectors[:2]))
    found = gradients(model)
    assert found
    assert all(name.startswith("query.") and "word_embeddings" not in name for name in found)
    torch.testing.assert_close(loss, plain_backward(parts, loss_of, 16))
    assert_equal_gradients(found, gradients(model))


def test_activations_of_one_chunk_are_held_at_a_time(build, monkeypatch):
    """What memory is saved by: with a graph, the towers never see more than `rows_a_chunk` texts before a backward."""
    model = build()
    parts, loss_of = batch(model)
    alive = []
    embed_chunk = Tower.embed_chunk

    def watched(tower, tokens):
        vectors = embed_chunk(tower, tokens)
        if vectors.requires_grad:
            alive.append(len(tokens))
            vectors.register_hook(lambda gradient: alive.append(-len(gradient)))
        return vectors

    monkeypatch.setattr(Tower, "embed_chunk", watched)
    cached_backward(parts, loss_of, rows_a_chunk=5)
    assert sum(count for count in alive if count > 0) == 21 + 34
    assert np.cumsum(alive).max() == 5
    assert np.cumsum(alive)[-1] == 0
