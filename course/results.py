"""``python -m course results``: keep the newest figures as CSV, with how they were made, and render their page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from common.atomic import read_json
from common.errors import CourseError
from common.scoreboard import read_scoreboard
from common.settings import artifacts_root, resolve_profile
from course.result_files import provenance, results_folder, write_rows
from course.results_page import write_page
from course.scoreboard import DEFAULT_SOURCE, current_runs, place_on_the_board

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS = 6
"""More than the page's three, because a figure that is rounded twice may be one digit off."""


@dataclass(frozen=True)
class Results:
    """Write the scoreboard rows of all current runs to results/SOURCE.csv, each with the command that measured it,
    seed, commit and hardware, then render results/README.md from all CSVs there."""

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ...", help_behavior_hint="")
    ] = (DEFAULT_SOURCE,)
    """Catalogues whose newest figures are kept; pocket_shop when left out."""
    page: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only render the page, from the CSVs as they are."""
    profile: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""


def main(config: Results) -> None:
    """Write one CSV for each source, then the page.

    Raises ``CourseError`` for a source of which nothing was measured, and for a CSV that cannot be rendered.
    """
    written = [] if config.page else [_keep(source, resolve_profile(config.profile)) for source in config.sources]
    for path in [*written, *write_page(results_folder())]:
        print(f"results/{path.name}")


def _keep(source: str, profile: str) -> Path:
    """Write the rows of the newest run of every step, over all digests of the source."""
    import pandas as pd

    newest = {run.parts[-3:-1]: run for run in current_runs(artifacts_root(), f"{source}@*", profile)}
    tables = [_with_provenance(run) for run in sorted(newest.values(), key=place_on_the_board)]
    if not tables:
        raise CourseError(
            f"results: nothing was measured on {source} in profile {profile}; run its evaluate step first"
        )
    target = results_folder() / f"{source}.csv"
    write_rows(target, pd.concat(tables), _DECIMALS)
    return target


def _with_provenance(run: Path) -> pd.DataFrame:
    return read_scoreboard(run).assign(**made_by(read_json(run / "manifest.json")))


def made_by(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a run was made, as cells of its rows: command, seed, commit, hardware."""
    *_, chapter, step, _ = manifest["run"].split("/")
    module = f"{chapter}.{step}"
    # What a step records beside its settings (the digest of an encoder) is no flag.
    flags = {field.name for field in fields(get_type_hints(import_module(module).main)["config"])}
    settings = {name: value for name, value in manifest["config"].items() if name in flags}
    made = provenance(shlex.join(["python", "-m", module, *_flags(settings)]), manifest["commit"])
    return {"command": made["command"], "seed": manifest["seed"]} | made


def _flags(settings: Mapping[str, Any], prefix: str = "--") -> Iterator[str]:
    """Yield the settings as a command line takes them, without those that are None."""
    for name, value in settings.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from _flags(value, f"{flag}.")
        elif value is not None:
            yield flag
            yield from map(str, value if isinstance(value, list) else [value])
