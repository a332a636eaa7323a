"""``python -m course results``: keeps the figures of the newest evaluations as CSV, with how they were made."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from common.artifacts import RunFolder
from common.atomic import atomic_write, read_json
from common.errors import CourseError
from common.settings import artifacts_root, repository_root, resolve_profile
from course.scoreboard import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS = 4


@dataclass(frozen=True)
class Results:
    """Write the rows of the current evaluations to results/SOURCE.csv, each with command, seed, commit and hardware."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ...")] = ("pocket_shop",)
    """Catalogues whose newest evaluations are kept."""
    profile: str | None = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""


def main(config: Results) -> None:
    """Write one CSV a source; raises ``CourseError`` for a source that was not evaluated."""
    import pandas as pd

    profile = resolve_profile(config.profile)
    for source in config.sources:
        tables = [_with_provenance(run) for run in _evaluations(artifacts_root(), source, profile)]
        if not tables:
            raise CourseError(f"results: no evaluation of {source} in profile {profile}; run its evaluate step first")
        target = repository_root() / "results" / f"{source}.csv"
        target.parent.mkdir(exist_ok=True)
        with atomic_write(target) as temporary:
            pd.concat(tables).to_csv(temporary, index=False, float_format=f"%.{_DECIMALS}f", lineterminator="\n")
        print(f"results/{source}.csv")


def hardware() -> str:
    """Return the processor, the number of cores that this process may use, and the GPU if there is one."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {cores} cores{gpu}"


def _evaluations(root: Path, source: str, profile: str) -> Iterator[RunFolder]:
    """Yield the newest evaluation of every chapter."""
    newest: dict[str, Path] = {}
    pointers = root.glob(f"{source}@*/{profile}/*/evaluate/current.json")
    for pointer in sorted(pointers, key=lambda path: path.stat().st_mtime_ns):
        newest[pointer.parents[1].name] = pointer
    for _, pointer in sorted(newest.items()):
        path = pointer.parent / read_json(pointer)["run"]
        if (path / "scoreboard.parquet").is_file():
            yield RunFolder(path, read_json(path / "manifest.json"))


def _with_provenance(run: RunFolder) -> pd.DataFrame:
    import pandas as pd

    rows = pd.read_parquet(run.path / "scoreboard.parquet")[list(COLUMNS)]
    config: dict[str, Any] = {name: value for name, value in run.manifest["config"].items() if value is not None}
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in config.items())
    chapter = rows["chapter"].iloc[0]
    commit = (run.manifest["commit"] or "uncommitted")[:12]
    return rows.assign(
        command=f"python -m {chapter}.evaluate {flags}", seed=run.manifest["seed"], commit=commit, hardware=hardware()
    )
