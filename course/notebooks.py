"""Find the chapters' notebooks, check what may be passed to them, and execute them with this interpreter."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.atomic import atomic_write
from common.errors import CourseError

if TYPE_CHECKING:
    import nbformat

TRACEBACK_LINES = 12


class NotebookFailed(CourseError):
    """Report that a cell raised, or that the kernel died."""


@dataclass(frozen=True)
class Notebook:
    """One notebook of a chapter: its file and its cells as committed."""

    path: Path
    node: nbformat.NotebookNode

    @property
    def name(self) -> str:
        """Return a name for people: ``chapter01_baseline/01_meet_the_catalogue.ipynb``."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def code_cells(self) -> int:
        """Count the cells that will be executed."""
        return sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in self.node.cells)

    @property
    def any_catalogue(self) -> bool:
        """Tell whether it runs on a catalogue of the reader's own; the others are about the pocket shop."""
        return self.node.metadata.get("course", {}).get("catalogue") == "any"

    def parameters(self) -> set[str]:
        """Return the names assigned in the cell tagged ``parameters``."""
        import papermill

        # These notebooks are Python, whatever an editor left in the metadata.
        self.node.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        return set(papermill.inspect_notebook(self.node))


def find_notebooks(root: Path, chapters: Collection[int] = ()) -> list[Notebook]:
    """Return ``chapter*/[0-9]*.ipynb`` under ``root`` in reading order, only those of ``chapters`` if given.

    Raises ``CourseError`` for a chapter without notebooks, and if there is no notebook at all.
    """
    found = sorted(root.glob("chapter*/[0-9]*.ipynb"), key=lambda path: (path.parent.name, path.name))
    numbered = [(int(match[1]), path) for path in found if (match := re.match(r"chapter(\d+)", path.parent.name))]
    if not numbered:
        raise CourseError(f"no notebook chapter*/[0-9]*.ipynb under {root}; is this a complete copy of the course?")
    existing = sorted({number for number, _ in numbered})
    for number in chapters:
        if number not in existing:
            listed = ", ".join(map(str, existing))
            raise CourseError(f"--chapters: chapter {number} has no notebooks; there are chapters {listed}")
    return [_read(path) for number, path in numbered if not chapters or number in chapters]


def assign_parameters(
    notebooks: Sequence[Notebook], everywhere: Mapping[str, Any], where_known: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the parameters of each notebook.

    Every notebook must know each name of ``everywhere``. At least one must know each name of ``where_known``, which
    goes to those that do. Raises ``CourseError`` otherwise; papermill would only warn.
    """
    known = [notebook.parameters() for notebook in notebooks]
    for notebook, names in zip(notebooks, known, strict=True):
        for name in everywhere:
            if name not in names:
                raise CourseError(f"{notebook.name}: no parameter {name!r} in the cell tagged 'parameters'")
    for name in where_known:
        if not any(name in names for names in known):
            listed = ", ".join(sorted(set().union(*known))) or "none"
            raise CourseError(f"--set {name}: no such parameter in these notebooks; there are: {listed}")
    return [{**everywhere, **{k: v for k, v in where_known.items() if k in names}} for names in known]


def execute(
    notebook: Notebook, output: Path, parameters: Mapping[str, Any], after_cell: Callable[[], object] = lambda: None
) -> None:
    """Execute a notebook in its own folder, and write the executed copy and its HTML page, each atomically.

    ``after_cell`` is called after each cell. If a cell fails, the copy is written up to the error, and
    ``NotebookFailed`` is raised.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    def count(cell: nbformat.NotebookNode, **_: Any) -> None:
        if "injected-parameters" not in cell.metadata.get("tags", []):
            after_cell()

    problem = None
    with atomic_write(output) as temporary:
        try:
            papermill.execute_notebook(
                notebook.node,
                str(temporary).replace("{", "{{").replace("}", "}}"),  # papermill formats paths
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",
                progress_bar=False,
                cwd=notebook.path.parent,
                kernel_manager_class=_kernel_manager_class(),
                on_cell_executed=count,
            )
        except PapermillExecutionError as error:
            problem = _describe(notebook, error, output)
        except (DeadKernelError, CellTimeoutError) as error:
            problem = (
                f"{notebook.name}: the kernel stopped ({error}); the usual reason is too little memory.\nSee {output}"
            )
    _write_html(output)
    if problem:
        raise NotebookFailed(problem)


def _read(path: Path) -> Notebook:
    import nbformat

    try:
        return Notebook(path, nbformat.read(path, as_version=4))
    except Exception as error:
        raise CourseError(f"{path}: not a readable notebook ({error})") from None


def _describe(notebook: Notebook, error: Any, output: Path) -> str:
    """Say what failed and where, with the end of the traceback."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).strip()
    lines = text.splitlines()[-TRACEBACK_LINES:] or [f"{error.ename}: {error.evalue}"]
    trace = "\n".join(f"    {line}" for line in lines)
    return f"{notebook.name}: cell In [{error.exec_count}] failed\n{trace}\nThe executed copy: {output}"


def _write_html(executed: Path) -> None:
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(executed))
    with atomic_write(executed.with_suffix(".html")) as temporary:
        temporary.write_text(body, encoding="utf-8")


def _kernel_manager_class() -> type:
    """Return a kernel manager that starts this interpreter, whatever kernels are registered on the machine."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisInterpreter(AsyncKernelManager):
        @default("transport_encryption")
        def _encrypt_where_possible(self) -> str:
            return "auto"  # otherwise the kernel warns, across the progress bar, that it listens unencrypted

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    return ThisInterpreter
