"""Log a training as JSON lines on disk, and in TensorBoard, Weights & Biases or trackio as well if asked to."""

from __future__ import annotations

import json
import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from common.atomic import atomic_write
from common.errors import CourseError
from common.settings import artifacts_root

TRACKERS = ("tensorboard", "wandb", "trackio")
PROJECT = "product-search-course"
RUN_NAME = "tracked_as.txt"


class Tracker:
    """Show a training while it runs, all its stages in one run, and after a kill again in the same run.

    The tracker's step is the number of the line in the log. It never goes back: wandb drops rows whose step does. The
    training's own step, which may begin anew with each stage, and the stage are fields.
    """

    def __init__(self, name: str, run: str, config: dict[str, Any]) -> None:
        self._name, self.run, self._config = name, run, config
        self._tracker: Any = None
        self._texts: dict[str, str] = {}

    def begin(self, lines: int) -> None:
        """Open the run after `lines` lines. Later ones, lost by a kill, are replaced in TensorBoard."""
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

        PartialState()
        if self._name == "tensorboard":
            self._tracker = TensorBoardTracker(self.run, artifacts_root() / "tensorboard", purge_step=lines + 1)
        elif self._name == "wandb":
            folder = artifacts_root()
            folder.mkdir(parents=True, exist_ok=True)
            self._tracker = WandBTracker(PROJECT, name=self.run, id=self.run, resume="allow", dir=str(folder))
        else:
            self._tracker = TrackioTracker(PROJECT, name=self.run, resume="allow")
        self._tracker.start()
        if self._name == "tensorboard":
            self._tracker.tracker.add_text("config", json.dumps(self._config, default=str), lines)
        else:
            self._tracker.store_init_configuration(self._config)

    def log(self, values: dict[str, Any], step: int) -> None:
        """Show numbers and texts. TensorBoard shows a text where it changes."""
        shown = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
        if self._name == "tensorboard":
            same = {name for name, value in shown.items() if isinstance(value, str) and self._texts.get(name) == value}
            self._texts |= {name: value for name, value in shown.items() if isinstance(value, str)}
            shown = {name: value for name, value in shown.items() if name not in same}
        self._tracker.log(shown, step=step)

    def watch(self, model: Any) -> None:
        """Show weights and gradients of a model, where the tracker can."""
        if self._name == "wandb":
            self._tracker.tracker.watch(model, log="all", log_freq=50)

    def close(self) -> None:
        self._tracker.finish()


class TrainingLog:
    """Append one JSON object per line. A resumed training cuts off what was written after its checkpoint.

    path: of the file; None counts lines and writes none (for a process that is not the main one). keep: lines of an
    interrupted training that are still valid (0 starts anew).
    """

    def __init__(self, path: Path | None, *, keep: int = 0, tracker: Tracker | None = None) -> None:
        self.lines, self._tracker, self._file = keep, tracker, None
        if path is not None:
            self._file = _open_after(Path(path), keep)
        if tracker is not None:
            tracker.begin(keep)

    def write(self, step: int, **values: Any) -> None:
        """Append a line: the step and its values, in this order."""
        if self._file is not None:
            self._file.write((json.dumps({"step": step, **values}, ensure_ascii=False) + "\n").encode())
            self._file.flush()
        self.lines += 1
        if self._tracker is not None:
            self._tracker.log({"step": step, **values}, self.lines)

    def watch(self, model: Any) -> None:
        """Let the tracker, if there is one, follow the model's weights and gradients."""
        if self._tracker is not None:
            self._tracker.watch(model)

    def flush(self) -> None:
        """Flush to the disk, before a checkpoint that counts these lines is written."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close file and tracker."""
        if self._file is not None:
            self._file.close()
        if self._tracker is not None:
            self._tracker.close()


def _open_after(path: Path, keep: int) -> Any:
    """Open the file for writing after its first `keep` lines, which no kill can have damaged."""
    kept = path.read_bytes().splitlines(keepends=True)[:keep] if keep and path.is_file() else []
    if len(kept) < keep:
        raise CourseError(f"{path.name}: holds {len(kept)} lines, the checkpoint counts {keep}")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("r+b" if path.is_file() else "wb")
    file.truncate(sum(map(len, kept)))
    file.seek(0, os.SEEK_END)
    return file


def read_log(path: Path) -> pd.DataFrame:
    """Return a log as a table, one row per line; values that a line lacks are missing."""
    return pd.DataFrame([json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()])


def open_tracker(name: str | None, *, run: str, config: dict[str, Any], folder: Path | None = None) -> Tracker | None:
    """Name a run of "tensorboard", "wandb" or "trackio", None for no tracker; the log that gets it begins the run.

    run: what is trained; a random ending tells one training from another. folder: of a training that can be resumed,
    where the name is kept. TensorBoard's files lie in the artifacts (`tensorboard --logdir artifacts/tensorboard` draws
    all runs together). wandb and trackio log in as you set them up; the course never does. Raises `CourseError` for
    another name, and if the package is not installed.
    """
    if name is None:
        return None
    if name not in TRACKERS:
        raise CourseError(f"no tracker {name!r}; choose one of {', '.join(TRACKERS)}")
    if find_spec(name) is None:
        raise CourseError(f"tracker {name!r} is not installed; run `pip install {name}`, or leave the tracker out")
    return Tracker(name, _run_name(run, folder), config)


def _run_name(run: str, folder: Path | None) -> str:
    file = None if folder is None else folder / RUN_NAME
    if file is not None and file.is_file():
        return file.read_text(encoding="utf-8").strip()
    name = f"{run}-{secrets.token_hex(4)}"
    if file is not None:
        with atomic_write(file) as temporary:
            temporary.write_text(name + "\n", encoding="utf-8")
    return name
