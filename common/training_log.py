"""Log a training as JSON lines on disk, and in Weights & Biases or trackio as well if asked to."""

from __future__ import annotations

import json
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import CourseError

TRACKERS = ("wandb", "trackio")


class Tracker:
    """Show a training while it runs, in wandb, or in trackio, which has the same calls except for watching weights."""

    def __init__(self, package: Any, project: str, config: dict[str, Any]) -> None:
        self._package = package
        package.init(project=project, config=config)

    def log(self, values: dict[str, Any], step: int) -> None:
        self._package.log(values, step=step)

    def watch(self, model: Any) -> None:
        if hasattr(self._package, "watch"):
            self._package.watch(model, log="all", log_freq=50)

    def close(self) -> None:
        self._package.finish()


class TrainingLog:
    """Append one JSON object per line. A resumed training cuts off what was written after its checkpoint.

    path: of the file; None counts lines and writes none (for a process that is not the main one). keep: lines of an
    interrupted training that are still valid (0 starts anew). watched: the model whose weights and gradients the
    tracker follows, if it can.
    """

    def __init__(
        self, path: Path | None, *, keep: int = 0, tracker: Tracker | None = None, watched: Any = None
    ) -> None:
        self.lines, self._tracker, self._file = keep, tracker, None
        if path is not None:
            self._file = _open_after(Path(path), keep)
        if tracker is not None and watched is not None:
            tracker.watch(watched)

    def write(self, step: int, **values: Any) -> None:
        """Append a line: the step and its values, in this order."""
        if self._file is not None:
            self._file.write((json.dumps({"step": step, **values}, ensure_ascii=False) + "\n").encode())
            self._file.flush()
        self.lines += 1
        if self._tracker is not None:
            self._tracker.log({name: value for name, value in values.items() if isinstance(value, int | float)}, step)

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


def open_tracker(name: str | None, *, project: str, config: dict[str, Any]) -> Tracker | None:
    """Start a run of "wandb" or "trackio", None for no tracker. Raises `CourseError` for another name, and if the
    package is not installed. The package logs in as you set it up; the course never does."""
    if name is None:
        return None
    if name not in TRACKERS:
        raise CourseError(f"no tracker {name!r}; choose one of {', '.join(TRACKERS)}")
    if find_spec(name) is None:
        raise CourseError(f"tracker {name!r} is not installed; run `pip install {name}`, or leave the tracker out")
    return Tracker(import_module(name), project, config)
