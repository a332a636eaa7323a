"""The training kit: schedule, groups, clipping, runs that continue to the same bits, and publishing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from common.artifacts import Artifacts
from common.atomic import atomic_folder
from common.errors import CourseError
from common.training import (
    MAX_GRAD_NORM,
    TrainingRun,
    clip_gradients,
    parameter_groups,
    resumed_state,
    set_rate,
    train_and_publish,
    warmup_schedule,
)
from common.training_log import TrainingLog, read_log

STEPS = 5  # an epoch
DECAYS = ("linear", "cosine", "none")


@pytest.mark.parametrize(
    ("decay", "last"), [("linear", 1 / 8), ("cosine", (1 + math.cos(math.pi * 7 / 8)) / 2), ("none", 1)]
)
def test_schedule_rises_and_decays(decay, last):
    rates = [warmup_schedule(step, 10, 0.2, decay) for step in range(10)]
    assert rates[:3] == [0.5, 1, 1] and rates[-1] == pytest.approx(last)
    assert warmup_schedule(0, 10, 0, decay) == 1


@given(total=st.integers(1, 200), warmup=st.floats(0, 0.9), decay=st.sampled_from(DECAYS))
def test_schedule_stays_between_nothing_and_the_peak(total, warmup, decay):
    rise = round(warmup * total)
    if rise >= total:
        with pytest.raises(CourseError, match="leaves none"):
            warmup_schedule(0, total, warmup, decay)
        return
    rates = [warmup_schedule(step, total, warmup, decay) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates) and rates[rise] == 1
    assert rates[: rise + 1] == sorted(rates[: rise + 1]) and rates[rise:] == sorted(rates[rise:], reverse=True)


def test_groups_decay_trained_matrices_only():
    model = torch.nn.ModuleDict({"linear": torch.nn.Linear(3, 2), "norm": torch.nn.LayerNorm(2)})
    model["position"], model["frozen"] = torch.nn.Embedding(4, 2), torch.nn.Linear(2, 2).requires_grad_(False)
    decayed, others = parameter_groups(model, 0.01, no_decay="position")
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0)
    assert [w is model["linear"].weight for w in decayed["params"]] == [True]
    assert {id(w) for w in others["params"]} == {
        id(w) for w in (model["linear"].bias, *model["norm"].parameters(), model["position"].weight)
    }


def test_clipping_returns_the_norm_before_and_scales_long_gradients_only():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    for scale, after in ((2.0, MAX_GRAD_NORM), (0.1, 0.5)):
        for weight, gradient in zip(weights, (3.0, 4.0), strict=True):
            weight.grad = torch.tensor([gradient * scale])
        assert clip_gradients(weights) == pytest.approx(5 * scale)
        assert math.hypot(*(w.grad.item() for w in weights)) == pytest.approx(after, rel=1e-5)


class Killed(BaseException):
    pass


def train(folder, figures=(0.1, 0.3, 0.2), *, patience=None, killed_at=None, killed_after_model=None):
    """Train a toy with dropout, one epoch for each validation figure; return best epoch, weights and log."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=0)
    log = TrainingLog(folder / "log.jsonl", keep=resumed_state(folder)["lines"])
    run = TrainingRun(folder, model, optimizer, log, headline="ndcg", patience=patience, checkpoint_every=2)
    batches = torch.randn(len(figures), STEPS, 8, 3, generator=torch.Generator().manual_seed(1))

    def save(path):
        with atomic_folder(path) as staging:
            save_file(model.state_dict(), staging / "weights.safetensors")
        if run.state["epoch"] == killed_after_model:
            raise Killed

    for epoch, done in run.epochs(len(figures), STEPS, "toy"):
        for batch in batches[epoch, done:]:
            rate = set_rate(optimizer, 0.1 * warmup_schedule(run.step, len(figures) * STEPS, 0.2, "linear"))
            loss = model(batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = clip_gradients(model.parameters())
            run.check_finite(loss=loss.item(), norm=norm)
            optimizer.step()
            run.after_step(loss=loss.item(), norm=norm, rate=rate)
            if run.step == killed_at:
                raise Killed
        run.after_epoch(lambda epoch=epoch: {"ndcg": figures[epoch]}, save)
    log.close()
    return run.finish(), load_file(folder / "best" / "weights.safetensors"), read_log(folder / "log.jsonl")


@pytest.mark.parametrize(
    "kill", [{"killed_at": 1}, {"killed_at": 2}, {"killed_at": 5}, {"killed_at": 8}, {"killed_after_model": 2}]
)
def test_a_killed_run_continues_to_the_same_bits(tmp_path, kill):
    best, weights, log = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", **kill)
    again, its_weights, its_log = train(tmp_path / "killed")
    assert again == best == {"epoch": 2, "ndcg": 0.3}
    assert all(torch.equal(its_weights[name], weight) for name, weight in weights.items())
    assert its_log.drop(columns="seconds").equals(log.drop(columns="seconds"))
    assert log["step"].tolist() == sorted([*range(1, 16), 5, 10, 15]) and log["ndcg"].dropna().tolist() == [
        0.1,
        0.3,
        0.2,
    ]
    paths = [tmp_path / "killed" / name / "weights.safetensors" for name in ("best", "epoch_2", "epoch_3")]
    assert paths[0].samefile(paths[1]) and not torch.equal(load_file(paths[2])["0.weight"], weights["0.weight"])


def test_patience_ends_a_run_and_a_finished_one_takes_no_step(tmp_path):
    best, _, log = train(tmp_path, (0.3, 0.3, 0.1, 0.4), patience=2)
    assert best == {"epoch": 1, "ndcg": 0.3} and log["epoch"].max() == 3
    again, _, its_log = train(tmp_path, (0.3, 0.3, 0.1, 0.4), patience=2)
    assert again == best and its_log.equals(log)


def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path):
    model, log = torch.nn.Linear(1, 1), TrainingLog(None)
    optimizer, labels = torch.optim.AdamW(model.parameters()), {"stage": "stage2"}
    run = TrainingRun(tmp_path, model, optimizer, log, headline="ndcg", checkpoint_every=1, labels=labels)
    run.check_finite(loss=1.0)
    with pytest.raises(CourseError, match=r"loss nan and norm 1\.0 at step 1, stage stage2; training stopped"):
        run.check_finite(loss=math.nan, norm=1.0)


def test_publishing_once_and_resuming_the_same_training_only(tmp_path):
    shop = Artifacts("pocket_shop", "0123", root=tmp_path)
    folders = []

    def publish(config, *, killed=False):
        def work(folder):
            folders.append(folder)
            for name in ("best/model", "last/checkpoint", "notes.tmp"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(f"{config}")
            if killed:
                raise Killed

        train_and_publish(shop, "common", "train", config=config, inputs={}, train=work, unpublished=("*.tmp",))

    for config in ({"k": 1}, {"k": 2}):
        with pytest.raises(Killed):
            publish(config, killed=True)
    publish({"k": 1})
    publish({"k": 1})
    assert len(folders) == 3 and folders[2] == folders[0] != folders[1]
    run = shop.current("common", "train")
    assert {path.name for path in run.path.iterdir()} == {"best", "manifest.json"}
    assert (run.path / "best" / "model").read_text() == "{'k': 1}"
    assert not folders[0].exists() and folders[1].exists()
