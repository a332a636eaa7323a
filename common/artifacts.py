"""Hand what one step makes to the next, in run folders that are there whole or not at all.

``<root>/<source>@<digest>/<profile>/<chapter>/<step>/<run>/`` holds one run of one step, with ``manifest.json``
(config, seed, input runs, package versions, commit, seconds) written last. ``current.json`` beside the runs names the
current run and is replaced in one move: a reader resolves it once and never sees half a run or a mix of two.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from common.atomic import atomic_folder, read_json, write_json
from common.errors import CourseError, MissingArtifact
from common.settings import DEFAULT_PROFILE, artifacts_root, repository_root, resolve_profile

RECORDED_PACKAGES = (
    "bm25s",
    "faiss-cpu",
    "lightgbm",
    "numpy",
    "open-clip-torch",
    "openvino",
    "pacmap",
    "pandas",
    "pillow",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits that stand for ``value``: equal values give equal digits, in any process. Takes what
    ``jsonable`` takes. A path counts by its name, not by the content of the file."""
    text = json.dumps(jsonable(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def jsonable(value: Any) -> Any:
    """Return ``value`` as plain JSON types: dataclasses and mappings as objects, tuples and sets as arrays, paths as
    text, bytes as their SHA-256, NumPy scalars as numbers. Raises ``TypeError`` for anything else.
    """
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, bytes):
        return {"sha256": sha256(value).hexdigest()}
    if isinstance(value, Path):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((jsonable(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"no fingerprint for {type(value).__name__}; use JSON types, dataclasses, paths or bytes")


@dataclass(frozen=True)
class RunFolder:
    """Hold the folder and the manifest of one complete run of a step."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Return ``<source>@<digest>/<profile>/<chapter>/<step>/<run>``, the same on every machine."""
        return self.manifest["run"]


class Artifacts:
    """Find, reuse and publish the runs of all steps on one catalogue in one profile."""

    def __init__(self, source: str, digest: str, profile: str | None = None, root: Path | None = None) -> None:
        """Set the catalogue by its ``source`` and ``digest``; ``profile`` and ``root`` default to the settings."""
        self.source = _plain_name(source)
        self.digest = _plain_name(digest)
        self.profile = resolve_profile(profile)
        self.root = Path(root) if root is not None else artifacts_root()
        self.folder = self.root / f"{self.source}@{self.digest}" / self.profile
        self._pinned: dict[tuple[str, str], str] | None = None

    @classmethod
    def for_catalogue(cls, catalogue: Any, profile: str | None = None, root: Path | None = None) -> Artifacts:
        """Return the artifacts made from ``catalogue`` (anything with ``source`` and ``digest``)."""
        return cls(catalogue.source, catalogue.digest, profile, root)

    def pinned(self) -> Artifacts:
        """Return a copy for which the runs that are current now stay current, whatever is made later. For a process
        that reads many runs, one after another, and must not mix older with newer ones."""
        found, before = self._pointers(), None
        while found != before:  # a run may be swapped while the pointers are read
            found, before = self._pointers(), found
        copy = Artifacts(self.source, self.digest, self.profile, self.root)
        copy._pinned = found
        return copy

    @property
    def runs(self) -> dict[str, str]:
        """Return the name of the current run of every step that has one, by "chapter/step"."""
        pointers = self._pointers() if self._pinned is None else self._pinned
        return {f"{chapter}/{step}": run for (chapter, step), run in pointers.items()}

    def __repr__(self) -> str:
        return f"Artifacts({self.source}@{self.digest}, profile {self.profile})"

    @contextmanager
    def new_run(
        self, chapter: str, step: str, *, config: Any, inputs: Mapping[str, RunFolder] | None = None
    ) -> Iterator[Path]:
        """Yield an empty folder to write into; on success it becomes the current run of the step.

        On an error, or when the process is killed, the run that was current stays current. ``inputs`` are the runs that
        this one was made from.
        """
        started, clock = datetime.now(UTC), time.perf_counter()
        run = f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        step_folder = self._step_folder(chapter, step)
        with atomic_folder(step_folder / run) as staging:
            yield staging
            manifest = {
                "run": (step_folder / run).relative_to(self.root).as_posix(),
                "config": jsonable(config),
                "seed": _own_seed(config),
                "inputs": _names(inputs),
                "code": code_digest(chapter),
                "versions": _versions(),
                "commit": checkout_commit(),
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - clock, 3),
            }
            write_json(staging / "manifest.json", manifest)
        write_json(step_folder / "current.json", {"run": run})

    def current(self, chapter: str, step: str) -> RunFolder:
        """Return the current run. Raises ``MissingArtifact``, with the command that makes one, if there is none."""
        found = self._find(chapter, step)
        if found is None:
            setting = "" if self.profile == DEFAULT_PROFILE else f"COURSE_PROFILE={self.profile} "
            raise MissingArtifact(
                f"{chapter}: no {step} yet for catalogue {self.source}@{self.digest}, profile {self.profile}.\n"
                f"Make it with: {setting}python -m {chapter}.{step}"
            )
        return found

    def reuse(
        self, chapter: str, step: str, *, config: Any, inputs: Mapping[str, RunFolder] | None = None
    ) -> RunFolder | None:
        """Return the current run if running the step again would only repeat it, else None.

        It would if the config, the input runs and the package versions are the same and no code that the step can
        import was edited since (``code_digest``). So whatever decides the result, the seed too, belongs in the config.
        """
        found = self._find(chapter, step)
        if found is None:
            return None
        wanted = {
            "config": jsonable(config),
            "inputs": _names(inputs),
            "code": code_digest(chapter),
            "versions": _versions(),
        }
        return found if all(found.manifest.get(key) == value for key, value in wanted.items()) else None

    def _step_folder(self, chapter: str, step: str) -> Path:
        return self.folder / _plain_name(chapter) / _plain_name(step)

    def _pointers(self) -> dict[tuple[str, str], str]:
        found = sorted(self.folder.glob("*/*/current.json"))
        return {(path.parts[-3], path.parts[-2]): read_json(path)["run"] for path in found}

    def _find(self, chapter: str, step: str) -> RunFolder | None:
        folder = self._step_folder(chapter, step)
        if self._pinned is not None:
            run = self._pinned.get((chapter, step))
        else:
            run = read_json(folder / "current.json")["run"] if (folder / "current.json").is_file() else None
        if run is None:
            return None
        path = folder / _plain_name(run)
        # A run removed by hand leaves its pointer behind: the run is missing, nothing is broken.
        return RunFolder(path, read_json(path / "manifest.json")) if path.is_dir() else None


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise CourseError(f"{name!r} cannot be part of an artifact path: use letters, digits, '.', '_' and '-'")
    return name


def _names(inputs: Mapping[str, RunFolder] | None) -> dict[str, str]:
    return {name: run.name for name, run in (inputs or {}).items()}


def _own_seed(config: Any) -> int | None:
    return config.get("seed") if isinstance(config, Mapping) else getattr(config, "seed", None)


@cache
def code_digest(chapter: str) -> str:
    """Return a digest of the Python files that a step of the chapter can import, as they are on disk at the first call.

    They are those of ``common``, of the chapter and of every chapter before it: chapter 2 evaluates with chapter 1's
    fusion, so an edit there changes its results. The chapters' order is that of their names.
    """
    root = repository_root()
    chapters = sorted(path.name for path in root.glob("chapter*") if path.name <= chapter)
    files = [path for package in ("common", *chapters) for path in sorted((root / package).rglob("*.py"))]
    return fingerprint({path.relative_to(root).as_posix(): path.read_bytes() for path in files})


@cache
def _versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def checkout_commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` if tracked files differ; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        answer = subprocess.run(command, cwd=repository_root(), capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
