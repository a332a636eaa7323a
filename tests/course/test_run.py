"""The runner on tiny notebooks: each starts a real kernel, so as few as possible."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from common.errors import CourseError
from course import notebooks as module
from course.notebooks import assign_parameters, find_notebooks
from course.run import Run, main


@pytest.fixture(autouse=True)
def own_settings(artifacts_root, monkeypatch):
    """The runner sets variables for its kernels: put back what was there."""
    monkeypatch.setenv("COURSE_PROFILE", "")


@pytest.fixture
def no_kernel(monkeypatch):
    """Fail when a kernel would be started."""
    monkeypatch.setattr(module, "_kernel_manager_class", lambda: pytest.fail("a kernel was started"))


def write_notebook(path: Path, *cells: str, parameters: str | None = None, any_catalogue: bool = False) -> None:
    node = new_notebook(cells=[new_markdown_cell("# Title"), *map(new_code_cell, cells)])
    if parameters is not None:
        node.cells.insert(1, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    if any_catalogue:
        node.metadata["course"] = {"catalogue": "any"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, path)


def outputs(path: Path) -> str:
    node = nbformat.read(path, as_version=4)
    return "".join(output.get("text", "") for cell in node.cells for output in cell.get("outputs", []))


def test_notebooks_come_in_reading_order(tmp_path):
    for name in ("chapter02_b/01_a", "chapter01_a/02_b", "chapter01_a/01_a", "chapter01_a/draft", "other/01_a"):
        write_notebook(tmp_path / f"{name}.ipynb")
    names = [notebook.name for notebook in find_notebooks(tmp_path)]
    assert names == ["chapter01_a/01_a.ipynb", "chapter01_a/02_b.ipynb", "chapter02_b/01_a.ipynb"]
    assert [notebook.name for notebook in find_notebooks(tmp_path, [2])] == names[2:]
    with pytest.raises(CourseError, match="chapter 7 has no notebooks; there are chapters 1, 2"):
        find_notebooks(tmp_path, [1, 7])


def test_no_notebook_and_an_unreadable_one(tmp_path):
    with pytest.raises(CourseError, match="no notebook"):
        main(Run(), root=tmp_path)
    (tmp_path / "chapter01_a").mkdir()
    (tmp_path / "chapter01_a" / "01_a.ipynb").write_text("{")
    with pytest.raises(CourseError, match=r"01_a\.ipynb: not a readable notebook"):
        find_notebooks(tmp_path)


def test_parameters_must_be_known(tmp_path):
    write_notebook(tmp_path / "chapter01_a" / "01_a.ipynb", parameters="profile = None\nk: int = 10")
    write_notebook(tmp_path / "chapter01_a" / "02_b.ipynb", parameters='profile = None  # or "smoke"')
    found = find_notebooks(tmp_path)
    assert [notebook.parameters() for notebook in found] == [{"profile", "k"}, {"profile"}]
    given = assign_parameters(found, {"profile": "smoke"}, {"k": 5})
    assert given == [{"profile": "smoke", "k": 5}, {"profile": "smoke"}]
    with pytest.raises(CourseError, match=r"--set depth: no such parameter .* there are: k, profile"):
        assign_parameters(found, {}, {"depth": 5})
    with pytest.raises(CourseError, match=r"02_b\.ipynb: no parameter 'k'"):
        assign_parameters(found, {"k": 5}, {})


def test_unknown_parameter_or_profile_stops_before_a_kernel(tmp_path, no_kernel):
    write_notebook(tmp_path / "chapter01_a" / "01_a.ipynb", "1 / 0")
    with pytest.raises(CourseError, match=r"chapter01_a/01_a\.ipynb: no parameter 'profile'"):
        main(Run(profile="smoke"), root=tmp_path)
    with pytest.raises(CourseError, match="--set depth"):
        main(Run(settings=("depth=5",)), root=tmp_path)
    with pytest.raises(CourseError, match="unknown profile"):
        main(Run(profile="tiny"), root=tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [("depth", "write NAME=VALUE"), ("a-b=1", "write NAME=VALUE"), ("profile=smoke", "use --profile")],
)
def test_settings_that_are_none(tmp_path, no_kernel, setting, message):
    write_notebook(tmp_path / "chapter01_a" / "01_a.ipynb", parameters="profile = None")
    with pytest.raises(CourseError, match=message):
        main(Run(settings=(setting,)), root=tmp_path)


def test_a_run_from_elsewhere(tmp_path, artifacts_root, monkeypatch, capfd):
    first = "import sys, os, pathlib\nprint(sys.executable, pathlib.Path.cwd().name, os.environ['COURSE_PROFILE'])"
    root = tmp_path / "a {strange} folder"
    write_notebook(root / "chapter01_a" / "01_a.ipynb", first, "print(profile, k)", parameters="profile = None\nk = 10")
    before = (root / "chapter01_a" / "01_a.ipynb").read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("COURSE_ARTIFACTS", str(root / "artifacts"))

    main(Run(profile="smoke", settings=("k=5",)), root=root)

    executed = root / "artifacts" / "executed" / "smoke" / "chapter01_a"
    assert outputs(executed / "01_a.ipynb") == f"{sys.executable} chapter01_a smoke\nsmoke 5\n"
    assert "chapter01_a smoke" in (executed / "01_a.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in executed.iterdir()) == ["01_a.html", "01_a.ipynb"]
    assert (root / "chapter01_a" / "01_a.ipynb").read_bytes() == before
    assert list(elsewhere.iterdir()) == [] and Path.cwd() == elsewhere
    captured = capfd.readouterr()
    assert captured.out == "" and "The scoreboard is empty" in captured.err
    assert "WARNING" not in captured.err


def test_a_failing_cell_is_told_shortly(tmp_path, artifacts_root, capfd):
    write_notebook(tmp_path / "chapter01_a" / "01_a.ipynb", "print('so far')", "x = 1\nraise ValueError('too few')")
    write_notebook(tmp_path / "chapter01_a" / "02_b.ipynb", "print('never')")
    with pytest.raises(SystemExit) as stopped:
        main(Run(), root=tmp_path)
    assert stopped.value.code == 1
    error = capfd.readouterr().err
    executed = artifacts_root / "executed" / "pocket" / "chapter01_a"
    assert "error: chapter01_a/01_a.ipynb: cell In [2] failed" in error
    assert "ValueError: too few" in error and str(executed / "01_a.ipynb") in error
    assert "papermill" not in error and "\x1b" not in error and len(error.splitlines()) < 20
    assert outputs(executed / "01_a.ipynb").startswith("so far")
    assert not (executed / "02_b.ipynb").exists()


@pytest.mark.slow
def test_a_dead_kernel_is_told_shortly(tmp_path, capfd):
    write_notebook(tmp_path / "chapter01_a" / "01_a.ipynb", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SystemExit):
        main(Run(), root=tmp_path)
    assert "01_a.ipynb: the kernel stopped" in capfd.readouterr().err


def test_one_bar_counts_every_cell_once(tmp_path, monkeypatch):
    write_notebook(tmp_path / "chapter01_a" / "01_a.ipynb", "1", "", "2", parameters="k = 10")
    ticks = []
    [notebook] = find_notebooks(tmp_path)
    module.execute(notebook, tmp_path / "out.ipynb", {"k": 5}, lambda: ticks.append(1))
    assert len(ticks) == notebook.code_cells == 3


def own_source(monkeypatch, folder: Path) -> list[dict]:
    """Stand in for the catalogue room: record what it was asked for."""
    asked = []

    def load_catalogue(name, **parameters):
        asked.append({"name": name, **parameters})
        return SimpleNamespace(folder=folder, source="your_own", digest="ab12")

    monkeypatch.setattr(importlib.import_module("common.catalogue"), "load_catalogue", load_catalogue)
    return asked


def test_own_catalogue_runs_only_the_notebooks_that_take_any(tmp_path, artifacts_root, monkeypatch, capfd):
    for name, any_catalogue in (("01_story", False), ("02_search", True)):
        path = tmp_path / "chapter01_a" / f"{name}.ipynb"
        write_notebook(path, "print(catalogue)", parameters="catalogue = None", any_catalogue=any_catalogue)
    table = tmp_path / "my.csv"
    table.write_text("product_id,title\n1,a\n")
    asked = own_source(monkeypatch, tmp_path / "saved")
    monkeypatch.chdir(tmp_path)

    main(Run(catalogue=Path("my.csv")), root=tmp_path)

    assert asked == [{"name": "your_own", "products": table}]
    executed = artifacts_root / "executed" / "pocket" / "your_own@ab12" / "chapter01_a"
    assert outputs(executed / "02_search.ipynb") == f"{tmp_path / 'saved'}\n"
    assert not (executed / "01_story.ipynb").exists()
    assert not (artifacts_root / "executed" / "pocket" / "chapter01_a").exists()


def test_own_catalogue_that_cannot_be_stops_before_a_kernel(tmp_path, monkeypatch, no_kernel):
    path = tmp_path / "chapter01_a" / "01_story.ipynb"
    write_notebook(path, "1", parameters="catalogue = None")
    asked = own_source(monkeypatch, tmp_path)
    table = tmp_path / "my.csv"
    with pytest.raises(CourseError, match=r"--catalogue: .*my\.csv does not exist"):
        main(Run(catalogue=table), root=tmp_path)
    table.write_text("product_id,title\n1,a\n")
    with pytest.raises(CourseError, match="none of these chapters has a notebook"):
        main(Run(catalogue=table), root=tmp_path)
    with pytest.raises(CourseError, match="--queries: give --catalogue too"):
        main(Run(queries=table), root=tmp_path)
    assert asked == []
    write_notebook(path, "1", parameters="catalogue = None", any_catalogue=True)

    def refuse(name, **parameters):
        raise CourseError("my.csv: column 'product_id' is missing")

    monkeypatch.setattr(importlib.import_module("common.catalogue"), "load_catalogue", refuse)
    with pytest.raises(CourseError, match="column 'product_id' is missing"):
        main(Run(catalogue=table), root=tmp_path)


@pytest.mark.slow
def test_the_board_ends_the_run(tmp_path, artifacts_root, capfd):
    row = {"chapter": "1", "system": "bm25", "source": "pocket_shop", "split": "test", "metric": "nDCG@10"}
    row |= {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n_queries": 9, "seconds": 1.0}
    code = (
        "import json, pandas as pd\n"
        "from common.artifacts import Artifacts\n"
        f"row = json.loads({json.dumps(row)!r})\n"
        "with Artifacts('pocket_shop', 'ab12').new_run('chapter01_a', 'evaluate', config={}) as run:\n"
        "    pd.DataFrame([row]).to_parquet(run / 'scoreboard.parquet')"
    )
    write_notebook(tmp_path / "chapter01_a" / "01_a.ipynb", code)
    main(Run(), root=tmp_path)
    captured = capfd.readouterr()
    assert "bm25" in captured.out and "0.500" in captured.out and "chapter01_a/01_a.ipynb: " in captured.err
