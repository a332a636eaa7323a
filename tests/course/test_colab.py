"""The way into Colab: what pip is asked for, what stays, when to restart, and the cell and badge of every notebook."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest

from common.errors import CourseError
from common.settings import repository_root
from course import colab
from course.colab import BADGE, ColabConfig, constraints_of, install, main, notebooks, repository_of, with_colab

PINS = """# made by a command
numpy==2.4.1
    # via pandas
nvidia-cublas==13.4 ; sys_platform == 'linux'
papermill==2.6.0
torch==2.15.0
triton==3.9.0 ; sys_platform == 'linux'
"""


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """Stand in for pip: keep what it was asked, and change the versions given in `updates`."""
    seen = types.SimpleNamespace(command=None, constraints=None, returncode=0, updates={})
    versions = {"numpy": "2.1.0", "torch": "2.9.0+cu126", "tqdm": "4.0"}
    (tmp_path / "requirements.txt").write_text(PINS)

    def run(command, **_):
        seen.command = command
        with open(command[command.index("--constraint") + 1]) as file:
            seen.constraints = file.read().splitlines()
        versions.update(seen.updates)
        return subprocess.CompletedProcess(command, seen.returncode, "", "no matching distribution")

    monkeypatch.setattr(colab.subprocess, "run", run)
    monkeypatch.setattr(colab, "_version", versions.get)
    monkeypatch.setattr(colab, "_loaded", lambda: ["numpy", "tqdm"])
    monkeypatch.delenv("COURSE_ARTIFACTS", raising=False)
    seen.root = tmp_path
    return seen


def test_torch_numpy_and_pandas_keep_their_versions():
    found = constraints_of(PINS, {"torch": "2.9.0+cu126", "numpy": "2.1.0", "pandas": None})
    assert found == ["papermill==2.6.0", "torch==2.9.0+cu126", "numpy==2.1.0"]


def test_pip_gets_the_notebooks_extras_and_the_pins(pip, capsys):
    install(root=pip.root)
    assert pip.command[-1] == f"{pip.root}[notebooks,demo,scale]" and "-e" in pip.command
    assert "papermill==2.6.0" in pip.constraints and "torch==2.9.0+cu126" in pip.constraints
    assert capsys.readouterr().out == "The course is installed.\n"


def test_a_changed_package_that_is_loaded_asks_for_a_restart(pip, capsys):
    pip.updates = {"tqdm": "4.67", "papermill": "2.6.0"}
    install(root=pip.root)
    assert capsys.readouterr().out.startswith("tqdm changed: choose Runtime > Restart session")


def test_what_pip_says_is_shown_if_it_fails(pip):
    pip.returncode = 1
    with pytest.raises(CourseError, match="no matching distribution"):
        install(root=pip.root)


def test_artifacts_stay_in_the_clone_or_on_the_drive(pip, monkeypatch):
    import os

    install(root=pip.root)
    assert "COURSE_ARTIFACTS" not in os.environ
    mounted = []
    monkeypatch.setitem(sys.modules, "google.colab.drive", types.SimpleNamespace(mount=mounted.append))
    install("search/course", root=pip.root)
    assert mounted == ["/content/drive"]
    assert os.environ["COURSE_ARTIFACTS"] == "/content/drive/MyDrive/search/course"


def test_every_notebook_has_the_badge_and_the_cell_of_the_repository_that_pyproject_names():
    main(ColabConfig(check=True))
    root = repository_root()
    assert len(notebooks(root)) >= 23
    for path in notebooks(root):
        assert path.read_text(encoding="utf-8").count(BADGE) == 1, path.name


def test_another_repository_goes_into_badge_and_cell_once_and_nothing_else_changes():
    root = repository_root()
    path = notebooks(root)[0]
    text, name = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
    other = with_colab(text, "https://github.com/someone/else", name)
    assert f"github/someone/else/blob/main/{name}" in other
    assert with_colab(other, "https://github.com/someone/else", name) == other
    assert with_colab(other, repository_of(root / "pyproject.toml"), name) == text
    cells, before = json.loads(other)["cells"], json.loads(text)["cells"]
    assert [a == b for a, b in zip(cells, before, strict=True)].count(False) == 2


def test_the_cell_does_nothing_outside_colab():
    code = colab.CELL.format(repository="https://github.com/someone/else")
    done = subprocess.run(
        [sys.executable, "-c", code + "\nprint('course' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False" and done.returncode == 0


def test_install_is_there_before_anything_is_installed():
    code = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in sys.stdlib_module_names | {"common", "course"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
from course.colab import install
print(install.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository_root())
    assert done.stdout == "install\n", done.stderr
