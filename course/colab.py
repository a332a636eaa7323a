"""Run the notebooks in Colab: install the course beside Colab's own torch, and write what opens a notebook there.

The first code cell of every notebook clones the repository and calls `install`. `python -m course.colab` writes that
cell and the badge into all notebooks, for the repository that `pyproject.toml` names.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

from common.atomic import atomic_write
from common.errors import CourseError
from common.settings import repository_root

KEPT = ("torch", "torchvision", "torchaudio", "numpy", "pandas", "google-colab", "ipykernel", "ipython")
"""Packages that Colab has loaded or built for its machines: their versions stay."""
CUDA = ("nvidia-", "cuda-", "triton")
"""Beginnings of the names of packages that come with torch."""
EXTRAS = "notebooks,demo,scale"
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
CELL = """# In Colab: fetch the course and install it beside Colab's own torch. Everywhere else this cell does nothing.
import sys

if "google.colab" in sys.modules:
    import subprocess
    from pathlib import Path

    repository = "{repository}"
    drive = None  # a folder of My Drive, to keep the artifacts there
    if not Path("/content/course").exists():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", repository, "/content/course"], check=True)
    sys.path.insert(0, "/content/course")
    from course.colab import install

    install(drive)"""


@dataclass(frozen=True)
class ColabConfig:
    """Write the badge and the first code cell of every notebook."""

    check: bool = False
    """Write nothing; fail if a notebook would change."""


def main(config: ColabConfig) -> None:
    """Write badge and cell into all notebooks. Raises `CourseError`, with `check`, if one is not up to date."""
    root = repository_root()
    repository = repository_of(root / "pyproject.toml")
    for path in notebooks(root):
        text = path.read_text(encoding="utf-8")
        wanted = with_colab(text, repository, path.relative_to(root).as_posix())
        if wanted == text:
            continue
        if config.check:
            raise CourseError(f"{path.relative_to(root)}: badge or first cell is old; run python -m course.colab")
        with atomic_write(path) as temporary:
            temporary.write_text(wanted, encoding="utf-8")


def install(drive: str | None = None, root: Path | None = None) -> None:
    """Install the course into Colab's Python, and say so if the session must be restarted.

    drive: a folder of My Drive for the artifacts, so that a notebook finds what the chapters before it made; None keeps
    them in this runtime only. root: of the clone, by default this one. Raises `CourseError` if pip fails.
    """
    root = root or repository_root()
    if drive is not None:
        import_module("google.colab.drive").mount("/content/drive")
        os.environ["COURSE_ARTIFACTS"] = f"/content/drive/MyDrive/{drive}"
    before = {name: _version(name) for name in _loaded()}
    constraints = constraints_of(
        (root / "requirements.txt").read_text(encoding="utf-8"), {n: _version(n) for n in KEPT}
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "constraints.txt")
        file.write_text("\n".join(constraints), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(file), "-e"]
        done = subprocess.run([*command, f"{root}[{EXTRAS}]"], capture_output=True, text=True)
    if done.returncode:
        raise CourseError(f"pip could not install the course:\n{done.stderr[-2000:]}")
    changed = sorted(name for name, version in before.items() if _version(name) != version)
    if changed:
        print(f"{', '.join(changed)} changed: choose Runtime > Restart session, then run the notebook from the top.")
    else:
        print("The course is installed.")


def constraints_of(requirements: str, kept: Mapping[str, str | None]) -> list[str]:
    """Return pip's constraints: the pins of requirements.txt, and Colab's own version of what is kept.

    kept: installed versions by name, None for what is not installed, which then has no constraint. Packages that come
    with torch are left to it.
    """
    pins = [line for line in requirements.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    ours = [pin for pin in pins if (name := pin.split("==")[0]) not in kept and not name.startswith(CUDA)]
    return ours + [f"{name}=={version}" for name, version in kept.items() if version is not None]


def repository_of(pyproject: Path) -> str:
    """Return the address of the repository that pyproject.toml names."""
    return tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


def notebooks(root: Path) -> list[Path]:
    """Return every notebook of the course."""
    return sorted(root.glob("chapter*/[0-9]*.ipynb"))


def with_colab(text: str, repository: str, path: str) -> str:
    """Return a notebook's JSON with the badge below its title and the cell as its first code. Other cells stay."""
    notebook = json.loads(text)
    title, code = notebook["cells"][0], next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    lines = [line for line in "".join(title["source"]).split("\n") if not line.startswith(BADGE)]
    address = repository.removeprefix("https://github.com/")
    badge = f"{BADGE}(https://colab.research.google.com/github/{address}/blob/main/{path})"
    body = "\n".join(lines[1:]).lstrip("\n")
    title["source"] = _as_source(f"{lines[0]}\n\n{badge}\n\n{body}")
    code["source"] = _as_source(CELL.format(repository=repository))
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _as_source(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _loaded() -> list[str]:
    """Return the installed packages that are already imported: another version needs a new session."""
    owners = metadata.packages_distributions()
    return sorted({name for module in list(sys.modules) if "." not in module for name in owners.get(module, ())})


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    from common.cli import run_step  # not above: in Colab nothing is installed yet when `install` is imported

    run_step(main)
