"""``python -m course results``: keeps the figures of the newest evaluations as CSV, with how they were made, and
renders the page of all results."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import tyro

from common.artifacts import Artifacts, RunFolder
from common.atomic import atomic_write, read_json
from common.devices import hardware
from common.errors import CourseError
from common.settings import artifacts_root, repository_root, resolve_profile
from course.scoreboard import COLUMNS, DEFAULT_SOURCE

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS = 6
"""More than the page's three: what is rounded twice may end a digit off."""


@dataclass(frozen=True)
class Results:
    """Keep the rows of the current evaluations in results/SOURCE.csv, each with the command that measured it, seed,
    commit and hardware, and render results/README.md from all CSVs there."""

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE ...", help_behavior_hint="")
    ] = (DEFAULT_SOURCE,)
    """Catalogues whose newest evaluations are kept; pocket_shop when left out."""
    page: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only render the page, from the CSVs as they are."""
    profile: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""


def main(config: Results) -> None:
    """Write one CSV a source, then the page; raises ``CourseError`` for a source that was not evaluated, and for a CSV
    that the page cannot be made of."""
    from course.results_page import write_page

    written = [] if config.page else [_keep(source, resolve_profile(config.profile)) for source in config.sources]
    for path in [*written, *write_page(results_folder())]:
        print(f"results/{path.name}")


def results_folder() -> Path:
    """Where the CSVs and the page are."""
    return repository_root() / "results"


def provenance(command: str, commit: str | None) -> dict[str, str]:
    """How figures were made, as columns of their rows: command, commit (its first digits) and hardware."""
    return {"command": command, "commit": (commit or "uncommitted")[:12], "hardware": hardware()}


def write_rows(path: Path, rows: pd.DataFrame, decimals: int | None = None) -> None:
    """Write a CSV of results, atomically, the same on every system; without ``decimals`` each number as it is."""
    with atomic_write(path) as temporary:
        float_format = None if decimals is None else f"%.{decimals}f"
        rows.to_csv(temporary, index=False, float_format=float_format, lineterminator="\n", encoding="utf-8")


def read_rows(
    path: Path, texts: Sequence[str], numbers: Sequence[str], *, optional: Sequence[str] = (), key: Sequence[str]
) -> pd.DataFrame:
    """The rows of a CSV of results: columns ``texts`` as text and ``numbers`` as float64, NaN where the cell is empty.

    Raises ``CourseError``, with file and column, for what is no table, a column that is missing, an empty cell outside
    ``optional``, what should be a finite number and is not, and two rows with the same ``key``.
    """
    import pandas as pd

    table = _read_cells(path)
    for column in (*texts, *numbers):
        if column not in table:
            raise CourseError(f"{path}: column {column!r} is missing; there are: {', '.join(table)}")
        if column not in optional and (empty := table[column].str.strip() == "").any():
            raise CourseError(f"{path}: column {column!r} is empty in row {_first(empty)}; fill it, or drop the row")
    for column in numbers:
        values = pd.to_numeric(table[column].where(table[column].str.strip() != ""), errors="coerce").astype("float64")
        wrong = (table[column].str.strip() != "") & ~values.abs().lt(float("inf"))
        if wrong.any():
            text = table[column][wrong].iloc[0]
            raise CourseError(f"{path}: column {column!r} has {text!r} in row {_first(wrong)}; a number belongs there")
        table[column] = values
    twice = table.duplicated(list(key))
    if twice.any():
        same = ", ".join(repr(value) for value in table.loc[twice, list(key)].iloc[0])
        raise CourseError(f"{path}: column {key[-1]!r}: row {_first(twice)} is there before ({same}); keep one")
    return table[[*texts, *numbers]]


def _read_cells(path: Path) -> pd.DataFrame:
    """All cells as text. Not by pandas, which takes short rows, and in some files long ones, without a word."""
    import pandas as pd

    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except FileNotFoundError:
        raise CourseError(f"{path}: there is no such file") from None
    except (ValueError, csv.Error) as error:
        raise CourseError(f"{path}: not a CSV table in UTF-8 ({error})") from None
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            where = f"column {header[len(row)]!r} is missing" if len(row) < len(header) else "there are too many cells"
            raise CourseError(f"{path}: {where} in row {number}; each row needs {len(header)} cells")
    return pd.DataFrame(rows, columns=header, dtype=str)


def _first(rows: pd.Series) -> int:
    """The number of the first True row as an editor counts them, the header first."""
    return int(rows.to_numpy().argmax()) + 2


def _keep(source: str, profile: str) -> Path:
    import pandas as pd

    tables = [_with_provenance(run) for run in _evaluations(artifacts_root(), source, profile)]
    if not tables:
        raise CourseError(f"results: no evaluation of {source} in profile {profile}; run its evaluate step first")
    target = results_folder() / f"{source}.csv"
    write_rows(target, pd.concat(tables), _DECIMALS)
    return target


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
    """The rows of an evaluation, each with how it was made: by the evaluation, or by the step that it was gathered
    from."""
    import pandas as pd

    rows = pd.read_parquet(run.path / "scoreboard.parquet")[list(COLUMNS)]
    gathered = _gathered(run)
    makers = [gathered.get(key, run) for key in zip(rows["system"], rows["metric"], strict=True)]
    made = {maker.name: _made_by(maker) for maker in makers}
    return rows.join(pd.DataFrame([made[maker.name] for maker in makers], index=rows.index))


def _gathered(evaluation: RunFolder) -> dict[tuple[str, str], RunFolder]:
    """For what other steps of its chapter measured, by system and metric: the run that did.

    Raises ``MissingArtifact``, with the command, for a run that was removed since.
    """
    chapter, inputs = _step_of(evaluation)[0], evaluation.manifest["inputs"]
    others = getattr(import_module(f"{chapter}.evaluate"), "OTHERS", {})
    catalogue, profile, *_ = evaluation.name.split("/")
    newest, found = Artifacts(*catalogue.split("@"), profile, evaluation.path.parents[4]), {}
    for step in (step for step in others if step in inputs):
        artifacts = newest.as_of(inputs[step])
        # Of the catalogue, these functions read nothing but the name.
        rows = others[step](artifacts, SimpleNamespace(source=artifacts.source))
        found |= dict.fromkeys(zip(rows["system"], rows["metric"], strict=True), artifacts.current(chapter, step))
    return found


def _step_of(run: RunFolder) -> tuple[str, str]:
    """Chapter and step."""
    *_, chapter, step, _ = run.name.split("/")
    return chapter, step


def _made_by(run: RunFolder) -> dict[str, Any]:
    """How a run was made, as cells of its rows."""
    module = ".".join(_step_of(run))
    # What a step records beside its settings (the digest of an encoder) is no flag.
    taken = {field.name for field in fields(get_type_hints(import_module(module).main)["config"])}
    settings = {name: value for name, value in run.manifest["config"].items() if name in taken}
    made = provenance(shlex.join(["python", "-m", module, *_flags(settings)]), run.manifest["commit"])
    return {"command": made["command"], "seed": run.manifest["seed"]} | made


def _flags(settings: Mapping[str, Any], prefix: str = "--") -> Iterator[str]:
    """The settings as a command line takes them; those that are None are left out."""
    for name, value in settings.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from _flags(value, f"{flag}.")
        elif value is not None:
            yield flag
            yield from map(str, value if isinstance(value, list) else [value])
