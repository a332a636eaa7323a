"""Write and read the files of a two-tower model: two folders that `SentenceTransformer` loads, and a description.

    <model>/query/  <model>/product/  <model>/two_tower.json

The description has the digest of every file. So a checkpoint that was cut short, or whose parts come from different
models, is refused before it is read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from common.atomic import read_json, write_json
from common.devices import Placement
from common.digests import file_sha256
from common.engines import load_sentence_transformer, no_progress_bar
from common.errors import CourseError

DESCRIPTION = "two_tower.json"
TOWERS = ("query", "product")


def load_parts(folder: Path) -> tuple[nn.Module, nn.Sequential]:
    """Load a sentence-transformers folder: its transformer, in float32 on the CPU, and its head without normalisation.

    Raises CourseError if the folder does not load or begins with something else.
    """
    model = load_sentence_transformer(folder, Placement("cpu", "torch", "float32", "training starts in float32"))
    transformer, *rest = list(model)
    if not hasattr(transformer, "auto_model") or not getattr(transformer.tokenizer, "is_fast", False):
        raise CourseError(
            f"{folder}: its first module is no transformer with a fast tokeniser; choose another encoder."
        )
    return transformer, nn.Sequential(*(module for module in rest if type(module).__name__ != "Normalize"))


def save_parts(transformer: nn.Module, head: nn.Sequential, max_length: int, folder: Path) -> None:
    """Write the folder that `load_parts` and `SentenceTransformer` load; `max_length` becomes its max_seq_length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    device = str(next(transformer.parameters()).device)
    model = SentenceTransformer(modules=[transformer, *head, Normalize()], device=device, local_files_only=True)
    # Tokenising changes these settings, and the files should not depend on the last call.
    transformer.tokenizer.backend_tokenizer.no_truncation()
    transformer.tokenizer.backend_tokenizer.no_padding()
    own = model.max_seq_length
    model.max_seq_length = max_length
    try:
        with no_progress_bar():
            model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
    finally:
        model.max_seq_length = own


def store_once(folder: Path) -> None:
    """Store the weights of two equal towers once, where the file system can link files."""
    first, second = (folder / name / "model.safetensors" for name in TOWERS)
    link = second.with_name(f"{second.name}.link")
    try:
        os.link(first, link)
    except OSError:
        return
    os.replace(link, second)


def describe(folder: Path, *, architecture: Mapping[str, Any], temperature: float) -> None:
    """Write `two_tower.json`: the architecture, the present temperature, and the digests of the towers' files."""
    description = {"architecture": dict(architecture), "temperature": temperature, "sha256": _digests(folder)}
    write_json(folder / DESCRIPTION, description)


def read_description(folder: Path, fields: Collection[str]) -> dict[str, Any]:
    """Read what `describe` wrote; raise CourseError if it is missing, no JSON, or has other fields."""
    description = read_json(folder / DESCRIPTION)
    complete = isinstance(description, dict) and {"architecture", "temperature", "sha256"} <= set(description)
    if not complete or set(description["architecture"]) != set(fields):
        raise CourseError(f"{folder / DESCRIPTION}: not the description of a TwoTowerModel; train the model again.")
    return description


def check_files(folder: Path, description: Mapping[str, Any]) -> None:
    """Raise CourseError, naming the file, if one is not as it was when the model was saved."""
    found = _digests(folder)
    for name, digest in description["sha256"].items():
        if found.get(name) != digest:
            what = "is missing" if name not in found else "is cut short or was changed"
            raise CourseError(f"{folder / name}: the file {what}; restore an earlier checkpoint, or train again.")


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for name in TOWERS for path in (folder / name).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
