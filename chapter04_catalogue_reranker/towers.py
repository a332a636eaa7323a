"""The two pretrained towers: one that reads texts, one that looks at pictures; both frozen, with LoRA.

    text = TextTower.load("all-MiniLM-L6-v2", lora_rank=8)
    text(text.tokenise(["Living room > Chairs"], length=64))             # [1, 384], float32, of length 1
    vision = VisionTower.load("pocket_clip", lora_rank=4)
    vision(vision.preprocess(picture)[None])                             # [1, 192]

A tower is named and digested, so that a model which stores only what it trained can find it again, and can tell
whether it is still the same. Weights that the tower's own files lack are drawn anew, and known as `new`: whoever saves
a model must save those too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from chapter02_two_tower.model import ROWS_A_CHUNK, Tower
from chapter02_two_tower.model_files import load_parts
from chapter03_multimodal.clip import CONFIG as CLIP_CONFIG
from chapter03_multimodal.clip import POCKET_CLIP, load_clip
from chapter03_multimodal.training_pictures import ImagePreprocessing
from chapter04_catalogue_reranker.lora import TEXT, VISION, add_lora, with_called_attention
from common.atomic import read_json
from common.encoders import MINILM, folder_digest, model_folder
from common.engines import no_progress_bar
from common.errors import CourseError

INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
"""Pillow's number, which image processors are saved with, to open_clip's name."""


class TextTower(nn.Module):
    """A transformer and the pooling of its token vectors, for texts of any kind. Make one with `load`.

    width: features of a vector. name, digest: what it was loaded as, and what stands for its files. new: names of the
    weights that the files lack. longest: how many tokens it can read.
    """

    def __init__(self, transformer: nn.Module, head: nn.Sequential, name: str, digest: str) -> None:
        """transformer and head (pooling, then perhaps dense layers): modules of sentence-transformers."""
        super().__init__()
        self.transformer, self.head, self.name, self.digest = transformer, head, name, digest
        self.new: tuple[str, ...] = ()
        self.width = self.at(3).dimension
        self.longest: int | None = getattr(transformer.config, "max_position_embeddings", None)

    @classmethod
    def load(
        cls, name: str = MINILM, *, pooling: str = "mean", lora_rank: int, lora_dropout: float = 0.0, seed: int = 0
    ) -> TextTower:
        """The pretrained tower in float32 on the CPU, all weights frozen, with LoRA that changes nothing yet.

        name: "all-MiniLM-L6-v2" (packaged), a hub name such as "BAAI/bge-base-en-v1.5", or a folder: of such a model,
        or of a tower of chapter 2, whose dense layer is kept. pooling: "mean" of the token vectors, or "cls", the
        first. seed draws LoRA's matrices and what the files lack. Raises CourseError if it does not load, or is not of
        BERT's build.
        """
        folder = model_folder(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            transformer, head = load_parts(folder)
        tower = cls(transformer, _pooled_by(pooling, head, transformer, name), name, folder_digest(folder))
        body = transformer.auto_model
        missing = _missing_names(body, folder)
        new = [weight for key, weight in body.named_parameters() if key in missing]
        _without_dropout(tower)
        add_lora(body, TEXT, rank=lora_rank, dropout=lora_dropout, seed=seed)
        tower.new = _names_of(new, tower)
        return tower.requires_grad_(False)

    def at(self, length: int) -> Tower:
        """The same network as a tower of chapter 2, which reads `length` tokens of a text."""
        return Tower(self.transformer, self.head, length)

    def tokenise(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Token ids of each text, special ones included, at most `length` of them; see chapter 2's `Tower`."""
        return self.at(length).tokenise(texts)

    def forward(self, tokens: Sequence[Sequence[int]], *, rows_a_chunk: int = ROWS_A_CHUNK) -> Tensor:
        """Features [N, width] of N tokenised texts: float32 (under autocast too), of length 1, with gradient.

        They run sorted by length, `rows_a_chunk` at a time, so that little is padding.
        """
        return self.at(3)(tokens, rows_a_chunk=rows_a_chunk)


class VisionTower(nn.Module):
    """A network from pixels to one vector. Make one with `load`.

    width: features of a vector. preprocessing: how it wants its pictures. name, digest, new: as of a `TextTower`. The
    statistics of batch norms stay what they were in pretraining, in training mode too.
    """

    def __init__(
        self, network: nn.Module, width: int, preprocessing: ImagePreprocessing, name: str, digest: str
    ) -> None:
        """network: pixels float [N, 3, S, S] to [N, width]."""
        super().__init__()
        self.network, self.width, self.preprocessing = network, width, preprocessing
        self.name, self.digest = name, digest
        self.new: tuple[str, ...] = ()
        self._square_of = preprocessing.squares(preprocessing.side)

    @classmethod
    def load(cls, name: str = POCKET_CLIP, *, lora_rank: int, lora_dropout: float = 0.0, seed: int = 0) -> VisionTower:
        """The pretrained tower in float32 on the CPU, all weights frozen, with LoRA that changes nothing yet.

        name: a CLIP, as `chapter03_multimodal.clip.load_clip` takes it; or a SigLIP of transformers, a folder or a hub
        name such as "google/siglip2-base-patch16-256". seed: as in `TextTower.load`. Raises CourseError if it does not
        load, or is of another build.
        """
        if _is_clip(name):
            clip = load_clip(name)
            network = with_called_attention(clip.model.visual)
            tower, new = cls(network, clip.dimension, ImagePreprocessing.of(clip), name, clip.digest), []
        else:
            folder = _vision_folder(name)
            network, new = _siglip(folder, seed)
            width = network.model.config.hidden_size
            tower = cls(network, width, _preprocessing(folder, network.side), name, folder_digest(folder))
        _without_dropout(tower)
        add_lora(tower.network, VISION, rank=lora_rank, dropout=lora_dropout, seed=seed)
        tower.new = _names_of(new, tower)
        return tower.requires_grad_(False)

    def preprocess(self, picture: Image.Image) -> Tensor:
        """An RGB picture as float [3, S, S]."""
        return self.preprocessing.as_input(np.array(self._square_of(picture))[None])[0]

    def forward(self, pixels: Tensor) -> Tensor:
        """Features [N, width] of pixels [N, 3, S, S]: float32 (under autocast too), of length 1, with gradient."""
        features = self.network(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            return normalize(features.float(), dim=-1)

    def train(self, mode: bool = True) -> VisionTower:
        """Training or evaluation mode; batch norms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class Siglip(nn.Module):
    """The image tower of a SigLIP (Zhai et al. 2023, arXiv:2303.15343; SigLIP 2: Tschannen et al. 2025,
    arXiv:2502.14786): pixels [N, 3, S, S] to its pooled output [N, D]. side: S.

    One of model type "siglip2" (NaFlex) takes patches instead of pixels, of any shape of picture; here they are those
    of a square.
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


def _pooled_by(pooling: str, head: nn.Sequential, transformer: nn.Module, name: str) -> nn.Sequential:
    from sentence_transformers.sentence_transformer.modules import Pooling

    kinds = [type(module).__name__ for module in head]
    if kinds[:1] != ["Pooling"] or set(kinds[1:]) - {"Dense"}:
        raise CourseError(
            f"{name!r} has the head {' + '.join(kinds) or 'none'}, not a pooling; choose another encoder."
        )
    return nn.Sequential(Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling), *list(head)[1:])


def _missing_names(body: nn.Module, folder: Path) -> set[str]:
    """The weights of a transformer that no file of its folder has, but for the pooler's, which takes no part."""
    from safetensors import safe_open

    stored = set()
    for file in folder.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            stored |= {key.replace("gamma", "weight").replace("beta", "bias") for key in opened.keys()}  # noqa: SIM118
    prefix = f"{body.base_model_prefix}."
    stored = {key.removeprefix(prefix) for key in stored}
    return {key for key, _ in body.named_parameters() if key not in stored and not key.startswith("pooler.")}


def _is_clip(name: str) -> bool:
    import open_clip

    folder = Path(name).expanduser()
    if name == POCKET_CLIP or (folder / CLIP_CONFIG).is_file():
        return True
    return not folder.is_dir() and name.partition("/")[0] in open_clip.list_models()


def _vision_folder(name: str) -> Path:
    try:
        return model_folder(name)
    except CourseError as error:
        raise CourseError(
            f"vision tower {name!r} was not found ({error}); the packaged one is {POCKET_CLIP!r}."
        ) from error


def _siglip(folder: Path, seed: int) -> tuple[Siglip, list[nn.Parameter]]:
    """The tower of a folder and those of its weights that the files lack.

    The class is chosen by what the checkpoint says of itself: google/siglip2-base-patch16-256 is of type "siglip". In
    the class of the other type its patch embedding would be drawn anew.
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
    return Siglip(model), [weight for key, weight in model.named_parameters() if key in report["missing_keys"]]


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
    """How a SigLIP wants its pictures: squeezed to a square, as its processor does it."""
    file = folder / "preprocessor_config.json"
    settings = read_json(file)
    try:
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
        interpolation = INTERPOLATIONS[settings.get("resample", 2)]
    except KeyError as error:
        raise CourseError(f"{file}: needs image_mean, image_std and a resample of 2 or 3 ({error}).") from None
    cut = {"size": side, "mean": mean, "std": std, "interpolation": interpolation, "resize_mode": "squash"}
    return ImagePreprocessing(side, mean, std, cut)


def _without_dropout(tower: nn.Module) -> None:
    """LoRA brings its own; what is frozen should give the same features in training as in use."""
    for module in tower.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _names_of(weights: Collection[nn.Parameter], tower: nn.Module) -> tuple[str, ...]:
    """What the weights are called now: LoRA renames those that it stands beside."""
    wanted = {id(weight) for weight in weights}
    return tuple(name for name, weight in tower.named_parameters() if id(weight) in wanted)
