"""Load the image towers of SigLIP and SigLIP 2 from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chapter03_multimodal.clip import POCKET_CLIP
from chapter03_multimodal.training_pictures import ImagePreprocessing
from common.atomic import read_json
from common.encoders import model_folder
from common.engines import no_progress_bar
from common.errors import CourseError

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""Names in open_clip of Pillow's numbers, which image processors save."""


class Siglip(nn.Module):
    """Compute the pooled output [N, D] of a SigLIP image tower for pixels [N, 3, S, S]. side: S.

    A tower of model type "siglip2" (NaFlex) takes the patches of pictures of any shape instead of pixels; here it gets
    those of a square. Source: Zhai et al. 2023, arXiv:2303.15343; SigLIP 2: Tschannen et al. 2025, arXiv:2502.14786.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config = model.config
        self.model, self.patch = model, config.patch_size
        self.patches = hasattr(config, "num_patches")
        self.side: int = int(config.num_patches**0.5) * self.patch if self.patches else config.image_size

    def forward(self, pixels: Tensor) -> Tensor:
        if not self.patches:
            return self.model(pixel_values=pixels).pooler_output
        n, grid = len(pixels), self.side // self.patch
        patches = pixels.reshape(n, 3, grid, self.patch, grid, self.patch).permute(0, 2, 4, 3, 5, 1)
        patches = patches.reshape(n, grid * grid, -1)  # row by row, a patch's channels innermost
        everything = torch.ones(n, grid * grid, dtype=torch.long, device=pixels.device)
        shapes = torch.full((n, 2), grid, device=pixels.device)
        return self.model(patches, pixel_attention_mask=everything, spatial_shapes=shapes).pooler_output


def siglip_folder(name: str) -> Path:
    """Return the folder of a model of transformers; raises `CourseError` if there is none."""
    try:
        return model_folder(name)
    except CourseError as error:
        raise CourseError(
            f"vision tower {name!r} was not found ({error}); the packaged one is {POCKET_CLIP!r}."
        ) from error


def load_siglip(folder: Path, seed: int) -> tuple[Siglip, ImagePreprocessing, list[nn.Parameter]]:
    """Load a SigLIP image tower, its preprocessing, and those of its weights that the files lack, drawn with `seed`.

    The checkpoint names its class: google/siglip2-base-patch16-256 is of type "siglip". The other class would draw its
    patch embedding at random. Raises `CourseError` for another model.
    """
    from transformers import Siglip2VisionModel, SiglipVisionModel

    classes = {"siglip": SiglipVisionModel, "siglip2": Siglip2VisionModel}
    kind = str(read_json(folder / "config.json").get("model_type"))
    if kind.removesuffix("_vision_model") not in classes:
        raise CourseError(
            f"{folder}: a model of type {kind!r}; vision towers are CLIPs of open_clip, siglip and siglip2."
        )
    model, report = _read_quietly(classes[kind.removesuffix("_vision_model")], folder, seed)
    if not model.config.vision_use_head:
        raise CourseError(f"{folder}: this SigLIP has no pooling head; choose one that has.")
    tower, missing = Siglip(model), report["missing_keys"]
    new = [weight for key, weight in model.named_parameters() if key in missing]
    return tower, _preprocessing(folder, tower.side), new


def _read_quietly(kind: type, folder: Path, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it lists the weights of the text tower as unexpected
    try:
        with no_progress_bar(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return kind.from_pretrained(
                folder, output_loading_info=True, use_safetensors=True, local_files_only=True, dtype=torch.float32
            )
    except Exception as error:  # a damaged or foreign folder fails in many ways
        raise CourseError(f"{folder}: transformers cannot load this model: {error}") from error
    finally:
        logging.set_verbosity(verbosity)


def _preprocessing(folder: Path, side: int) -> ImagePreprocessing:
    """Return a SigLIP's preprocessing: it squeezes pictures to a square, as its processor does."""
    file = folder / "preprocessor_config.json"
    settings = read_json(file)
    try:
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
        interpolation = INTERPOLATIONS[settings.get("resample", 2)]
    except KeyError as error:
        raise CourseError(f"{file}: needs image_mean, image_std and a resample of 2 or 3 ({error}).") from None
    cut = {"size": side, "mean": mean, "std": std, "interpolation": interpolation, "resize_mode": "squash"}
    return ImagePreprocessing(side, mean, std, cut)
