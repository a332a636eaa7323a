"""Training on a toy shop: it learns, continues after a kill to the same bits, and says what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from chapter02_two_tower import train
from chapter02_two_tower.model import TwoTowerModel
from chapter02_two_tower.objective import batch_loss
from chapter02_two_tower.stage_batches import similar_queries
from chapter02_two_tower.stages import plan_stages
from chapter02_two_tower.training_texts import TrainingTexts
from common.artifacts import RunFolder
from common.checkpoints import restore_checkpoint, save_checkpoint
from common.devices import Placement
from common.errors import CourseError
from common.training import warmup_schedule
from common.training_log import read_log
from tests.chapter02_two_tower import toy
from tests.chapter02_two_tower.toy import toy_training


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the work folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    toy_training(folder).run()
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "query" / "model.safetensors")


def without_seconds(log: Path) -> list[dict]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same_run(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("query/model.safetensors"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("query/model.safetensors")) and names
    return without_seconds(one / "log.jsonl") == without_seconds(other / "log.jsonl") and all(
        torch.equal(a, weights(other / name.parent.parent)[key])
        for name in names
        for key, a in weights(one / name.parent.parent).items()
    )


def test_every_stage_leaves_its_models_and_its_lines(whole):
    log = read_log(whole / "work" / "log.jsonl")
    batches, epochs = log[log["loss"].notna()], log[log["nDCG@10"].notna()]
    assert batches.groupby("stage").size().to_dict() == {"control": 6, "stage1": 6, "stage2": 6, "stage3": 3}
    assert epochs.groupby("stage").size().to_dict() == {"control": 1, "stage1": 2, "stage2": 2, "stage3": 1}
    assert batches["step"].tolist() == list(range(1, 22))
    figures = {"loss", "rate", "gradient_norm", "validation_loss", "mean_cosine", "uniformity", "alignment", "MRR"}
    assert figures <= set(log)
    for row in epochs.itertuples():
        assert TwoTowerModel.load(whole / "work" / row.stage / f"epoch_{row.epoch}").product.dimension == 32
    best = json.loads((whole / "work" / "best.json").read_text())
    own = epochs[epochs["stage"] != "control"]
    assert best["nDCG@10"] == own["nDCG@10"].max()
    kept = whole / "work" / best["stage"] / f"epoch_{best['epoch']}"
    assert all(torch.equal(a, weights(kept)[key]) for key, a in weights(whole / "work" / "best").items())
    assert not list((whole / "work").glob("*/last")), "what is only there to go on from is gone"


def test_it_learns(whole):
    log = read_log(whole / "work" / "log.jsonl")
    losses = log[log["stage"] == "stage1"]["loss"].dropna()
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]


@pytest.mark.slow
@pytest.mark.parametrize("lines", [4, 9, 13])
def test_killed_at_any_step_it_goes_on_to_the_same_bits(whole, tmp_path, lines):
    """Killed once the log has so many lines: in stage 1, after the first line of stage 2 (which has no checkpoint
    yet), and within stage 2."""
    (tmp_path / "encoder").symlink_to(whole / "encoder")
    log = tmp_path / "work" / "log.jsonl"
    child = subprocess.Popen([sys.executable, toy.__file__, tmp_path, "{}"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not log.is_file() or log.read_bytes().count(b"\n") < lines:
        assert child.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "work" / "best.json").exists()
    subprocess.run([sys.executable, toy.__file__, tmp_path, "{}"], check=True, capture_output=True, timeout=300)
    assert same_run(whole / "work", tmp_path / "work")


def test_the_comparison_of_runs_can_fail(whole, tmp_path):
    (tmp_path / "encoder").symlink_to(whole / "encoder")
    toy_training(tmp_path, seed=1).run()
    assert not same_run(whole / "work", tmp_path / "work")


def test_stage_3_has_a_tenth_of_the_rate_also_after_a_resume(whole, tmp_path):
    log = read_log(whole / "work" / "log.jsonl")
    peaks = log.groupby("stage")["rate"].max()
    assert peaks["stage1"] == peaks["stage2"] == peaks["control"] == pytest.approx(1e-3)
    assert peaks["stage3"] == pytest.approx(1e-4)
    # An optimizer's state that remembers the old rate must not bring it back.
    model = torch.nn.Linear(2, 2)
    old = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 2)).sum().backward()
    old.step()
    save_checkpoint(tmp_path, "a", model, old, {})
    new = torch.optim.AdamW(model.parameters(), lr=1e-4)
    restore_checkpoint(tmp_path, model, new)
    assert [group["lr"] for group in new.param_groups] == [1e-4]


def test_a_stage_of_few_steps_warms_up_in_one_of_them(tmp_path):
    for pairs, rates in ((8, [1.0]), (16, [1.0, 1.0]), (24, [1.0, 1.0, 0.5])):
        training = toy_training(tmp_path, pairs=(24, pairs, 24), epochs=(1, 1, 1), control=False)
        stage, steps = plan_stages(training.config, training.data)[1], pairs // 8
        assert [warmup_schedule(step, steps, stage.warmup, stage.decay) for step in range(steps)] == rates


@pytest.mark.slow
def test_similar_queries_are_the_nearest_by_the_model_and_only_stage_2_looks_for_them(tmp_path):
    training = toy_training(tmp_path)
    plan = plan_stages(training.config, training.data)
    assert [stage.together for stage in plan] == [1, 8, 1, 1]
    two, model, _, texts = training.start(1)
    assert similar_queries(plan[3], model, texts.queries) == {}
    small = toy_training(tmp_path, stages=(1,), control=False, batch_size=4)
    assert [stage.name for stage in plan_stages(small.config, small.data)] == ["stage1"]  # no group to be too large
    found = similar_queries(two, model, texts.queries)
    assert set(found) == set(two.positives["query_id"])
    for query, others in list(found.items())[:5]:
        own = model.query.embed([texts.queries[query]])[0]
        cosines = [float(own @ model.query.embed([texts.queries[other]])[0]) for other in others]
        assert query not in others and len(set(others)) == len(others) == min(100, len(found) - 1)
        assert cosines == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)


def test_control_and_stage_2_differ_in_the_negatives_and_in_what_shares_a_batch(tmp_path):
    training = toy_training(tmp_path)
    one, two, three, control = plan_stages(training.config, training.data)
    assert (two.kind, control.kind) == ("hard", "random")
    different = {name for name in vars(two) if vars(two)[name] is not vars(control)[name]}
    assert different == {"name", "kind", "together", "pairs", "epochs", "warmup"} and control.warmup == two.warmup
    assert control.pairs * control.epochs == two.pairs * two.epochs
    assert one.rate == two.rate == 10 * three.rate
    assert [stage.decay for stage in (one, two, three, control)] == ["none", "linear", "linear", "linear"]
    assert one.positives["weight"].min() == 1.0 and three.positives["weight"].min() == 0.6


def test_a_cached_step_has_the_gradient_of_a_plain_one(tmp_path, monkeypatch):
    placement = Placement("cpu", "torch", "float32", "a comparison")
    monkeypatch.setattr(train, "choose_placement", lambda engine: placement)
    gradients = []

    class Stop(Exception):
        pass

    def stop(weights):
        gradients.append([weight.grad for weight in weights if weight.grad is not None])
        raise Stop

    monkeypatch.setattr(train, "clip_gradients", stop)
    for cached in (False, True):
        training = toy_training(tmp_path, cached=cached, contrastive=0.5, triplet=0.5, dimensions=(16,))
        with pytest.raises(Stop):
            training.run()
    assert len(gradients[0]) > 10
    for plain, cached in zip(*gradients, strict=True):
        torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-6)


def test_the_loss_of_a_batch_is_the_sum_of_what_is_asked_for(tmp_path):
    batch = toy_training(tmp_path).start()[2].epoch(0)[0]
    q, p = (torch.nn.functional.normalize(torch.randn(n, 32), dim=1) for n in (8, len(batch.product_ids)))

    def loss(**weights):
        config = toy_training(tmp_path, **({"in_batch": 0.0} | weights)).config
        return float(batch_loss(q, p, batch, config, 0.05))

    parts = [loss(in_batch=1.0), loss(contrastive=1.0), loss(triplet=1.0)]
    assert all(part > 0 for part in parts)
    mixed = loss(in_batch=1.0, contrastive=0.5, triplet=2.0)
    assert mixed == pytest.approx(parts[0] + 0.5 * parts[1] + 2.0 * parts[2], rel=1e-5)
    assert loss(in_batch=1.0, dimensions=(8,)) > parts[0]


def test_a_loss_that_is_not_a_number_stops_with_earlier_epochs_kept(tmp_path, monkeypatch):
    calls = []

    def breaks(*args):
        calls.append(1)
        return batch_loss(*args) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(train, "batch_loss", breaks)
    with pytest.raises(CourseError, match=r"loss nan .* at step 5, stage stage1; .*\n.*lower --learning-rate"):
        toy_training(tmp_path).run()
    assert (tmp_path / "work" / "stage1" / "epoch_1" / "two_tower.json").is_file()
    assert not (tmp_path / "work" / "best.json").exists()


def test_a_text_is_tokenised_once_and_a_typo_changes_its_query_only(tmp_path):
    _, model, batches, texts = toy_training(tmp_path, typo_share=0.5).start()
    batch, again = batches.epoch(0)[0], TrainingTexts(toy_training(tmp_path).data, texts.searchable)
    (queries, query_tokens), (products, product_tokens) = texts.tokens(model, batch)
    assert queries is model.query and products is model.product
    assert product_tokens == products.tokenise([texts.products[product_id] for product_id in batch.product_ids])
    plain = queries.tokenise([texts.queries[query_id] for query_id in batch.query_ids])
    assert [a == b for a, b in zip(query_tokens, plain, strict=True)] == [not seed for seed in batch.typos]
    assert 0 < sum(map(bool, batch.typos)) < len(batch)
    asked = []
    model.product.tokenise = lambda wanted: asked.append(wanted) or [[1] for _ in wanted]
    again.tokens(model, batch)
    again.tokens(model, batch)
    assert [len(wanted) for wanted in asked] == [len(batch.product_ids), 0]


def test_a_stage_ends_early_when_validation_does_not_improve(tmp_path, monkeypatch):
    training = toy_training(tmp_path, stages=(1,), control=False, epochs=(6, 1, 1), patience=2)
    figures = iter([0.1, 0.3, 0.5, 0.4, 0.5, 0.9])  # the first is that of the untrained model
    monkeypatch.setattr(type(training.validation), "__call__", lambda *_: {"nDCG@10": next(figures)})
    training.run()
    best = json.loads((tmp_path / "work" / "best.json").read_text())
    assert (best["epoch"], best["nDCG@10"]) == (2, 0.5), "the first of equals is kept, and epoch 5 never came"


def test_nothing_to_train_on_is_an_error_with_a_reason(tmp_path):
    training = toy_training(tmp_path)
    empty = training.data.training_pairs[training.data.training_pairs["label"] == 0]
    training.data = training.data.__class__(**(vars(training.data) | {"training_pairs": empty}))
    with pytest.raises(CourseError, match="no positive pair"):
        training.run()
    with pytest.raises(CourseError, match="stages are 1, 2 and 3"):
        toy_training(tmp_path, stages=(4,)).run()


def test_a_shop_in_which_everything_is_relevant_has_nothing_to_learn_from(tmp_path):
    training = toy_training(tmp_path, negatives=(0, 1, 0), stages=(2,), control=False)
    data, products = training.data, training.validation.product_ids
    pairs = data.training_pairs[data.training_pairs["label"] == 1]
    everything = pd.MultiIndex.from_product([pairs["query_id"].unique(), products], names=["query_id", "product_id"])
    changed = {"training_pairs": pairs, "relevant": everything.to_frame(index=False)}
    training.data = data.__class__(**(vars(data) | changed))
    with pytest.raises(CourseError, match="every candidate of every query is relevant"):
        training.run()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": (0, 1, 1)}, r"train: epochs is \(0, 1, 1\); give every stage that is trained 1 or more"),
        ({"pairs": (1, 0, 1)}, "train: pairs is .* 1 or more"),
        ({"negatives": (-1, 0, 0)}, r"train: negatives is \(-1, 0, 0\); give every stage 0 or more"),
        ({"checkpoint_every": 0}, "train: checkpoint_every is 0; it must be at least 1"),
        ({"similar_queries": 0}, "train: similar_queries is 0; it must be at least 1 and at most 8"),
        ({"similar_queries": 9}, "train: similar_queries is 9; it must be at least 1 and at most 8"),
        ({"patience": 0}, "train: patience is 0; it must be at least 1"),
        ({"typo_share": 1.5}, "train: typo_share is 1.5; it must be at least 0 and at most 1"),
        ({"in_batch": 0.0}, "train: without the in-batch loss"),
    ],
)
def test_settings_that_train_nothing_are_refused_before_training(tmp_path, wrong, message):
    with pytest.raises(CourseError, match=message):
        toy_training(tmp_path, **({"negatives": (0, 1, 0)} | wrong)).run()


def test_the_processes_are_established_before_the_guide_encodes(tmp_path, artifacts_root, monkeypatch):
    """Each process is given its GPU then: a guide that encoded earlier would sit on the first one in all of them."""
    order = []

    def guide(*_):
        order.append("guide")
        raise CourseError("far enough")

    def made(name):
        return SimpleNamespace(run=RunFolder(tmp_path, {"run": name}))

    monkeypatch.setattr(train.Processes, "launched", lambda: order.append("processes"))
    monkeypatch.setattr(train, "load_catalogue", lambda *_, **__: SimpleNamespace(source="toy", digest="0"))
    monkeypatch.setattr(train, "load_training_data", lambda _: made("data"))
    monkeypatch.setattr(train, "load_indices", lambda *_: order.append("indices") or made("indices"))
    monkeypatch.setattr(train.Guide, "of", guide)
    with pytest.raises(CourseError, match="far enough"):
        train.main(train.TrainConfig(profile="smoke"))
    assert order == ["processes", "indices", "guide"]
