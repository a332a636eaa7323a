"""Rules of the house that hold for every file: floors, no pickle, no machine's path, no registry's address."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from common.settings import repository_root
from course.notebooks import find_notebooks

ROOT = repository_root()
LEFT_OUT = {".git", "artifacts", "build", "__pycache__", ".hypothesis", ".ipynb_checkpoints"}
TEXT = {"", ".cfg", ".csv", ".ini", ".ipynb", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests")

# Put together here so that this file does not name what no file may name.
HOSTS = ["pypi" + ".org", "python" + "hosted", "anaconda" + ".org", "download." + "pytorch", "npm" + "js"]
REGISTRY = "|".join([*map(re.escape, HOSTS), "--(extra-)?index-" + "url", "--find-" + "links"])
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
MACHINE_PATH = r"(?<![\w.:/])(/(home|root|Users|tmp|mnt|private|work)/|[A-Z]:\\+Users\b)"


@cache
def files() -> dict[str, str]:
    """Text of every file of the course, committed or not, by its path in the repository."""
    found = {}
    for parent, folders, names in os.walk(ROOT):
        folders[:] = [
            name
            for name in folders
            if name not in LEFT_OUT
            and not name.endswith((".egg-info", "_cache"))
            and not Path(parent, name, "pyvenv.cfg").exists()
        ]
        for path in (Path(parent, name) for name in names):
            if path.suffix in TEXT:
                found[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8", errors="replace")
    return found


def modules() -> Iterator[tuple[str, ast.Module]]:
    yield from ((name, ast.parse(text)) for name, text in files().items() if name.endswith(".py"))


def test_files_are_found():
    assert {"Makefile", ".ci/run", "requirements.txt", "common/artifacts.py"} <= set(files())
    assert {"common", "chapter01_baseline", "course"} <= set(PACKAGES)
    assert not any(name.startswith(".venv/") for name in files())


def lint_imports(config: Path) -> tuple[int, str]:
    from importlinter.cli import lint_imports

    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = lint_imports(config_filename=str(config), no_cache=True)
    return code, out.getvalue()


def test_floors_hold(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    code, report = lint_imports(ROOT / "pyproject.toml")
    assert code == 0, report
    upside_down = tmp_path / "upside_down.toml"
    upside_down.write_text(
        '[tool.importlinter]\nroot_packages = ["common", "course"]\n'
        '[[tool.importlinter.contracts]]\nname = "x"\ntype = "layers"\nlayers = ["common", "course"]\n'
    )
    code, report = lint_imports(upside_down)
    assert code == 1 and "course" in report, "the linter does not see that course imports common"


def find_circle(*packages: str) -> list[str] | None:
    """Modules of the packages that import each other, directly or around, None if there are none.

    Imports inside functions and under TYPE_CHECKING count.
    """
    graph = grimp.build_graph(*packages, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_two_modules_import_each_other(monkeypatch, tmp_path):
    assert find_circle(*PACKAGES) is None
    package = tmp_path / "round"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from round import b\n")
    (package / "b.py").write_text("def late():\n    from round.c import x\n")
    (package / "c.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import round.a\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert set(find_circle("round")) == {"round.a", "round.b", "round.c"}
    (package / "c.py").unlink()
    assert find_circle("round") is None


def test_every_package_is_on_a_floor():
    settings = tomllib.loads(files()["pyproject.toml"])["tool"]["importlinter"]
    floors = {name.strip("()") for name in settings["contracts"][0]["layers"]}
    assert set(settings["root_packages"]) == set(PACKAGES)
    assert set(PACKAGES) <= floors


def test_no_pickle_and_no_remote_code():
    found = []
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                imported = [node.module or ""]
            else:
                imported = []
            found += [f"{name}: import {module}" for module in imported if module.split(".")[0] in PICKLERS]
            if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code"):
                allowed = isinstance(node.value, ast.Constant) and node.value.value is False
                found += [] if allowed else [f"{name}:{node.value.lineno}: {node.arg}"]
    assert found == []


def test_no_registry_is_named():
    named = [name for name, text in files().items() if re.search(REGISTRY, text)]
    assert named == []
    assert re.search(REGISTRY, "pip install --index-" + "url https://" + HOSTS[0])


def test_no_file_knows_where_it_lies():
    places = {str(ROOT), str(Path.home())} - {"/", "/root"}
    assert [name for name, text in files().items() if any(f"{place}/" in text for place in places)] == []


def notebook_text(text: str) -> str:
    """Source and output of a notebook without its pictures, whose base64 may spell anything."""
    node = json.loads(text)
    for cell in node["cells"]:
        cell.pop("attachments", None)
        for output in cell.get("outputs", []):
            output["data"] = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
            if "text/html" in output["data"]:
                html = "".join(output["data"]["text/html"])
                output["data"]["text/html"] = re.sub(r"base64,[A-Za-z0-9+/=]+", "", html)
    return json.dumps(node, ensure_ascii=False)


def test_notebooks_show_no_machines_path():
    notebooks = {name: notebook_text(text) for name, text in files().items() if name.endswith(".ipynb")}
    found = {name: match[0] for name, text in notebooks.items() if (match := re.search(MACHINE_PATH, text))}
    assert found == {}
    assert re.search(MACHINE_PATH, '"text": ["saved to /home/ann/x"]')
    assert not re.search(MACHINE_PATH, "https://example.org/home/x and a/tmp/b")


def test_notebooks_take_the_parameters_that_the_runner_passes():
    if not list(ROOT.glob("chapter*/[0-9]*.ipynb")):
        pytest.skip("no notebooks yet")
    for notebook in find_notebooks(ROOT):
        wanted = {"profile", "catalogue"} if notebook.any_catalogue else {"profile"}
        assert wanted <= notebook.parameters(), f"{notebook.name}: cell tagged 'parameters' lacks {wanted}"


def test_steps_print_errors_for_people():
    """A module that can be run reads its flags and reports its errors through ``run_step``."""
    found = []
    for name, tree in modules():
        if not name.startswith(("chapter", "common/", "course/")):
            continue
        for node in tree.body:
            if (
                isinstance(node, ast.If)
                and "__name__" in ast.unparse(node.test)
                and "run_step(" not in ast.unparse(node)
            ):
                found.append(name)
    assert found == []


def test_docstrings_of_functions_say_what_to_do():
    """The first word is an imperative ("Return the ..."), not a question word, an article or a third person."""
    no_imperative = r"(What|Which|How|Where|Whether|When|The|An?|Those|Its|All|Each|Every|\w+(?<![sie])s) "
    found = []
    for name, tree in modules():
        if not name.startswith(("chapter", "common/", "course/")):
            continue
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and not node.decorator_list]
        said = [(node, ast.get_docstring(node) or "") for node in functions]
        found += [f"{name}: {node.name}: {text[:60]}" for node, text in said if re.match(no_imperative, text)]
    assert found == []
    assert re.match(no_imperative, "Trains the towers.") and re.match(no_imperative, "Which weights to train.")
    assert not re.match(no_imperative, "Return the rows.") and not re.match(no_imperative, "Process the rows.")
