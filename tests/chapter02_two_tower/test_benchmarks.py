"""The benchmarks compare the same work: the same loss on the same batches, the same negatives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from common.devices import Placement
from common.errors import CourseError
from common.memory import peak_memory
from course.bench import FIELDS
from course.benchmarks import cached_loss, mining
from course.benchmarks import tower_training as training
from course.benchmarks.pairs import Pairs, judged_pairs
from tests.chapter02_two_tower.toy import toy_catalogue

CPU = Placement("cpu", "torch", "float32", "the test")


@pytest.fixture(scope="module")
def toy_shop():
    return toy_catalogue()


def test_pairs_are_judged_training_pairs_of_different_queries(toy_shop):
    pairs = judged_pairs(toy_shop, 24, batch_size=12)
    catalogue = toy_shop
    relevant = catalogue.judgements[catalogue.judgements["grade"] >= 2].merge(catalogue.queries, on="query_id")
    relevant = relevant[relevant["split"] == "train"].merge(catalogue.products, on="product_id")
    assert set(zip(pairs.queries, pairs.products, strict=True)) <= set(
        zip(relevant["query"], relevant["title"], strict=True)
    )
    first, second = pairs.batches(12)
    assert len(set(first.queries)) == 12
    assert [*first.queries, *second.queries] == pairs.queries and len(pairs.batches(10)) == 2
    with pytest.raises(CourseError, match="no judged training queries"):
        judged_pairs(catalogue.from_tables("empty", products=catalogue.products), 4, batch_size=2)


@pytest.mark.parametrize(("half", "apart_at_most"), [(False, 0.02), (True, 0.5)])
def test_both_trainings_have_one_loss_and_learn_the_same(toy_shop, tiny_encoder, half, apart_at_most):
    """Step after step: equal losses at the start and, after as many steps, equal weights."""
    batches = judged_pairs(toy_shop, 24, batch_size=6).batches(6)
    ours = training.OurTraining(str(tiny_encoder), CPU, len(batches), half=half)
    peer = training.TrainerTraining(str(tiny_encoder), CPU, len(batches), half=half)

    def losses():
        batch = batches[0]
        features = [peer.model.preprocess(texts) for texts in (batch.queries, batch.products)]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            theirs = peer.loss(features, None)
        return float(ours.loss(batch).detach()), float(theirs.detach())

    mine, theirs = losses()
    assert mine == pytest.approx(theirs, rel=1e-2 if half else 1e-5) and mine > 0.1
    for part in (batches[:2], batches[2:]):
        assert len(ours.train(part)) == len(peer.train(part)) == 2
    pairs = list(zip(ours.model.query.transformer.parameters(), peer.model[0].parameters(), strict=True))
    start = training.OurTraining(str(tiny_encoder), CPU, 1, half=False).model.query.transformer.parameters()
    moved = sum(float((before - after).detach().abs().sum()) for before, (after, _) in zip(start, pairs, strict=True))
    apart = sum(float((one - other).detach().abs().sum()) for one, other in pairs)
    assert moved > 0 and apart < apart_at_most * moved, apart / moved
    after, _ = losses()
    assert after < mine
    assert ours.scheduler.get_last_lr() == peer.scheduler.get_last_lr()


def test_the_rows_of_training(toy_shop, tiny_encoder, monkeypatch):
    monkeypatch.setattr(training, "choose_placement", lambda engine: CPU)
    monkeypatch.setattr(training, "ROUNDS", 2)
    same, default = training.main(toy_shop, encoder=str(tiny_encoder), batch=6, steps=2)
    for row in (same, default):
        assert set(FIELDS) < set(row)
        assert min(row["our_value"], row["peer_value"], row["ratio"]) > 0
        assert row["our_ndcg"] == pytest.approx(row["peer_ndcg"], abs=0.05) and row["our_ndcg"] > 0
        assert row["peer"] == "SentenceTransformerTrainer float32", "here is no bfloat16 to compare in"
    assert same["name"] != default["name"] and "24 pairs of toy" in same["note"]


def test_the_runners_take_turns_and_share_the_batches():
    taken = []

    class Runner:
        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def train(self, batches):
            taken.append((self.name, [batch.queries[0] for batch in batches]))
            return [self.seconds * at for at in range(len(batches))]

    batches = [Pairs([str(at)] * 4, ["p"] * 4) for at in range(6)]
    rates = training._in_turn({"a": Runner("a", 1.0), "b": Runner("b", 2.0)}, batches, 3)
    assert rates == {"a": [4.0, 4.0], "b": [2.0, 2.0]}, "the first step of a slice is not counted"
    assert taken == [(n, list(part)) for n, part in (("a", "012"), ("b", "012"), ("b", "345"), ("a", "345"))]


def test_the_row_of_mining():
    [row] = mining.main(((30, 900),), rounds=1)
    assert set(FIELDS) < set(row)
    assert row["differing"] == 0 and 300 < row["negatives"] <= 30 * mining.KEEP
    assert row["ratio"] == pytest.approx(row["our_value"] / row["peer_value"], rel=0.02)
    assert row["peer"].split(", ")[-1] in mining.FORMATS


def test_mining_refuses_to_compare_other_negatives():
    ours = pd.DataFrame({"query_id": ["q0", "q0"], "product_id": ["p1", "p2"]})
    peer = [{"query": "q0", "product": p, "label": label} for p, label in (("p0", 1), ("p1", 0), ("p2", 0))]
    assert mining._compare(ours, peer) == (0, 2)
    with pytest.raises(CourseError, match="of 2 and 1 negatives 1 differ"):
        mining._compare(ours, peer[:2])
    with pytest.raises(CourseError, match="of 0 and 2"):
        mining._compare(ours.iloc[:0], peer)


def test_the_row_of_the_cached_loss(toy_shop, tiny_encoder, monkeypatch):
    steps = []

    def here(batch, encoder, cached):
        steps.append((len(batch.queries), cached))
        return {"before": 1e9, "peak": 1e9 + 1e6 * len(batch.queries) / (2 if cached else 1), "seconds": 1.0}

    monkeypatch.setattr(cached_loss, "step_in_a_process", here)
    [row] = cached_loss.main(toy_shop, encoder=str(tiny_encoder), cached=30, plain=(5, 10))
    assert set(FIELDS) < set(row) and steps == [(5, False), (10, False), (30, True)]
    assert row["mb_a_pair"] == 1.0 and row["unit"] == "GB peak" and "30 pairs" in row["ours"]


def test_the_cached_step_is_the_plain_one(toy_shop, tiny_encoder):
    batch = judged_pairs(toy_shop, 12, batch_size=12)
    cached, plain = (cached_loss.take_step(batch, str(tiny_encoder), way) for way in (True, False))
    assert cached["loss"] == pytest.approx(plain["loss"], rel=2e-2)  # in bfloat16, if the machine has it
    assert 0 < cached["before"] <= cached["peak"] <= plain["peak"], "one process, whose peak only grows"


@pytest.mark.slow
def test_a_step_in_a_process_of_its_own_says_its_own_memory(toy_shop, tiny_encoder):
    """The child must not report what its parent once held."""
    batch = judged_pairs(toy_shop, 12, batch_size=12)
    held = np.ones(200_000_000)  # 1.6 GB more than anything here needs
    parent = peak_memory()
    assert parent > held.nbytes
    child = cached_loss.step_in_a_process(batch, str(tiny_encoder), True)
    del held
    assert 1e8 < child["before"] <= child["peak"] < parent
    assert child["loss"] > 0
