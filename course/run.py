"""``python -m course run``: run every chapter's notebooks in order, with one progress bar, then show the scoreboard."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm.auto import tqdm

from common.errors import CourseError
from common.settings import artifacts_root, repository_root, resolve_profile
from course import scoreboard
from course.notebooks import Notebook, NotebookFailed, assign_parameters, execute, find_notebooks

OptionalText = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]


@dataclass(frozen=True)
class Run:
    """Run the chapters' notebooks in order, keep executed copies and HTML in the artifacts, and show the scoreboard.

    A catalogue of your own is used by the notebooks that are not about the pocket shop; only they are run.
    """

    chapters: Annotated[tuple[int, ...], tyro.conf.arg(metavar="NUMBER ...", help_behavior_hint="")] = ()
    """Numbers of the chapters to run; all by default."""
    profile: OptionalText = None
    """smoke (a small shop, to see that it works), pocket (a laptop) or full (public data, large models).
    Default: the environment variable COURSE_PROFILE, else pocket."""
    catalogue: OptionalPath = None
    """Table of your own products, as CSV, JSONL or Parquet: product_id, and title or path of an image."""
    images: OptionalPath = None
    """Folder of your product pictures, or a table of product_id and path."""
    queries: OptionalPath = None
    """Table of your queries: query_id, query."""
    judgements: OptionalPath = None
    """Table of judgements: query_id, product_id, grade 0 to 3."""
    pairs: OptionalPath = None
    """Table of product pairs: a_id, b_id, label 1 (they go together) or 0."""
    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE ...", help_behavior_hint="")
    ] = ()
    """Other parameters of the notebooks, from their cell tagged 'parameters'; numbers, true and false as in JSON."""


def main(config: Run, root: Path | None = None) -> None:
    """Run the notebooks under ``root`` (default: the repository).

    Raises ``CourseError`` before any kernel starts if the config asks for something impossible, and ``SystemExit(1)``,
    with the reason on stderr, if a cell fails.
    """
    profile = resolve_profile(config.profile)
    notebooks = find_notebooks(root or repository_root(), config.chapters)
    everywhere: dict[str, Any] = {"profile": profile} if config.profile else {}
    extra = _parse_settings(config.settings)
    own = _load_own_catalogue(config, notebooks)
    if own is not None:
        notebooks = [notebook for notebook in notebooks if notebook.any_catalogue]
        everywhere["catalogue"] = str(own.folder)
    parameters = assign_parameters(notebooks, everywhere, extra)
    name = None if own is None else f"{own.source}@{own.digest}"
    output = artifacts_root() / "executed" / profile / (name or "")
    _set_environment_of_kernels(profile)
    _execute_all(notebooks, parameters, output)
    print(f"Executed copies and HTML: {output}\n", file=sys.stderr)
    rows = scoreboard.collect(name or scoreboard.DEFAULT_SOURCE, profile)
    if rows is None:
        print("The scoreboard is empty: these notebooks had no judgements to measure with.", file=sys.stderr)
    else:
        scoreboard.show(rows)


def _execute_all(notebooks: list[Notebook], parameters: list[dict[str, Any]], output: Path) -> None:
    with tqdm(total=sum(n.code_cells for n in notebooks), unit="cell", disable=None, dynamic_ncols=True) as bar:
        for notebook, given in zip(notebooks, parameters, strict=True):
            bar.set_description(notebook.name)
            started = time.perf_counter()
            try:
                execute(notebook, output / notebook.name, given, bar.update)
            except NotebookFailed as error:
                bar.close()
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(1) from None
            tqdm.write(f"{notebook.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)


def _set_environment_of_kernels(profile: str) -> None:
    """Set what the kernels inherit, so that modules called without a profile use the one of their notebook."""
    os.environ["COURSE_PROFILE"] = profile
    if profile != "full":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in these profiles needs a hub
    os.environ["COURSE_QUIET"] = "1"  # one bar for the whole run; none in the executed copies


def _parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Turn ``("k=5", "name=bm25")`` into ``{"k": 5, "name": "bm25"}``; a value that is not JSON is text."""
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        if not sign or not name.isidentifier():
            raise CourseError(f"--set {setting}: write NAME=VALUE")
        if name in ("profile", "catalogue"):
            raise CourseError(f"--set {name}: use --{name}")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


def _load_own_catalogue(config: Run, notebooks: list[Notebook]) -> Any:
    """Read the reader's own tables, None if there are none. Bad input then stops before a kernel starts."""
    tables = {"images": config.images, "queries": config.queries, "judgements": config.judgements}
    tables = {"products": config.catalogue, **tables, "pairs": config.pairs}
    given = {name: Path(path).expanduser().resolve() for name, path in tables.items() if path is not None}
    if not given:
        return None
    if "products" not in given and "images" not in given:
        raise CourseError(f"--{next(iter(given))}: give --catalogue too, with the products it refers to")
    for name, path in given.items():
        if not path.exists():
            raise CourseError(f"--{'catalogue' if name == 'products' else name}: {path} does not exist")
    if not any(notebook.any_catalogue for notebook in notebooks):
        raise CourseError("--catalogue: none of these chapters has a notebook for a catalogue of your own")
    from common.catalogue import load_catalogue

    return load_catalogue("your_own", **given)
