"""Write and read the files of a catalogue reranker: its own weights, and a description of the rest.

    <model>/reranker.safetensors  <model>/reranker.json

The description holds the digest of the weights, so that a damaged or changed checkpoint is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from common.atomic import atomic_folder, read_json, write_json
from common.digests import file_sha256
from common.errors import CourseError

DESCRIPTION, WEIGHTS = "reranker.json", "reranker.safetensors"
FORMAT = 1


def write_model(
    folder: Path, architecture: Mapping[str, Any], towers: Mapping[str, str], state: Mapping[str, Tensor]
) -> None:
    """Write both files. towers: the digest of each pretrained tower.

    Raises `CourseError` if the folder is not empty.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise CourseError(f"{folder}: there is something in this folder; save the model to a new one.")
    with atomic_folder(folder) as staging:
        save_file(dict(state), staging / WEIGHTS)
        described = {"format": FORMAT, "architecture": dict(architecture), "towers": dict(towers)}
        write_json(staging / DESCRIPTION, described | {"sha256": file_sha256(staging / WEIGHTS)})


def read_model(folder: Path, fields: Collection[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description and the weights that `write_model` wrote. fields: the names an architecture must have.

    Raises `CourseError`, naming the file, if one is missing, damaged or no part of a reranker.
    """
    described = read_json(folder / DESCRIPTION)
    complete = isinstance(described, dict) and {"format", "architecture", "towers", "sha256"} <= set(described)
    if not complete or described["format"] != FORMAT or set(described["architecture"]) != set(fields):
        raise CourseError(f"{folder / DESCRIPTION}: not the description of a catalogue reranker; train it again.")
    file = folder / WEIGHTS
    if not file.is_file():
        raise CourseError(f"{file}: the file is missing; restore an earlier checkpoint, or train again.")
    if file_sha256(file) != described["sha256"]:
        raise CourseError(
            f"{file}: the file is cut short or was changed; restore an earlier checkpoint, or train again."
        )
    return described, load_file(file)
