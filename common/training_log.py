"""The log of a training run: JSON lines on disk always, Weights & Biases or trackio besides when asked."""

from __future__ import annotations

import json
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from common.errors import CourseError

TRACKERS = ("wandb", "trackio")


class Tracker(Protocol):
    """Where a run can be watched besides the log file."""

    def log(self, values: dict[str, Any], step: int) -> None: ...

    def watch(self, model: Any) -> None: ...

    def close(self) -> None: ...


class TrainingLog:
    """Appends one JSON object a line; what a killed run wrote after its checkpoint is cut off when it goes on.

    path: of the file; None counts lines and writes none (for a process that is not the main one). keep: lines of an
    earlier, interrupted run that still hold (0 starts anew). watched: the model whose weights and gradients the tracker
    follows, if it can.
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
        """Add a line: the step and its values, in this order."""
        if self._file is not None:
            self._file.write((json.dumps({"step": step, **values}, ensure_ascii=False) + "\n").encode())
            self._file.flush()
        self.lines += 1
        if self._tracker is not None:
            self._tracker.log({name: value for name, value in values.items() if isinstance(value, int | float)}, step)

    def flush(self) -> None:
        """Push what was written to the disk: a checkpoint that counts these lines is about to be written."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close file and tracker."""
        if self._file is not None:
            self._file.close()
        if self._tracker is not None:
            self._tracker.close()


def _open_after(path: Path, keep: int) -> Any:
    """The file, open for writing after its first `keep` lines, which a kill at any moment leaves in it."""
    kept = path.read_bytes().splitlines(keepends=True)[:keep] if keep and path.is_file() else []
    if len(kept) < keep:
        raise CourseError(f"{path.name}: holds {len(kept)} lines, the checkpoint speaks of {keep}")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("r+b" if path.is_file() else "wb")
    file.truncate(sum(map(len, kept)))
    file.seek(0, os.SEEK_END)
    return file


def read_log(path: Path) -> pd.DataFrame:
    """Return a log as a table, one row a line; what a line does not say is missing."""
    return pd.DataFrame([json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()])


def open_tracker(name: str | None, *, project: str, config: dict[str, Any]) -> Tracker | None:
    """Start a run of "wandb" or "trackio", None for no tracker.

    Raises `CourseError` for another name, and if the package is not installed; nothing is logged in anywhere by us.
    """
    if name is None:
        return None
    if name not in TRACKERS:
        raise CourseError(f"no tracker {name!r}; choose one of {', '.join(TRACKERS)}")
    if find_spec(name) is None:
        raise CourseError(f"tracker {name!r} is not installed; run `pip install {name}`, or leave the tracker out")
    return _PackageTracker(import_module(name), project, config)


class _PackageTracker:
    """wandb, or trackio, which speaks wandb's language but cannot watch weights."""

    def __init__(self, package: Any, project: str, config: dict[str, Any]) -> None:
        self._package = package
        self._run = package.init(project=project, config=config)

    def log(self, values: dict[str, Any], step: int) -> None:
        self._package.log(values, step=step)

    def watch(self, model: Any) -> None:
        if hasattr(self._package, "watch"):
            self._package.watch(model, log="all", log_freq=50)

    def close(self) -> None:
        self._package.finish()
