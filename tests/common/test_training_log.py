"""The log of a training run: what stands in it, what a resumed run keeps of it, and the trackers."""

from __future__ import annotations

import sys
import types

import pytest

from common.errors import CourseError
from common.training_log import TrainingLog, open_tracker, read_log


def test_lines_come_back_as_rows(tmp_path):
    log = TrainingLog(tmp_path / "a" / "log.jsonl")
    log.write(1, loss=0.5, stage="stage1")
    log.write(2, **{"nDCG@10": 0.25}, stage="stage1")
    log.close()
    table = read_log(tmp_path / "a" / "log.jsonl")
    assert table["step"].tolist() == [1, 2] and table["loss"].isna().tolist() == [False, True]
    assert table["nDCG@10"].iloc[1] == 0.25 and log.lines == 2


def test_what_came_after_the_checkpoint_is_cut_off(tmp_path):
    path = tmp_path / "log.jsonl"
    log = TrainingLog(path)
    for step in range(5):
        log.write(step, loss=float(step))
    log.close()
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    again = TrainingLog(path, keep=3)
    again.write(3, loss=3.5)
    again.close()
    assert read_log(path)["loss"].tolist() == [0, 1, 2, 3.5]
    with pytest.raises(CourseError, match="holds 4 lines, the checkpoint counts 9"):
        TrainingLog(path, keep=9)
    assert len(read_log(path)) == 4, "a log that does not fit is left as it is"


def test_a_tracker_sees_the_numbers_and_the_weights(tmp_path, monkeypatch):
    said = []
    package = types.ModuleType("wandb")
    package.init = lambda **values: said.append(("init", values))
    package.log = lambda values, step: said.append(("log", values, step))
    package.watch = lambda model, **_: said.append(("watch", model))
    package.finish = lambda: said.append(("finish",))
    package.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", package)
    tracker = open_tracker("wandb", project="course", config={"seed": 1})
    log = TrainingLog(tmp_path / "log.jsonl", tracker=tracker, watched="the model")
    log.write(7, loss=0.5, stage="stage1")
    log.close()
    assert said == [
        ("init", {"project": "course", "config": {"seed": 1}}),
        ("watch", "the model"),
        ("log", {"loss": 0.5}, 7),
        ("finish",),
    ]


def test_a_tracker_that_is_unknown_or_missing_says_what_to_do(monkeypatch):
    assert open_tracker(None, project="course", config={}) is None
    with pytest.raises(CourseError, match="choose one of wandb, trackio"):
        open_tracker("tensorboard", project="course", config={})
    monkeypatch.setattr("common.training_log.find_spec", lambda name: None)
    with pytest.raises(CourseError, match="pip install trackio"):
        open_tracker("trackio", project="course", config={})
