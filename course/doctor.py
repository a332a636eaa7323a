"""``python -m course doctor``: show what this machine offers and what a profile needs, before any download."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.catalogue import download
from common.devices import choose_placement, hardware
from common.errors import CourseError
from common.settings import artifacts_root, data_home, resolve_profile

State = Literal["ok", "note", "warning"]
COLOURS = {"ok": "green", "note": "yellow", "warning": "red"}
GIB = 1024**3


@dataclass(frozen=True)
class HubModel:
    """Describe a model of the hub. size: of its weights in bytes, four a parameter; nothing was downloaded to check."""

    name: str
    size: float
    licence: str
    used_by: str


FULL_MODELS = (
    HubModel("cross-encoder/ms-marco-MiniLM-L6-v2", 91e6, "Apache-2.0", "chapter 1, second stage"),
    HubModel("BAAI/bge-base-en-v1.5", 438e6, "MIT", "chapter 4, text tower"),
    HubModel("google/siglip2-base-patch16-256", 1.5e9, "Apache-2.0", "chapter 4, vision tower"),
)
"""What profile full loads by default. The other profiles use models that come in packages and with the course."""

PACKAGES = (
    ("papermill", "notebooks", "running notebooks by `python -m course run`"),
    ("fastapi", "demo", "the service"),
    ("gradio", "demo", "the chapters' search boxes"),
    ("ray", "scale", "embedding by several machines"),
    ("pymilvus", "scale", "search by Milvus"),
    ("trackio", "tracking", "tracking a training by trackio"),
    ("wandb", "tracking", "tracking a training by Weights & Biases"),
    ("tensorboard", "tracking", "tracking a training by TensorBoard"),
)
"""Packages that some parts need: name, the extra that installs it, and for what."""


@dataclass(frozen=True)
class Doctor:
    """Show device, precision, disk, memory, and the models and data that a profile would fetch. Nothing is changed."""

    profile: Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")] = None
    """smoke, pocket or full. Default: the environment variable COURSE_PROFILE, else pocket."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, what was found."""

    subject: str
    state: State
    found: str


def main(config: Doctor) -> None:
    """Print the report. Nothing in it is an error: a warning says what will not work here."""
    show(findings(resolve_profile(config.profile)))


def findings(profile: str) -> Iterator[Finding]:
    """Look at everything in turn."""
    yield Finding("profile", "ok", profile)
    yield Finding("Python", "ok", platform.python_version())
    yield Finding("processor", "ok", hardware())
    for use, engine in (("embedding", "auto"), ("training", "torch")):
        chosen = choose_placement(engine, profile)
        yield Finding(use, "ok", f"{chosen.device}, {chosen.engine}, {chosen.precision}: {chosen.reason}")
    yield from _cards()
    yield from _room()
    yield from _packages()
    if profile == "full":
        yield from _models()
        yield from _data()
    else:
        yield Finding("models, data", "ok", "in the packages and in the course; nothing will be downloaded")


def show(lines: Iterator[Finding]) -> None:
    """Print one row for each finding, its state in colour and in words."""
    table = Table("subject", "state", "found", title="python -m course doctor")
    for line in lines:
        table.add_row(line.subject, f"[{COLOURS[line.state]}]{line.state}[/]", escape(line.found))
    Console().print(table)


def _cards() -> Iterator[Finding]:
    """Compare the NVIDIA cards that the driver reports with those that torch can use."""
    import torch

    reported = _nvidia_smi()
    build = f"torch {torch.__version__}, built for " + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs")
    if not reported:
        yield Finding("NVIDIA card", "note", f"none found; {build}")
    for card in reported:
        usable = torch.cuda.is_available()
        why = "" if usable else ". torch cannot use it: install a build of torch for this driver"
        yield Finding("NVIDIA card", "ok" if usable else "warning", f"{card}; {build}{why}")
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        name, (major, minor) = torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)
        if not _compiled_for(major, minor, torch.cuda.get_arch_list()):
            yield Finding("NVIDIA card", "warning", f"{name} has capability {major}.{minor}, which {build} lacks")


def _nvidia_smi() -> list[str]:
    """Return name, driver and memory of each card, as the driver's own tool says; none where there is no such tool."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    cards = [line.split(", ") for line in found.stdout.splitlines() if line.strip()]
    return [f"{name}, driver {driver}, {memory}" for name, driver, memory in cards]


def _compiled_for(major: int, minor: int, architectures: list[str]) -> bool:
    """Tell whether a build holds code for a card: of its own major number and no newer minor one, or code that the
    driver compiles for later cards ("compute_90")."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        if kind not in ("sm", "compute"):  # an AMD card, "gfx942": its build holds what it holds
            return True
        number = int("".join(c for c in digits if c.isdigit()))
        same, older = number // 10 == major and number % 10 <= minor, number <= 10 * major + minor
        if (kind == "sm" and same) or (kind == "compute" and older):
            return True
    return False


def _room() -> Iterator[Finding]:
    root = artifacts_root()
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free / GIB
    yield Finding("free disk", "ok" if free > 5 else "warning", f"{free:.1f} GiB for {root}")
    memory = _free_memory()
    if memory is not None:
        yield Finding("free memory", "ok" if memory > 4 * GIB else "warning", f"{memory / GIB:.1f} GiB")


def _free_memory() -> float | None:
    """Return the bytes that programs can still have, None where the system does not say."""
    facts = Path("/proc/meminfo")
    if facts.is_file():
        line = next(line for line in facts.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _packages() -> Iterator[Finding]:
    for name, extra, what in PACKAGES:
        if find_spec(name) is None:
            yield Finding("package", "note", f"{name} is missing, for {what}: pip install -e .[{extra}]")


def _models() -> Iterator[Finding]:
    from huggingface_hub import constants, try_to_load_from_cache

    for model in FULL_MODELS:
        facts = f"{model.name}, {model.size / 1e6:,.0f} MB, {model.licence}; {model.used_by}"
        if isinstance(try_to_load_from_cache(model.name, "model.safetensors"), str):
            yield Finding("model", "ok", f"{facts}: is here")
        elif constants.HF_HUB_OFFLINE:
            yield Finding("model", "warning", f"{facts}: is missing, and HF_HUB_OFFLINE forbids to fetch it")
        else:
            yield Finding("model", "note", f"{facts}: will be downloaded")


def _data() -> Iterator[Finding]:
    """Say of each public source whether its files are here, can be fetched, or must be put there by hand."""
    try:
        home = data_home()
    except CourseError as error:
        yield Finding("data", "warning", str(error))
        return
    roots = [folder for folder in (home, artifacts_root() / "downloads") if folder is not None]
    for source in (value for value in vars(download).values() if isinstance(value, download.PublicSource)):
        missing = [f for f in source.files if not any((root / source.folder / f.path).is_file() for root in roots)]
        facts = f"{source.folder} ({source.licence})"
        if not missing:
            yield Finding("data", "ok", f"{facts}: is here")
        elif all(file.url for file in missing):
            yield Finding("data", "note", f"{facts}: will be downloaded when it is used")
        else:
            yield Finding("data", "note", f"{facts}: put its files into COURSE_DATA_HOME; they are at {source.page}")
