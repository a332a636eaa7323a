"""A toy shop and a tiny CLIP for the tests of the fine-tuning.

Run as a script (`python toy.py FOLDER '{"seed": 1}'`) it is the training that a test kills.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file

from chapter03_multimodal.clip import Clip, load_clip
from chapter03_multimodal.prepare_data import MultimodalData
from chapter03_multimodal.train import fine_tune
from chapter03_multimodal.train_config import TrainConfig, resolved
from common.artifacts import RunFolder
from common.atomic import write_json
from common.catalogue import Catalogue

COLOURS = {"red": (200, 30, 30), "green": (30, 160, 40), "blue": (30, 40, 200), "grey": (120, 120, 120)}
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def tiny_folder(folder: Path, architecture: dict[str, Any] = TINY) -> Path:
    """Save a CLIP with random weights, by default of one layer a tower, as open_clip loads it."""
    torch.manual_seed(0)
    preprocess = {"mean": (0.5, 0.4, 0.5), "std": (0.5, 0.5, 0.2), "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(folder / "open_clip_config.json", {"model_cfg": architecture, "preprocess_cfg": preprocess})
    weights = {name: value.contiguous() for name, value in open_clip.model.CLIP(**architecture).state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def toy_data(folder: Path, count: int = 48) -> MultimodalData:
    """Draw `count` pictures of one colour above another one, with texts that name both; every third is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        upper, lower = list(COLOURS)[number % 4], list(COLOURS)[number // 4 % 4]
        shades = np.array([COLOURS[upper]] * 10 + [COLOURS[lower]] * 10, dtype=np.int64)[:, None, :]
        noise = np.random.default_rng(number).integers(-25, 26, (20, 24, 3))
        if not (folder / f"{number}.png").exists():  # several processes may read them
            Image.fromarray(np.clip(shades + noise, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append({"product_id": f"p{number}", "title": f"{upper} on {lower}", "brand": f"brand{number % 5}"})
    products = pd.DataFrame(rows)
    images = pd.DataFrame({"product_id": products["product_id"], "path": [f"{n}.png" for n in range(count)]})
    catalogue = Catalogue.from_tables("toy", products=products, images=images.assign(position=0), folder=folder)
    pairs = images.assign(
        text=products["title"] + ". " + products["brand"],
        group_id=products["product_id"],
        category_path=pd.NA,
        split=["val" if number % 3 == 2 else "train" for number in range(count)],
    )
    return MultimodalData(RunFolder(folder, {"run": "toy"}), catalogue, pairs, pairs[:0], pairs[:0])


def toy_training(folder: Path, **changes: Any) -> tuple[TrainConfig, Path, Clip, MultimodalData]:
    """Return the arguments of `fine_tune` for the toy shop in `folder`, with `folder`/work as the work folder."""
    if not (folder / "clip").is_dir():
        tiny_folder(folder / "clip")
    settings = {"epochs": 3, "batch_size": 8, "learning_rate": 2e-3, "checkpoint_every": 3, "neighbours": 4}
    config = resolved(TrainConfig(profile="smoke", **(settings | {"hard_share": 0.25, "patience": 5} | changes)))
    return config, folder / "work", load_clip(folder / "clip"), toy_data(folder / "shop")


if __name__ == "__main__":
    fine_tune(*toy_training(Path(sys.argv[1]), **json.loads(sys.argv[2])))
