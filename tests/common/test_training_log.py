"""The log of a training run: what stands in it, what a resumed run keeps of it, and the trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

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


def train(tracker, folder, keep=0, upto=8):
    """Log a training of two stages of four steps, each of which counts from 0, after the `keep` lines of a killed one.

    Stops, as a kill would, after `upto` lines.
    """
    tracked = open_tracker(tracker, run="towers", config={"rate": 0.1, "pairs": (1, 2)}, folder=folder)
    log = TrainingLog(folder / "log.jsonl", keep=keep, tracker=tracked)
    for line in range(keep, upto):
        log.write(line % 4, loss=float(line), stage=f"stage{1 + line // 4}", skipped=None)
    log.close()


LOSSES = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_tensorboard_shows_every_step_of_every_stage_once_after_a_kill_too(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    (tmp_path / "work").mkdir()
    train("tensorboard", tmp_path / "work", upto=6)
    time.sleep(1.1)  # files are read in the order of their names, which count seconds
    train("tensorboard", tmp_path / "work", keep=5)
    (run,) = (tmp_path / "artifacts" / "tensorboard").iterdir()
    shown = EventAccumulator(str(run)).Reload()
    assert [(event.step, event.value) for event in shown.Scalars("loss")] == list(enumerate(LOSSES, start=1))
    assert [event.value for event in shown.Scalars("step")] == [0, 1, 2, 3, 0, 1, 2, 3]
    stages = [(event.step, event.tensor_proto.string_val[0]) for event in shown.Tensors("stage/text_summary")]
    assert stages == [(1, b"stage1"), (5, b"stage2"), (6, b"stage2")], "where it changes, and where a log begins"


def wandb_records(file: Path) -> Iterator:
    """Read a file of wandb's offline mode: seven bytes, then LevelDB's log of records, whole or in parts."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:  # no header fits into the rest of a block
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part, at = part + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            yield record
            part = b""


@pytest.mark.slow
def test_wandb_keeps_every_row_of_every_stage_in_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "work").mkdir()
    train("wandb", tmp_path / "work", upto=5)
    train("wandb", tmp_path / "work", keep=5)
    files = sorted((tmp_path / "artifacts" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 and files[0].name == files[1].name, "a resumed training is the same run"
    rows = []
    for file in files:
        for record in wandb_records(file):
            if record.HasField("history"):
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                rows.append({name: json.loads(value) for name, value in items.items()})
    assert [row["loss"] for row in rows] == LOSSES
    assert [row["_step"] for row in rows] == list(range(1, 9))
    assert [row["stage"] for row in rows] == ["stage1"] * 4 + ["stage2"] * 4
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_two_trainings_are_two_runs_and_a_resumed_one_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr("common.training_log.find_spec", lambda name: name)

    def names(*folders):
        return {open_tracker("trackio", run="towers", config={}, folder=folder).run for folder in folders}

    for name in "ab":
        (tmp_path / name).mkdir()
    assert len(names(tmp_path / "a", tmp_path / "a")) == 1 and len(names(tmp_path / "a", tmp_path / "b")) == 2
    assert len(names(None, None)) == 2


def test_a_tracker_that_is_unknown_or_missing_says_what_to_do(monkeypatch):
    assert open_tracker(None, run="towers", config={}) is None
    with pytest.raises(CourseError, match="choose one of tensorboard, wandb, trackio"):
        open_tracker("paper", run="towers", config={})
    monkeypatch.setattr("common.training_log.find_spec", lambda name: None)
    with pytest.raises(CourseError, match="pip install trackio"):
        open_tracker("trackio", run="towers", config={})
