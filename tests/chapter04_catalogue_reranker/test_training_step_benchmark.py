"""Both loops of the training benchmark do the same work: one loss, one gradient, the same products."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from chapter03_multimodal import training_pictures
from chapter04_catalogue_reranker.batches import epoch_batches
from chapter04_catalogue_reranker.train_config import TrainConfig, resolved
from common import devices
from common.errors import CourseError
from course.bench import FIELDS
from course.benchmarks import reranker_training
from course.benchmarks.reranker_training import OurStep, PlainStep
from tests.chapter04_catalogue_reranker.towers_fixtures import tiny_vision


@pytest.fixture(scope="module", autouse=True)
def _in_float32() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "native_bfloat16", lambda: None)
        yield


@pytest.fixture(scope="module")
def tiny(tiny_text_encoder, tmp_path_factory) -> tuple[str, str]:
    return str(tiny_text_encoder), tiny_vision("vit", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def steps(reranker_shop, tiny) -> tuple[OurStep, PlainStep]:
    text, vision = tiny
    settings = {"text": text, "vision": vision, "profile": "smoke", "contrastive": 0.0, "queue": 0, "products": 24}
    config = resolved(TrainConfig(**settings))
    with reranker_training.pictures_not_kept():
        ours = OurStep(config, reranker_training.complete_products(reranker_shop, 24))
    return ours, PlainStep(config, ours)


def test_both_loops_have_one_loss_and_one_gradient(steps):
    """In evaluation mode, so that dropout does not decide; LoRA begins with B = 0, and A has no gradient yet."""
    ours, plain = steps
    [batch] = epoch_batches(ours.setup.examples.lists, ours.rows[:8], 8, np.random.default_rng(0))
    ours.setup.model.eval(), plain.model.eval()
    one, other = ours.loss(batch, ours.setup.inputs.pixels(batch.rows)), plain.loss(batch)
    assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-4) and float(other.detach()) > 0.1
    one.backward(), other.backward()
    theirs = dict(plain.model.named_parameters())
    compared = 0
    for name, weight in ours.setup.model.named_parameters():
        if weight.grad is not None:
            np.testing.assert_allclose(weight.grad, theirs[name].grad, atol=1e-4, rtol=1e-2, err_msg=name)
            compared += "vision_tower" in name and bool(weight.grad.abs().max() > 0)
    assert compared >= 4, "LoRA's B of both projections in both layers"
    ours.optimizer.zero_grad(), plain.optimizer.zero_grad()


def test_a_slice_is_trained_on_once_in_batches(steps):
    for loop, size in zip(steps, (8, 4), strict=True):
        model = loop.setup.model if isinstance(loop, OurStep) else loop.model
        before = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
        ends = loop.train(steps[0].rows[:16], size)
        assert [count for count, _ in ends] == [size] * (16 // size)
        assert all(one < next_one for (_, one), (_, next_one) in pairwise(ends))
        moved = {name for name, weight in model.named_parameters() if name in before and (weight != before[name]).any()}
        assert any("vision_tower" in name for name in moved) and not any("text_tower" in name for name in moved)


def test_pictures_are_read_in_every_step_and_texts_kept(steps, monkeypatch):
    ours, _ = steps
    assert training_pictures.IN_MEMORY > 0, "what the benchmark set aside is in force again"
    opened = []
    read = training_pictures.open_image
    monkeypatch.setattr(training_pictures, "open_image", lambda path, **how: opened.append(path) or read(path, **how))
    monkeypatch.setattr(ours.setup.model, "text_features", lambda tokens: pytest.fail("the text tower was asked"))
    ours.train(ours.rows[:8], 4)
    assert sorted(opened) == sorted(ours.setup.inputs.files[row] for row in ours.rows[:8])


def test_the_loops_take_turns_and_the_first_step_is_not_timed():
    taken = []

    class Loop:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def train(self, rows, size):
            taken.append((self.name, rows.tolist()))
            return [(size, self.seconds * at) for at in range(len(rows) // size)]

    slices = [np.arange(8), np.arange(8, 16)]
    rates = reranker_training.in_turn({"a": (Loop("a", 1.0), 4), "b": (Loop("b", 2.0), 2)}, slices)
    assert rates == {"a": [4.0, 4.0], "b": [1.0, 1.0]}
    assert taken == [(name, part.tolist()) for name, part in zip("abba", np.repeat(slices, 2, axis=0), strict=True)]
    with pytest.raises(CourseError, match="8 products make one step of 8"):
        reranker_training.in_turn({"a": (Loop("a", 1.0), 8)}, slices)


def test_the_row(reranker_shop, tiny, monkeypatch):
    monkeypatch.setattr(reranker_training, "ROUNDS", 2)
    monkeypatch.setenv("COURSE_PROFILE", "smoke")
    [row] = reranker_training.main(reranker_shop, towers=tiny, batch=8, plain_batch=4, steps=2)
    assert set(FIELDS) < set(row) and row["name"] == "reranker-training"
    assert min(row["our_value"], row["peer_value"], row["ratio"]) > 0
    assert "32 products of pocket_shop" in row["note"] and "batch 4" in row["peer"]


def test_too_few_complete_products_are_refused(reranker_shop):
    with pytest.raises(CourseError, match="needs 9,999 training products with a text, a picture and a true path"):
        reranker_training.complete_products(reranker_shop, 9_999)


def test_operations_are_counted_forward_and_backward(steps):
    ours, _ = steps
    few, many = (reranker_training.flops_of_step(ours, ours.rows[:size]) for size in (6, 24))
    assert 2.5 * few < many < 4.5 * few, "four times the pictures, and fewer than four times the distinct paths"
    assert not any(weight.grad is not None for weight in ours.setup.model.parameters())
    assert reranker_training.matrix_rate("cpu", side=32, times=3) > 0
