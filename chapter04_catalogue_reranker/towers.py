"""Load the two pretrained towers, of texts and of pictures: frozen, with LoRA.

    text = TextTower.load("all-MiniLM-L6-v2", lora_rank=8)
    text(text.tokenise(["Living room > Chairs"], length=64))             # [1, 384], float32, of length 1
    vision = VisionTower.load("pocket_clip", lora_rank=4)
    vision(vision.preprocess(picture)[None])                             # [1, 192]

A tower has a name and a digest. A model stores only the weights that it trained; by name and digest it finds its towers
again and notices if they changed. Weights that a tower's files lack are drawn at random and listed in `new`; a saved
model must contain them too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

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
from chapter04_catalogue_reranker.siglip import load_siglip, siglip_folder
from common.encoders import MINILM, folder_digest, model_folder
from common.errors import CourseError


class TextTower(nn.Module):
    """Encode texts with a transformer and a pooling of its token vectors. Make one with `load`.

    width: dimension of the features. name, digest: its name in `load`, and the digest of its files. new: names of the
    weights that the files lack. longest: the most tokens it can read.
    """

    def __init__(self, transformer: nn.Module, head: nn.Sequential, name: str, digest: str) -> None:
        """Take modules of sentence-transformers: a transformer, and a head of pooling and perhaps dense layers."""
        super().__init__()
        self.transformer, self.head, self.name, self.digest = transformer, head, name, digest
        self.new: tuple[str, ...] = ()
        self.width = self.at(3).dimension
        self.longest: int | None = getattr(transformer.config, "max_position_embeddings", None)

    @classmethod
    def load(
        cls, name: str = MINILM, *, pooling: str = "mean", lora_rank: int, lora_dropout: float = 0.0, seed: int = 0
    ) -> TextTower:
        """Load a pretrained tower in float32 on the CPU, all weights frozen, with LoRA that changes nothing yet.

        name: "all-MiniLM-L6-v2" (packaged), a hub name such as "BAAI/bge-base-en-v1.5", or a folder: of such a model,
        or of a tower of chapter 2, whose dense layer is kept. pooling: "mean" of the token vectors, or "cls", the
        first. seed: of LoRA's matrices and of the weights that the files lack. Raises `CourseError` if it does not
        load or is no BERT.
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
        """Return the same network as a tower of chapter 2 that reads `length` tokens of a text."""
        return Tower(self.transformer, self.head, length)

    def tokenise(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Return at most `length` token ids of each text, special ones included; see chapter 2's `Tower`."""
        return self.at(length).tokenise(texts)

    def forward(self, tokens: Sequence[Sequence[int]], *, rows_a_chunk: int = ROWS_A_CHUNK) -> Tensor:
        """Return features [N, width] of N tokenised texts: float32 (under autocast too), of length 1, with gradient.

        Runs the texts sorted by length, `rows_a_chunk` at a time, to need little padding.
        """
        return self.at(3)(tokens, rows_a_chunk=rows_a_chunk)


class VisionTower(nn.Module):
    """Encode pictures with a network from pixels to one vector. Make one with `load`.

    width: dimension of the features. preprocessing: of its pictures. name, digest, new: as in `TextTower`. Batch norms
    keep their pretrained statistics, in training mode too.
    """

    def __init__(
        self, network: nn.Module, width: int, preprocessing: ImagePreprocessing, name: str, digest: str
    ) -> None:
        """Take a network from pixels, float [N, 3, S, S], to [N, width]."""
        super().__init__()
        self.network, self.width, self.preprocessing = network, width, preprocessing
        self.name, self.digest = name, digest
        self.new: tuple[str, ...] = ()
        self._square_of = preprocessing.squares(preprocessing.side)

    @classmethod
    def load(cls, name: str = POCKET_CLIP, *, lora_rank: int, lora_dropout: float = 0.0, seed: int = 0) -> VisionTower:
        """Load a pretrained tower in float32 on the CPU, all weights frozen, with LoRA that changes nothing yet.

        name: a CLIP, as `chapter03_multimodal.clip.load_clip` takes it; or a SigLIP of transformers, a folder or a hub
        name such as "google/siglip2-base-patch16-256". seed: as in `TextTower.load`. Raises `CourseError` if it does
        not load or is of another kind.
        """
        if _is_clip(name):
            clip = load_clip(name)
            network = with_called_attention(clip.model.visual)
            tower, new = cls(network, clip.dimension, ImagePreprocessing.of(clip), name, clip.digest), []
        else:
            folder = siglip_folder(name)
            network, preprocessing, new = load_siglip(folder, seed)
            tower = cls(network, network.model.config.hidden_size, preprocessing, name, folder_digest(folder))
        _without_dropout(tower)
        add_lora(tower.network, VISION, rank=lora_rank, dropout=lora_dropout, seed=seed)
        tower.new = _names_of(new, tower)
        return tower.requires_grad_(False)

    def preprocess(self, picture: Image.Image) -> Tensor:
        """Turn an RGB picture into float [3, S, S]."""
        return self.preprocessing.as_input(np.array(self._square_of(picture))[None])[0]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features [N, width] of pixels [N, 3, S, S], as `TextTower.forward` does of texts."""
        features = self.network(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            return normalize(features.float(), dim=-1)

    def train(self, mode: bool = True) -> VisionTower:
        """Set training or evaluation mode; batch norms stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def _pooled_by(pooling: str, head: nn.Sequential, transformer: nn.Module, name: str) -> nn.Sequential:
    from sentence_transformers.sentence_transformer.modules import Pooling

    kinds = [type(module).__name__ for module in head]
    if kinds[:1] != ["Pooling"] or set(kinds[1:]) - {"Dense"}:
        raise CourseError(
            f"{name!r} has the head {' + '.join(kinds) or 'none'}, not a pooling; choose another encoder."
        )
    return nn.Sequential(Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling), *list(head)[1:])


def _missing_names(body: nn.Module, folder: Path) -> set[str]:
    """Return the weights of a transformer that its files lack, except the pooler's, which is not used."""
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


def _without_dropout(tower: nn.Module) -> None:
    """Turn dropout off: frozen layers must give the same features in training as in use. LoRA has its own."""
    for module in tower.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _names_of(weights: Collection[nn.Parameter], tower: nn.Module) -> tuple[str, ...]:
    """Return the current names of weights: LoRA renames the layers that it wraps."""
    wanted = {id(weight) for weight in weights}
    return tuple(name for name, weight in tower.named_parameters() if id(weight) in wanted)
