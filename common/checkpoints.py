"""Save and restore checkpoints: weights, AdamW's moments, the random state, and how far the training had come.

A training that continues from one takes exactly the steps that it would have taken without the interruption.
Safetensors and JSON, no pickle. `last.json` names the current checkpoint and is replaced in one move, so a killed
writer leaves the one before it current.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from common.atomic import atomic_folder, read_json, write_json
from common.errors import CourseError

POINTER, TENSORS, STATE = "last.json", "tensors.safetensors", "state.json"


def save_checkpoint(
    folder: Path, name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write the checkpoint `name` into `folder`, make it the last one, and remove the one before.

    state: what else the training needs to know, as JSON (step, epoch, best figure so far). The learning rate does not
    belong in it: it is a function of the step, and a resumed training must follow the schedule that it is started with.
    """
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"optimizer.{key}": value for key, value in _moments(optimizer).items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    before = read_json(folder / POINTER)["name"] if (folder / POINTER).is_file() else None
    if name == before:
        raise CourseError(f"checkpoint {name} exists already")
    shutil.rmtree(folder / name, ignore_errors=True)  # left by a run that was killed before the pointer moved
    with atomic_folder(folder / name) as staging:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, staging / TENSORS)
        write_json(staging / STATE, state)
    write_json(folder / POINTER, {"name": name})
    if before is not None:
        shutil.rmtree(folder / before, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of the last checkpoint in `folder`, None if there is none."""
    if not (folder / POINTER).is_file():
        return None
    try:
        return read_json(folder / read_json(folder / POINTER)["name"] / STATE)
    except CourseError as error:
        raise CourseError(f"{error}\nRemove the folder {folder} to start again from the beginning.") from None


def restore_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Put the last checkpoint's weights into `model`, its moments into `optimizer`, and set the random state.

    Without an optimizer only the weights are restored. Raises `CourseError` for a checkpoint that is cut short or of
    another architecture; `model` is then as it was.
    """
    path = folder / read_json(folder / POINTER)["name"] / TENSORS
    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises its own errors and OS errors
        raise CourseError(
            f"checkpoint {path.parent.name}: cannot be read ({error}); "
            f"remove the folder {folder} to start again from the beginning"
        ) from None
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    mine = model.state_dict()
    wrong = sorted(mine.keys() ^ weights.keys()) or [key for key in mine if mine[key].shape != weights[key].shape]
    if wrong:
        raise CourseError(f"checkpoint {path.parent.name}: has another architecture (first difference: {wrong[0]})")
    if optimizer is not None:
        if "random.cpu" not in tensors:
            raise CourseError(f"checkpoint {path.parent.name}: has no random state; it was not written by a training")
        _restore_moments(optimizer, tensors)
    with torch.no_grad():
        for key, value in mine.items():
            value.copy_(weights[key])
    if optimizer is not None:
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    states = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, state in states.items() for key, value in state.items()}


def _restore_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            states.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
