"""The catalogue reranker: a product, told by text and picture, and category paths, in one space.

    model = CatalogueReranker.build(Architecture(), seed=0)
    tokens = model.text_tower.tokenise(["Title: oak chair"], model.architecture.product_length)
    pixels = model.vision_tower.preprocess(picture)[None]
    both = torch.ones(1, dtype=torch.bool)
    product = model.embed_products(model.text_features(tokens), model.image_features(pixels), both, both).fused
    paths = model.text_tower.tokenise(["Living room > Chairs"], model.architecture.category_length)
    model.scale * product @ model.embed_categories(model.text_features(paths)).T       # scores of candidates

    title, description ── text tower ── projection ─┐
                                                    ├─ gate ── e ──┐
    picture ──────────── vision tower ─ projection ─┘              ├── cosine
    category path ────── text tower ─── projection ────────────────┘

The text projection is one for products and categories: both are texts of one shop, and a path that was never seen in
training lies where its words put it. What runs before the projections (`text_features`, `image_features`) can be kept
as long as that tower is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from chapter03_multimodal.clip import POCKET_CLIP
from chapter04_catalogue_reranker.model_files import read_model, write_model
from chapter04_catalogue_reranker.towers import TextTower, VisionTower
from common.encoders import MINILM
from common.errors import CourseError
from common.progress import tell

LOWEST_SCALE, HIGHEST_SCALE = 1.0, 100.0
FIRST_SCALE = 1 / 0.07  # of CLIP (Radford et al. 2021, arXiv:2103.00020), as is the upper bound
STAGES = (0, 1, 2)


@dataclass(frozen=True)
class Architecture:
    """What decides the shape of a CatalogueReranker. Raises CourseError for a value that makes no model.

    text, vision: the pretrained towers, as `TextTower.load` and `VisionTower.load` take them. text_pooling: "mean" or
    "cls". fusion: "gate", learned for every component, or "mean", one half each. inputs: what the model is told of a
    product: "both", or "text" or "image" alone. hidden, dimension: of the projections. product_length,
    category_length: in tokens, special ones included. text_lora_rank, vision_lora_rank: alpha is twice the rank.
    lora_dropout: in LoRA, during training. text_dropout, image_dropout: shares of products that are shown without
    their text or without their picture in training, never without both.
    """

    text: str = MINILM
    vision: str = POCKET_CLIP
    text_pooling: str = "mean"
    fusion: str = "gate"
    inputs: str = "both"
    hidden: int = 1024
    dimension: int = 512
    product_length: int = 256
    category_length: int = 128
    text_lora_rank: int = 8
    vision_lora_rank: int = 4
    lora_dropout: float = 0.05
    text_dropout: float = 0.05
    image_dropout: float = 0.02

    def __post_init__(self) -> None:
        rules = {
            "text_pooling": (self.text_pooling in ("mean", "cls"), "'mean' or 'cls'"),
            "fusion": (self.fusion in ("gate", "mean"), "'gate' or 'mean'"),
            "inputs": (self.inputs in ("both", "text", "image"), "'both', 'text' or 'image'"),
            "product_length": (self.product_length >= 3, "at least 3 tokens"),
            "category_length": (self.category_length >= 3, "at least 3 tokens"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "at least 0 and below 1"),
            "text_dropout": (0 <= self.text_dropout < 1, "at least 0 and below 1"),
            "image_dropout": (0 <= self.image_dropout < 1 - self.text_dropout, "at least 0, and below 1 with text's"),
        }
        for name in ("hidden", "dimension", "text_lora_rank", "vision_lora_rank"):
            rules[name] = (getattr(self, name) >= 1, "at least 1")
        for name, (holds, wanted) in rules.items():
            if not holds:
                raise CourseError(f"{name} must be {wanted}, not {getattr(self, name)!r}.")


@dataclass(frozen=True)
class ProductVectors:
    """N products in the space of the categories, each float32 [N, D] and of length 1.

    fused: what ranks. text, image: of one modality alone; zeros where a product has none.
    """

    fused: Tensor
    text: Tensor
    image: Tensor


class Projection(nn.Sequential):
    """Features [N, H] of a tower to vectors [N, D] of length 1: LayerNorm, Linear, GELU, Linear, L2; in float32."""

    def __init__(self, width: int, hidden: int, dimension: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, dimension))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            return normalize(super().forward(features.float()), dim=-1)


class CatalogueReranker(nn.Module):
    """Two towers, two projections, a gate and a scale. Make one with `build` or `load`."""

    def __init__(self, text_tower: TextTower, vision_tower: VisionTower, architecture: Architecture) -> None:
        super().__init__()
        self.text_tower, self.vision_tower, self.architecture = text_tower, vision_tower, architecture
        hidden, dimension = architecture.hidden, architecture.dimension
        self.text_projection = Projection(text_tower.width, hidden, dimension)
        self.image_projection = Projection(vision_tower.width, hidden, dimension)
        self.gate = nn.Linear(2 * dimension, dimension)
        for weight in self.gate.parameters():
            nn.init.zeros_(weight)  # training starts from the mean of both
        self.logit_scale = nn.Parameter(torch.tensor(log(FIRST_SCALE)))

    @classmethod
    def build(cls, architecture: Architecture, seed: int) -> CatalogueReranker:
        """A model with pretrained towers and new projections, drawn with `seed`: float32, on the CPU, in training
        mode, ready for stage 0. Raises CourseError if a tower does not load or cannot read such long texts."""
        model = cls._assemble(architecture, seed)
        for tower in (model.text_tower, model.vision_tower):
            if tower.new:
                tell(
                    f"{tower.name}: its files lack {len(tower.new)} weights ({tower.new[0]}, …); they begin at random."
                )
        model.train_parts(0)
        return model.train()

    @classmethod
    def _assemble(cls, architecture: Architecture, seed: int) -> CatalogueReranker:
        architecture = replace(architecture, text=_absolute(architecture.text), vision=_absolute(architecture.vision))
        shared = {"lora_dropout": architecture.lora_dropout, "seed": seed}
        pooling, rank = architecture.text_pooling, architecture.text_lora_rank
        text_tower = TextTower.load(architecture.text, pooling=pooling, lora_rank=rank, **shared)
        wanted = max(architecture.product_length, architecture.category_length)
        if text_tower.longest is not None and text_tower.longest < wanted:
            raise CourseError(f"{architecture.text}: reads at most {text_tower.longest} tokens, not {wanted}.")
        vision_tower = VisionTower.load(architecture.vision, lora_rank=architecture.vision_lora_rank, **shared)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(text_tower, vision_tower, architecture)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def scale(self) -> Tensor:
        """What the losses multiply cosines by, a scalar between 1 and 100. Its gradient is that of the unbounded one,
        so that it can leave a bound again."""
        bounded = self.logit_scale.clamp(log(LOWEST_SCALE), log(HIGHEST_SCALE))
        return (self.logit_scale + (bounded - self.logit_scale).detach()).exp()

    def text_features(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Pooled output [N, Ht] of the text tower for N tokenised texts, products' or categories', of length 1."""
        return self.text_tower(tokens)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Pooled output [N, Hv] of the vision tower for pixels [N, 3, S, S], of length 1."""
        return self.vision_tower(pixels)

    def embed_categories(self, features: Tensor) -> Tensor:
        """Vectors [C, D] of length 1 for the text features [C, Ht] of category paths."""
        return self.text_projection(features)

    def embed_products(self, text: Tensor, image: Tensor, has_text: Tensor, has_image: Tensor) -> ProductVectors:
        """Vectors of N products; in training mode some are shown without their text or without their picture.

        text: [N, Ht]; where has_text (bool [N]) is False, the features of the empty text. image: [N, Hv]; where
        has_image is False, anything finite. Random numbers come from torch's generator of the CPU.
        """
        if self.training and self.architecture.inputs == "both":
            has_text, has_image = self._with_modalities_dropped(has_text, has_image)
        return self.fuse(text, image, has_text, has_image)

    def fuse(self, text: Tensor, image: Tensor, has_text: Tensor, has_image: Tensor) -> ProductVectors:
        """`embed_products` as it is outside of training:

            g = sigmoid(W [z_text; z_image] + b)        e = normalise(g * z_text + (1 - g) * z_image)

        Without its picture a product is exactly z_text, without its text exactly z_image, and without both the vector
        of the empty text. A model of one modality takes every product for one without the other; told pictures alone,
        it has one vector for all that have none.
        """
        if self.architecture.inputs == "text":
            has_image = torch.zeros_like(has_image)
        if self.architecture.inputs == "image":
            has_text, text = torch.zeros_like(has_text), torch.zeros_like(text)
        z_text, z_image = self.text_projection(text), self.image_projection(image)
        with torch.autocast(text.device.type, enabled=False):
            g = 0.5
            if self.architecture.fusion == "gate":
                g = torch.sigmoid(self.gate(torch.cat([z_text, z_image], dim=-1)))
            mixed = normalize(g * z_text + (1 - g) * z_image, dim=-1)
        there, seen = has_text.unsqueeze(-1), has_image.unsqueeze(-1)
        fused = torch.where(there & seen, mixed, torch.where(seen, z_image, z_text))
        return ProductVectors(fused, z_text * there, z_image * seen)

    def _with_modalities_dropped(self, has_text: Tensor, has_image: Tensor) -> tuple[Tensor, Tensor]:
        """One number a product decides, so that no product loses both; and none loses the only one that it has."""
        drawn = torch.rand(len(has_text)).to(has_text.device)
        both, text_dropout = has_text & has_image, self.architecture.text_dropout
        lost_text = drawn < text_dropout
        lost_image = ~lost_text & (drawn < text_dropout + self.architecture.image_dropout)
        return has_text & ~(both & lost_text), has_image & ~(both & lost_image)

    def train_parts(self, stage: int) -> None:
        """Choose what needs a gradient: in stage 0 the projections, the gate and the scale; in stage 1 also the LoRA
        of the text tower; in stage 2 that of the vision tower instead, for then the text features can be kept.

        A tower's new weights are trained with its LoRA. What has no influence (the gate of a mean, the part of a
        modality that is not looked at) is not trained. Raises CourseError for another stage.
        """
        if stage not in STAGES:
            raise CourseError(f"stage must be one of {', '.join(map(str, STAGES))}, not {stage!r}.")
        inputs = self.architecture.inputs
        self.requires_grad_(False)
        self.logit_scale.requires_grad_(True)
        self.text_projection.requires_grad_(True)
        self.image_projection.requires_grad_(inputs != "text")
        self.gate.requires_grad_(inputs == "both" and self.architecture.fusion == "gate")
        if stage == 1:
            _train_own(self.text_tower)
        if stage == 2 and inputs != "text":
            _train_own(self.vision_tower)
        self.train(self.training)

    def train(self, mode: bool = True) -> CatalogueReranker:
        """Training or evaluation mode; a tower of which nothing is trained has no dropout either."""
        super().train(mode)
        for tower in (self.text_tower, self.vision_tower):
            if not any(weight.requires_grad for weight in tower.parameters()):
                tower.eval()
        return self

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """The weights in training, for an optimizer: decay for the matrices of projections, gate and new weights; none
        for LoRA, LayerNorm, biases and the scale."""
        trained = [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad]
        decayed = [weight for name, weight in trained if weight.ndim >= 2 and "lora_" not in name]
        rest = [weight for name, weight in trained if weight.ndim < 2 or "lora_" in name]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def own_state(self) -> dict[str, Tensor]:
        """Every weight that is not the pretrained towers': projections, gate, scale, LoRA and the towers' new weights,
        by name, on the CPU."""
        weights = self.state_dict()
        return {name: weights[name].cpu().contiguous() for name in self._own_names()}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Take the weights that `own_state` gave. Raises CourseError if they are those of another architecture."""
        mine = self.own_state()
        wrong = sorted(mine.keys() ^ state.keys()) or [name for name in mine if mine[name].shape != state[name].shape]
        if wrong:
            raise CourseError(f"the weights are those of another architecture (first difference: {wrong[0]}).")
        self.load_state_dict(state, strict=False)

    def _own_names(self) -> Iterator[str]:
        new = {f"text_tower.{name}" for name in self.text_tower.new}
        new |= {f"vision_tower.{name}" for name in self.vision_tower.new}
        for name, _ in self.named_parameters():
            if not name.startswith(("text_tower.", "vision_tower.")) or "lora_" in name or name in new:
                yield name

    def save(self, folder: Path) -> None:
        """Write a folder that `load` reads: the weights of `own_state`, and names and digests of the towers.

        The folder appears whole or not at all. Raises CourseError if there is something in it already.
        """
        write_model(folder, asdict(self.architecture), self._tower_digests(), self.own_state())

    @classmethod
    def load(cls, folder: Path) -> CatalogueReranker:
        """The model that `save` wrote, on the CPU, in evaluation mode.

        Raises CourseError if files are missing, cut short or changed, or if a tower is not there any more or is not
        the one that the model was trained with.
        """
        described, state = read_model(Path(folder), set(asdict(Architecture())))
        model = cls._assemble(Architecture(**described["architecture"]), seed=0)
        for which, digest in model._tower_digests().items():
            if described["towers"].get(which) != digest:
                name = described["architecture"][which]
                raise CourseError(
                    f"{folder}: was trained with another {name!r} as its {which} tower; restore that one."
                )
        try:
            model.load_own_state(state)
        except CourseError as error:
            raise CourseError(f"{folder}: {error}") from None
        model.train_parts(0)
        return model.eval()

    def _tower_digests(self) -> dict[str, str]:
        return {"text": self.text_tower.digest, "vision": self.vision_tower.digest}


def _train_own(tower: TextTower | VisionTower) -> None:
    for name, weight in tower.named_parameters():
        weight.requires_grad_("lora_" in name or name in tower.new)


def _absolute(name: str) -> str:
    """A tower's folder must be found again from wherever the model is loaded."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name not in (MINILM, POCKET_CLIP) and folder.is_dir() else name
